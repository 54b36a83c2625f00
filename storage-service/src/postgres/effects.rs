//! What a batch of decided ops changes, as rows to be. Versions are not known yet: an entry counts from the head of its timeline, and so does the place that its
//! caller is told until [`Effects::settle`].

use std::collections::{BTreeMap, BTreeSet};

use tern_postgres::Failure;
use tern_proto::key::Class;
use tern_proto::{ConversationId, MediaId, UserId, v1};
use tern_runtime::planted::{self, Fault};

use super::transaction::Bases;
use crate::{Device, Outcome, Place, Sent, Told};

/// Everything that is to be written.
#[derive(Default)]
pub(super) struct Effects {
    pub messages: Vec<NewMessage>,
    pub refusals: Vec<NewRefusal>,
    pub entries: Vec<NewEntry>,
    /// By key: of several in one batch only the last is stored.
    pub receipts: BTreeMap<ReceiptKey, NewReceipt>,
    /// The newest message of the batch that refers to media.
    pub references: BTreeMap<(MediaId, ConversationId), u64>,
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
    pub media: Option<v1::Media>,
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

/// The how many-th of a batch.
fn place(count: u64) -> Place {
    Place { epoch: 0, before: count - 1, version: count }
}

/// What an entry takes beside its text, about.
const ENTRY_BYTES: usize = 100;

impl Effects {
    /// Enters a message into the timelines of all who are owed it. Tells where, counted from their heads.
    pub(super) fn message(&mut self, message: NewMessage, owed: &[UserId]) -> Vec<Place> {
        let bytes = ENTRY_BYTES + message.text.len() + message.media.as_ref().map_or(0, prost::Message::encoded_len);
        let is_lost = planted::active(Fault::FanOutLost) && message.seq.is_multiple_of(16);
        let mut places = Vec::with_capacity(owed.len());
        for user in owed.iter().filter(|user| !is_lost || **user == message.from.user) {
            let raise = self.raises.entry((user.clone(), Class::Messages)).or_default();
            raise.count += 1;
            raise.bytes += bytes as u64;
            if *user != message.from.user {
                raise.foreign = raise.count;
            }
            places.push(place(raise.count));
            self.entries.push(NewEntry {
                user: user.clone(),
                place: raise.count,
                conversation: message.conversation.clone(),
                seq: message.seq,
                bytes,
            });
        }
        if let Some(media) = message.media.as_ref().and_then(|media| media.id.parse().ok()) {
            self.references.insert((media, message.conversation.clone()), message.seq);
        }
        self.messages.push(message);
        if is_lost { Vec::new() } else { places }
    }

    /// Enters a receipt into the timeline of `key.user`, in the place of the older one. Tells where, counted from its head.
    pub(super) fn receipt(&mut self, key: ReceiptKey, seq: u64, time_ms: i64) -> Place {
        let raise = self.raises.entry((key.user.clone(), Class::Receipts)).or_default();
        raise.count += 1;
        let count = raise.count;
        self.receipts.insert(key, NewReceipt { place: count, seq, time_ms });
        place(count)
    }

    /// Makes versions of the places that callers are told. Between the entries of one transaction there is nothing else.
    pub(super) fn settle(outcomes: &mut [Outcome], epoch: u64, bases: &Bases) -> Result<(), Failure> {
        let settle = |user: &UserId, class, place: &mut Place| {
            let base = bases.get(&(user.clone(), class)).ok_or(Failure::Damaged("a head"))?;
            *place = Place { epoch, before: base + place.before, version: base + place.version };
            Ok::<(), Failure>(())
        };
        for outcome in outcomes {
            match outcome {
                Outcome::Sent(Sent { owed, places, .. }) => {
                    owed.iter().zip(places).try_for_each(|(user, place)| settle(user, Class::Messages, place))?
                }
                Outcome::Raised(told) => {
                    for Told { user, receipt } in told {
                        if let Some((_, place)) = receipt {
                            settle(user, Class::Receipts, place)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
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
