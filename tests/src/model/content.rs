//! What is sent: what it deserves by itself, and what becomes of it.

use tern_proto::v1::{self, Code};
use tern_proto::{ConversationId, UserId, limits};

use crate::device::is_group;

/// The final refusal that a message deserves by its content alone, or OK.
pub(crate) fn deserves(from: &str, content: &v1::OutMessage) -> Code {
    if content.client_msg_id == 0 {
        Code::BadMessageId
    } else if let Some(change) = &content.change {
        if is_good(change, content) { Code::Ok } else { Code::BadChange }
    } else if (UserId::new(&content.to).is_err() && !is_group_name(&content.to)) || content.to == from {
        Code::BadRecipient
    } else if content.text.is_empty() {
        Code::EmptyText
    } else if content.text.len() > limits::TEXT_BYTES {
        Code::TextTooLong
    } else {
        Code::Ok
    }
}

/// Whether a change follows the rules, whatever the group.
fn is_good(change: &v1::GroupChange, content: &v1::OutMessage) -> bool {
    let mut named: Vec<&String> = change.add.iter().chain(&change.remove).collect();
    let count = named.len();
    let users = named.iter().all(|name| UserId::new(name).is_ok());
    named.sort_unstable();
    named.dedup();
    let title_fits = change.title.as_ref().is_none_or(|title| title.len() <= limits::TITLE_BYTES);
    let something = count > 0 || change.title.is_some();
    let to_a_group = content.to.is_empty() || is_group_name(&content.to);
    users && named.len() == count && title_fits && something && to_a_group && content.text.is_empty()
}

fn is_group_name(name: &str) -> bool {
    ConversationId::new(name).is_ok_and(|conversation| conversation.is_group())
}

/// Whether a message is what the server makes of a content. Of a change only what is asked can have happened.
pub(super) fn is_what_became_of(content: &v1::OutMessage, message: &v1::Message) -> bool {
    let there = match content.to.as_str() {
        "" => is_group(&message.conversation) && message.seq == 1,
        group if is_group(group) => group == message.conversation,
        user => conversation(&message.from, user) == message.conversation,
    };
    let changed = match (&content.change, &message.change) {
        (None, None) => true,
        (Some(asked), Some(done)) => {
            let asked_for = |all: &[String], some: &[String]| some.iter().all(|user| all.contains(user));
            done.title == asked.title && asked_for(&asked.add, &done.add) && asked_for(&asked.remove, &done.remove)
        }
        _ => false,
    };
    there && changed && content.text == message.text
}

/// Whether the conversation is one of two, and the user one of them.
pub(crate) fn is_of_two(user: &str, conversation: &str) -> bool {
    let pair = ConversationId::new(conversation).ok().and_then(|conversation| conversation.pair());
    pair.is_some_and(|pair| pair.iter().any(|one| one.as_str() == user))
}

/// The name of the conversation of two users; not a valid one if they are the same or a name is bad.
pub(crate) fn conversation(a: &str, b: &str) -> String {
    match (UserId::new(a), UserId::new(b)) {
        (Ok(a), Ok(b)) => ConversationId::of_two(&a, &b).to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changing(to: &str, change: v1::GroupChange) -> Code {
        let content = v1::OutMessage {
            client_msg_id: 1,
            to: to.into(),
            text: String::new(),
            change: Some(change),
            ..Default::default()
        };
        deserves("ann", &content)
    }

    fn naming(add: &[&str], remove: &[&str]) -> v1::GroupChange {
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
        v1::GroupChange { title: None, add: names(add), remove: names(remove) }
    }

    #[test]
    fn a_change_deserves_what_its_content_says() {
        assert_eq!(changing("", naming(&["ben"], &[])), Code::Ok);
        assert_eq!(changing("g/7", naming(&["ben"], &["cat"])), Code::Ok);
        for bad in [naming(&[], &[]), naming(&["a b"], &[]), naming(&["ben", "ben"], &[]), naming(&["ben"], &["ben"])] {
            assert_eq!(changing("g/7", bad.clone()), Code::BadChange, "{bad:?}");
        }
        assert_eq!(changing("ben", naming(&["cat"], &[])), Code::BadChange);
        let long = v1::GroupChange { title: Some("x".repeat(limits::TITLE_BYTES + 1)), ..Default::default() };
        assert_eq!(changing("g/7", long), Code::BadChange);
    }

    #[test]
    fn a_text_goes_to_a_user_or_a_group() {
        let to = |to: &str| {
            deserves("ann", &v1::OutMessage { client_msg_id: 1, to: to.into(), text: "x".into(), ..Default::default() })
        };
        assert_eq!([to("ben"), to("g/7")], [Code::Ok; 2]);
        assert_eq!([to(""), to("ann"), to("g/07")], [Code::BadRecipient; 3]);
    }

    #[test]
    fn of_a_change_only_what_was_asked_can_happen() {
        let content = |to: &str| v1::OutMessage {
            client_msg_id: 1,
            to: to.into(),
            text: String::new(),
            change: Some(naming(&["ben", "cat"], &[])),
            ..Default::default()
        };
        let message = |seq: u64, add: &[&str]| v1::Message {
            from: "ann".into(),
            conversation: "g/7".into(),
            seq,
            change: Some(naming(add, &[])),
            ..Default::default()
        };
        assert!(is_what_became_of(&content("g/7"), &message(4, &["cat"])));
        assert!(is_what_became_of(&content(""), &message(1, &["ben", "cat"])));
        assert!(!is_what_became_of(&content(""), &message(2, &["ben"])));
        assert!(!is_what_became_of(&content("g/8"), &message(4, &["ben"])));
        assert!(!is_what_became_of(&content("g/7"), &message(4, &["dan"])));
    }
}
