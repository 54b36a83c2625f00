//! The embedded engine: a segment log that is the commit point, and an index that is rebuilt from its tail.
//!
//! How a commit flows: [`Embedded::commit`](crate::Storage::commit) → `writer` (one thread: decide, stage, write, sync) → `users` (readers see it) →
//! answer. How a page flows: `users` and `index` say which versions, `log` what stands there. What changed goes
//! into the index at a checkpoint; at start the log behind the last checkpoint is read again (`open`).
//!
//! The version of an entry is the position of its record in the log. So one record serves the timelines of all members and its own
//! dedup result, the order of versions is the order of commits by construction, and versions cannot go back while the log only grows.
//!
//! What is old leaves at the log's other end: `retain` says which entries leave the timelines, `clean` gives segments back, `dump` keeps the
//! index safe when the log can no longer rebuild it. After a failure `recover` reads everything anew.

mod append;
mod checkpoint;
mod clean;
mod conversation;
mod conversations;
mod counters;
mod current;
mod database;
mod decide;
mod dump;
mod format;
mod frame;
mod gap;
mod history;
mod index;
mod index_file;
mod lists;
mod log;
mod moved;
mod open;
mod page;
mod pruned;
mod queue;
mod reader;
mod record;
mod recover;
mod references;
mod replay;
mod retain;
mod rows;
mod scan;
mod senders;
mod tables;
#[cfg(test)]
mod tests;
mod upkeep;
mod user;
mod users;
mod writer;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tern_proto::{ConversationId, MediaId, UserId};
use tokio::sync::{oneshot, watch};

pub use self::counters::Counters;
use self::current::Current;
use self::decide::Decider;
use self::index::Index;
use self::lists::Seen;
use self::log::Log;
use self::moved::Moved;
pub use self::open::{OpenError, Options, Recovered};
use self::queue::{Job, Queue, Work};
use self::references::References;
use self::retain::Retention;
pub use self::retain::Step;
use self::tables::IndexError;
use self::upkeep::Upkeep;
use self::users::Users;
use crate::{
    Conversation, Device, DeviceState, Durability, History, HistoryRequest, Listed, Op, Outcome, Page, PageRequest,
    Retained, Storage, Unavailable,
};

/// The engine. One process at a time; the directory is locked.
pub struct Embedded {
    current: Arc<Current>,
    durability: Durability,
    recovered: Recovered,
    queue: Arc<Queue>,
    retention: Arc<Retention>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Keeps the directory locked.
    lock: Mutex<Option<File>>,
}

/// What the writer and the readers share.
struct Shared {
    epoch: u64,
    log: Arc<Log>,
    index: Arc<Index>,
    users: Users,
    moved: Moved,
    references: References,
    decider: Mutex<Decider>,
    /// The log up to here is visible to readers.
    visible: watch::Sender<u64>,
    failed: OnceLock<Failed>,
    /// A checkpoint is wanted that covers the log up to here.
    checkpoint_wanted: AtomicU64,
    /// Comes into being when the index is found damaged, so that the next start rebuilds it.
    index_damaged: PathBuf,
}

/// Why the engine takes no writes for now.
struct Failed {
    reason: String,
    /// It is the index that failed.
    index: bool,
}

/// Why something failed. If the engine stops taking writes over it, what is on disk stands and is read again.
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
    /// Nothing is lost by it.
    #[error("retention broke off; the next pass goes on")]
    Interrupted,
}

impl Embedded {
    /// What the start found in the directory.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Why the engine takes no writes now, if it has failed. Reads go on, and the engine tries to open itself again.
    pub fn failure(&self) -> Option<String> {
        self.current.get().failed.get().map(|failed| failed.reason.clone())
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.current.get().log.counters.clone()
    }

    /// Commits what waits, writes a checkpoint and releases the directory. Later calls find the store unavailable.
    /// Blocks for as long as that takes.
    pub fn close(&self) {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            self.current.get().fail(&Failure::Stopped);
        }
        let _passes_are_over = self.retention.pause();
        self.current.get().index.close();
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Runs what may wait for the disk where it keeps nobody from running.
    async fn blocking<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Shared) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Unavailable> {
        blocking(self.current.get(), look).await
    }

    /// Looks into the decider, which is ahead of the readers, and waits until all that was seen there is visible: a moment, if at all.
    async fn settled<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Shared) -> Result<Seen<R>, Failure> + Send + 'static,
    ) -> Result<(Arc<Shared>, R), Unavailable> {
        let shared = self.current.get();
        let Seen { value, noted } = blocking(shared.clone(), look).await?;
        let mut visible = shared.visible.subscribe();
        let settled = visible.wait_for(|&visible| noted < visible || shared.has_failed()).await;
        match settled.map(|visible| noted < *visible) {
            Ok(true) => Ok((shared, value)),
            _ => Err(Unavailable(shared.failed.get().map(|failed| failed.reason.clone()).unwrap_or_default())),
        }
    }
}

async fn blocking<R: Send + 'static>(
    shared: Arc<Shared>,
    look: impl FnOnce(&Shared) -> Result<R, Failure> + Send + 'static,
) -> Result<R, Unavailable> {
    let looking = shared.clone();
    let looked = tokio::task::spawn_blocking(move || look(&looking));
    looked.await.unwrap_or(Err(Failure::Stopped)).map_err(|failure| shared.refuse(failure))
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

    /// Where a device stands, if that is in memory.
    fn peek(&self, device: &Device) -> Option<DeviceState> {
        self.users.peek(&device.user, |user| user.state(&device.id, self.epoch))
    }

    fn state(&self, device: &Device) -> Result<DeviceState, Failure> {
        Ok(self.users.with(&self.index, &device.user, |user| user.state(&device.id, self.epoch))?)
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

    /// Whether it failed by its index, which is of no more use then.
    fn index_failed(&self) -> bool {
        self.failed.get().is_some_and(|failed| failed.index)
    }

    /// Whether a fact of retention may be committed now: not if a device has come in between that is owed what it drops.
    fn permits(&self, fact: &Upkeep) -> Result<bool, Failure> {
        let Upkeep::Drop { dropped, heard_since_ms: Some(since) } = fact else { return Ok(true) };
        let Ok(user) = UserId::new(&dropped.user) else { return Ok(false) };
        Ok(self.users.look(&self.index, &user, |user| dropped.up_to <= user.owed_above(*since))?)
    }

    fn want_checkpoint(&self, position: u64) {
        self.checkpoint_wanted.fetch_max(position, Ordering::Relaxed);
    }

    fn checkpoint_wanted(&self) -> u64 {
        self.checkpoint_wanted.load(Ordering::Relaxed)
    }

    fn fail(&self, failure: &Failure) {
        if matches!(failure, Failure::Index(IndexError::Damaged))
            && let Err(error) = File::create(&self.index_damaged)
        {
            tracing::error!(%error, "delete index.redb before the next start, so that it is rebuilt");
        }
        let failed = Failed { reason: failure.to_string(), index: matches!(failure, Failure::Index(_)) };
        if self.failed.set(failed).is_ok() {
            // Nothing more becomes visible: who waits for it need not.
            self.visible.send_modify(|_| ());
            tracing::error!(%failure, "the store takes no writes until it has read itself again; see to the disk if this stays");
        }
    }
}

#[async_trait]
impl Storage for Embedded {
    async fn commit(&self, ops: Vec<Op>) -> Vec<Outcome> {
        let count = ops.len();
        let (reply, outcome) = oneshot::channel();
        let Ok(lead) = self.queue.submit(Job { work: Work::Ops(ops), reply }) else {
            return vec![Outcome::Unavailable; count];
        };
        if let Some(lead) = lead {
            lead.call();
        }
        // The writer drops the answer only if it dies, and then nobody knows.
        outcome.await.unwrap_or_else(|_| vec![Outcome::Unknown; count])
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Unavailable> {
        let shared = self.current.get();
        if page::is_cold(&shared, &request) {
            blocking(shared, move |shared| page::read(shared, &request)).await
        } else {
            page::read(&shared, &request).map_err(|failure| shared.refuse(failure))
        }
    }

    async fn device(&self, device: &Device) -> Result<DeviceState, Unavailable> {
        if let Some(state) = self.current.get().peek(device) {
            return Ok(state);
        }
        let device = device.clone();
        self.blocking(move |shared| shared.state(&device)).await
    }

    async fn highest_client_msg_id(&self, device: &Device) -> Result<u64, Unavailable> {
        let device = device.clone();
        self.blocking(move |shared| Ok(shared.decider().highest(&shared.index, &device)?)).await
    }

    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable> {
        Ok(self.current.get().users.underived(after, limit))
    }

    async fn conversations(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<Listed>, Unavailable> {
        let (user, after) = (user.clone(), after.cloned());
        Ok(self.settled(move |shared| shared.conversations(&user, after.as_ref(), limit)).await?.1)
    }

    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, Unavailable> {
        let id = id.clone();
        Ok(self.settled(move |shared| shared.conversation(&id)).await?.1)
    }

    async fn history(&self, request: HistoryRequest) -> Result<History, Unavailable> {
        let asked = request.clone();
        let (shared, places) = self.settled(move |shared| shared.places(&asked)).await?;
        // Only now does the log have what stands at these places.
        blocking(shared, move |shared| shared.history(&request, places)).await
    }

    async fn references(
        &self,
        media: MediaId,
        reader: Option<&UserId>,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<(ConversationId, u64)>, Unavailable> {
        let (reader, after) = (reader.cloned(), after.cloned());
        let look = move |shared: &Shared| shared.references(media, reader.as_ref(), after.as_ref(), limit);
        Ok(self.settled(look).await?.1)
    }

    async fn retain(&self, now_ms: i64) -> Result<Retained, Unavailable> {
        let retention = self.retention.clone();
        self.blocking(move |shared| retention.run(shared, now_ms)).await
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        self.failure().map_or(Ok(()), |failure| Err(Unavailable(failure)))
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}
