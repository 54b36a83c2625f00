//! Uploads in a PostgreSQL database: any number of replicas in front of it, each of which can finish what another has begun.
//!
//! How a part flows: [`Postgres::put`](Uploads::put) → the lane of its upload → one transaction with what came meanwhile (`put`) → told. A `change` goes through a
//! lane too, as a transaction of its own; a `look` through any of those that read. No replica knows anything that another would need: what is decided is decided on
//! locked rows, in the order that `sql` says.

mod change;
mod connection;
mod lane;
mod look;
mod options;
mod put;
mod row;
mod sql;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use tern_postgres::Counted;
use tern_proto::v1::Code;
use tern_proto::{MediaId, UserId};
use tern_runtime::metrics::{Metrics, Ready};
use tern_runtime::queue::Queue;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use self::change::{Begin, End, Fence, Keep, Remove, Renew};
use self::connection::Connection;
use self::lane::{Asked, Job, Lane, Question, Work, wait_for};
use self::look::{Find, FindNamed, Ping, Whole};
pub use self::options::Options;
use self::put::Part;
use self::row::{judge_lease, judge_look};
use super::{Made, Quota, Result, Upload, UploadError, Uploads, millis};
use crate::declared::Declared;

/// Jobs that a lane takes at once.
const BATCH: usize = 1024;
/// KiB of parts that may be on their way to the database.
const WAITING_KIB: usize = 64 * 1024;
/// The longest wait for the first connection, which makes the tables.
const FIRST: Duration = Duration::from_secs(20);
/// The longest wait for a part to be told.
const PUT: Duration = Duration::from_secs(10);

/// Uploads in a database. Any number of processes at a time.
pub struct Postgres {
    lifetime: Duration,
    /// An upload is always in the same one, so that its parts do not wait for each other.
    writes: Vec<Arc<Queue<Job>>>,
    reads: Arc<Queue<Box<dyn Asked>>>,
    /// KiB that more parts may have which are on their way; who finds none waits.
    room: Arc<Semaphore>,
    counted: Counted,
    lanes: Mutex<JoinSet<()>>,
}

impl Postgres {
    /// Connects, brings the tables up to date and starts the lanes. Needs a Tokio runtime.
    ///
    /// # Errors
    /// What the database or the network says.
    pub async fn open(options: Options) -> anyhow::Result<Postgres> {
        // The first connection shows that it works; each lane makes its own when it first needs it.
        let first = Connection::open(&options.url, FIRST).await.context("opening the database of uploads")?;
        let (options, counted, mut first) = (Arc::new(options), Counted::default(), Some(first));
        let mut lanes = JoinSet::new();
        let mut writes = Vec::new();
        for _ in 0..options.writers.max(1) {
            let queue = Arc::new(Queue::new(BATCH, Duration::ZERO, counted.queues.of("parts")));
            lanes.spawn(Lane::new(&options, &counted, &counted.commits).over(first.take()).write(queue.clone()));
            writes.push(queue);
        }
        // One at a time: there is nothing to share between looks.
        let reads = Arc::new(Queue::new(1, Duration::ZERO, counted.queues.of("look")));
        for _ in 0..options.readers.max(1) {
            lanes.spawn(Lane::new(&options, &counted, &counted.reads).read(reads.clone()));
        }
        let (lifetime, room) = (options.lifetime, Arc::new(Semaphore::new(WAITING_KIB)));
        Ok(Postgres { lifetime, writes, reads, room, counted, lanes: Mutex::new(lanes) })
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.counted.report_to(metrics);
    }

    /// Takes nothing more, and returns once everything that waits is answered.
    pub async fn close(&self) {
        self.close_queues();
        let lanes = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
        lanes.join_all().await;
    }

    fn close_queues(&self) {
        self.writes.iter().for_each(|queue| queue.close());
        self.reads.close();
    }

    fn due_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_add(millis(self.lifetime))
    }

    /// Whether what is due then need not be renewed: most sends find their lease long enough.
    fn is_long_enough(&self, due_ms: i64, now_ms: i64) -> bool {
        due_ms.saturating_sub(now_ms) >= millis(self.lifetime) / 2
    }

    /// The lane of an upload, or of what has no place of its own.
    fn lane(&self, number: u128) -> &Queue<Job> {
        &self.writes[(number % self.writes.len() as u128) as usize]
    }

    /// Finds the upload of this name or makes one, which may be complete from the start.
    async fn find_or_make(
        &self,
        (owner, declared): (&UserId, &Declared),
        quota: &Quota,
        made: Option<Made>,
        now_ms: i64,
    ) -> Result<Upload> {
        let (owner, declared, quota, due_ms) = (owner.clone(), *declared, *quota, self.due_ms(now_ms));
        // Whoever begins again needs no lock.
        let named = self.read(FindNamed { owner: owner.clone(), declared }).await?;
        if let Some(row) = named
            && row.can_be_gone_on_with(now_ms)?
            && (row.is_open() || self.is_long_enough(row.due_ms, now_ms))
        {
            return Ok(row.upload);
        }
        let number = u128::from(declared.sha256.0[0]);
        self.write(number, Begin { owner, declared, quota, now_ms, due_ms, made }).await
    }

    async fn read<W: Work<Told: 'static> + 'static>(&self, work: W) -> Result<W::Told> {
        asked(work, |look| self.reads.submit(look, false).is_ok()).await
    }

    async fn write<W: Work<Told: 'static> + 'static>(&self, number: u128, work: W) -> Result<W::Told> {
        asked(work, |change| self.lane(number).submit(Job::Change(change), false).is_ok()).await
    }
}

impl Drop for Postgres {
    /// The lanes go on until what waits is done.
    fn drop(&mut self) {
        self.close_queues();
        self.lanes.get_mut().unwrap_or_else(PoisonError::into_inner).detach_all();
    }
}

/// Puts work into a queue, and waits for what is told.
async fn asked<W: Work<Told: 'static> + 'static>(
    work: W,
    submit: impl FnOnce(Box<dyn Asked>) -> bool,
) -> Result<W::Told> {
    let (answer, told) = oneshot::channel();
    if !submit(Box::new(Question { work, answer })) {
        return Err(UploadError::Unavailable("too much waits for the database".into()));
    }
    told_by(Instant::now() + wait_for::<W>(), told).await
}

async fn told_by<T>(deadline: Instant, told: oneshot::Receiver<Result<T>>) -> Result<T> {
    match timeout_at(deadline, told).await {
        Ok(Ok(told)) => told,
        Ok(Err(_)) => Err(UploadError::Unavailable("it broke off".into())),
        Err(_) => Err(UploadError::Unavailable("the database has not answered in time".into())),
    }
}

#[async_trait]
impl Uploads for Postgres {
    async fn begin(&self, owner: &UserId, declared: &Declared, quota: &Quota, now_ms: i64) -> Result<Upload> {
        self.find_or_make((owner, declared), quota, None, now_ms).await
    }

    async fn make(
        &self,
        owner: &UserId,
        declared: &Declared,
        quota: &Quota,
        made: Made,
        now_ms: i64,
    ) -> Result<Upload> {
        self.find_or_make((owner, declared), quota, Some(made), now_ms).await
    }

    async fn look(&self, id: MediaId, now_ms: i64) -> Result<Upload> {
        judge_look(self.read(Find(id)).await?, id, self.lifetime, now_ms)
    }

    async fn put(&self, owner: &UserId, id: MediaId, index: u32, bytes: Bytes, now_ms: i64) -> Result<u32> {
        let kibibytes = bytes.len().div_ceil(1024).min(WAITING_KIB) as u32;
        let late = |_| UploadError::Unavailable("too many parts wait".into());
        let stops = |_| UploadError::Unavailable("the server stops".into());
        let deadline = Instant::now() + PUT;
        let room = timeout_at(deadline, self.room.clone().acquire_many_owned(kibibytes)).await;
        let _room = room.map_err(late)?.map_err(stops)?;
        let (answer, told) = oneshot::channel();
        let part = Part { owner: owner.clone(), id, index, bytes, now_ms, answer, _room };
        if self.lane(id.as_u128()).submit(Job::Part(part), false).is_err() {
            return Err(UploadError::Unavailable("too many parts wait".into()));
        }
        told_by(deadline, told).await
    }

    async fn bytes(&self, id: MediaId) -> Result<Bytes> {
        self.read(Whole(id)).await
    }

    async fn end(&self, id: MediaId, became: std::result::Result<Made, Code>, now_ms: i64) -> Result<Upload> {
        self.write(id.as_u128(), End { id, became, due_ms: self.due_ms(now_ms) }).await
    }

    async fn lease(&self, id: MediaId, now_ms: i64) -> Result<Upload> {
        let row = judge_lease(self.read(Find(id)).await?, id, self.lifetime, now_ms)?;
        if self.is_long_enough(row.due_ms, now_ms) {
            return Ok(row.upload);
        }
        let (due_ms, lifetime) = (self.due_ms(now_ms), self.lifetime);
        self.write(id.as_u128(), Renew { id, now_ms, due_ms, lifetime }).await
    }

    async fn lapsed(&self, now_ms: i64, limit: usize) -> Result<Vec<Upload>> {
        self.write(0, Fence { now_ms, limit: i64::try_from(limit).unwrap_or(i64::MAX) }).await
    }

    async fn keep(&self, id: MediaId) -> Result<()> {
        self.write(id.as_u128(), Keep(id)).await
    }

    async fn remove(&self, id: MediaId) -> Result<()> {
        self.write(id.as_u128(), Remove(id)).await
    }
}

impl Ready for Postgres {
    async fn ready(&self) -> std::result::Result<(), String> {
        self.read(Ping).await.map_err(|error| error.to_string())
    }
}
