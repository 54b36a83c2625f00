//! What the log says: one record for each committed fact.
//!
//! A record is its [`Meta`], a protobuf message, and a body, the bytes of a text. They carry separate checksums, so
//! that a message whose text is damaged is still known by its place in the timelines.

use tern_proto::{ConversationId, DeviceId, UserId, v1};

use crate::Device;

/// A committed fact. Its position in the log is the version of whatever it puts into timelines.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Meta {
    #[prost(oneof = "Fact", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub fact: Option<Fact>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Fact {
    #[prost(message, tag = "1")]
    Message(Message),
    #[prost(message, tag = "2")]
    Refusal(Refusal),
    #[prost(message, tag = "3")]
    Ack(Ack),
    #[prost(message, tag = "4")]
    Start(Start),
    #[prost(message, tag = "5")]
    Read(Read),
    #[prost(message, tag = "6")]
    Delivered(Delivered),
    #[prost(message, tag = "7")]
    Epoch(Epoch),
    #[prost(message, tag = "8")]
    Dropped(Dropped),
    #[prost(message, tag = "9")]
    Moved(Moved),
}

/// The store is new, or is known to have lost something.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Epoch {
    #[prost(fixed64, tag = "1")]
    pub epoch: u64,
    /// Where in the log: what is lost there is answered for by this epoch.
    #[prost(uint64, repeated, tag = "2")]
    pub lost: Vec<u64>,
}

/// A message; its text is the body. It stands in the timelines of all members and is its own dedup result.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    #[prost(string, tag = "1")]
    pub from: String,
    #[prost(string, tag = "2")]
    pub device: String,
    #[prost(uint64, tag = "3")]
    pub client_msg_id: u64,
    /// A user, or a group; empty if the message makes one.
    #[prost(string, tag = "4")]
    pub to: String,
    #[prost(uint64, tag = "5")]
    pub seq: u64,
    #[prost(int64, tag = "6")]
    pub time_ms: i64,
    /// What happens to the group: who really joins and leaves.
    #[prost(message, optional, tag = "7")]
    pub change: Option<v1::GroupChange>,
    /// With a change: [`crate::content_hash`] of what was asked for, by which a resend is known.
    #[prost(fixed64, tag = "8")]
    pub asked: u64,
    /// What it is about.
    #[prost(message, optional, boxed, tag = "9")]
    pub media: Option<Box<v1::Media>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Refusal {
    #[prost(string, tag = "1")]
    pub from: String,
    #[prost(string, tag = "2")]
    pub device: String,
    #[prost(uint64, tag = "3")]
    pub client_msg_id: u64,
    #[prost(enumeration = "v1::Code", tag = "4")]
    pub code: i32,
    #[prost(fixed64, tag = "5")]
    pub hash: u64,
    #[prost(int64, tag = "6")]
    pub time_ms: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ack {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(string, tag = "2")]
    pub device: String,
    /// By class; 0 leaves the class alone.
    #[prost(uint64, repeated, tag = "3")]
    pub versions: Vec<u64>,
    #[prost(int64, tag = "4")]
    pub time_ms: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Start {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(string, tag = "2")]
    pub device: String,
    /// By class.
    #[prost(uint64, repeated, tag = "3")]
    pub position: Vec<u64>,
    #[prost(int64, tag = "4")]
    pub time_ms: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Read {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(string, tag = "2")]
    pub conversation: String,
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    #[prost(int64, tag = "4")]
    pub time_ms: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Delivered {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(string, tag = "2")]
    pub device: String,
    #[prost(uint64, tag = "3")]
    pub derived: u64,
    #[prost(int64, tag = "4")]
    pub time_ms: i64,
    /// Only those that were raised.
    #[prost(message, repeated, tag = "5")]
    pub raised: Vec<Raised>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Raised {
    #[prost(string, tag = "1")]
    pub conversation: String,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
}

/// The oldest entries of a user's class 1 timeline are there no more.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Dropped {
    #[prost(string, tag = "1")]
    pub user: String,
    /// The version of the last of them.
    #[prost(uint64, tag = "2")]
    pub up_to: u64,
    /// How many, and the bytes of their records.
    #[prost(uint64, tag = "3")]
    pub count: u64,
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
    #[prost(enumeration = "v1::HoleReason", tag = "5")]
    pub reason: i32,
}

/// The copy of a message whose segment is about to be deleted, for those who are still owed it; its text is the body.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Moved {
    /// Its version, which is where it stood first.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// When it was copied: its segment is young again.
    #[prost(int64, tag = "2")]
    pub time_ms: i64,
    #[prost(message, optional, tag = "3")]
    pub message: Option<Message>,
    /// The text could not be read any more.
    #[prost(bool, tag = "4")]
    pub damaged: bool,
}

impl Meta {
    /// Whether anybody reads the record again while the store is open: a page, a history, a resend.
    pub(super) fn is_read_back(&self) -> bool {
        self.kept_from_ms().is_some()
    }

    /// The time from which on it is kept, by the server's clock: of what is read from the log, and not as a last value from the index.
    pub(super) fn kept_from_ms(&self) -> Option<i64> {
        match self.fact.as_ref()? {
            Fact::Message(message) => Some(message.time_ms),
            Fact::Refusal(refusal) => Some(refusal.time_ms),
            Fact::Moved(moved) => Some(moved.time_ms),
            Fact::Ack(_) | Fact::Start(_) | Fact::Read(_) | Fact::Delivered(_) | Fact::Epoch(_) | Fact::Dropped(_) => {
                None
            }
        }
    }
}

impl Message {
    pub(super) fn sender(&self) -> Option<Device> {
        device(&self.from, &self.device)
    }

    /// Whether it makes the group that it is the first message of.
    pub(super) fn makes_group(&self) -> bool {
        self.to.is_empty()
    }

    /// The name of the conversation of the message that stands at `position`. It needs no checks: they were made when the record was written.
    pub(super) fn conversation_name(&self, position: u64) -> String {
        if self.makes_group() {
            return ConversationId::of_group(position).to_string();
        }
        if self.to.contains('/') {
            return self.to.clone();
        }
        ConversationId::name_of_two(&self.from, &self.to)
    }

    /// The conversation of the message that stands at `position`.
    pub(super) fn conversation(&self, position: u64) -> Option<ConversationId> {
        if self.makes_group() {
            return Some(ConversationId::of_group(position));
        }
        match UserId::new(&self.to) {
            Ok(to) => Some(ConversationId::of_two(&UserId::new(&self.from).ok()?, &to)),
            Err(_) => ConversationId::new(&self.to).ok().filter(ConversationId::is_group),
        }
    }
}

/// The device that a record names. `None` cannot happen to a record whose checksum is right: it was checked when it was written.
pub(super) fn device(user: &str, id: &str) -> Option<Device> {
    Some(Device { user: UserId::new(user).ok()?, id: DeviceId::new(id).ok()? })
}
