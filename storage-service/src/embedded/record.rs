//! What the log says: one record for each committed fact.
//!
//! A record is its [`Meta`], a protobuf message, and a body, the bytes of a text. They carry separate checksums, so
//! that a message whose text is damaged is still known by its place in the timelines.

use tern_proto::{ConversationId, DeviceId, UserId, v1};

use crate::Device;

/// A committed fact. Its position in the log is the version of whatever it puts into timelines.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Meta {
    #[prost(oneof = "Fact", tags = "1, 2, 3, 4, 5, 6, 7")]
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

/// A message; its text is the body. It stands in both members' timelines and is its own dedup result.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    #[prost(string, tag = "1")]
    pub from: String,
    #[prost(string, tag = "2")]
    pub device: String,
    #[prost(uint64, tag = "3")]
    pub client_msg_id: u64,
    #[prost(string, tag = "4")]
    pub to: String,
    #[prost(uint64, tag = "5")]
    pub seq: u64,
    #[prost(int64, tag = "6")]
    pub time_ms: i64,
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
    /// Whether the other member gets an entry too.
    #[prost(bool, tag = "5")]
    pub tell_other: bool,
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

impl Message {
    pub(super) fn sender(&self) -> Option<Device> {
        device(&self.from, &self.device)
    }

    pub(super) fn conversation(&self) -> Option<ConversationId> {
        let (from, to) = (UserId::new(&self.from).ok()?, UserId::new(&self.to).ok()?);
        Some(ConversationId::of_two(&from, &to))
    }
}

/// The device that a record names. `None` cannot happen to a record whose checksum is right: it was checked when it was written.
pub(super) fn device(user: &str, id: &str) -> Option<Device> {
    Some(Device { user: UserId::new(user).ok()?, id: DeviceId::new(id).ok()? })
}
