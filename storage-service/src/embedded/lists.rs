//! A user's conversations, who is in one, and in which one may see media: read from the decider, which is ahead of what is visible.
//!
//! So each look says up to where the log must be visible before the answer may be given ([`Seen`]).

use std::collections::BTreeSet;

use tern_proto::{ConversationId, MediaId, UserId};

use super::conversation::Kept;
use super::conversations::Conversations;
use super::{Failure, Shared};
use crate::Listed;

/// References that are looked at in one go.
const REFERENCES: usize = 1_000;

/// What was looked up in the decider.
pub(super) struct Seen<T> {
    pub value: T,
    /// The position of the last fact that the answer may rest on.
    pub noted: u64,
}

impl Shared {
    /// The conversation; `None` for a group that was never made.
    pub(super) fn conversation(&self, id: &ConversationId) -> Result<Seen<Option<crate::Conversation>>, Failure> {
        self.look(id, |known| known.state.clone())
    }

    /// Looks at a conversation. The index is asked outside of the decider's lock, which commits wait for, and what it says is not kept: a reader goes through
    /// many that nobody writes to.
    fn look<R>(&self, id: &ConversationId, look: impl Fn(&Kept) -> R) -> Result<Seen<Option<R>>, Failure> {
        let in_memory = || {
            let decider = self.decider();
            (decider.conversations.peek(id).map(&look), decider.noted)
        };
        if let (Some(value), noted) = in_memory() {
            return Ok(Seen { value: Some(value), noted });
        }
        let indexed = Conversations::indexed(&self.index, id)?;
        // It may have come into memory meanwhile, and have changed there.
        let (value, noted) = in_memory();
        Ok(Seen { value: value.or_else(|| indexed.as_ref().map(look)), noted })
    }

    /// A user's conversations by name, behind `after`; at most `limit`.
    pub(super) fn conversations(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Seen<Vec<Listed>>, Failure> {
        let mut value = Vec::new();
        let mut after = after.cloned();
        loop {
            let wanted = limit - value.len();
            let names = self.names(user, after.as_ref(), wanted)?;
            let found = names.len();
            for id in names {
                value.extend(self.listed(user, &id)?);
                after = Some(id);
            }
            // Who has left one between the two looks has room for one more.
            if found < wanted || value.len() >= limit {
                return Ok(Seen { value, noted: self.decider().noted });
            }
        }
    }

    /// The conversations with a message that refers to this media, and if there is a `reader` in which that user may see it; at most `limit`.
    pub(super) fn references(
        &self,
        media: MediaId,
        reader: Option<&UserId>,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Seen<Vec<(ConversationId, u64)>>, Failure> {
        let (mut value, mut after) = (Vec::new(), after.cloned());
        // Of what a reader may see there is little among much.
        let step = if reader.is_some() { REFERENCES } else { limit.min(REFERENCES) };
        loop {
            let page = self.references.of(&self.index, media, after.as_ref(), step)?;
            let found = page.len();
            after = page.last().map(|(id, _)| id.clone());
            for (id, seq) in page {
                if value.len() < limit && self.sees(reader, &id, seq)? {
                    value.push((id, seq));
                }
            }
            if found < step || value.len() >= limit {
                return Ok(Seen { value, noted: self.decider().noted });
            }
        }
    }

    fn sees(&self, reader: Option<&UserId>, id: &ConversationId, seq: u64) -> Result<bool, Failure> {
        let Some(reader) = reader else { return Ok(true) };
        if let Some(pair) = id.pair() {
            return Ok(pair.contains(reader));
        }
        let looked = self.look(id, |known| known.member(reader).is_some_and(|member| member.joined <= seq))?;
        Ok(looked.value.unwrap_or_default())
    }

    /// What the index says, changed by what it does not have yet. In this order: what enters the index in between is seen twice, and not missed.
    fn names(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, Failure> {
        let moves = self.decider().conversations.memberships(user, after);
        let left = moves.iter().filter(|(_, is_member)| !is_member).count();
        let indexed = self.index.memberships(user, after, limit.saturating_add(left))?;
        let mut names: BTreeSet<ConversationId> = indexed.into_iter().collect();
        for (id, is_member) in moves {
            if is_member {
                names.insert(id);
            } else {
                names.remove(&id);
            }
        }
        Ok(names.into_iter().take(limit).collect())
    }

    fn listed(&self, user: &UserId, id: &ConversationId) -> Result<Option<Listed>, Failure> {
        let looked = self.look(id, |known| {
            let listed = |member: &crate::Member| Listed {
                id: id.clone(),
                title: known.state.title.clone(),
                seq: known.state.seq,
                time_ms: known.state.time_ms,
                members: known.state.members.len(),
                member: member.clone(),
            };
            known.member(user).map(listed)
        })?;
        Ok(looked.value.flatten())
    }
}
