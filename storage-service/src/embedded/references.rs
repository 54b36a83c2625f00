//! Which conversations have messages that refer to which media.
//!
//! Of each the newest such message counts: whoever may see any of them may see that one. What the last checkpoint does not have is in memory, the rest
//! in the index. A reference stays when retention drops its message.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tern_proto::{ConversationId, MediaId};

use super::index::{Changes, Index};
use super::record::{Fact, Meta};
use super::tables::IndexError;

/// The references to media.
#[derive(Default)]
pub(super) struct References {
    recent: Mutex<BTreeMap<(MediaId, ConversationId), Reference>>,
}

struct Reference {
    seq: u64,
    /// Of the record.
    position: u64,
}

impl References {
    /// Takes note of a durable fact that stands at `position`.
    pub(super) fn note(&self, position: u64, meta: &Meta) {
        let Some(Fact::Message(message)) = &meta.fact else { return };
        let media = message.media.as_ref().and_then(|media| media.id.parse().ok());
        if let (Some(media), Some(conversation)) = (media, message.conversation(position)) {
            self.lock().insert((media, conversation), Reference { seq: message.seq, position });
        }
    }

    /// At most `limit` conversations behind `after`, ascending by name, each with the position of its newest message that refers to the media.
    pub(super) fn of(
        &self,
        index: &Index,
        media: MediaId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<(ConversationId, u64)>, IndexError> {
        // In this order: what enters the index in between is seen twice, and not missed.
        let recent = self.recent(media, after, limit);
        let mut found: BTreeMap<_, _> = index.references(media, after, limit)?.into_iter().collect();
        found.extend(recent);
        Ok(found.into_iter().take(limit).collect())
    }

    fn recent(&self, media: MediaId, after: Option<&ConversationId>, limit: usize) -> Vec<(ConversationId, u64)> {
        let recent = self.lock();
        let all = recent.range::<(MediaId, ConversationId), _>((from(media, after), Bound::Unbounded));
        let own = all.take_while(|((of, _), _)| *of == media).take(limit);
        own.map(|((_, conversation), reference)| (conversation.clone(), reference.seq)).collect()
    }

    /// Adds what the index does not have to a checkpoint.
    pub(super) fn collect(&self, changes: &mut Changes) {
        let references = self.lock();
        let rows = references.iter().map(|((media, conversation), known)| (*media, conversation.clone(), known.seq));
        changes.references.extend(rows);
    }

    /// A checkpoint that covers the log up to `applied` is written.
    pub(super) fn checkpointed(&self, applied: u64) {
        self.lock().retain(|_, reference| reference.position >= applied);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(MediaId, ConversationId), Reference>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn from(media: MediaId, after: Option<&ConversationId>) -> Bound<(MediaId, ConversationId)> {
    match after {
        Some(after) => Bound::Excluded((media, after.clone())),
        None => Bound::Included((media, ConversationId::least())),
    }
}
