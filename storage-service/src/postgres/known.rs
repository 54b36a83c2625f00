//! What the database says about everything that a batch of ops touches, locked until the end of the transaction.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::{ConversationId, DeviceId, UserId};

use crate::conversation::Conversation;
use crate::{Device, DeviceState, Member, Outcome};

/// What decisions are made from, and what changes with each.
#[derive(Default)]
pub(super) struct Known {
    /// Of the store.
    pub epoch: u64,
    /// Of each sender the floor.
    pub floors: HashMap<Device, u64>,
    /// What became of ids that were used before, or further up in the batch.
    pub results: HashMap<Device, HashMap<u64, Remembered>>,
    pub conversations: BTreeMap<ConversationId, Loaded>,
    pub cursors: BTreeMap<UserId, BTreeMap<DeviceId, Cursor>>,
    /// Before this transaction.
    pub heads: HashMap<UserId, Heads>,
    /// Message ids that nobody has used.
    pub ids: Range<u64>,
}

/// What is known of an id that a send names.
pub(super) enum Used<'a> {
    /// It was used, with this result.
    As(&'a Remembered),
    /// It may have been: that is forgotten.
    Forgotten,
}

impl Known {
    /// Whether this id of a device was used; `None` if it is new.
    pub(super) fn used(&self, from: &Device, id: u64) -> Option<Used<'_>> {
        if let Some(remembered) = self.results.get(from).and_then(|results| results.get(&id)) {
            return Some(Used::As(remembered));
        }
        let floor = self.floors.get(from).copied().unwrap_or(0);
        (id <= floor).then_some(Used::Forgotten)
    }

    /// Where a device stands, of a user whose cursors and heads are known.
    pub(super) fn state(&self, device: &Device) -> DeviceState {
        let Heads { heads, foreign } = self.heads.get(&device.user).copied().unwrap_or_default();
        let cursor = self.cursors.get(&device.user).and_then(|cursors| cursors.get(&device.id)).copied();
        let known = cursor.is_some();
        let Cursor { acked, derived, heard_ms } = cursor.unwrap_or_default();
        DeviceState { epoch: self.epoch, heads, known, acked, derived, foreign, heard_ms }
    }
}

/// The result of a send.
#[derive(Clone)]
pub(super) struct Remembered {
    pub hash: u64,
    /// As a resend gets it.
    pub outcome: Outcome,
}

/// A conversation and what stands in the database of it.
pub(super) struct Loaded {
    pub conversation: Conversation,
    /// The members as they are stored; of a conversation of two that is only written to, as they are at the least.
    pub stored: Vec<Member>,
    /// No message of it is stored.
    pub is_new: bool,
    /// Something about it is to be written.
    pub changed: bool,
}

impl Loaded {
    pub(super) fn new(conversation: Conversation) -> Loaded {
        let is_new = conversation.state.seq == 0;
        Loaded { stored: conversation.state.members.clone(), conversation, is_new, changed: false }
    }
}

/// Where a device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub acked: [Version; CLASSES],
    pub derived: Version,
    pub heard_ms: i64,
}

impl Cursor {
    /// Whether receipts are to be derived from what it has acknowledged.
    pub(super) fn is_behind(&self) -> bool {
        self.acked[Class::Messages as usize] > self.derived
    }

    /// Never back.
    pub(super) fn raise(&mut self, versions: [Version; CLASSES]) {
        for (acked, version) in self.acked.iter_mut().zip(versions) {
            *acked = version.max(*acked);
        }
    }
}

/// Where a user's timelines end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heads {
    pub heads: [Version; CLASSES],
    /// The newest message of somebody else.
    pub foreign: Version,
}
