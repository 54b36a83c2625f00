//! Durable timelines: the only service that touches them.
//!
//! [`Storage`] is the seam. What it promises is in `contract.rs`, a suite that every engine must pass; the first
//! engine is [`embedded`], a segment log with an index. `sync-service` decides and calls; nothing else does.

mod content;
pub mod contract;
mod conversation;
pub mod embedded;
pub mod postgres;

pub mod reference;
pub mod remote;
mod room;
pub mod setup;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tern_proto::key::{CLASSES, Version};
use tern_proto::v1;
use tern_proto::{ConversationId, DeviceId, MediaId, Refusal, UserId};

pub use content::{Change, Content, Recipient, content_hash};

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
    /// Raises the device's acknowledged position, per class, never back; and how far it is derived with it, where nothing of others lies between the two. Versions of
    /// another epoch, or ahead of the head, raise nothing. If nothing rises, that the device was heard is stored once an hour. Lazy: written with the next commit, or alone at most [`LAZY`] later. Answered by [`Outcome::Acked`].
    Ack {
        /// The device.
        device: Device,
        /// The store's epoch that the versions are of.
        epoch: u64,
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

impl Op {
    /// Whether it may wait for another one to travel with.
    pub(crate) fn is_lazy(&self) -> bool {
        match self {
            Op::Ack { .. } | Op::Delivered { .. } => true,
            Op::Start { start, .. } => *start == v1::Start::Oldest,
            Op::Send { .. } | Op::Read { .. } => false,
        }
    }
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
    /// Where the device stands after an acknowledgement, whether or not that has raised anything. What else is committed at the same time may not be in it.
    Acked(DeviceState),
    /// Whose timelines have a new entry, each of them once.
    Raised(Vec<Told>),
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
    /// Whose timelines have it as a new entry, the sender's among them; empty if it was stored before.
    pub owed: Arc<[UserId]>,
    /// Where it stands in each of them, in their order; empty if the engine does not tell.
    pub places: Vec<Place>,
}

impl Sent {
    /// The result as a resend gets it: nobody is owed anything by that.
    pub fn repeated(self) -> Sent {
        Sent { owed: Arc::default(), places: Vec::new(), ..self }
    }
}

/// Where an entry stands in a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The store's epoch.
    pub epoch: u64,
    /// Nothing lies between this version and that of the entry, and nothing ever will.
    pub before: Version,
    /// That of the entry.
    pub version: Version,
}

/// Somebody whose timeline has a new receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose timeline.
    pub user: UserId,
    /// The receipt and where it stands; `None` if the engine does not tell, or if there is more than one.
    pub receipt: Option<(v1::Receipt, Place)>,
}

impl From<UserId> for Told {
    fn from(user: UserId) -> Told {
        Told { user, receipt: None }
    }
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
    /// The user's newest class 1 entry that others sent: of nothing above it is anything derived.
    pub foreign: Version,
    /// When it last acknowledged or started, by the server's clock then; 0 if it is not remembered.
    pub heard_ms: i64,
}

/// How often it is stored that a device was heard, though nothing rises: when a user has too many, the longest silent yields.
const HEARD_EVERY_MS: i64 = 3_600_000;

impl DeviceState {
    /// Whether an acknowledgement at this time, by the server's clock, changes anything that is stored.
    pub fn is_news(&self, versions: [Option<Version>; CLASSES], time_ms: i64) -> bool {
        let rises = versions.into_iter().zip(self.acked).any(|(version, acked)| version > Some(acked));
        rises || !self.known || self.heard_ms.saturating_add(HEARD_EVERY_MS) <= time_ms
    }

    /// Whether versions of this epoch of the store are positions in the user's timelines.
    pub(crate) fn takes(&self, epoch: u64, versions: [Option<Version>; CLASSES]) -> bool {
        epoch == self.epoch && versions.into_iter().zip(self.heads).all(|(version, head)| version <= Some(head))
    }
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
    /// Whether texts are wanted; else they are empty, which is cheaper.
    pub texts: bool,
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

/// A conversation and its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Of a group, else empty.
    pub title: String,
    /// Of a group that has members.
    pub owner: Option<UserId>,
    /// Position of the newest message; 0 if there is none.
    pub seq: u64,
    /// The server's clock when that was stored.
    pub time_ms: i64,
    /// In the order in which they joined; both users of a conversation of two, in the order of its name.
    pub members: Vec<Member>,
}

/// Where a member stands in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// The first position that the member may see; from 1.
    pub joined: u64,
    /// The newest message of the member's own since then; 0 if there is none.
    pub last_sent: u64,
    /// Delivered up to here; at least `read`.
    pub delivered: u64,
    /// Read up to here; at least `joined - 1`.
    pub read: u64,
}

impl Member {
    /// Who joins with the message at `joined`: what lies before it is none of its business.
    pub(crate) fn new(user: UserId, joined: u64) -> Member {
        let before = joined.saturating_sub(1);
        Member { user, joined, last_sent: 0, delivered: before, read: before }
    }
}

/// A conversation as one of its members lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: ConversationId,
    /// Of a group, else empty.
    pub title: String,
    /// Position of the newest message.
    pub seq: u64,
    /// The server's clock when that was stored.
    pub time_ms: i64,
    /// How many members it has.
    pub members: usize,
    /// Where the member stands.
    pub member: Member,
}

/// What of a conversation to read.
#[derive(Clone, Debug)]
pub struct HistoryRequest {
    /// Which.
    pub conversation: ConversationId,
    /// Messages below this position; `u64::MAX` for the newest.
    pub before: u64,
    /// Messages from this position on.
    pub from: u64,
    /// At most this many messages.
    pub max_entries: usize,
    /// At most this many encoded bytes, but at least one message.
    pub max_bytes: usize,
}

/// Messages of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Ascending by position; own messages of the reader in full, damaged ones without text.
    pub messages: Vec<v1::Message>,
    /// There are older ones that are kept, at or above `from`.
    pub more: bool,
}

/// What [`Storage::retain`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Entries that left timelines.
    pub dropped: u64,
    /// Bytes that were given back to the disk.
    pub freed: u64,
}

/// The store cannot answer now; the reason is in its log. Retry later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("storage is unavailable: {0}")]
pub struct Unavailable(pub String);

/// The reason stays in storage's log.
impl From<Unavailable> for Refusal {
    fn from(_: Unavailable) -> Refusal {
        Refusal::new(v1::Code::Unavailable, "storage is unavailable")
    }
}

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

    /// The highest `client_msg_id` seen from the device; 0 if none.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed.
    async fn highest_client_msg_id(&self, device: &Device) -> Result<u64, Unavailable>;

    /// Devices whose acknowledgements are ahead of what is derived from them; at most `limit`, in order, after `after`.
    /// Asked at start, so that a crash loses no delivered receipt.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed.
    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable>;

    /// The conversations of a user, ascending by name, behind `after`; at most `limit`. A conversation of two is one as soon as it has a message.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed.
    async fn conversations(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<Listed>, Unavailable>;

    /// Who is in a conversation and how far each has come; `None` for a group that was never made. One of two always exists.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed.
    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, Unavailable>;

    /// Reads messages of a conversation; the caller has checked who asks. What retention has taken away is not there.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed.
    async fn history(&self, request: HistoryRequest) -> Result<History, Unavailable>;

    /// The conversations with a message that refers to this media, ascending by name, behind `after`; at most `limit`. Each with the position of the newest such
    /// message. They stay when retention takes the message away. With a `reader` those alone in which this user may see that message.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed.
    async fn references(
        &self,
        media: MediaId,
        reader: Option<&UserId>,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<(ConversationId, u64)>, Unavailable>;

    /// Applies the rules of retention as of `now_ms`, the server's clock: entries that every live device has acknowledged and that are older than the
    /// history window leave the timelines, and so do the oldest of a user who has too many, which leaves a hole. Called from time to time while everything
    /// else goes on; gives back at least part of the room.
    ///
    /// # Errors
    /// [`Unavailable`] when the store has failed, or the disk refuses.
    async fn retain(&self, now_ms: i64) -> Result<Retained, Unavailable>;

    /// Whether commits can be expected to succeed; for readiness.
    ///
    /// # Errors
    /// [`Unavailable`] with the reason.
    async fn ready(&self) -> Result<(), Unavailable>;

    /// What an outcome proves.
    fn durability(&self) -> Durability;
}
