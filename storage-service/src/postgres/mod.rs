//! The engine over PostgreSQL: any number of replicas in front of one database.
//!
//! How a commit flows: [`Postgres::commit`](crate::Storage::commit) → `queue` → `writer` (a lane: retries, halves) → `transaction` (lock, load, `decide`,
//! `write`) → answer. How a read flows: `queue` → `reader` (a lane: everything that waits in one snapshot) → answer.
//!
//! The version of an entry comes from the head of its timeline, in the transaction that adds the entry; the head stays locked to its end. No replica knows anything
//! that another would need: what is decided is decided on locked rows.

mod connection;
mod counted;
mod decide;
mod effects;
mod epoch;
mod ids;
mod known;
mod looks;
mod numbers;
mod options;
mod page;
mod reader;
mod retain;
mod sql;
mod transaction;
mod write;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tern_proto::{ConversationId, MediaId, UserId};
use tern_runtime::metrics::{Metrics, Ready};
use tern_runtime::queue::Queue;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use self::connection::Connection;
use self::counted::Counted;
pub use self::epoch::Lineage;
use self::ids::Ids;
pub use self::options::{Isolation, Options};
use self::reader::{Look, Reader};
use self::retain::Retention;
use self::writer::{Job, Writer};
use crate::{
    Conversation, Device, DeviceState, Durability, History, HistoryRequest, LAZY, Listed, Op, Outcome, Page,
    PageRequest, Retained, Storage, Unavailable,
};

/// The longest wait for a look at the database.
const LOOK: Duration = Duration::from_secs(8);

/// The engine. Any number of processes at a time.
pub struct Postgres {
    writes: Arc<Queue<Job>>,
    reads: Arc<Queue<Look>>,
    retention: tokio::sync::Mutex<Retention>,
    durability: Durability,
    counted: Counted,
    lanes: Mutex<JoinSet<()>>,
}

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

impl Postgres {
    /// Connects, brings the tables up to date and starts the lanes. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`] with what the database or the network says.
    pub async fn open(options: Options) -> Result<Postgres, OpenError> {
        let options = Arc::new(options);
        // The first connection shows that it works; each lane makes its own when it first needs it.
        let first = Connection::open(&options).await.map_err(|failure| OpenError(failure.to_string()))?;
        let durability = first.durability;
        let counted = Counted::default();
        let writes = Arc::new(Queue::new(writer::BATCH, LAZY, counted.database.queues.of("commit")));
        let reads = Arc::new(Queue::new(reader::BATCH, LAZY, counted.database.queues.of("look")));
        let mut lanes = JoinSet::new();
        let mut first = Some(first);
        for _ in 0..options.writers.max(1) {
            let (options, queue, connection) = (options.clone(), writes.clone(), first.take());
            let counted = counted.clone();
            lanes.spawn(Writer { options, queue, connection, ids: Ids::default(), counted }.run());
        }
        for _ in 0..options.readers.max(1) {
            let (options, queue, counted) = (options.clone(), reads.clone(), counted.clone());
            lanes.spawn(Reader { options, queue, connection: None, counted }.run());
        }
        let retention = tokio::sync::Mutex::new(Retention::new(options));
        Ok(Postgres { writes, reads, retention, durability, counted, lanes: Mutex::new(lanes) })
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.counted.report_to(metrics);
    }

    /// Takes nothing more, and returns once everything that waits is answered.
    pub async fn close(&self) {
        self.writes.close();
        self.reads.close();
        let lanes = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
        lanes.join_all().await;
    }

    /// Puts a look into the queue and waits for the answer.
    async fn look<T>(&self, look: impl FnOnce(reader::Answer<T>) -> Look) -> Result<T, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let busy = |_| Unavailable("too many reads wait for the database".into());
        self.reads.submit(look(answer), false).map_err(busy)?;
        match tokio::time::timeout(LOOK, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Unavailable("the store is closed".into())),
            Err(_) => Err(Unavailable("the database has not answered in time".into())),
        }
    }
}

impl Drop for Postgres {
    /// The lanes go on until what waits is done.
    fn drop(&mut self) {
        self.writes.close();
        self.reads.close();
        self.lanes.get_mut().unwrap_or_else(PoisonError::into_inner).detach_all();
    }
}

#[async_trait]
impl Storage for Postgres {
    async fn commit(&self, ops: Vec<Op>) -> Vec<Outcome> {
        let count = ops.len();
        let (reply, outcomes) = oneshot::channel();
        let job = Job { ops, reply };
        let is_lazy = job.is_lazy();
        match self.writes.submit(job, is_lazy) {
            Err(_) => vec![Outcome::Unavailable; count],
            Ok(()) => outcomes.await.unwrap_or_else(|_| vec![Outcome::Unknown; count]),
        }
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Unavailable> {
        self.look(|answer| Look::Page(request, answer)).await
    }

    async fn device(&self, device: &Device) -> Result<DeviceState, Unavailable> {
        self.look(|answer| Look::Device(device.clone(), answer)).await
    }

    async fn highest_client_msg_id(&self, device: &Device) -> Result<u64, Unavailable> {
        self.look(|answer| Look::HighestId(device.clone(), answer)).await
    }

    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable> {
        self.look(|answer| Look::Underived(after.cloned(), limit, answer)).await
    }

    async fn conversations(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<Listed>, Unavailable> {
        self.look(|answer| Look::Conversations(user.clone(), after.cloned(), limit, answer)).await
    }

    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, Unavailable> {
        self.look(|answer| Look::Conversation(id.clone(), answer)).await
    }

    async fn history(&self, request: HistoryRequest) -> Result<History, Unavailable> {
        self.look(|answer| Look::History(request, answer)).await
    }

    async fn references(
        &self,
        media: MediaId,
        reader: Option<&UserId>,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<(ConversationId, u64)>, Unavailable> {
        self.look(|answer| Look::References(media, reader.cloned(), after.cloned(), limit, answer)).await
    }

    async fn retain(&self, now_ms: i64) -> Result<Retained, Unavailable> {
        let mut retention = self.retention.lock().await;
        retention.run(now_ms).await.map_err(|failure| {
            self.counted.database.failed(&failure);
            Unavailable(failure.to_string())
        })
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        self.look(Look::Ready).await
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}

impl Ready for Postgres {
    async fn ready(&self) -> Result<(), String> {
        Storage::ready(self).await.map_err(|Unavailable(why)| why)
    }
}
