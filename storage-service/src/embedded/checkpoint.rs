//! Checkpoints: from time to time what changed since the last one goes into the index, in a thread of its own.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tern_proto::UserId;

use super::append::Appender;
use super::decide::Decider;
use super::index::Changes;
use super::moved::Moved;
use super::references::References;
use super::tables::IndexError;
use super::users::Users;
use super::{Failure, Shared};
use crate::Device;

/// A checkpoint starts when the log has grown by [`super::Options::checkpoint_bytes`], or when this many users have changed: it bounds the memory for what the index does not have.
const EVERY_USERS: usize = 50_000;
/// Or after this time, if anything has changed.
const EVERY: Duration = Duration::from_secs(60);
/// When nothing was committed for so long, work that waits is done early: it disturbs nobody.
const IDLE: Duration = Duration::from_secs(2);
/// But not more often than this.
const IDLE_EVERY: Duration = Duration::from_secs(10);

/// What goes into a checkpoint that covers the log up to `applied`: all that the index does not have.
pub(super) fn gather(
    users: &Users,
    decider: &mut Decider,
    (moved, references): (&Moved, &References),
    dirty: &[UserId],
    (applied, epoch): (u64, u64),
    keep_ms: i64,
) -> Changes {
    let mut changes = Changes { applied, epoch, ..Changes::default() };
    for id in dirty {
        users.collect(id, &mut changes);
    }
    decider.collect(&mut changes, keep_ms);
    moved.collect(&mut changes);
    references.collect(&mut changes);
    changes
}

/// Decides when a checkpoint is due and sees it through; owned by the writer thread.
pub(super) struct Checkpoints {
    /// How long results are kept, in milliseconds.
    keep_ms: i64,
    every_bytes: u64,
    /// The number of the last one that was started.
    number: u64,
    /// Where the log ended then, and when.
    last: (u64, Instant),
    /// When something was committed last.
    committed: Instant,
    dirty: HashSet<UserId>,
    running: Option<Running>,
}

struct Running {
    users: Vec<UserId>,
    applied: u64,
    /// Gives the devices whose floor rose.
    thread: JoinHandle<Result<Vec<(Device, u64)>, IndexError>>,
}

impl Checkpoints {
    /// `number` is that of the last checkpoint, which covered the log up to `log_end`.
    pub(super) fn new(keep_ms: i64, every_bytes: u64, number: u64, log_end: u64) -> Checkpoints {
        Checkpoints {
            keep_ms,
            every_bytes,
            number,
            last: (log_end, Instant::now()),
            committed: Instant::now(),
            dirty: HashSet::new(),
            running: None,
        }
    }

    /// The number of the checkpoint that will hold what changes now.
    pub(super) fn next(&self) -> u64 {
        self.number + 1
    }

    /// These users have changed.
    pub(super) fn dirty(&mut self, users: impl IntoIterator<Item = UserId>) {
        self.dirty.extend(users);
        self.committed = Instant::now();
    }

    /// Completes a checkpoint that has been written and starts one that is due. Called between commits, when all that is
    /// in the log is visible.
    pub(super) fn look_after(&mut self, shared: &Arc<Shared>, appender: &Appender) {
        if let Some(running) = self.running.take_if(|running| running.thread.is_finished()) {
            self.complete(shared, running);
        }
        let (at, when) = self.last;
        let grown = appender.end() - at;
        let idle = self.committed.elapsed() >= IDLE && when.elapsed() >= IDLE_EVERY;
        let due = grown >= self.every_bytes
            || self.dirty.len() >= EVERY_USERS
            || (grown > 0 && (when.elapsed() >= EVERY || idle || shared.checkpoint_wanted() > at));
        if due && self.running.is_none() && !shared.has_failed() {
            self.start(shared, appender);
        }
    }

    /// Waits for the checkpoint that is being written, if there is one.
    pub(super) fn settle(&mut self, shared: &Shared) {
        if let Some(running) = self.running.take() {
            self.complete(shared, running);
        }
    }

    /// Writes a last checkpoint and waits for it.
    pub(super) fn finish(&mut self, shared: &Arc<Shared>, appender: &Appender) {
        self.settle(shared);
        if appender.end() > self.last.0 && !shared.has_failed() {
            self.start(shared, appender);
        }
        self.settle(shared);
    }

    fn start(&mut self, shared: &Arc<Shared>, appender: &Appender) {
        // The index must never know more than the disk has of the log.
        if let Err(error) = appender.sync_all() {
            return shared.fail(&Failure::Io(error));
        }
        self.number += 1;
        self.last = (appender.end(), Instant::now());
        // With its memory: the next ones may be few.
        let users: Vec<UserId> = std::mem::take(&mut self.dirty).into_iter().collect();
        let applied = appender.end();
        let (covered, decider) = ((applied, shared.epoch), &mut shared.decider());
        let changes =
            gather(&shared.users, decider, (&shared.moved, &shared.references), &users, covered, self.keep_ms);
        let writing = shared.clone();
        let write = move || writing.index.write(&changes);
        match std::thread::Builder::new().name("tern-checkpoint".into()).spawn(write) {
            Ok(thread) => self.running = Some(Running { users, applied, thread }),
            Err(error) => shared.fail(&Failure::Io(error)),
        }
    }

    fn complete(&mut self, shared: &Shared, running: Running) {
        match running.thread.join() {
            Ok(Ok(floors)) => {
                shared.log.counters.checkpoints.inc();
                shared.users.checkpointed(&running.users, self.number, running.applied);
                shared.decider().checkpointed(self.number, running.applied, floors);
                shared.moved.checkpointed(running.applied);
                shared.references.checkpointed(running.applied);
            }
            Ok(Err(error)) => shared.fail(&Failure::Index(error)),
            Err(_) => shared.fail(&Failure::Stopped),
        }
    }
}
