//! What waits for the writer.

use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Mutex, PoisonError};

use tern_proto::v1;
use tokio::sync::oneshot;

use super::upkeep::Upkeep;
use crate::{Op, Outcome};

/// Jobs that may wait; beyond them commits are refused as unavailable.
const QUEUE: usize = 16 * 1024;

/// Something to commit, and where to tell what became of it.
pub(super) struct Job {
    pub work: Work,
    pub reply: oneshot::Sender<Vec<Outcome>>,
}

/// What is to be committed.
pub(super) enum Work {
    /// One call of [`crate::Storage::commit`].
    Ops(Vec<Op>),
    /// What retention has to say.
    Upkeep(Vec<Upkeep>),
}

impl Job {
    /// Whether it may wait for another one to travel with.
    pub(super) fn is_lazy(&self) -> bool {
        let Work::Ops(ops) = &self.work else { return false };
        ops.iter().all(|op| match op {
            Op::Ack { .. } | Op::Delivered { .. } => true,
            Op::Start { start, .. } => *start == v1::Start::Oldest,
            Op::Send { .. } | Op::Read { .. } => false,
        })
    }
}

/// Hands jobs to the writer until it is closed.
pub(super) struct Queue(Mutex<Option<SyncSender<Job>>>);

impl Queue {
    /// The queue and its other end, which ends when the queue is closed.
    pub(super) fn new() -> (Queue, Receiver<Job>) {
        let (jobs, receiver) = mpsc::sync_channel(QUEUE);
        (Queue(Mutex::new(Some(jobs))), receiver)
    }

    /// Gives the job back if too many wait, or the queue is closed.
    pub(super) fn submit(&self, job: Job) -> Result<(), Job> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(jobs) => jobs.try_send(job).map_err(|error| match error {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
            None => Err(job),
        }
    }

    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}
