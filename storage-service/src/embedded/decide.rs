//! What an op becomes: an answer from what is already known, or a record to commit.
//!
//! The decider holds what decisions need: where conversations stand, and the results of each sender. It is ahead of
//! the readers by what is being committed right now; whoever reads from it waits until that is visible.

use std::collections::BTreeMap;
use std::sync::Arc;

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::{ConversationId, UserId, v1};
use tern_runtime::planted::{self, Fault};

use super::Failure;
use super::conversations::Conversations;
use super::frame::{Found, Want};
use super::index::{Changes, Index};
use super::log::Log;
use super::reader::Reader;
use super::record::{self, Fact, Message, Meta};
use super::senders::{Senders, Used};
use super::tables::IndexError;
use super::users::Users;
use crate::conversation::Conversation;
use crate::{Content, Device, Op, Outcome, Recipient, Sent, Told, content_hash};

/// What to do about an op.
pub(super) enum Decision {
    /// Nothing to store.
    Answer(Outcome),
    /// A fact to commit, with its body; [`committed`] says the outcome.
    Record(Meta, String),
    /// An acknowledgement to commit, and its outcome.
    Ack(Meta, Outcome),
    /// What is staged must be visible first; then decide this again.
    FlushFirst(Op),
}

/// A record that is not in the log yet.
pub(super) struct Staged {
    pub position: u64,
    pub meta: Meta,
    pub body: String,
    pub noted: Noted,
}

/// What the decider has learned from a fact. It says so when the fact is staged, and by the time readers see it the members may be others.
#[derive(Clone, Default)]
pub(super) struct Noted {
    /// Of a message or a read mark.
    pub conversation: Option<ConversationId>,
    /// Whose timelines the fact enters.
    pub owed: Arc<[UserId]>,
}

/// What decisions are made from.
pub(super) struct Known<'a> {
    pub log: &'a Log,
    pub index: &'a Index,
    pub users: &'a Users,
    pub epoch: u64,
    /// Ascending by position.
    pub staged: &'a [Staged],
}

/// A message that may be stored.
struct Admitted {
    /// As in its record.
    to: String,
    seq: u64,
    change: Option<v1::GroupChange>,
}

pub(super) struct Decider {
    pub conversations: Conversations,
    senders: Senders,
    /// The position of the last fact that was noted.
    pub noted: u64,
}

impl Decider {
    pub(super) fn new() -> Decider {
        Decider { conversations: Conversations::new(), senders: Senders::new(), noted: 0 }
    }

    /// Decides an op.
    pub(super) fn decide(&mut self, known: &Known<'_>, op: Op) -> Result<Decision, Failure> {
        match op {
            Op::Send { from, client_msg_id, content, time_ms } => {
                self.send(known, from, client_msg_id, content, time_ms)
            }
            Op::Start { start: v1::Start::Heads, .. } if !known.staged.is_empty() => Ok(Decision::FlushFirst(op)),
            Op::Start { device, start, time_ms } => start_of(known, &device, start, time_ms),
            Op::Ack { device, epoch, versions, time_ms } => known.ack(&device, epoch, versions, time_ms),
            Op::Read { by, conversation, seq, time_ms } => {
                Ok(self.read(known.index, &by, &conversation, seq, time_ms)?)
            }
            Op::Delivered { by, derived, positions, time_ms } => {
                let raised = self.raised(known.index, &by.user, positions)?;
                let (user, device) = names(&by);
                Ok(record(Fact::Delivered(record::Delivered { user, device, derived, time_ms, raised })))
            }
        }
    }

    fn send(
        &mut self,
        known: &Known<'_>,
        from: Device,
        id: u64,
        content: Content,
        time_ms: i64,
    ) -> Result<Decision, Failure> {
        self.senders.newest_ms = self.senders.newest_ms.max(time_ms);
        if !planted::active(Fault::NoDedup) {
            match self.senders.used(known.index, &from, id)? {
                Used::At(position) => {
                    known.log.counters.resends.inc();
                    return Ok(Decision::Answer(known.seen(position, (&from, id), &content)?));
                }
                Used::Forgotten => return Ok(Decision::Answer(Outcome::TooOld)),
                Used::No => {}
            }
        }
        let admitted = self.admit(known.index, &from.user, &content)?;
        let (user, device) = names(&from);
        match admitted {
            Err(code) => {
                let (code, hash) = (code.into(), content.hash());
                let refusal = record::Refusal { from: user, device, client_msg_id: id, code, hash, time_ms };
                Ok(record(Fact::Refusal(refusal)))
            }
            Ok(Admitted { to, seq, change }) => {
                let asked = if change.is_some() { content.hash() } else { 0 };
                let (text, media) = match content {
                    Content::Text { text, media, .. } => (text, media.map(Box::new)),
                    Content::Change { .. } | Content::Refused { .. } => (String::new(), None),
                };
                let message = Message { from: user, device, client_msg_id: id, to, seq, time_ms, change, asked, media };
                Ok(Decision::Record(Meta { fact: Some(Fact::Message(message)) }, text))
            }
        }
    }

    /// Where a message goes and what it does there, or the final refusal that it gets.
    fn admit(
        &mut self,
        index: &Index,
        sender: &UserId,
        content: &Content,
    ) -> Result<Result<Admitted, v1::Code>, IndexError> {
        let (group, change) = match content {
            Content::Refused { code, .. } => return Ok(Err(*code)),
            Content::Text { to: Recipient::User(to), .. } => {
                let known = self.conversations.get(index, &ConversationId::of_two(sender, to))?;
                let seq = known.map_or(0, |known| known.state.seq) + 1;
                return Ok(Ok(Admitted { to: to.to_string(), seq, change: None }));
            }
            Content::Change { group: None, change } => {
                let judged = Conversation::founded_by(sender.clone()).judge(sender, change);
                return Ok(judged.map(|change| Admitted { to: String::new(), seq: 1, change: Some(change) }));
            }
            Content::Text { to: Recipient::Group(group), .. } => (group, None),
            Content::Change { group: Some(group), change } => (group, Some(change)),
        };
        let known = self.conversations.get(index, group)?;
        let Some(known) = known.filter(|known| group.is_group() && known.member(sender).is_some()) else {
            return Ok(Err(v1::Code::NotAMember));
        };
        let change = change.map(|change| known.judge(sender, change)).transpose();
        Ok(change.map(|change| Admitted { to: group.to_string(), seq: known.state.seq + 1, change }))
    }

    fn read(
        &mut self,
        index: &Index,
        by: &Device,
        conversation: &ConversationId,
        seq: u64,
        time_ms: i64,
    ) -> Result<Decision, IndexError> {
        let known = self.conversations.get(index, conversation)?;
        let Some((head, member)) = known.and_then(|known| Some((known.state.seq, known.member(&by.user)?))) else {
            return Ok(Decision::Answer(Outcome::NotAMember));
        };
        if seq > head && !planted::active(Fault::ReadAhead) {
            return Ok(Decision::Answer(Outcome::BeyondHead));
        }
        let goes_back = planted::active(Fault::ReadMarkGoesBack) && seq != 0 && seq != member.read;
        if seq <= member.read && !goes_back {
            return Ok(Decision::Answer(Outcome::Raised(Vec::new())));
        }
        let (user, conversation) = (by.user.to_string(), conversation.to_string());
        Ok(record(Fact::Read(record::Read { user, conversation, seq, time_ms })))
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
            let Some(known) = self.conversations.get(index, &conversation)? else { continue };
            let seq = seq.min(known.state.seq);
            if known.member(user).is_some_and(|member| seq > member.delivered) {
                let highest = raised.entry(conversation).or_default();
                *highest = seq.max(*highest);
            }
        }
        let record =
            |(conversation, seq): (ConversationId, u64)| record::Raised { conversation: conversation.to_string(), seq };
        Ok(raised.into_iter().map(record).collect())
    }

    /// Takes note of a fact that stands, or will stand, at `position`. `checkpoint` is the number of the one that will hold it. At a
    /// start all that is behind the last checkpoint is noted again, in the order of the log, and with the same result.
    pub(super) fn note(
        &mut self,
        index: &Index,
        position: u64,
        meta: &Meta,
        checkpoint: u64,
    ) -> Result<Noted, IndexError> {
        self.noted = position;
        match &meta.fact {
            Some(Fact::Message(message)) => {
                let Some(sender) = message.sender() else { return Ok(Noted::default()) };
                let named = (&sender, message.client_msg_id);
                self.senders.note(index, named, position, message.time_ms, checkpoint)?;
                self.conversations.message(index, position, &sender.user, message, checkpoint)
            }
            Some(Fact::Refusal(refusal)) => {
                let Some(sender) = record::device(&refusal.from, &refusal.device) else { return Ok(Noted::default()) };
                let named = (&sender, refusal.client_msg_id);
                self.senders.note(index, named, position, refusal.time_ms, checkpoint)?;
                Ok(Noted::default())
            }
            Some(Fact::Read(read)) => self.conversations.read(index, read, checkpoint),
            Some(Fact::Delivered(delivered)) => self.conversations.delivered(index, delivered, checkpoint),
            Some(Fact::Ack(_) | Fact::Start(_) | Fact::Epoch(_) | Fact::Dropped(_) | Fact::Moved(_)) | None => {
                Ok(Noted::default())
            }
        }
    }

    /// A planted fault: what was noted of a message of two is forgotten.
    pub(super) fn forget(&mut self, message: &Message) {
        if let Some(sender) = message.sender() {
            self.senders.forget(&sender);
        }
        if let Some(conversation) = message.conversation(self.noted) {
            self.conversations.forget(&conversation);
        }
    }

    /// The highest id seen from a device.
    pub(super) fn highest(&self, index: &Index, device: &Device) -> Result<u64, IndexError> {
        self.senders.highest(index, device)
    }

    /// Adds what the index does not have to a checkpoint.
    pub(super) fn collect(&mut self, changes: &mut Changes, keep_ms: i64) {
        self.conversations.collect(changes);
        self.senders.collect(changes, keep_ms);
    }

    /// The checkpoint with this number is written; it covers the log up to `applied` and raised these floors.
    pub(super) fn checkpointed(&mut self, checkpoint: u64, applied: u64, floors: Vec<(Device, u64)>) {
        self.conversations.checkpointed(checkpoint, applied);
        self.senders.checkpointed(checkpoint, applied, floors);
    }
}

impl Known<'_> {
    fn ack(
        &self,
        device: &Device,
        epoch: u64,
        versions: [Option<Version>; CLASSES],
        time_ms: i64,
    ) -> Result<Decision, Failure> {
        let mut state = self.users.with(self.index, &device.user, |user| user.state(&device.id, self.epoch))?;
        if !state.takes(epoch, versions) || !state.is_news(versions, time_ms) {
            return Ok(Decision::Answer(Outcome::Acked(state)));
        }
        let versions = versions.map(Option::unwrap_or_default);
        state.acked = std::array::from_fn(|class| state.acked[class].max(versions[class]));
        (state.known, state.heard_ms) = (true, state.heard_ms.max(time_ms));
        if state.derived >= state.foreign {
            state.derived = state.derived.max(state.acked[Class::Messages as usize]);
        }
        let (user, device) = names(device);
        let fact = Fact::Ack(record::Ack { user, device, versions: versions.to_vec(), time_ms });
        Ok(Decision::Ack(Meta { fact: Some(fact) }, Outcome::Acked(state)))
    }

    /// The answer to a resend: what its record says, if the content is the same.
    fn seen(&self, position: u64, (from, id): (&Device, u64), content: &Content) -> Result<Outcome, Failure> {
        let found = match self.staged.binary_search_by_key(&position, |staged| staged.position) {
            Ok(at) => {
                let Staged { meta, body, .. } = &self.staged[at];
                Some(Found {
                    meta: meta.clone(),
                    body: Some(body.clone().into_bytes()),
                    body_length: body.len(),
                    length: 0,
                })
            }
            Err(_) => Reader::new(self.log).read(position, Want::All)?,
        };
        // A record that cannot be read any more: whether the content is the same is forgotten.
        let Some(Found { meta, body, .. }) = found else { return Ok(Outcome::TooOld) };
        let accepted = planted::active(Fault::ConflictAccepted);
        Ok(match meta.fact {
            Some(Fact::Message(message)) => {
                if message.sender().as_ref() != Some(from) || message.client_msg_id != id {
                    return Err(IndexError::Damaged.into());
                }
                if !accepted && !is_same(&message, body, content) {
                    return Ok(Outcome::Conflict);
                }
                let conversation = message.conversation(position);
                sent(position, &message, Noted { conversation, ..Noted::default() })
            }
            Some(Fact::Refusal(refusal)) if accepted || refusal.hash == content.hash() => {
                Outcome::Refused(refusal.code())
            }
            _ => Outcome::Conflict,
        })
    }
}

/// Whether this content was asked for when the message was stored. A text that is damaged passes for the same.
fn is_same(message: &Message, body: Option<Vec<u8>>, content: &Content) -> bool {
    match content {
        _ if message.change.is_some() => message.asked == content.hash(),
        Content::Text { to, text, media } => {
            let same_media = media.as_ref().map(|media| &media.id) == message.media.as_ref().map(|media| &media.id);
            same_media && message.to == to.as_str() && body.is_none_or(|body| body == text.as_bytes())
        }
        // What was good once may be refused by a later release: it is the same content all the same.
        Content::Change { .. } | Content::Refused { .. } => {
            let text = body.and_then(|body| String::from_utf8(body).ok());
            let media = message.media.as_ref().map_or("", |media| &media.id);
            text.is_some_and(|text| content_hash(&message.to, &text, media, None) == content.hash())
        }
    }
}

/// What became of an op whose record stands at `position`.
pub(super) fn committed(position: u64, meta: &Meta, noted: &Noted) -> Outcome {
    match &meta.fact {
        Some(Fact::Message(message)) => sent(position, message, noted.clone()),
        Some(Fact::Refusal(refusal)) => Outcome::Refused(refusal.code()),
        Some(Fact::Start(start)) => {
            Outcome::Started(std::array::from_fn(|class| start.position.get(class).copied().unwrap_or(0)))
        }
        Some(Fact::Read(_) | Fact::Delivered(_)) => {
            Outcome::Raised(noted.owed.iter().cloned().map(Told::from).collect())
        }
        Some(Fact::Ack(_) | Fact::Epoch(_) | Fact::Dropped(_) | Fact::Moved(_)) | None => Outcome::Done,
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

fn sent(position: u64, message: &Message, noted: Noted) -> Outcome {
    match noted.conversation {
        Some(conversation) => Outcome::Sent(Sent {
            server_msg_id: position,
            conversation,
            seq: message.seq,
            time_ms: message.time_ms,
            owed: noted.owed,
            places: Vec::new(),
        }),
        None => Outcome::TooOld,
    }
}

fn names(device: &Device) -> (String, String) {
    (device.user.to_string(), device.id.to_string())
}
