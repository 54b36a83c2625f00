//! Messages on their way in: what each request means to storage, and what storage's answer means to the client.

use std::collections::HashSet;
use std::iter;
use std::time::Duration;

use tern_proto::v1::{Chunk, Code, GroupChange, Media, OutMessage, SendResult};
use tern_proto::{ConversationId, RETRY_AFTER, UserId, limits};
use tern_runtime::planted::{self, Fault};
use tern_storage::{Change, Content, Device, Op, Outcome, Recipient, Sent, content_hash};

use crate::media::is_about_media;

/// What a message is about; [`crate::media::of`] tells it.
pub(crate) type About = Option<Result<Media, Code>>;

/// What to store for those messages of which it is not known what becomes of them; `known` says of which it is, by their places, and `about` what they are about.
pub(crate) fn ops(
    device: &Device,
    messages: Vec<OutMessage>,
    (known, about): (&[Option<Outcome>], Vec<About>),
    time_ms: i64,
) -> Vec<Op> {
    let messages = messages.into_iter().zip(about).zip(known);
    let asked = messages.filter(|(_, known)| known.is_none());
    let ops = asked.filter_map(|((mut message, about), _)| {
        if message.again && planted::active(Fault::DedupOnlyInRedis) {
            message.client_msg_id += 1 << 40;
        }
        op(device, (message, about), time_ms)
    });
    ops.collect()
}

/// What becomes of messages, as far as storage need not be asked: of a resend what was found, and what is about media that cannot be told now may have been stored before.
pub(crate) fn known(found: Vec<Option<Sent>>, about: &[About]) -> Vec<Option<Outcome>> {
    let found = found.into_iter().chain(iter::repeat(None));
    let known = found.zip(about).map(|(found, about)| match (found, about) {
        (Some(sent), _) => Some(Outcome::Sent(sent)),
        (None, Some(Err(code))) if code.is_retryable() => Some(Outcome::Unknown),
        // Not for good: its client brings all chunks again.
        (None, Some(Err(code @ Code::UploadIncomplete))) => Some(Outcome::Refused(*code)),
        (None, _) => None,
    });
    known.collect()
}

/// The answers to messages with these ids: what was known of them, and the outcomes of [`ops`].
pub(crate) fn results(ids: &[u64], known: Vec<Option<Outcome>>, outcomes: Vec<Outcome>) -> Vec<SendResult> {
    let mut outcomes = outcomes.into_iter();
    let answer = |(id, known): (&u64, Option<Outcome>)| match (*id, known) {
        (0, _) => refusal(0, Code::BadMessageId),
        (id, Some(known)) => result(id, known),
        (id, None) => result(id, outcomes.next().unwrap_or(Outcome::Unknown)),
    };
    ids.iter().zip(known).map(answer).collect()
}

/// What to store for a message. A message that breaks a rule is stored too, as its final refusal, so that a delayed copy gets the
/// same. `None` for id 0, under which nothing can be remembered.
fn op(device: &Device, (message, about): (OutMessage, About), time_ms: i64) -> Option<Op> {
    if message.client_msg_id == 0 {
        return None;
    }
    let client_msg_id = message.client_msg_id;
    Some(Op::Send { from: device.clone(), client_msg_id, content: content(&device.user, message, about), time_ms })
}

fn content(sender: &UserId, mut message: OutMessage, about: About) -> Content {
    let judged = match &message.change {
        Some(asked) => change(asked, &message),
        None => recipient(sender, &message).and_then(|to| {
            let media = about.transpose()?;
            Ok(Content::Text { to, text: std::mem::take(&mut message.text), media })
        }),
    };
    judged.unwrap_or_else(|code| {
        let about = message.chunk.map_or(message.media, named);
        let hash = content_hash(&message.to, &message.text, &about, message.change.as_ref());
        Content::Refused { code, hash }
    })
}

/// Who gets a text, if both follow the rules.
fn recipient(sender: &UserId, message: &OutMessage) -> Result<Recipient, Code> {
    let to = match UserId::new(&message.to) {
        Ok(user) if user == *sender => return Err(Code::BadRecipient),
        Ok(user) => Recipient::User(user),
        Err(_) => Recipient::Group(group(&message.to).ok_or(Code::BadRecipient)?),
    };
    match message.text.len() {
        0 if !is_about_media(message) => Err(Code::EmptyText),
        _ if !message.media.is_empty() && message.chunk.is_some() => Err(Code::NoSuchMedia),
        0..=limits::TEXT_BYTES => Ok(to),
        _ => Err(Code::TextTooLong),
    }
}

/// What is to become of which group, as far as that can be judged without the group.
fn change(asked: &GroupChange, message: &OutMessage) -> Result<Content, Code> {
    let group = match message.to.as_str() {
        "" => None,
        name => Some(group(name).ok_or(Code::BadChange)?),
    };
    let user = |name: &String| UserId::new(name).map_err(|_| Code::BadChange);
    let users = |names: &[String]| names.iter().map(user).collect::<Result<Vec<_>, _>>();
    let change = Change { title: asked.title.clone(), add: users(&asked.add)?, remove: users(&asked.remove)? };
    let named = change.add.len() + change.remove.len();
    let distinct = change.add.iter().chain(&change.remove).collect::<HashSet<_>>().len() == named;
    let title_fits = change.title.as_ref().is_none_or(|title| title.len() <= limits::TITLE_BYTES);
    let nothing = named == 0 && change.title.is_none();
    let alone = message.text.is_empty() && !is_about_media(message);
    if alone && distinct && title_fits && !nothing {
        Ok(Content::Change { group, change })
    } else {
        Err(Code::BadChange)
    }
}

/// What a clip is called that nothing was made of.
fn named(chunk: Chunk) -> String {
    let clip = chunk.clip.unwrap_or_default();
    format!("{} {} {}", clip.r#type, clip.bytes, clip.sha256)
}

fn group(name: &str) -> Option<ConversationId> {
    ConversationId::new(name).ok().filter(ConversationId::is_group)
}

/// The answer to the client.
fn result(client_msg_id: u64, outcome: Outcome) -> SendResult {
    match outcome {
        Outcome::Sent(sent) => SendResult {
            client_msg_id,
            code: Code::Ok.into(),
            server_msg_id: sent.server_msg_id,
            conversation: sent.conversation.to_string(),
            seq: sent.seq,
            time_ms: sent.time_ms,
            retry_after_ms: 0,
        },
        Outcome::Refused(code) => refusal(client_msg_id, code),
        Outcome::Conflict => refusal(client_msg_id, Code::Conflict),
        Outcome::TooOld => refusal(client_msg_id, Code::TooOld),
        Outcome::Unavailable => refusal(client_msg_id, Code::Unavailable),
        // Any other outcome says nothing about a message, so what became of it is as unknown.
        _ => refusal(client_msg_id, Code::OutcomeUnknown),
    }
}

/// The answer to a message that is not stored, or not known to be.
pub(crate) fn refusal(client_msg_id: u64, code: Code) -> SendResult {
    let retry_after = if code.is_retryable() { RETRY_AFTER } else { Duration::ZERO };
    let retry_after_ms = retry_after.as_millis() as u32;
    SendResult { client_msg_id, code: code.into(), retry_after_ms, ..SendResult::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_of(to: &str, text: &str, change: Option<GroupChange>) -> Content {
        let alice = Device { user: "alice".parse().unwrap(), id: "d1".parse().unwrap() };
        let message = OutMessage { client_msg_id: 1, to: to.into(), text: text.into(), change, ..Default::default() };
        match op(&alice, (message, None), 0) {
            Some(Op::Send { content, .. }) => content,
            other => panic!("{other:?}"),
        }
    }

    fn code_of(to: &str, text: &str, change: Option<GroupChange>) -> Option<Code> {
        match content_of(to, text, change) {
            Content::Text { .. } | Content::Change { .. } => None,
            Content::Refused { code, .. } => Some(code),
        }
    }

    fn change_of(title: Option<&str>, add: &[&str], remove: &[&str]) -> GroupChange {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        GroupChange { title: title.map(str::to_owned), add: names(add), remove: names(remove) }
    }

    #[test]
    fn a_text_that_breaks_a_rule_becomes_its_refusal() {
        for to in ["bob", "g/4128", "g"] {
            assert_eq!(code_of(to, "hi", None), None, "{to}");
            assert_eq!(code_of(to, &"x".repeat(limits::TEXT_BYTES), None), None, "{to}");
            assert_eq!(code_of(to, &"x".repeat(limits::TEXT_BYTES + 1), None), Some(Code::TextTooLong), "{to}");
            assert_eq!(code_of(to, "", None), Some(Code::EmptyText), "{to}");
        }
        for to in ["alice", "", "a b", "alice:bob", "bob:carol", "g/", "g/0", "g/01"] {
            assert_eq!(code_of(to, "hi", None), Some(Code::BadRecipient), "{to}");
        }
    }

    #[test]
    fn a_change_makes_a_group_or_changes_one() {
        let asked = change_of(Some("trip"), &["bob", "carol"], &["dave"]);
        for (to, of) in [("", None), ("g/4128", Some(ConversationId::of_group(4128)))] {
            let Content::Change { group, change } = content_of(to, "", Some(asked.clone())) else { panic!("{to}") };
            assert_eq!(group, of);
            assert_eq!(change.title.as_deref(), Some("trip"));
            assert_eq!(change.add.iter().map(UserId::as_str).collect::<Vec<_>>(), ["bob", "carol"]);
            assert_eq!(change.remove.iter().map(UserId::as_str).collect::<Vec<_>>(), ["dave"]);
        }
    }

    #[test]
    fn a_change_that_breaks_a_rule_becomes_its_refusal() {
        let longest = "x".repeat(limits::TITLE_BYTES);
        for good in [change_of(Some(&longest), &[], &[]), change_of(Some(""), &[], &[]), change_of(None, &["bob"], &[])]
        {
            assert_eq!(code_of("", "", Some(good.clone())), None, "{good:?}");
            for to in ["bob", "alice:bob", "g/01", " "] {
                assert_eq!(code_of(to, "", Some(good.clone())), Some(Code::BadChange), "{to}");
            }
            assert_eq!(code_of("", "hi", Some(good.clone())), Some(Code::BadChange), "a text beside it");
        }
        for bad in [
            change_of(None, &[], &[]),
            change_of(Some(&format!("{longest}x")), &["bob"], &[]),
            change_of(None, &["bob", "b b"], &[]),
            change_of(None, &[], &[""]),
            change_of(None, &["bob", "carol", "bob"], &[]),
            change_of(None, &[], &["bob", "bob"]),
            change_of(None, &["bob"], &["bob"]),
        ] {
            for to in ["", "g/4128"] {
                assert_eq!(code_of(to, "", Some(bad.clone())), Some(Code::BadChange), "{bad:?}");
            }
        }
    }

    #[test]
    fn refused_content_is_told_apart() {
        let change = |add: &[&str], remove: &[&str]| Some(change_of(None, add, remove));
        let refused = [
            content_of("a b", "x", None),
            content_of("a ", "bx", None),
            content_of("a b", "", None),
            content_of("a b", "x", change(&["c"], &[])),
            content_of("a b", "x", change(&[], &["c"])),
            content_of("a b", "x", change(&["c", "d"], &[])),
            content_of("a b", "x", change(&["cd"], &[])),
        ];
        for (i, content) in refused.iter().enumerate() {
            let Content::Refused { hash, .. } = content else { panic!("{content:?}") };
            let same = |other: &Content| matches!(other, Content::Refused { hash: other, .. } if other == hash);
            assert_eq!(refused.iter().filter(|other| same(other)).count(), 1, "{i}");
        }
        assert_eq!(content_of("a b", "x", change(&["c"], &[])), refused[3]);
    }

    #[test]
    fn only_retryable_results_carry_a_wait() {
        assert_eq!(result(1, Outcome::Unavailable).code(), Code::Unavailable);
        assert_eq!(result(1, Outcome::Unknown).code(), Code::OutcomeUnknown);
        assert_eq!(result(1, Outcome::Done).code(), Code::OutcomeUnknown);
        assert!(result(1, Outcome::Unknown).retry_after_ms > 0);
        assert_eq!(result(1, Outcome::Conflict).retry_after_ms, 0);
    }
}
