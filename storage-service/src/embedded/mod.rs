//! The embedded engine: a segment log that is the commit point, and an index that is rebuilt from its tail.
//!
//! How a commit flows: [`Embedded::commit`](crate::Storage::commit) → `writer` (one thread: decide, stage, write, sync) → `users` (readers see it) →
//! answer. How a page flows: `users` and `index` say which versions, `log` what stands there. What changed goes
//! into the index at a checkpoint; at start the log behind the last checkpoint is read again (`open`).
//!
//! The version of an entry is the position of its record in the log. So one record serves both members' timelines and its own
//! dedup result, the order of versions is the order of commits by construction, and versions cannot go back while the log only grows.

mod append;
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
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::oneshot;

use self::decide::Decider;
use self::index::{Index, IndexError};
use self::log::Log;
pub use self::open::{OpenError, Options, Recovered};
use self::users::{User, Users};
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
    /// Comes into being when the index is found damaged, so that the next start rebuilds it.
    index_damaged: PathBuf,
}

/// Why the engine stops taking writes. What is on disk stands; a restart reads it again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the log: {0}")]
    Io(#[from] io::Error),
    /// Nothing has changed; it may succeed later.
    #[error("no new segment for the log: {0}")]
    NoSegment(#[source] io::Error),
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

    /// Runs what may wait for the disk where it keeps nobody from running.
    async fn blocking<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Shared) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Unavailable> {
        let shared = self.shared.clone();
        let looked = tokio::task::spawn_blocking(move || look(&shared));
        looked.await.unwrap_or(Err(Failure::Stopped)).map_err(|failure| self.shared.refuse(failure))
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

    /// Where a device stands, if all of that is in memory and nobody is at work on it.
    fn peek(&self, device: &Device) -> Option<DeviceState> {
        let highest = self.decider.try_lock().ok()?.peek_highest(device)?;
        self.users.peek(&device.user, |user| self.device_state(user, device, highest))
    }

    fn state(&self, device: &Device) -> Result<DeviceState, Failure> {
        let highest = self.decider().highest(&self.index, device)?;
        Ok(self.users.with(&self.index, &device.user, |user| self.device_state(user, device, highest))?)
    }

    fn device_state(&self, user: &User, device: &Device, highest_client_msg_id: u64) -> DeviceState {
        let known = user.devices.iter().find(|known| known.id == device.id);
        DeviceState {
            epoch: self.epoch,
            heads: user.heads,
            known: known.is_some(),
            acked: known.map(|known| known.acked).unwrap_or_default(),
            derived: known.map_or(0, |known| known.derived),
            heard_ms: known.map_or(0, |known| known.heard_ms),
            highest_client_msg_id,
        }
    }

    /// A read that failed.
    fn refuse(&self, failure: Failure) -> Unavailable {
        if matches!(failure, Failure::Index(IndexError::Damaged)) {
            self.fail(&failure);
        }
        Unavailable(failure.to_string())
    }

    fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    fn fail(&self, failure: &Failure) {
        if matches!(failure, Failure::Index(IndexError::Damaged))
            && let Err(error) = File::create(&self.index_damaged)
        {
            tracing::error!(%error, "delete index.redb before the next start, so that it is rebuilt");
        }
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
        if page::is_cold(&self.shared, &request) {
            self.blocking(move |shared| page::read(shared, &request)).await
        } else {
            page::read(&self.shared, &request).map_err(|failure| self.shared.refuse(failure))
        }
    }

    async fn device(&self, device: &Device) -> Result<DeviceState, Unavailable> {
        if let Some(state) = self.shared.peek(device) {
            return Ok(state);
        }
        let device = device.clone();
        self.blocking(move |shared| shared.state(&device)).await
    }

    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable> {
        Ok(self.shared.users.underived(after, limit))
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        self.shared.failed.get().map_or(Ok(()), |failure| Err(Unavailable(failure.clone())))
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}
