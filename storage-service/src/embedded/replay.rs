//! Reading the log at a start: what it says behind the last checkpoint is applied once more.

use std::collections::HashSet;

use tern_proto::UserId;
use tern_runtime::planted::{self, Fault};

use super::checkpoint;
use super::decide::Decider;
use super::index::Index;
use super::moved::Moved;
use super::record::{Fact, Meta};
use super::references::References;
use super::scan::Frame;
use super::tables::IndexError;
use super::users::Users;

/// Applies what the log says behind the last checkpoint.
pub(super) struct Replay<'a> {
    pub users: &'a Users,
    pub index: &'a Index,
    pub moved: &'a Moved,
    pub references: &'a References,
    pub decider: Decider,
    pub epoch: u64,
    /// Damage that an earlier start has answered with a new epoch.
    pub answered_for: HashSet<u64>,
    pub dirty: HashSet<UserId>,
    /// The number of the last checkpoint, and what it covers. What lies below is read for damage alone.
    pub checkpoint: u64,
    pub applied: u64,
    pub every_bytes: u64,
    pub keep_ms: i64,
    pub count: u64,
    pub error: Option<IndexError>,
}

impl Replay<'_> {
    pub(super) fn apply(&mut self, frame: &Frame<'_>) {
        let applied = frame.records.iter().try_for_each(|(position, found)| {
            let bytes = found.length as u64;
            self.record(*position, &found.meta, bytes)
        });
        let result = applied.and_then(|()| self.look_after(frame));
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }

    fn record(&mut self, position: u64, meta: &Meta, bytes: u64) -> Result<(), IndexError> {
        self.count += 1;
        if self.count.is_multiple_of(1_000_000) {
            tracing::info!(records = self.count, "reading the log");
        }
        if let Some(Fact::Epoch(epoch)) = &meta.fact {
            self.epoch = epoch.epoch;
            self.answered_for.extend(&epoch.lost);
        }
        let key_back = planted::active(Fault::KeyBackAtRestart) && matches!(meta.fact, Some(Fact::Ack(_)));
        if position < self.applied || key_back {
            return Ok(());
        }
        let forgotten = matches!(meta.fact, Some(Fact::Message(_)))
            && (planted::active(Fault::DedupForgottenAtRestart) || planted::active(Fault::SequenceBackAtRestart));
        let noted = self.decider.note(self.index, position, meta, self.checkpoint + 1)?;
        if let Some(Fact::Message(message)) = meta.fact.as_ref().filter(|_| forgotten) {
            self.decider.forget(message);
        }
        self.moved.note(position, meta);
        self.references.note(position, meta);
        self.dirty.extend(self.users.apply(self.index, (position, bytes), meta, &noted.owed, self.checkpoint + 1)?);
        Ok(())
    }

    /// A long log is not kept in memory as a whole: checkpoints are written on the way, as long as nothing is found lost. What is,
    /// must be found again if this start is interrupted before the new epoch.
    fn look_after(&mut self, frame: &Frame<'_>) -> Result<(), IndexError> {
        if !frame.sound || frame.end < self.applied + self.every_bytes {
            return Ok(());
        }
        let dirty: Vec<UserId> = self.dirty.drain().collect();
        let covered = (frame.end, self.epoch);
        let beside = (self.moved, self.references);
        let changes = checkpoint::gather(self.users, &mut self.decider, beside, &dirty, covered, self.keep_ms);
        let floors = self.index.write(&changes)?;
        self.checkpoint += 1;
        self.applied = frame.end;
        self.users.checkpointed(&dirty, self.checkpoint, frame.end);
        self.decider.checkpointed(self.checkpoint, frame.end, floors);
        self.moved.checkpointed(frame.end);
        self.references.checkpointed(frame.end);
        Ok(())
    }
}
