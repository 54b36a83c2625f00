//! What is kept in Redis, or what speaks its protocol: one server, one that sentinels know, or a cluster.
//!
//! Every key has the user as its hash tag, so that a script may touch those of one user in a cluster. Redis counts the time: what is kept is no concern of anybody's clock but its own.
//! Here is the connection; what is asked over it is in `routes` and `recent`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Script, ScriptInvocation,
    Value,
};
use tern_runtime::metrics::{By, Counter, Histogram, Metrics, seconds};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Away;
use crate::routes::kept;

mod recent;
mod routes;
mod target;

pub use target::{BadTarget, Target};

/// A Redis that has not answered by then is away. What waits for it is bounded by what comes in this time.
const PATIENCE: Duration = Duration::from_millis(300);
/// The longest wait for a connection to one place.
const CONNECT: Duration = Duration::from_millis(500);
/// A whole attempt to connect: a cluster and sentinels have several places, each of which may swallow what is sent to it.
const ATTEMPT: Duration = Duration::from_secs(6);
/// Calls under way at a time. Redis does as many in a few milliseconds.
const AT_A_TIME: usize = 256;
/// How often it is looked whether anybody still asks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two complaints that it cannot be reached.
const COMPLAIN: Duration = Duration::from_secs(60);
/// Between two attempts to connect, and a little more or less, so that not all replicas come at once.
const AGAIN: Duration = Duration::from_millis(200);

/// A Redis, as [`crate::Routes`] and as [`crate::Recent`].
pub struct Redis {
    shared: Arc<Shared>,
    /// How long a route is kept at a time.
    kept: Duration,
    scripts: Scripts,
}

/// Whatever reads and writes in one go.
struct Scripts {
    keep: Script,
    leave: Script,
    raise: Script,
    look: Script,
}

struct Shared {
    current: Mutex<Current>,
    broken: Notify,
    /// When it was last complained that it refuses.
    refused: Mutex<Option<Instant>>,
    asked: Histogram,
    failures: By<Counter>,
}

/// The connection, and the how many-th it is.
#[derive(Clone, Default)]
struct Current {
    number: u64,
    connection: Option<Connection>,
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Redis {
    /// The Redis at `target`; a route is gone within the lifetime. Needs a Tokio runtime, in which it connects by itself, again and again.
    pub fn new(target: Target, lifetime: Duration) -> Redis {
        let (current, broken, refused) = (Mutex::default(), Notify::new(), Mutex::default());
        let shared = Arc::new(Shared { current, broken, refused, asked: seconds(), failures: By::default() });
        tokio::spawn(keep_connected(Arc::downgrade(&shared), target));
        let scripts = Scripts {
            keep: Script::new(&routes::keep()),
            leave: Script::new(routes::LEAVE),
            raise: Script::new(recent::RAISE),
            look: Script::new(recent::LOOK),
        };
        Redis { shared, kept: kept(lifetime), scripts }
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        metrics.register("tern_redis_seconds", "From a question to Redis to its answer", self.shared.asked.clone());
        let help = "Questions to Redis without an answer, and connections that could not be made, by kind";
        metrics.register("tern_redis_failures", help, self.shared.failures.clone());
    }

    /// Asks, if Redis is there, for no longer than it is worth.
    async fn ask<T>(&self, ask: impl AsyncFnOnce(Connection) -> RedisResult<T>) -> Result<T, Away> {
        let Current { number, connection } = self.shared.current().clone();
        let connection = connection.ok_or_else(|| {
            self.shared.failed("unconnected");
            Away("there is no connection to Redis".into())
        })?;
        let began = Instant::now();
        let error = match tokio::time::timeout(PATIENCE, ask(connection)).await {
            Ok(Ok(answer)) => {
                self.shared.asked.observe(began.elapsed().as_secs_f64());
                return Ok(answer);
            }
            Ok(Err(error)) => error,
            Err(_) => RedisError::from((ErrorKind::Io, "no answer in time")),
        };
        self.shared.leave(number, &error);
        Err(Away(error.to_string()))
    }

    /// Makes the calls, not too many at a time: each has to be answered in time.
    async fn each<T: redis::FromRedisValue>(&self, calls: &[ScriptInvocation<'_>]) -> Result<Vec<T>, Away> {
        let mut answers = Vec::with_capacity(calls.len());
        for some in calls.chunks(AT_A_TIME) {
            let asked = async |connection: Connection| {
                let calls = some.iter().map(|call| {
                    let mut connection = connection.clone();
                    async move { call.invoke_async(&mut connection).await }
                });
                try_join_all(calls).await
            };
            answers.extend(self.ask(asked).await?);
        }
        Ok(answers)
    }

    /// The same of plain commands.
    async fn commands<T: redis::FromRedisValue>(&self, commands: impl Iterator<Item = Cmd>) -> Result<Vec<T>, Away> {
        let commands: Vec<Cmd> = commands.collect();
        let mut answers = Vec::with_capacity(commands.len());
        for some in commands.chunks(AT_A_TIME) {
            answers.extend(self.ask::<Vec<T>>(async |connection| all(connection, some).await).await?);
        }
        Ok(answers)
    }
}

async fn all<T: redis::FromRedisValue>(connection: Connection, commands: &[Cmd]) -> RedisResult<Vec<T>> {
    match connection {
        Connection::One(mut connection) => {
            let mut pipeline = redis::pipe();
            for command in commands {
                pipeline.add_command(command.clone());
            }
            pipeline.query_async(&mut connection).await
        }
        Connection::Cluster(connection) => {
            try_join_all(commands.iter().map(|command| {
                let mut connection = connection.clone();
                async move { command.query_async(&mut connection).await }
            }))
            .await
        }
    }
}

impl Shared {
    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, kind: &'static str) {
        self.failures.get_or_create(&[("kind", kind)]).inc();
    }

    /// Leaves a connection that is of no use any more, or a server that became a replica.
    fn leave(&self, number: u64, error: &RedisError) {
        let is_readonly = error.kind() == ErrorKind::Server(redis::ServerErrorKind::ReadOnly);
        if !error.is_io_error() && !error.is_unrecoverable_error() && !is_readonly {
            self.failed("refused");
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.is_none_or(|before| before.elapsed() > COMPLAIN) {
                tracing::warn!(%error, "Redis refuses; this is said once a minute, and counted each time");
                *refused = Some(Instant::now());
            }
            return;
        }
        self.failed("unanswered");
        let mut current = self.current();
        if current.number == number && current.connection.take().is_some() {
            tracing::warn!(%error, "Redis is away: hints go to every gateway that was lately found, until it is back");
            self.broken.notify_one();
        }
    }
}

/// Connects, and again whenever the connection was left, until nobody asks any more.
async fn keep_connected(shared: Weak<Shared>, mut target: Target) {
    let mut complain_at = Instant::now();
    while let Some(shared) = shared.upgrade() {
        let is_there = shared.current().connection.is_some();
        if is_there {
            let _ = tokio::time::timeout(LOOK, shared.broken.notified()).await;
            continue;
        }
        let error = match tokio::time::timeout(ATTEMPT, target.connect()).await {
            Ok(Ok(connection)) => {
                let mut current = shared.current();
                current.number += 1;
                current.connection = Some(connection);
                tracing::info!("connected to Redis");
                complain_at = Instant::now();
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".into(),
        };
        shared.failed("connect");
        if complain_at <= Instant::now() {
            tracing::warn!(%error, "Redis cannot be used; it is tried again and again");
            complain_at = Instant::now() + COMPLAIN;
        }
        drop(shared);
        tokio::time::sleep(AGAIN.mul_f64(0.5 + fastrand::f64())).await;
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::One(connection) => connection.req_packed_command(cmd),
            Connection::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::One(connection) => connection.get_db(),
            Connection::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The limits of a connection.
fn limits() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(PATIENCE))
}
