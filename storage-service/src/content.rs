//! What a message is: its content, and the hash that tells it from any other.

use tern_proto::{ConversationId, UserId, v1};
use xxhash_rust::xxh3::Xxh3Default;

/// What to store under a `client_msg_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A message.
    Text {
        /// Who gets it.
        to: Recipient,
        /// At most 16,384 bytes; empty only with media.
        text: String,
        /// What the message is about, as the recipients are told. Its lease has been renewed.
        media: Option<v1::Media>,
    },
    /// A message that makes a group or changes one.
    Change {
        /// The group; `None` makes one, whose first member and owner the sender is.
        group: Option<ConversationId>,
        /// What is to become of it.
        change: Change,
    },
    /// A final refusal: remembered, so that a delayed copy gets the same.
    Refused {
        /// Why.
        code: v1::Code,
        /// Hash of what was refused, so that other content under the id is a conflict.
        hash: u64,
    },
}

impl Content {
    /// What tells this content from any other that may be sent under the same id: [`content_hash`] of what the client sent.
    pub fn hash(&self) -> u64 {
        match self {
            Content::Text { to, text, media } => {
                content_hash(to.as_str(), text, media.as_ref().map_or("", |media| &media.id), None)
            }
            Content::Change { group, change } => {
                let to = group.as_ref().map_or("", ConversationId::as_str);
                content_hash(to, "", "", Some(&change.into()))
            }
            Content::Refused { hash, .. } => *hash,
        }
    }
}

/// Hash of what a client sends under an id. Kept in storage, so it may not change with a release. The lengths keep the parts apart, and
/// the highest bits of the first one what has a change, or media, from what has none.
pub fn content_hash(to: &str, text: &str, media: &str, change: Option<&v1::GroupChange>) -> u64 {
    let mut hasher = Xxh3Default::new();
    let parts = u64::from(change.is_some()) << 63 | u64::from(!media.is_empty()) << 62;
    hasher.update(&(to.len() as u64 | parts).to_be_bytes());
    hasher.update(to.as_bytes());
    if !media.is_empty() {
        hasher.update(&(media.len() as u64).to_be_bytes());
        hasher.update(media.as_bytes());
    }
    if let Some(change) = change {
        let change = prost::Message::encode_to_vec(change);
        hasher.update(&(change.len() as u64).to_be_bytes());
        hasher.update(&change);
    }
    hasher.update(text.as_bytes());
    hasher.digest()
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Another user; never the sender.
    User(UserId),
    /// A group. Whether it exists and the sender is in it is for storage to judge.
    Group(ConversationId),
}

impl Recipient {
    /// The name that a client writes.
    pub fn as_str(&self) -> &str {
        match self {
            Recipient::User(user) => user.as_str(),
            Recipient::Group(group) => group.as_str(),
        }
    }
}

/// What is to become of a group. It is judged against the members at its place in the order of commits: who may not do it gets
/// [`v1::Code::NotAMember`] or [`v1::Code::NotAllowed`], too many members [`v1::Code::GroupFull`], stored as a final refusal. Who is added and is a
/// member already, or removed and is none, is left out of what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The new title, at most 128 bytes.
    pub title: Option<String>,
    /// Who joins; any member may add.
    pub add: Vec<UserId>,
    /// Who leaves; the owner may remove anybody, everybody else only themselves. If the owner leaves, the member who joined first of those who stay owns the group.
    pub remove: Vec<UserId>,
}

impl From<&Change> for v1::GroupChange {
    fn from(change: &Change) -> v1::GroupChange {
        let names = |users: &[UserId]| users.iter().map(UserId::to_string).collect();
        v1::GroupChange { title: change.title.clone(), add: names(&change.add), remove: names(&change.remove) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is stored under a hash must be found by it for ever.
    #[test]
    fn the_hash_of_a_content_never_changes() {
        let change = v1::GroupChange { title: Some("T".into()), add: vec!["bob".into()], remove: vec!["eve".into()] };
        let hashes = [
            content_hash("bob", "hi", "", None),
            content_hash("", "", "", Some(&change)),
            content_hash("g/7", "", "", Some(&v1::GroupChange::default())),
            content_hash("bob", "hi", "01a219247f39c52b2e6dfac99d57c8fc", None),
        ];
        assert_eq!(
            hashes,
            [
                12_697_365_502_381_020_642,
                6_995_503_460_690_320_796,
                8_433_790_766_384_527_379,
                1_003_087_568_332_137_031
            ]
        );
    }

    #[test]
    fn every_part_of_a_content_counts() {
        let change = |title: Option<&str>, add: &[&str], remove: &[&str]| Change {
            title: title.map(str::to_owned),
            add: add.iter().filter_map(|name| UserId::new(name).ok()).collect(),
            remove: remove.iter().filter_map(|name| UserId::new(name).ok()).collect(),
        };
        let changes = [
            change(None, &[], &[]),
            change(Some(""), &[], &[]),
            change(Some("T"), &[], &[]),
            change(None, &["a"], &[]),
            change(None, &[], &["a"]),
            change(None, &["a", "b"], &[]),
            change(None, &["b", "a"], &[]),
        ];
        let group = ConversationId::of_group(7);
        let made = changes.iter().map(|change| Content::Change { group: None, change: change.clone() });
        let changed =
            changes.iter().map(|change| Content::Change { group: Some(group.clone()), change: change.clone() });
        let text = |to: Recipient, text: &str| Content::Text { to, text: text.to_owned(), media: None };
        let about = |to: Recipient, text: &str, id: &str| Content::Text {
            to,
            text: text.to_owned(),
            media: Some(v1::Media { id: id.to_owned(), ..v1::Media::default() }),
        };
        let user = UserId::new("g").expect("a user name");
        let texts = [
            text(Recipient::User(user.clone()), "hi"),
            text(Recipient::User(user.clone()), "/7hi"),
            about(Recipient::User(user.clone()), "hi", "7"),
            about(Recipient::User(user.clone()), "", "7hi"),
            about(Recipient::User(user), "7", "hi"),
            text(Recipient::Group(group.clone()), "hi"),
        ];
        let hashes: Vec<u64> = made.chain(changed).chain(texts).map(|content| content.hash()).collect();
        let distinct: std::collections::BTreeSet<&u64> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len());
    }
}
