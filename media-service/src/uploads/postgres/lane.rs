//! A lane: a task with a connection of its own, over which it does one thing at a time, again where that may help.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tern_postgres::{Counted, Failure};
use tern_runtime::metrics::Histogram;
use tern_runtime::queue::Queue;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::connection::Connection;
use super::options::Options;
use super::put::{self, Part};
use crate::uploads::{Result, UploadError};

/// One attempt takes no longer, or the connection is given up.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);
/// After this time no further attempt is made.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection that takes longer to leave a transaction is given up.
const ROLLBACK: Duration = Duration::from_secs(1);
/// The longest wait for a connection to be ready.
const CONNECT: Duration = Duration::from_secs(4);
/// The longest wait between two attempts, of which a random part is taken: where another transaction was first, and where there is no connection.
const RACED: Duration = Duration::from_millis(20);
const UNCONNECTED: Duration = Duration::from_millis(400);

/// Something that is done over a connection. It may be done twice: an attempt whose end is unknown is made again.
pub(super) trait Work: Send + Sync {
    /// What is told then.
    type Told: Send;
    /// The longest that an attempt may take.
    const LIMIT: Duration = ATTEMPT;
    /// One attempt. What has begun a transaction need not roll it back.
    fn run(&self, on: &Connection) -> impl Future<Output = std::result::Result<Self::Told, Stopped>> + Send;
}

/// The longest wait for whoever asks for work.
pub(super) const fn wait_for<W: Work>() -> Duration {
    PATIENCE.saturating_add(W::LIMIT)
}

/// Why an attempt has come to nothing.
pub(super) enum Stopped {
    /// By what the tables say.
    Told(UploadError),
    /// By the database.
    Failed(Failure),
}

impl From<UploadError> for Stopped {
    fn from(error: UploadError) -> Stopped {
        Stopped::Told(error)
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::Failed(failure)
    }
}

impl From<tokio_postgres::Error> for Stopped {
    fn from(error: tokio_postgres::Error) -> Stopped {
        Stopped::Failed(error.into())
    }
}

impl From<Stopped> for UploadError {
    fn from(stopped: Stopped) -> UploadError {
        match stopped {
            Stopped::Told(error) => error,
            Stopped::Failed(failure) => {
                tracing::warn!(error = %failure, "the database of uploads fails");
                UploadError::Unavailable(failure.to_string())
            }
        }
    }
}

/// Work that somebody waits for.
pub(super) trait Asked: Send {
    /// Does it, and tells.
    fn serve<'a>(self: Box<Self>, lane: &'a mut Lane) -> BoxFuture<'a, ()>;
}

pub(super) struct Question<W: Work> {
    pub work: W,
    pub answer: oneshot::Sender<Result<W::Told>>,
}

impl<W: Work + 'static> Asked for Question<W> {
    fn serve<'a>(self: Box<Self>, lane: &'a mut Lane) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Question { work, answer } = *self;
            // Who has gone meanwhile was told nothing, and asks again.
            if !answer.is_closed() {
                let told = lane.tried(&work).await.map_err(UploadError::from);
                let _ = answer.send(told);
            }
        })
    }
}

/// What a lane that writes is given.
pub(super) enum Job {
    /// Travels with the others that wait.
    Part(Part),
    /// Has a transaction of its own.
    Change(Box<dyn Asked>),
}

/// The lane.
pub(super) struct Lane {
    options: Arc<Options>,
    connection: Option<Connection>,
    counted: Counted,
    /// Of attempts that have succeeded.
    seconds: Histogram,
}

impl Lane {
    pub(super) fn new(options: &Arc<Options>, counted: &Counted, seconds: &Histogram) -> Lane {
        Lane { options: options.clone(), connection: None, counted: counted.clone(), seconds: seconds.clone() }
    }

    /// The same with a connection that is there already.
    pub(super) fn over(self, connection: Option<Connection>) -> Lane {
        Lane { connection, ..self }
    }

    /// What no message refers to lives for so long.
    pub(super) fn lifetime(&self) -> Duration {
        self.options.lifetime
    }

    /// Serves until the queue is closed and empty.
    pub(super) async fn write(mut self, queue: Arc<Queue<Job>>) {
        while let Some(jobs) = queue.next().await {
            let (mut parts, mut changes) = (Vec::new(), Vec::new());
            for job in jobs {
                match job {
                    Job::Part(part) => parts.push(part),
                    Job::Change(change) => changes.push(change),
                }
            }
            put::store(&mut self, parts).await;
            for change in changes {
                change.serve(&mut self).await;
            }
        }
    }

    /// Serves until the queue is closed and empty.
    pub(super) async fn read(mut self, queue: Arc<Queue<Box<dyn Asked>>>) {
        while let Some(looks) = queue.next().await {
            for look in looks {
                look.serve(&mut self).await;
            }
        }
    }

    /// Tries until it has succeeded or it makes no sense any more.
    pub(super) async fn tried<W: Work>(&mut self, work: &W) -> std::result::Result<W::Told, Stopped> {
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            let failure = match self.attempt(work).await {
                Err(Stopped::Failed(failure)) => failure,
                done => return done,
            };
            self.counted.failed(&failure);
            attempts += 1;
            let again = !matches!(failure, Failure::Refused(_) | Failure::Damaged(_));
            if !again || began.elapsed() >= PATIENCE {
                return Err(failure.into());
            }
            tracing::debug!(error = %failure, attempts, "once more");
            // At random, so that two that are in each other's way do not meet again.
            let longest = if failure.leaves_the_connection() { RACED } else { UNCONNECTED };
            let longest = longest.min(Duration::from_millis(2) * (1 << attempts.min(10)));
            sleep(longest.mul_f64(fastrand::f64())).await;
        }
    }

    async fn attempt<W: Work>(&mut self, work: &W) -> std::result::Result<W::Told, Stopped> {
        // It comes back only if it is still of use.
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.options.url, CONNECT).await?,
        };
        let began = Instant::now();
        let done = timeout(W::LIMIT, work.run(&connection)).await.unwrap_or(Err(Failure::Late.into()));
        let is_of_use = match &done {
            Ok(_) => {
                self.seconds.observe(began.elapsed().as_secs_f64());
                true
            }
            Err(Stopped::Failed(failure)) if !failure.leaves_the_connection() => false,
            Err(_) => matches!(timeout(ROLLBACK, connection.client.batch_execute("ROLLBACK")).await, Ok(Ok(()))),
        };
        self.connection = is_of_use.then_some(connection);
        done
    }
}
