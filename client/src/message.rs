//! What the application sees: its own messages with their states, and the entries that it receives.

use tern_proto::key::Version;
use tern_proto::{Class, UserId, v1};

/// A message of this device, as the local store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its `client_msg_id`.
    pub id: u64,
    /// To whom: a user, a group, or nobody yet if it makes a group.
    pub to: String,
    /// 1 to 16,384 bytes; empty beside a change.
    pub text: String,
    /// What it changes in a group, or makes one with.
    pub change: Option<v1::GroupChange>,
    /// What it is about: the id of media, or the SHA-256 of a clip in hexadecimal digits; empty if it is about neither.
    pub about: String,
    /// What became of it so far.
    pub state: MessageState,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// Stored here; sent, and sent again, until the server answers.
    Sending,
    /// The server has it, as durably as its hello said.
    Sent(Sent),
    /// A device of the recipient has it. A message to a group goes from sent to read.
    Delivered(Sent),
    /// The recipient has read it, or at least one member of the group has.
    Read(Sent),
    /// The server will never take it.
    Refused(v1::Code),
    /// All attempts failed, its own or those of a message before it, which it must not pass; nothing more happens until
    /// [`crate::Client::resend`]. It may still have reached the server.
    Failed(String),
}

/// Where an accepted message stands on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Unique on the server.
    pub server_msg_id: u64,
    /// The conversation; of a message that made a group, the name of that.
    pub conversation: String,
    /// Position in the conversation, from 1.
    pub seq: u64,
    /// Unix milliseconds on the server; for display only.
    pub time_ms: i64,
}

/// An entry of the inbox. It is handed out again after a crash until it is confirmed.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxEntry {
    /// Its place in the local store.
    pub(crate) number: i64,
    /// Messages or receipts.
    pub class: Class,
    /// Its version in the user's timeline.
    pub version: Version,
    /// What it is.
    pub body: EntryBody,
}

/// What an [`InboxEntry`] is about.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "most are messages, and few are held at a time")]
pub enum EntryBody {
    /// A message to this user or to a group of theirs, or one that this user sent from another device. With a `change` it
    /// tells what has changed in the group.
    Message(v1::Message),
    /// Somebody, or this user on another device, has received or read up to a position.
    Receipt(v1::Receipt),
    /// A record that the server cannot decode any more.
    Damaged(v1::Damaged),
    /// The server no longer keeps so many entries that this device never got, at most; history may still have the messages.
    Hole(v1::Hole),
}

/// What happened to this device's messages. The states themselves are in the store: whoever misses events asks again.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// One message has a new state: sending again, sent, refused or failed.
    Message {
        /// The `client_msg_id`.
        id: u64,
        /// The new state.
        state: MessageState,
    },
    /// So many chunks of the clip of a message are on the server.
    Clip {
        /// The `client_msg_id`.
        id: u64,
        /// How many are there.
        stored: u32,
        /// Of how many.
        chunks: u32,
    },
    /// The messages of a conversation are delivered to, or read by, `member` up to `seq`.
    Receipt(v1::Receipt),
}

/// What a result's code means for the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server has the message.
    Sent,
    /// It will never take it.
    Refused(v1::Code),
    /// To be sent again, with bounds. So is what a newer server answers and this version does not know.
    Again,
}

impl Fate {
    pub(crate) fn of(code: i32) -> Fate {
        use v1::Code;
        match Code::try_from(code) {
            Ok(Code::Ok) => Fate::Sent,
            Ok(
                code @ (Code::Conflict
                | Code::TooOld
                | Code::BadMessageId
                | Code::BadRecipient
                | Code::EmptyText
                | Code::TextTooLong
                | Code::NotAMember
                | Code::GroupFull
                | Code::BadChange
                | Code::NotAllowed
                | Code::NoSuchMedia
                | Code::BadDigest
                | Code::BadMedia
                | Code::MediaQuota),
            ) => Fate::Refused(code),
            _ => Fate::Again,
        }
    }
}

impl InboxEntry {
    /// An entry that concerns the application; `None` for stubs and for what this version does not know.
    pub(crate) fn new(number: i64, entry: v1::Entry) -> Option<InboxEntry> {
        let body = match entry.body? {
            v1::entry::Body::Message(message) => EntryBody::Message(message),
            v1::entry::Body::Receipt(receipt) => EntryBody::Receipt(receipt),
            v1::entry::Body::Damaged(damaged) => EntryBody::Damaged(damaged),
            v1::entry::Body::Hole(hole) => EntryBody::Hole(hole),
            v1::entry::Body::Stub(_) => return None,
        };
        Some(InboxEntry { number, class: Class::from_number(entry.class)?, version: entry.version, body })
    }

    /// The message, if it is one.
    pub fn message(&self) -> Option<&v1::Message> {
        match &self.body {
            EntryBody::Message(message) => Some(message),
            _ => None,
        }
    }

    /// The message, if it is one and `user` did not send it.
    pub fn message_to(&self, user: &UserId) -> Option<&v1::Message> {
        self.message().filter(|message| message.from != user.as_str())
    }
}
