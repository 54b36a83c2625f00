//! What retention commits: through the writer like everything else, so that it has its place in the order of commits.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Failure;
use super::queue::{Job, Queue, Work};
use super::record::{self, Fact, Meta};
use crate::Outcome;

/// Facts that one job carries at most, and bytes of copied texts.
const BATCH_FACTS: usize = 512;
const BATCH_BYTES: usize = 512 * 1024;

/// One thing to commit.
#[derive(Debug)]
pub(super) enum Upkeep {
    /// Entries leave a timeline. With `heard_since_ms` only if no device that was heard since then is still owed one of them; else it is refused as
    /// [`Outcome::Unavailable`].
    Drop { dropped: record::Dropped, heard_since_ms: Option<i64> },
    /// The copy of an entry, with its text.
    Move(record::Moved, String),
}

impl Upkeep {
    /// The record to write.
    pub(super) fn record(self) -> (Meta, String) {
        let (fact, body) = match self {
            Upkeep::Drop { dropped, .. } => (Fact::Dropped(dropped), String::new()),
            Upkeep::Move(moved, text) => (Fact::Moved(moved), text),
        };
        (Meta { fact: Some(fact) }, body)
    }
}

/// Collects facts and commits them some hundreds at a time. Used where it may block.
pub(super) struct Batch {
    queue: Arc<Queue>,
    facts: Vec<Upkeep>,
    bytes: usize,
    /// Versions whose copies wait in `facts`.
    moving: HashSet<u64>,
    /// Entries of the timelines that were dropped, and entries copied, as far as committed.
    pub dropped: u64,
    pub moved: u64,
}

impl Batch {
    pub(super) fn new(queue: Arc<Queue>) -> Batch {
        Batch { queue, facts: Vec::new(), bytes: 0, moving: HashSet::new(), dropped: 0, moved: 0 }
    }

    pub(super) fn is_moving(&self, version: u64) -> bool {
        self.moving.contains(&version)
    }

    /// # Errors
    /// As [`Batch::flush`].
    pub(super) fn push(&mut self, fact: Upkeep) -> Result<(), Failure> {
        if let Upkeep::Move(moved, text) = &fact {
            self.moving.insert(moved.version);
            self.bytes += text.len();
        }
        self.facts.push(fact);
        if self.facts.len() >= BATCH_FACTS || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Commits what was pushed and waits for it.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] unless all of it is committed.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let facts = std::mem::take(&mut self.facts);
        (self.bytes, self.moving) = (0, HashSet::new());
        if facts.is_empty() {
            return Ok(());
        }
        // Entries dropped, entries moved.
        let count = |fact: &Upkeep| match fact {
            Upkeep::Drop { dropped, .. } => (dropped.count, 0),
            Upkeep::Move(..) => (0, 1),
        };
        let counts: Vec<(u64, u64)> = facts.iter().map(count).collect();
        let outcomes = commit(&self.queue, Work::Upkeep(facts))?;
        let done = |outcome: &Outcome| *outcome == Outcome::Done;
        for ((dropped, moved), _) in counts.iter().zip(&outcomes).filter(|(_, outcome)| done(outcome)) {
            self.dropped += dropped;
            self.moved += moved;
        }
        if outcomes.iter().all(done) { Ok(()) } else { Err(Failure::Interrupted) }
    }
}

/// Gives work to the writer and waits for what becomes of it.
pub(super) fn commit(queue: &Arc<Queue>, work: Work) -> Result<Vec<Outcome>, Failure> {
    let (reply, outcomes) = oneshot::channel();
    drop(queue.submit(Job { work, reply }).map_err(|_| Failure::Interrupted)?); // It blocks: nobody to be let run.
    outcomes.blocking_recv().map_err(|_| Failure::Interrupted)
}
