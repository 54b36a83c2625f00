//! The writer thread: group commit by natural batching.
//!
//! Jobs that arrive while a frame is being written form the next one; nothing waits for a timer but lazy ops, which travel
//! with the next commit or go alone [`crate::LAZY`] after the oldest (`queue`). Order of one batch: decide and stage every op, write the frame, make
//! it durable, let readers see it, answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tern_proto::UserId;
use tern_runtime::planted::{self, Fault};
use tokio::sync::{mpsc, oneshot};

use super::append::Appender;
use super::checkpoint::Checkpoints;
use super::current::Current;
use super::decide::{self, Decision, Known, Staged};
use super::frame::{FrameBuilder, record_bytes};
use super::open::Loaded;
use super::queue::{Job, Jobs, Work};
use super::record::Meta;
use super::recover::Recovery;
use super::retain::Retention;
use super::upkeep::Upkeep;
use super::{Failure, Shared};
use crate::{Op, Outcome};

/// The most that one frame holds, so that one sync never carries more than this.
pub(super) const FRAME_BYTES: usize = 1024 * 1024;
/// How often an otherwise idle writer looks after its checkpoints.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// And a writer whose store has failed after its recovery.
const RECOVERY_LOOK: Duration = Duration::from_millis(100);

pub(super) struct Writer {
    current: Arc<Current>,
    /// What is in `current`.
    shared: Arc<Shared>,
    appender: Appender,
    checkpoints: Checkpoints,
    recovery: Recovery,
    retention: Arc<Retention>,
    frame: Option<FrameBuilder>,
    staged: Vec<Staged>,
    frame_bytes: usize,
    /// To the task that wakes the callers: from inside of their runtime one wake-up serves a whole batch.
    answers: Option<mpsc::UnboundedSender<Vec<Answer>>>,
}

impl Writer {
    pub(super) fn new(
        current: Arc<Current>,
        appender: Appender,
        checkpoints: Checkpoints,
        recovery: Recovery,
        retention: Arc<Retention>,
    ) -> Writer {
        let shared = current.get();
        let frame_bytes = FRAME_BYTES.min(shared.log.segment_bytes as usize / 4);
        Writer {
            current,
            shared,
            appender,
            checkpoints,
            recovery,
            retention,
            frame: None,
            staged: Vec::new(),
            frame_bytes,
            answers: answers(),
        }
    }

    /// Serves jobs until the queue is closed and empty; then writes a last checkpoint.
    pub(super) fn run(mut self, jobs: &Jobs) {
        while let Some(batch) = jobs.next(if self.shared.has_failed() { RECOVERY_LOOK } else { HOUSEKEEPING }) {
            if !batch.is_empty() {
                self.commit(batch);
            }
            if self.shared.has_failed() {
                self.recover();
            } else {
                self.checkpoints.look_after(&self.shared, &self.appender);
            }
        }
        self.checkpoints.finish(&self.shared, &self.appender);
    }

    /// Goes on with the store as it is on disk, as soon as that can be read.
    fn recover(&mut self) {
        self.checkpoints.settle(&self.shared);
        self.appender.settle();
        if let Some(Loaded { shared, appender, checkpoints, .. }) = self.recovery.attempt(&self.shared, &self.retention)
        {
            self.current.replace(shared.clone());
            (self.shared, self.appender, self.checkpoints) = (shared, appender, checkpoints);
        }
    }

    fn commit(&mut self, batch: Vec<Job>) {
        let mut outcomes = Vec::new();
        let mut replies = Vec::with_capacity(batch.len());
        // Outcomes below this are durable.
        let mut durable = 0;
        for job in batch {
            let first = outcomes.len();
            match job.work {
                Work::Ops(ops) => {
                    for op in ops {
                        let outcome = self.stage(op, &mut outcomes, &mut durable);
                        outcomes.push(outcome);
                    }
                }
                Work::Upkeep(facts) => {
                    // Readers must see what is staged: a device that starts just now holds what is to be dropped.
                    self.flush(&mut outcomes, &mut durable);
                    for fact in facts {
                        let outcome = self.keep_up(fact, &mut outcomes, &mut durable);
                        outcomes.push(outcome);
                    }
                }
            }
            replies.push((job.reply, first..outcomes.len()));
        }
        if planted::active(Fault::AckBeforeCommit) {
            answer(replies.drain(..), &outcomes, self.answers.as_ref());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.flush(&mut outcomes, &mut durable);
        answer(replies.into_iter(), &outcomes, self.answers.as_ref());
    }

    /// Decides one op and puts its record into the frame.
    fn stage(&mut self, op: Op, outcomes: &mut [Outcome], durable: &mut usize) -> Outcome {
        if self.shared.has_failed() {
            return Outcome::Unavailable;
        }
        let staged = self.try_stage(op, outcomes, durable);
        staged.unwrap_or_else(|failure| {
            self.shared.fail(&failure);
            Outcome::Unavailable
        })
    }

    /// Puts a fact of retention into the frame.
    fn keep_up(&mut self, fact: Upkeep, outcomes: &mut [Outcome], durable: &mut usize) -> Outcome {
        if self.shared.has_failed() {
            return Outcome::Unavailable;
        }
        let put = self.shared.permits(&fact).and_then(|permitted| {
            let (meta, body) = fact.record();
            if permitted { self.put(meta, body, outcomes, durable) } else { Ok(Outcome::Unavailable) }
        });
        put.unwrap_or_else(|failure| {
            self.shared.fail(&failure);
            Outcome::Unavailable
        })
    }

    fn try_stage(&mut self, op: Op, outcomes: &mut [Outcome], durable: &mut usize) -> Result<Outcome, Failure> {
        match self.decide(op)? {
            Decision::Answer(outcome) => Ok(outcome),
            Decision::Record(meta, body) => self.put(meta, body, outcomes, durable),
            Decision::Ack(meta, acked) => match self.put(meta, String::new(), outcomes, durable)? {
                Outcome::Done => Ok(acked),
                outcome => Ok(outcome),
            },
            Decision::FlushFirst(op) => {
                self.flush(outcomes, durable);
                Ok(self.stage(op, outcomes, durable))
            }
        }
    }

    /// Puts a record into the frame.
    fn put(
        &mut self,
        meta: Meta,
        body: String,
        outcomes: &mut [Outcome],
        durable: &mut usize,
    ) -> Result<Outcome, Failure> {
        let room = meta.encoded_len() + body.len() + 64;
        if self.frame.as_ref().is_some_and(|frame| frame.len() + room > self.frame_bytes) {
            self.flush(outcomes, durable);
            if self.shared.has_failed() {
                return Ok(Outcome::Unavailable);
            }
        }
        let frame = match &mut self.frame {
            Some(frame) => frame,
            None => {
                let position = match self.appender.position_for(self.frame_bytes.max(room)) {
                    Err(Failure::NoSegment(_)) => return Ok(Outcome::Unavailable),
                    position => position?,
                };
                self.frame.insert(FrameBuilder::new(self.shared.log.salt, position))
            }
        };
        let position = frame.push(&meta, body.as_bytes());
        let noted = self.shared.decider().note(&self.shared.index, position, &meta, self.checkpoints.next())?;
        let outcome = decide::committed(position, &meta, &noted);
        self.staged.push(Staged { position, meta, body, noted });
        Ok(outcome)
    }

    fn decide(&self, op: Op) -> Result<Decision, Failure> {
        let Shared { log, index, users, epoch, .. } = &*self.shared;
        self.shared.decider().decide(&Known { log, index, users, epoch: *epoch, staged: &self.staged }, op)
    }

    /// Writes the frame, makes it durable and lets readers see it. If that fails, what was staged has an unknown outcome.
    fn flush(&mut self, outcomes: &mut [Outcome], durable: &mut usize) {
        let staged = std::mem::take(&mut self.staged);
        let written = match self.frame.take() {
            Some(_) if self.shared.has_failed() => Err(Failure::Stopped),
            Some(frame) => self.write(frame, &staged),
            None => Ok(()),
        };
        if let Err(failure) = written {
            self.shared.fail(&failure);
            outcomes[*durable..].fill(Outcome::Unknown);
        }
        *durable = outcomes.len();
    }

    fn write(&mut self, frame: FrameBuilder, staged: &[Staged]) -> Result<(), Failure> {
        let (position, bytes) = frame.finish();
        self.appender.append(position, &bytes)?;
        if staged.iter().any(|staged| staged.meta.is_read_back()) {
            self.shared.log.remember(position, bytes);
        }
        let mut dirty: HashSet<UserId> = HashSet::new();
        for Staged { position, meta, body, noted } in staged {
            let Shared { users, index, moved, references, .. } = &*self.shared;
            moved.note(*position, meta);
            references.note(*position, meta);
            let stands = (*position, record_bytes(meta, body.len()));
            dirty.extend(users.apply(index, stands, meta, &noted.owed, self.checkpoints.next())?);
        }
        self.shared.visible.send_replace(self.appender.end());
        self.checkpoints.dirty(dirty);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the thread that writes has died; the store takes nothing until the server is restarted");
            // Whoever waits until something is visible need not wait for ever.
            self.shared.fail(&Failure::Stopped);
        }
    }
}

fn answers() -> Option<mpsc::UnboundedSender<Vec<Answer>>> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    let (answers, mut batches) = mpsc::unbounded_channel();
    runtime.spawn(async move {
        while let Some(batch) = batches.recv().await {
            tell(batch);
        }
    });
    Some(answers)
}

/// Tells callers what became of their ops.
fn answer(
    replies: impl Iterator<Item = (oneshot::Sender<Vec<Outcome>>, std::ops::Range<usize>)>,
    outcomes: &[Outcome],
    answers: Option<&mpsc::UnboundedSender<Vec<Answer>>>,
) {
    let batch: Vec<Answer> = replies.map(|(reply, range)| (reply, outcomes[range].to_vec())).collect();
    // A caller that has gone away does not need its answer; its ops stand.
    let left = match answers {
        Some(answers) => answers.send(batch).err().map(|unsent| unsent.0),
        None => Some(batch),
    };
    tell(left.unwrap_or_default());
}

type Answer = (oneshot::Sender<Vec<Outcome>>, Vec<Outcome>);

fn tell(batch: Vec<Answer>) {
    for (reply, outcomes) in batch {
        let _ = reply.send(outcomes);
    }
}
