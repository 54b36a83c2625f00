//! The embedded engine: a segment log that is the commit point, and an index that is rebuilt from its tail.
//!
//! How a commit flows: [`Embedded::commit`](crate::Storage::commit) → `writer` (one thread: decide, stage, write, sync) → `users` (readers see it) →
//! answer. How a page flows: `users` and `index` say which versions, `log` what stands there. What changed goes
//! into the index at a checkpoint; at start the log behind the last checkpoint is read again (`open`).
//!
//! The version of an entry is the position of its record in the log. So one record serves both members' timelines and its own
//! dedup result, the order of versions is the order of commits by construction, and versions cannot go back while the log only grows.

mod checkpoint;
mod decide;
mod frame;
mod index;
mod log;
mod open;
mod page;
mod record;
mod scan;
#[cfg(test)]
mod tests;
mod users;
mod writer;

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::oneshot;

use self::decide::Decider;
use self::index::{Index, IndexError};
use self::log::Log;
pub use self::open::{OpenError, Options, Recovered};
use self::users::Users;
use self::writer::Job;
use crate::{Device, DeviceState, Durability, Op, Outcome, Page, PageRequest, Storage, Unavailable};

/// Jobs that may wait for the writer; beyond them commits are refused as unavailable.
const QUEUE: usize = 16 * 1024;

/// The engine. One process at a time; the directory is locked.
pub struct Embedded {
    shared: Arc<Shared>,
    durability: Durability,
    recovered: Recovered,
    jobs: Mutex<Option<SyncSender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Keeps the directory locked.
    lock: Mutex<Option<File>>,
}

/// What the writer and the readers share.
struct Shared {
    epoch: u64,
    log: Arc<Log>,
    index: Index,
    users: Users,
    decider: Mutex<Decider>,
    failed: OnceLock<String>,
}

/// Why the engine stops taking writes. What is on disk stands; a restart reads it again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the log: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("a thread of the store has stopped")]
    Stopped,
}

impl Embedded {
    /// What the start found in the directory.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Why the engine takes no more writes, if it has failed. Reads go on; only a restart helps.
    pub fn failure(&self) -> Option<&str> {
        self.shared.failed.get().map(String::as_str)
    }

    /// Commits what waits, writes a checkpoint and releases the directory. Later calls find the store unavailable.
    /// Blocks for as long as that takes.
    pub fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            self.shared.fail(&Failure::Stopped);
        }
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn submit(&self, job: Job) -> Result<(), Job> {
        match self.jobs.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(jobs) => jobs.try_send(job).map_err(|error| match error {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
            None => Err(job),
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn decider(&self) -> MutexGuard<'_, Decider> {
        self.decider.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    fn fail(&self, failure: &Failure) {
        if self.failed.set(failure.to_string()).is_ok() {
            tracing::error!(%failure, "the store takes no more writes; free disk space or repair the disk, then restart");
        }
    }
}

#[async_trait]
impl Storage for Embedded {
    async fn commit(&self, ops: Vec<Op>) -> Vec<Outcome> {
        let count = ops.len();
        let (reply, outcome) = oneshot::channel();
        match self.submit(Job { ops, reply }) {
            // The writer drops the answer only if it dies, and then nobody knows.
            Ok(()) => outcome.await.unwrap_or_else(|_| vec![Outcome::Unknown; count]),
            Err(_) => vec![Outcome::Unavailable; count],
        }
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Unavailable> {
        if !page::is_cold(&self.shared, &request).map_err(unavailable)? {
            return page::read(&self.shared, &request).map_err(unavailable);
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || page::read(&shared, &request));
        read.await.unwrap_or(Err(Failure::Stopped)).map_err(unavailable)
    }

    async fn device(&self, device: &Device) -> Result<DeviceState, Unavailable> {
        let Shared { index, users, epoch, .. } = &*self.shared;
        let highest = self.shared.decider().highest(index, device).map_err(|error| unavailable(error.into()))?;
        let state = users.with(index, &device.user, |user| {
            let known = user.devices.iter().find(|known| known.id == device.id);
            DeviceState {
                epoch: *epoch,
                heads: user.heads,
                known: known.is_some(),
                acked: known.map(|known| known.acked).unwrap_or_default(),
                derived: known.map_or(0, |known| known.derived),
                highest_client_msg_id: highest,
            }
        });
        state.map_err(|error| unavailable(error.into()))
    }

    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable> {
        Ok(self.shared.users.underived(after, limit))
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}

fn unavailable(failure: Failure) -> Unavailable {
    Unavailable(failure.to_string())
}
