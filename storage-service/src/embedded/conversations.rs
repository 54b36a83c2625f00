//! Every conversation that is at work: loaded from the index when it is asked for, kept until the index has all of it.
//!
//! Beside them stands who has come to be in a conversation, or has left one, since the last checkpoint: a user's list is what the index
//! says, changed by that.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use tern_proto::{ConversationId, UserId};
use tern_runtime::planted::{self, Fault};

use super::conversation::Kept;
use super::decide::Noted;
use super::index::{Changes, Index};
use super::record::{Delivered, Message, Read};
use super::tables::IndexError;
use crate::conversation::Conversation;

/// Members of conversations that are kept before those conversations that the index has whole are dropped. Between two checkpoints there may be
/// more; then the next look is taken when there are twice as many.
const KEPT_MEMBERS: usize = 200_000;

/// The conversations in memory.
pub(super) struct Conversations {
    known: HashMap<ConversationId, Kept>,
    /// At least as many members are in them.
    members: usize,
    /// With so many it is time to drop some.
    members_kept: usize,
    /// What the index does not have, or has otherwise.
    memberships: HashMap<UserId, BTreeMap<ConversationId, Membership>>,
}

#[derive(Clone, Copy)]
struct Membership {
    is_member: bool,
    /// The number of the checkpoint that will hold it.
    dirty: u64,
}

impl Conversations {
    pub(super) fn new() -> Conversations {
        Conversations { known: HashMap::new(), members: 0, members_kept: KEPT_MEMBERS, memberships: HashMap::new() }
    }

    /// The conversation; `None` for a group that was never made.
    pub(super) fn get(&mut self, index: &Index, id: &ConversationId) -> Result<Option<&mut Kept>, IndexError> {
        if !self.known.contains_key(id) {
            let Some(loaded) = Self::indexed(index, id)? else { return Ok(None) };
            self.insert(id.clone(), loaded);
        }
        Ok(self.known.get_mut(id))
    }

    /// The conversation, if it is in memory.
    pub(super) fn peek(&self, id: &ConversationId) -> Option<&Kept> {
        self.known.get(id)
    }

    /// The conversation as the index has it, which is all there is of one that is not in memory.
    pub(super) fn indexed(index: &Index, id: &ConversationId) -> Result<Option<Kept>, IndexError> {
        let loaded = index.conversation(id)?.map(Kept::from_row);
        let Some(mut loaded) = loaded.or_else(|| id.pair().map(|users| Conversation::of_two(users).into())) else {
            return Ok(None);
        };
        if planted::active(Fault::SequenceBackAtRestart) {
            loaded.state.seq = 0;
        }
        Ok(Some(loaded))
    }

    fn insert(&mut self, id: ConversationId, conversation: Kept) {
        self.members += conversation.state.members.len();
        if self.members > self.members_kept {
            self.known.retain(|_, known| known.dirty != 0);
            let left: usize = self.known.values().map(|known| known.state.members.len()).sum();
            self.members = left + conversation.state.members.len();
            self.members_kept = KEPT_MEMBERS.max(2 * left);
        }
        self.known.insert(id, conversation);
    }

    /// Takes note of a message at `position`; it may make its group.
    pub(super) fn message(
        &mut self,
        index: &Index,
        position: u64,
        from: &UserId,
        message: &Message,
        checkpoint: u64,
    ) -> Result<Noted, IndexError> {
        let Some(id) = message.conversation(position) else { return Ok(Noted::default()) };
        if message.makes_group() {
            self.insert(id.clone(), Conversation::founded_by(from.clone()).into());
        }
        let owed = self.note(index, &id, checkpoint, |known| known.message(from, message, position))?;
        if let Some(change) = &message.change {
            self.members += change.add.len();
            let founder = message.makes_group().then(|| from.clone());
            let names = change.add.iter().chain(&change.remove).filter_map(|name| UserId::new(name).ok());
            for user in founder.into_iter().chain(names) {
                let is_member = self.known.get(&id).is_some_and(|known| known.member(&user).is_some());
                self.move_member(user, &id, is_member, checkpoint);
            }
        }
        Ok(Noted { conversation: Some(id), owed: owed.unwrap_or_default() })
    }

    pub(super) fn read(&mut self, index: &Index, read: &Read, checkpoint: u64) -> Result<Noted, IndexError> {
        let (Ok(reader), Ok(id)) = (UserId::new(&read.user), ConversationId::new(&read.conversation)) else {
            return Ok(Noted::default());
        };
        let owed = self.note(index, &id, checkpoint, |known| known.read(&reader, read.seq))?;
        Ok(Noted { conversation: Some(id), owed: owed.unwrap_or_default() })
    }

    /// In a conversation of two the other one is told.
    pub(super) fn delivered(
        &mut self,
        index: &Index,
        delivered: &Delivered,
        checkpoint: u64,
    ) -> Result<Noted, IndexError> {
        let Ok(user) = UserId::new(&delivered.user) else { return Ok(Noted::default()) };
        let mut told = Vec::with_capacity(delivered.raised.len());
        for raised in &delivered.raised {
            let Ok(id) = ConversationId::new(&raised.conversation) else { continue };
            self.note(index, &id, checkpoint, |known| known.delivered(&user, raised.seq))?;
            told.extend(id.other(&user));
        }
        Ok(Noted { conversation: None, owed: told.into() })
    }

    /// `None` if there is no such conversation: the record of its making was lost.
    fn note<R>(
        &mut self,
        index: &Index,
        id: &ConversationId,
        checkpoint: u64,
        note: impl FnOnce(&mut Kept) -> R,
    ) -> Result<Option<R>, IndexError> {
        let Some(known) = self.get(index, id)? else { return Ok(None) };
        let was_silent = known.state.seq == 0;
        let noted = note(known);
        known.dirty = checkpoint;
        if was_silent && known.state.seq > 0 {
            for user in id.pair().into_iter().flatten() {
                self.move_member(user, id, true, checkpoint);
            }
        }
        Ok(Some(noted))
    }

    fn move_member(&mut self, user: UserId, id: &ConversationId, is_member: bool, checkpoint: u64) {
        let all = self.memberships.entry(user).or_default();
        all.insert(id.clone(), Membership { is_member, dirty: checkpoint });
    }

    /// Of one user, behind a name, in order: what the index does not have, and whether the user is in it.
    pub(super) fn memberships(&self, user: &UserId, after: Option<&ConversationId>) -> Vec<(ConversationId, bool)> {
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let memberships = self.memberships.get(user).into_iter();
        let memberships = memberships.flat_map(move |all| all.range::<ConversationId, _>(behind));
        memberships.map(|(id, membership)| (id.clone(), membership.is_member)).collect()
    }

    /// The positions of messages that the index does not have, with `from <= seq < before`, ascending.
    pub(super) fn recent(&self, id: &ConversationId, from: u64, before: u64) -> Vec<(u64, u64)> {
        let recent = self.known.get(id).map(|known| known.recent.as_slice()).unwrap_or_default();
        let below = |seq: u64| recent.partition_point(|&(known, _)| known < seq);
        recent.get(below(from)..below(before)).unwrap_or_default().to_vec()
    }

    /// Adds what the index does not have to a checkpoint.
    pub(super) fn collect(&self, changes: &mut Changes) {
        for (id, known) in self.known.iter().filter(|(_, known)| known.dirty != 0) {
            changes.conversations.push((id.clone(), known.to_row()));
            if !known.recent.is_empty() {
                changes.history.push((id.clone(), known.recent.clone()));
            }
        }
        for (user, all) in &self.memberships {
            changes.memberships.extend(all.iter().map(|(id, now)| (user.clone(), id.clone(), now.is_member)));
        }
    }

    /// The checkpoint with this number is written; it covers the log up to `applied`.
    pub(super) fn checkpointed(&mut self, checkpoint: u64, applied: u64) {
        for known in self.known.values_mut().filter(|known| known.dirty != 0) {
            let have = known.recent.partition_point(|&(_, position)| position < applied);
            known.recent.drain(..have);
            if known.dirty <= checkpoint {
                known.dirty = 0;
                known.recent.shrink_to_fit();
            }
        }
        self.memberships.retain(|_, all| {
            all.retain(|_, membership| membership.dirty > checkpoint);
            !all.is_empty()
        });
    }

    /// A planted fault forgets what it was told about a conversation of two.
    pub(super) fn forget(&mut self, id: &ConversationId) {
        if !id.is_group() {
            self.known.remove(id);
        }
    }
}
