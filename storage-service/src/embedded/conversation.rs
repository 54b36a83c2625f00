//! One conversation in memory, and what the index does not have of it.
//!
//! What was decided is noted when it is staged and again when the log is read at a start.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tern_proto::UserId;

use super::record::Message;
use super::rows::{ConversationRow, MemberRow};
use crate::Member;
use crate::conversation::Conversation;

/// A conversation that is at work. It is its [`Conversation`], with where its newest messages stand.
#[derive(Default)]
pub(super) struct Kept {
    conversation: Conversation,
    /// Messages that the index does not have: sequence and position in the log, both ascending.
    pub recent: Vec<(u64, u64)>,
    /// The number of the checkpoint that will hold the last change; 0 if the index has it.
    pub dirty: u64,
}

impl Deref for Kept {
    type Target = Conversation;

    fn deref(&self) -> &Conversation {
        &self.conversation
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut Conversation {
        &mut self.conversation
    }
}

impl From<Conversation> for Kept {
    fn from(conversation: Conversation) -> Kept {
        Kept { conversation, ..Kept::default() }
    }
}

impl Kept {
    /// The message stands at `position`. Gives whose timelines it enters.
    pub(super) fn message(&mut self, from: &UserId, message: &Message, position: u64) -> Arc<[UserId]> {
        if self.recent.last().is_none_or(|&(newest, _)| newest < message.seq) {
            self.recent.push((message.seq, position));
        }
        self.conversation.message(from, (message.seq, message.time_ms), message.change.as_ref())
    }

    pub(super) fn from_row(row: ConversationRow) -> Kept {
        let member = |row: MemberRow| {
            let MemberRow { user, joined, last_sent, delivered, read } = row;
            Some(Member { user: UserId::new(&user).ok()?, joined, last_sent, delivered, read })
        };
        let conversation = Conversation::of(crate::Conversation {
            title: row.title,
            owner: UserId::new(&row.owner).ok(),
            seq: row.seq,
            time_ms: row.time_ms,
            members: row.members.into_iter().filter_map(member).collect(),
        });
        conversation.into()
    }

    pub(super) fn to_row(&self) -> ConversationRow {
        let member = |member: &Member| {
            let &Member { ref user, joined, last_sent, delivered, read } = member;
            MemberRow { user: user.to_string(), joined, last_sent, delivered, read }
        };
        ConversationRow {
            title: self.state.title.clone(),
            owner: self.state.owner.as_ref().map(UserId::to_string).unwrap_or_default(),
            seq: self.state.seq,
            time_ms: self.state.time_ms,
            members: self.state.members.iter().map(member).collect(),
        }
    }
}
