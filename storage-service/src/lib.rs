//! Durable timelines: the only service that touches them.
//!
//! [`Storage`] is the seam. What it promises is in `contract.rs`, a suite that every engine must pass; the first
//! engine is [`embedded`], a segment log with an index. `sync-service` decides and calls; nothing else does.

pub mod contract;
pub mod embedded;
pub mod reference;

use std::time::Duration;

use async_trait::async_trait;
use tern_proto::key::{CLASSES, Version};
use tern_proto::v1;
use tern_proto::{ConversationId, DeviceId, UserId};

/// What an operator may choose about acknowledgements; `docs/delivery.md` says what each proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// `fdatasync` before the outcome is told.
    Disk,
    /// Handed to the operating system before the outcome is told.
    Os,
}

/// A device of a user, the unit of dedup and of acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Its user.
    pub user: UserId,
    /// Its own name.
    pub id: DeviceId,
}

/// What to store under a `client_msg_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A message to another user.
    Text {
        /// The recipient; never the sender.
        to: UserId,
        /// 1 to 16,384 bytes.
        text: String,
    },
    /// A final refusal: remembered, so that a delayed copy gets the same.
    Refused {
        /// Why.
        code: v1::Code,
        /// Hash of what was refused, so that other content under the id is a conflict.
        hash: u64,
    },
}

/// One thing to commit. Each op is atomic on its own; ops of one call are applied in order.
#[derive(Clone, Debug)]
pub enum Op {
    /// A message or its final refusal. Answered by [`Outcome::Sent`], [`Outcome::Refused`], [`Outcome::Conflict`] or [`Outcome::TooOld`].
    Send {
        /// The sending device.
        from: Device,
        /// Not 0.
        client_msg_id: u64,
        /// What is sent.
        content: Content,
        /// The server's clock, for display and for the dedup window.
        time_ms: i64,
    },
    /// Remembers a device and where it starts; does nothing if it is known and `start` is [`v1::Start::Oldest`].
    /// Answered by [`Outcome::Started`] with the start as a position in every class. At heads, the heads of one snapshot
    /// become the position, which is not an acknowledgement: nothing is delivered by it.
    Start {
        /// The device.
        device: Device,
        /// Oldest or heads.
        start: v1::Start,
        /// The server's clock; the longest silent device yields when a user has too many.
        time_ms: i64,
    },
    /// Raises the device's acknowledged position, per class, never back. The caller has checked it against the heads. Lazy: written with the next commit, or alone
    /// at most [`LAZY`] later. Answered by [`Outcome::Done`].
    Ack {
        /// The device.
        device: Device,
        /// Per class; `None` leaves the class alone.
        versions: [Option<Version>; CLASSES],
        /// The server's clock: when the device was last heard.
        time_ms: i64,
    },
    /// Raises the member's read position. Answered by [`Outcome::Raised`] (whose timelines have a new entry: none if it was not raised),
    /// [`Outcome::NotAMember`] or [`Outcome::BeyondHead`].
    Read {
        /// The reading device.
        by: Device,
        /// What it has read.
        conversation: ConversationId,
        /// Up to here.
        seq: u64,
        /// The server's clock, for display.
        time_ms: i64,
    },
    /// Raises delivered positions that were derived from the acknowledgements of a device, and in the same step how far they are derived.
    /// Lazy as [`Op::Ack`]. Answered by [`Outcome::Raised`].
    Delivered {
        /// The device whose acknowledgements were looked at.
        by: Device,
        /// The new `derived` of the device.
        derived: Version,
        /// The highest sequence acknowledged, by conversation.
        positions: Vec<(ConversationId, u64)>,
        /// The server's clock, for display.
        time_ms: i64,
    },
}

/// The longest that a lazy op waits for a commit to travel with.
pub const LAZY: Duration = Duration::from_millis(50);

/// What became of one [`Op`]. Everything but the last two is as durable as [`Storage::durability`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored now, or stored before under the same id with the same content.
    Sent(Sent),
    /// A final refusal, stored now or before under the same id.
    Refused(v1::Code),
    /// The id was used for other content.
    Conflict,
    /// At or below the device's floor: whether the id was used is forgotten.
    TooOld,
    /// The start as a position.
    Started([Version; CLASSES]),
    /// Done.
    Done,
    /// The users whose timelines have a new entry.
    Raised(Vec<UserId>),
    /// The user is not in the conversation.
    NotAMember,
    /// The conversation has not come so far.
    BeyondHead,
    /// Nothing was begun; the same op may be tried again.
    Unavailable,
    /// It may have been stored; the same op may be tried again.
    Unknown,
}

/// The result of a stored message: every resend gets exactly this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Unique in the store.
    pub server_msg_id: u64,
    /// Where it went.
    pub conversation: ConversationId,
    /// Position in the conversation, from 1, without gaps.
    pub seq: u64,
    /// The server's clock when it was stored first.
    pub time_ms: i64,
    /// Whether this call stored it (and so somebody is owed it).
    pub fresh: bool,
}

/// Where a user and one of its devices stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// The store's epoch: changes only when the store is known to have lost something.
    pub epoch: u64,
    /// The last committed version of the user, by class; 0 if none.
    pub heads: [Version; CLASSES],
    /// Whether the device is remembered.
    pub known: bool,
    /// What the device has acknowledged, or where it started.
    pub acked: [Version; CLASSES],
    /// Delivered receipts are derived from class 1 up to here.
    pub derived: Version,
    /// When it last acknowledged or started, by the server's clock then; 0 if it is not remembered.
    pub heard_ms: i64,
    /// The highest `client_msg_id` seen from it.
    pub highest_client_msg_id: u64,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// The reader; its own messages come as stubs.
    pub device: Device,
    /// Entries above these, by class; `None` leaves the class out.
    pub above: [Option<Version>; CLASSES],
    /// At most this many entries.
    pub max_entries: usize,
    /// At most this many encoded bytes, but at least one entry.
    pub max_bytes: usize,
}

/// A page of a user's timelines.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The store's epoch.
    pub epoch: u64,
    /// The last committed version by class when the page was read; the page's entries are not above it.
    pub heads: [Version; CLASSES],
    /// Class 1, then class 2, ascending within each.
    pub entries: Vec<v1::Entry>,
    /// The position after the page: per class the last entry's version, or what was asked.
    pub after: [Option<Version>; CLASSES],
    /// Whether the class has more above `after`.
    pub more: [bool; CLASSES],
}

/// The store cannot answer now; the reason is in its log. Retry later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("storage is unavailable: {0}")]
pub struct Unavailable(pub String);

/// The durable timelines.
///
/// Rules that hold for every engine: results per op, one bad op never fails its neighbours; the order of versions is the order of
/// commits, so a page never hands out a version below one already handed out; reads see only what is as durable as promised.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Commits the ops and tells what became of each, in their order.
    ///
    /// Refused as [`Outcome::Unavailable`] when too much is waiting. Dropping the future does not undo what was begun.
    async fn commit(&self, ops: Vec<Op>) -> Vec<Outcome>;

    /// Reads a page of the user's timelines.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed.
    async fn page(&self, request: PageRequest) -> Result<Page, Unavailable>;

    /// Where the user and the device stand.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed.
    async fn device(&self, device: &Device) -> Result<DeviceState, Unavailable>;

    /// Devices whose acknowledgements are ahead of what is derived from them; at most `limit`, in order, after `after`.
    /// Asked at start, so that a crash loses no delivered receipt.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed.
    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable>;

    /// Whether commits can be expected to succeed; for readiness.
    ///
    /// # Errors
    /// [`Unavailable`] with the reason.
    async fn ready(&self) -> Result<(), Unavailable>;

    /// What an outcome proves.
    fn durability(&self) -> Durability;
}
