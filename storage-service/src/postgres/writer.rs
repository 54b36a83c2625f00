//! A lane that writes: takes what waits, runs it as transactions, answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tern_postgres::Failure;
use tern_proto::v1;
use tern_runtime::queue::Queue;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::connection::Connection;
use super::counted::Counted;
use super::ids::Ids;
use super::options::Options;
use super::transaction::Transaction;
use crate::{Op, Outcome};

/// Jobs of one batch.
pub(super) const BATCH: usize = 4096;
/// One attempt at a transaction takes no longer, or the connection is given up.
const ATTEMPT: Duration = Duration::from_secs(5);
/// After this time no further attempt is made. The callers' deadlines lie behind it.
const PATIENCE: Duration = Duration::from_secs(7);
/// The longest wait between two attempts, of which a random part is taken: where another transaction was first, and where there is no connection.
const RACED: Duration = Duration::from_millis(20);
const UNCONNECTED: Duration = Duration::from_millis(400);

/// One call of [`crate::Storage::commit`].
pub(super) struct Job {
    pub ops: Vec<Op>,
    pub reply: oneshot::Sender<Vec<Outcome>>,
}

impl Job {
    /// Whether it may wait for another one to travel with.
    pub(super) fn is_lazy(&self) -> bool {
        self.ops.iter().all(Op::is_lazy)
    }
}

/// The lane.
pub(super) struct Writer {
    pub options: Arc<Options>,
    pub queue: Arc<Queue<Job>>,
    pub connection: Option<Connection>,
    pub ids: Ids,
    pub counted: Counted,
}

impl Writer {
    /// Serves until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        while let Some(jobs) = self.queue.next().await {
            self.serve(jobs).await;
        }
    }

    async fn serve(&mut self, jobs: Vec<Job>) {
        let mut ops = Vec::with_capacity(jobs.len());
        let mut replies = Vec::with_capacity(jobs.len());
        for job in jobs {
            replies.push((job.ops.len(), job.reply));
            ops.extend(job.ops);
        }
        let mut outcomes = Vec::with_capacity(ops.len());
        for part in parts(&ops) {
            outcomes.extend(self.commit(part).await);
        }
        let mut outcomes = outcomes.into_iter();
        for (count, reply) in replies {
            // A caller that has gone away needs no answer.
            let _ = reply.send(outcomes.by_ref().take(count).collect());
        }
    }

    /// Commits ops as one transaction, or, if the database refuses it, in halves: so that one bad op does not fail its neighbours.
    async fn commit(&mut self, ops: &[Op]) -> Vec<Outcome> {
        match self.persist(ops).await {
            Ok(outcomes) => outcomes,
            Err((Failure::Refused(_) | Failure::Damaged(_), false)) if ops.len() > 1 => {
                let (first, second) = ops.split_at(ops.len() / 2);
                let mut outcomes = Box::pin(self.commit(first)).await;
                outcomes.extend(Box::pin(self.commit(second)).await);
                outcomes
            }
            Err((failure, may_be_stored)) => {
                tracing::warn!(error = %failure, ops = ops.len(), may_be_stored, "not stored");
                let outcome = if may_be_stored { Outcome::Unknown } else { Outcome::Unavailable };
                vec![outcome; ops.len()]
            }
        }
    }

    /// Tries until it has succeeded or it makes no sense any more; then says whether it may be stored all the same. Every op may be done twice, so an attempt
    /// whose end is unknown is made again.
    async fn persist(&mut self, ops: &[Op]) -> Result<Vec<Outcome>, (Failure, bool)> {
        let began = Instant::now();
        let mut may_be_stored = false;
        let mut attempts = 0;
        loop {
            let committing = AtomicBool::new(false);
            let failure = match self.attempt(ops, may_be_stored, &committing).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(failure) => failure,
            };
            self.counted.database.failed(&failure);
            if !failure.leaves_the_connection() {
                self.connection = None;
                may_be_stored |= committing.load(Ordering::Relaxed);
            }
            attempts += 1;
            let again = !matches!(failure, Failure::Refused(_) | Failure::Damaged(_));
            if !again || began.elapsed() >= PATIENCE {
                return Err((failure, may_be_stored));
            }
            tracing::debug!(error = %failure, attempts, "once more");
            // At random, so that two that are in each other's way do not meet again.
            let longest = if failure.leaves_the_connection() { RACED } else { UNCONNECTED };
            let longest = longest.min(Duration::from_millis(2) * (1 << attempts.min(10)));
            sleep(longest.mul_f64(fastrand::f64())).await;
        }
    }

    async fn attempt(&mut self, ops: &[Op], again: bool, committing: &AtomicBool) -> Result<Vec<Outcome>, Failure> {
        if self.connection.is_none() {
            self.connection = Some(Connection::open(&self.options).await?);
        }
        let Some(connection) = &self.connection else { return Err(Failure::Late) };
        let (isolation, counted) = (self.options.isolation, &self.counted);
        let transaction = Transaction { connection, isolation, ops, again, committing, counted };
        let began = Instant::now();
        let outcomes = timeout(ATTEMPT, transaction.run(&mut self.ids)).await.unwrap_or(Err(Failure::Late))?;
        self.counted.database.commits.observe(began.elapsed().as_secs_f64());
        Ok(outcomes)
    }
}

/// The ops as transactions: a start at heads begins one, because it needs the heads as they are before anything else.
fn parts(ops: &[Op]) -> impl Iterator<Item = &[Op]> {
    ops.chunk_by(|_, next| !matches!(next, Op::Start { start: v1::Start::Heads, .. }))
}
