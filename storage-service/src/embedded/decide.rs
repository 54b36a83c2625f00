//! What an op becomes: an answer from what is already known, or a record to commit.
//!
//! The decider holds what decisions need and readers do not: where conversations stand, and the results of each sender. It is ahead of
//! the readers by what is being committed right now.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use tern_proto::key::CLASSES;
use tern_proto::{ConversationId, UserId, v1};
use tern_runtime::planted::{self, Fault};

use super::Failure;
use super::frame::Found;
use super::index::{Changes, ConversationRow, Index, IndexError, SenderRow};
use super::log::Log;
use super::record::{self, Fact, Message, Meta};
use super::users::Users;
use crate::{Content, Device, Op, Outcome, Sent};

/// Conversations or senders kept before those that the index has whole are dropped. Between two checkpoints there may be
/// more; then the next look is taken when there are twice as many.
const KEPT: usize = 100_000;

/// What to do about an op.
pub(super) enum Decision {
    /// Nothing to store.
    Answer(Outcome),
    /// A fact to commit, with its body; [`committed`] says the outcome.
    Record(Meta, String),
    /// What is staged must be visible first; then decide this again.
    FlushFirst(Op),
}

/// What decisions are made from.
pub(super) struct Known<'a> {
    pub log: &'a Log,
    pub index: &'a Index,
    pub users: &'a Users,
    /// Records that are not in the log yet, ascending by position.
    pub staged: &'a [(u64, Meta, String)],
}

pub(super) struct Decider {
    conversations: HashMap<ConversationId, Conversation>,
    /// With so many it is time to drop some.
    conversations_kept: usize,
    senders: HashMap<Device, Sender>,
    senders_kept: usize,
    /// The newest time of any op: what the age of results is measured against.
    newest_ms: i64,
}

/// A conversation of two; the arrays are by member, in the order of its name.
#[derive(Clone, Copy, Default)]
struct Conversation {
    seq: u64,
    last_sent: [u64; 2],
    read: [u64; 2],
    /// At least `read`.
    delivered: [u64; 2],
    dirty: u64,
}

/// A device as a sender.
#[derive(Default)]
struct Sender {
    row: SenderRow,
    /// Results that the index does not have: id → position.
    recent: BTreeMap<u64, u64>,
    dirty: u64,
}

impl Decider {
    pub(super) fn new() -> Decider {
        Decider {
            conversations: HashMap::new(),
            conversations_kept: KEPT,
            senders: HashMap::new(),
            senders_kept: KEPT,
            newest_ms: 0,
        }
    }

    /// Decides an op.
    pub(super) fn decide(&mut self, known: &Known<'_>, op: Op) -> Result<Decision, Failure> {
        match op {
            Op::Send { from, client_msg_id, content, time_ms } => {
                self.send(known, from, client_msg_id, content, time_ms)
            }
            Op::Start { start: v1::Start::Heads, .. } if !known.staged.is_empty() => Ok(Decision::FlushFirst(op)),
            Op::Start { device, start, time_ms } => start_of(known, &device, start, time_ms),
            Op::Ack { device, versions, time_ms } => {
                let versions = versions.map(Option::unwrap_or_default).to_vec();
                let (user, device) = names(&device);
                Ok(record(Fact::Ack(record::Ack { user, device, versions, time_ms })))
            }
            Op::Read { by, conversation, seq, time_ms } => self.read(known.index, &by, &conversation, seq, time_ms),
            Op::Delivered { by, derived, positions, time_ms } => {
                let raised = self.raised(known.index, &by.user, positions)?;
                let (user, device) = names(&by);
                Ok(record(Fact::Delivered(record::Delivered { user, device, derived, time_ms, raised })))
            }
        }
    }

    /// Of the delivered positions those that go up, each conversation once.
    fn raised(
        &mut self,
        index: &Index,
        user: &UserId,
        positions: Vec<(ConversationId, u64)>,
    ) -> Result<Vec<record::Raised>, IndexError> {
        let mut raised: BTreeMap<ConversationId, u64> = BTreeMap::new();
        for (conversation, seq) in positions {
            let Some(member) = member(&conversation, user) else { continue };
            let known = self.conversation(index, &conversation)?;
            let seq = seq.min(known.seq);
            if seq > known.delivered[member] {
                let highest = raised.entry(conversation).or_default();
                *highest = seq.max(*highest);
            }
        }
        let record =
            |(conversation, seq): (ConversationId, u64)| record::Raised { conversation: conversation.to_string(), seq };
        Ok(raised.into_iter().map(record).collect())
    }

    fn send(
        &mut self,
        known: &Known<'_>,
        from: Device,
        id: u64,
        content: Content,
        time_ms: i64,
    ) -> Result<Decision, Failure> {
        self.newest_ms = self.newest_ms.max(time_ms);
        let sender = self.sender(known.index, &from)?;
        if !planted::active(Fault::NoDedup) && id <= sender.row.highest {
            let position = match sender.recent.get(&id) {
                Some(&position) => Some(position),
                None => known.index.result(&from, id)?,
            };
            if let Some(position) = position {
                return Ok(Decision::Answer(known.seen(position, (&from, id), &content)?));
            }
            if id <= sender.row.floor {
                return Ok(Decision::Answer(Outcome::TooOld));
            }
        }
        let (from_user, device) = names(&from);
        match content {
            Content::Refused { code, hash } => {
                let code = code.into();
                let refusal = record::Refusal { from: from_user, device, client_msg_id: id, code, hash, time_ms };
                Ok(record(Fact::Refusal(refusal)))
            }
            Content::Text { to, text } => {
                let conversation = ConversationId::of_two(&from.user, &to);
                let seq = self.conversation(known.index, &conversation)?.seq + 1;
                let to = to.to_string();
                let message = Message { from: from_user, device, client_msg_id: id, to, seq, time_ms };
                Ok(Decision::Record(Meta { fact: Some(Fact::Message(message)) }, text))
            }
        }
    }

    fn read(
        &mut self,
        index: &Index,
        by: &Device,
        conversation: &ConversationId,
        seq: u64,
        time_ms: i64,
    ) -> Result<Decision, Failure> {
        let Some(reader) = member(conversation, &by.user) else { return Ok(Decision::Answer(Outcome::NotAMember)) };
        let known = self.conversation(index, conversation)?;
        if seq > known.seq && !planted::active(Fault::ReadAhead) {
            return Ok(Decision::Answer(Outcome::BeyondHead));
        }
        let goes_back = seq <= known.read[reader];
        if goes_back && !(planted::active(Fault::ReadMarkGoesBack) && seq != 0 && seq != known.read[reader]) {
            return Ok(Decision::Answer(Outcome::Raised(Vec::new())));
        }
        let tell_other = known.last_sent[1 - reader] > known.read[reader] || goes_back;
        let (user, conversation) = (by.user.to_string(), conversation.to_string());
        Ok(record(Fact::Read(record::Read { user, conversation, seq, time_ms, tell_other })))
    }

    /// Takes note of a fact that stands, or will stand, at `position`. `checkpoint` is the number of the one that will hold it. Doing so again changes nothing.
    pub(super) fn note(
        &mut self,
        index: &Index,
        position: u64,
        meta: &Meta,
        checkpoint: u64,
    ) -> Result<(), IndexError> {
        match &meta.fact {
            Some(Fact::Message(message)) => {
                if let (Some(sender), Some(conversation)) = (message.sender(), message.conversation()) {
                    let from = member(&conversation, &sender.user).unwrap_or(0);
                    let known = self.conversation(index, &conversation)?;
                    known.seq = known.seq.max(message.seq);
                    known.last_sent[from] = known.last_sent[from].max(message.seq);
                    known.dirty = checkpoint;
                    self.note_result(index, &sender, message.client_msg_id, position, message.time_ms, checkpoint)?;
                }
            }
            Some(Fact::Refusal(refusal)) => {
                if let Some(sender) = record::device(&refusal.from, &refusal.device) {
                    self.note_result(index, &sender, refusal.client_msg_id, position, refusal.time_ms, checkpoint)?;
                }
            }
            Some(Fact::Read(read)) => {
                self.raise(index, &read.user, &read.conversation, checkpoint, |known, member| {
                    // Higher only where the message itself is lost; its number is not used again.
                    known.seq = known.seq.max(read.seq);
                    known.read[member] = known.read[member].max(read.seq);
                    known.delivered[member] = known.delivered[member].max(read.seq);
                })?;
            }
            Some(Fact::Delivered(delivered)) => {
                for raised in &delivered.raised {
                    self.raise(index, &delivered.user, &raised.conversation, checkpoint, |known, member| {
                        known.seq = known.seq.max(raised.seq);
                        known.delivered[member] = known.delivered[member].max(raised.seq);
                    })?;
                }
            }
            Some(Fact::Ack(_) | Fact::Start(_) | Fact::Epoch(_)) | None => {}
        }
        Ok(())
    }

    fn note_result(
        &mut self,
        index: &Index,
        sender: &Device,
        id: u64,
        position: u64,
        time_ms: i64,
        checkpoint: u64,
    ) -> Result<(), IndexError> {
        self.newest_ms = self.newest_ms.max(time_ms);
        let sender = self.sender(index, sender)?;
        sender.row.highest = sender.row.highest.max(id);
        sender.recent.insert(id, position);
        sender.dirty = checkpoint;
        Ok(())
    }

    fn raise(
        &mut self,
        index: &Index,
        user: &str,
        conversation: &str,
        checkpoint: u64,
        raise: impl FnOnce(&mut Conversation, usize),
    ) -> Result<(), IndexError> {
        let (Ok(user), Ok(conversation)) = (UserId::new(user), ConversationId::new(conversation)) else {
            return Ok(());
        };
        let Some(member) = member(&conversation, &user) else { return Ok(()) };
        let known = self.conversation(index, &conversation)?;
        raise(known, member);
        known.dirty = checkpoint;
        Ok(())
    }

    /// The highest id seen from a device, if that is in memory.
    pub(super) fn peek_highest(&self, device: &Device) -> Option<u64> {
        self.senders.get(device).map(|sender| sender.row.highest)
    }

    /// The highest id seen from a device.
    pub(super) fn highest(&mut self, index: &Index, device: &Device) -> Result<u64, IndexError> {
        Ok(self.sender(index, device)?.row.highest)
    }

    fn conversation(&mut self, index: &Index, id: &ConversationId) -> Result<&mut Conversation, IndexError> {
        if !self.conversations.contains_key(id) {
            if self.conversations.len() >= self.conversations_kept {
                self.conversations.retain(|_, known| known.dirty != 0);
                self.conversations_kept = KEPT.max(2 * self.conversations.len());
            }
            let mut known = index.conversation(id)?.map(Conversation::from_row).unwrap_or_default();
            if planted::active(Fault::SequenceBackAtRestart) {
                known.seq = 0;
            }
            self.conversations.insert(id.clone(), known);
        }
        Ok(self.conversations.entry(id.clone()).or_default())
    }

    fn sender(&mut self, index: &Index, device: &Device) -> Result<&mut Sender, IndexError> {
        if !self.senders.contains_key(device) {
            if self.senders.len() >= self.senders_kept {
                self.senders.retain(|_, sender| sender.dirty != 0);
                self.senders_kept = KEPT.max(2 * self.senders.len());
            }
            let row = index.sender(device)?.unwrap_or_default();
            self.senders.insert(device.clone(), Sender { row, ..Sender::default() });
        }
        Ok(self.senders.entry(device.clone()).or_default())
    }

    /// Adds what the index does not have to a checkpoint.
    pub(super) fn collect(&mut self, changes: &mut Changes, keep_ms: i64) {
        changes.now_ms = self.newest_ms;
        changes.forget_before_ms = self.newest_ms.saturating_sub(keep_ms);
        for (id, known) in self.conversations.iter().filter(|(_, known)| known.dirty != 0) {
            changes.conversations.push((id.clone(), known.to_row()));
        }
        for (device, sender) in self.senders.iter_mut().filter(|(_, sender)| sender.dirty != 0) {
            let above = (Bound::Excluded(sender.row.indexed), Bound::Unbounded);
            let block = sender.recent.range(above).map(|(&id, &at)| (id, at)).collect::<Vec<_>>();
            let late = sender.recent.range(..=sender.row.indexed);
            changes.late_results.extend(late.map(|(&id, &at)| (device.clone(), id, at)));
            if let Some(&(last, _)) = block.last() {
                sender.row.indexed = last;
                changes.results.push((device.clone(), block));
            }
            changes.senders.push((device.clone(), sender.row));
        }
    }

    /// The checkpoint with this number is written; it covers the log up to `applied` and raised these floors.
    pub(super) fn checkpointed(&mut self, checkpoint: u64, applied: u64, floors: Vec<(Device, u64)>) {
        for known in self.conversations.values_mut().filter(|known| known.dirty <= checkpoint) {
            known.dirty = 0;
        }
        for sender in self.senders.values_mut().filter(|sender| sender.dirty != 0) {
            sender.recent.retain(|_, &mut position| position >= applied);
            if sender.dirty <= checkpoint {
                sender.dirty = 0;
            }
        }
        for (device, floor) in floors {
            if let Some(sender) = self.senders.get_mut(&device) {
                sender.row.floor = sender.row.floor.max(floor);
            }
        }
    }
}

impl Known<'_> {
    /// The answer to a resend: what its record says, if the content is the same.
    fn seen(&self, position: u64, (from, id): (&Device, u64), content: &Content) -> Result<Outcome, Failure> {
        let found = match self.staged.binary_search_by_key(&position, |(position, ..)| *position) {
            Ok(at) => {
                let (_, meta, body) = &self.staged[at];
                Some(Found { meta: meta.clone(), body: Some(body.clone().into_bytes()), length: 0 })
            }
            Err(_) => self.log.read(position)?,
        };
        // A record that cannot be read any more: whether the content is the same is forgotten.
        let Some(found) = found else { return Ok(Outcome::TooOld) };
        let same = planted::active(Fault::ConflictAccepted);
        Ok(match (found.meta.fact, content) {
            (Some(Fact::Message(message)), Content::Text { to, text }) => {
                if message.sender().as_ref() != Some(from) || message.client_msg_id != id {
                    return Err(IndexError::Damaged.into());
                }
                let same = same || message.to == to.as_str() && found.body.is_none_or(|body| body == text.as_bytes());
                if same { sent(position, &message, false) } else { Outcome::Conflict }
            }
            (Some(Fact::Refusal(refusal)), Content::Refused { hash, .. }) if same || refusal.hash == *hash => {
                Outcome::Refused(refusal.code())
            }
            _ => Outcome::Conflict,
        })
    }
}

/// What became of an op whose record stands at `position`.
pub(super) fn committed(position: u64, meta: &Meta) -> Outcome {
    let other =
        |conversation: &str, user: &str| ConversationId::new(conversation).ok()?.other(&UserId::new(user).ok()?);
    match &meta.fact {
        Some(Fact::Message(message)) => sent(position, message, true),
        Some(Fact::Refusal(refusal)) => Outcome::Refused(refusal.code()),
        Some(Fact::Start(start)) => {
            Outcome::Started(std::array::from_fn(|class| start.position.get(class).copied().unwrap_or(0)))
        }
        Some(Fact::Read(read)) => {
            let other = other(&read.conversation, &read.user).filter(|_| read.tell_other);
            Outcome::Raised(UserId::new(&read.user).ok().into_iter().chain(other).collect())
        }
        Some(Fact::Delivered(delivered)) => {
            let raised = delivered.raised.iter();
            Outcome::Raised(raised.filter_map(|raised| other(&raised.conversation, &delivered.user)).collect())
        }
        Some(Fact::Ack(_) | Fact::Epoch(_)) | None => Outcome::Done,
    }
}

fn start_of(known: &Known<'_>, device: &Device, start: v1::Start, time_ms: i64) -> Result<Decision, Failure> {
    let heads = start == v1::Start::Heads;

    let (position, remembered) = known
        .users
        .with(known.index, &device.user, |user| (user.heads, user.devices.iter().any(|known| known.id == device.id)))?;
    let position = if heads { position } else { [0; CLASSES] };
    if remembered && !heads {
        return Ok(Decision::Answer(Outcome::Started(position)));
    }
    let position = position.to_vec();
    let (user, device) = names(device);
    Ok(record(Fact::Start(record::Start { user, device, position, time_ms })))
}

fn record(fact: Fact) -> Decision {
    Decision::Record(Meta { fact: Some(fact) }, String::new())
}

fn sent(position: u64, message: &Message, fresh: bool) -> Outcome {
    match message.conversation() {
        Some(conversation) => Outcome::Sent(Sent {
            server_msg_id: position,
            conversation,
            seq: message.seq,
            time_ms: message.time_ms,
            fresh,
        }),
        None => Outcome::TooOld,
    }
}

fn names(device: &Device) -> (String, String) {
    (device.user.to_string(), device.id.to_string())
}

/// Which member a user is, in the order of the conversation's name.
fn member(conversation: &ConversationId, user: &UserId) -> Option<usize> {
    conversation.members().iter().position(|member| member == user)
}

impl Conversation {
    fn from_row(row: ConversationRow) -> Conversation {
        let pair = |values: &[u64]| std::array::from_fn(|member| values.get(member).copied().unwrap_or(0));
        Conversation {
            seq: row.seq,
            last_sent: pair(&row.last_sent),
            read: pair(&row.read),
            delivered: pair(&row.delivered),
            dirty: 0,
        }
    }

    fn to_row(self) -> ConversationRow {
        ConversationRow {
            seq: self.seq,
            last_sent: self.last_sent.to_vec(),
            read: self.read.to_vec(),
            delivered: self.delivered.to_vec(),
        }
    }
}
