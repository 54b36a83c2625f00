//! Read marks: those that arrive close together become one receipt, and each caller waits for the commit that covers its own.

use std::cmp::Reverse;
use std::sync::Arc;

use async_trait::async_trait;
use tern_proto::{ConversationId, UserId};
use tern_runtime::clock::unix_millis;
use tern_storage::{Device, Op, Outcome, Storage};
use tokio::sync::oneshot;

use crate::paced::Job;
use crate::{Hints, news};

/// One request to mark as read.
pub(crate) struct ReadMark {
    pub(crate) by: Device,
    pub(crate) seq: u64,
    /// Told what became of this mark.
    pub(crate) outcome: oneshot::Sender<Outcome>,
}

/// Stores read marks, per conversation and member.
pub(crate) struct Reads {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) hints: Arc<dyn Hints>,
}

#[async_trait]
impl Job for Reads {
    type Key = (ConversationId, UserId);
    /// As long as there are requests waiting; the gateway bounds those.
    type Work = Vec<ReadMark>;

    fn merge(waiting: &mut Self::Work, more: Self::Work) {
        waiting.extend(more);
    }

    /// The highest first: it raises the mark, and those below find it raised. One beyond the head is refused by itself.
    async fn run(&self, (conversation, _): &Self::Key, mut marks: Self::Work) -> Option<Self::Work> {
        marks.sort_by_key(|mark| Reverse(mark.seq));
        let time_ms = unix_millis();
        let op = |mark: &ReadMark| Op::Read {
            by: mark.by.clone(),
            conversation: conversation.clone(),
            seq: mark.seq,
            time_ms,
        };
        let outcomes = self.storage.commit(marks.iter().map(op).collect()).await;
        for (mark, outcome) in marks.into_iter().zip(outcomes) {
            if let Outcome::Raised(told) = &outcome {
                news::of_receipts(&*self.hints, &mark.by, told);
            }
            // A caller that has gone away needs no answer.
            let _ = mark.outcome.send(outcome);
        }
        None
    }
}
