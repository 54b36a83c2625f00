//! What a batch of decided ops changes, as rows to be. Versions are not known yet: an entry counts from the head of its timeline.

use std::collections::{BTreeMap, BTreeSet};

use tern_proto::key::Class;
use tern_proto::{ConversationId, UserId, v1};
use tern_runtime::planted::{self, Fault};

use crate::Device;

/// Everything that is to be written.
#[derive(Default)]
pub(super) struct Effects {
    pub messages: Vec<NewMessage>,
    pub refusals: Vec<NewRefusal>,
    pub entries: Vec<NewEntry>,
    /// By key: of several in one batch only the last is stored.
    pub receipts: BTreeMap<ReceiptKey, NewReceipt>,
    pub raises: BTreeMap<(UserId, Class), Raise>,
    pub cursors: BTreeSet<Device>,
    /// Those that yielded to another one.
    pub gone: BTreeSet<Device>,
}

pub(super) struct NewMessage {
    pub conversation: ConversationId,
    pub seq: u64,
    pub server_msg_id: u64,
    pub from: Device,
    pub client_msg_id: u64,
    pub time_ms: i64,
    pub hash: u64,
    /// In how many timelines it stands.
    pub refs: usize,
    pub text: String,
    pub change: Option<v1::GroupChange>,
}

pub(super) struct NewRefusal {
    pub from: Device,
    pub client_msg_id: u64,
    pub time_ms: i64,
    pub hash: u64,
    pub code: v1::Code,
}

/// A message in a timeline.
pub(super) struct NewEntry {
    pub user: UserId,
    /// The how many-th of this batch, from 1.
    pub place: u64,
    pub conversation: ConversationId,
    pub seq: u64,
    pub bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReceiptKey {
    pub user: UserId,
    pub conversation: ConversationId,
    pub member: UserId,
    pub kind: i32,
}

pub(super) struct NewReceipt {
    /// The how many-th of this batch, from 1.
    pub place: u64,
    pub seq: u64,
    pub time_ms: i64,
}

/// By how much a timeline grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Raise {
    pub count: u64,
    pub bytes: u64,
    /// Which of them is the last of somebody else; 0 if none is.
    pub foreign: u64,
}

/// What an entry takes beside its text, about.
const ENTRY_BYTES: usize = 100;

impl Effects {
    /// Enters a message into the timelines of all who are owed it.
    pub(super) fn message(&mut self, message: NewMessage, owed: &[UserId]) {
        let bytes = ENTRY_BYTES + message.text.len();
        let is_lost = planted::active(Fault::FanOutLost) && message.seq.is_multiple_of(16);
        for user in owed.iter().filter(|user| !is_lost || **user == message.from.user) {
            let raise = self.raises.entry((user.clone(), Class::Messages)).or_default();
            raise.count += 1;
            raise.bytes += bytes as u64;
            if *user != message.from.user {
                raise.foreign = raise.count;
            }
            self.entries.push(NewEntry {
                user: user.clone(),
                place: raise.count,
                conversation: message.conversation.clone(),
                seq: message.seq,
                bytes,
            });
        }
        self.messages.push(message);
    }

    /// Enters a receipt into the timeline of `key.user`, in the place of the older one.
    pub(super) fn receipt(&mut self, key: ReceiptKey, seq: u64, time_ms: i64) {
        let raise = self.raises.entry((key.user.clone(), Class::Receipts)).or_default();
        raise.count += 1;
        self.receipts.insert(key, NewReceipt { place: raise.count, seq, time_ms });
    }

    /// A device has come to this user: its timeline is locked, though nothing enters it.
    pub(super) fn arrived(&mut self, user: &UserId) {
        self.raises.entry((user.clone(), Class::Messages)).or_default();
    }

    /// Whether a message of somebody else has entered the user's timeline in this batch.
    pub(super) fn is_owed_foreign(&self, user: &UserId) -> bool {
        self.raises.get(&(user.clone(), Class::Messages)).is_some_and(|raise| raise.foreign > 0)
    }
}
