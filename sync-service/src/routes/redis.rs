//! Routes in Redis, or what speaks its protocol: one server, one that sentinels know, or a cluster.
//!
//! Those of a user are one hash, whose name has the user as its hash tag, so that a script may touch it in a cluster. Redis counts the time: what is kept is no concern of anybody's clock but its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Script, ScriptInvocation,
    Value,
};
use tern_proto::UserId;
use tern_runtime::metrics::{By, Counter, Histogram, Metrics, seconds};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Away, GatewayId, Kept, Route, Routes, Standing, distinct, kept, name_of};
use crate::Device;

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

/// A route is written as the run of the gateway, the link, since when it is the device's, and when it ends, in milliseconds of Redis's own clock. Whatever has ended goes away, and so does what
/// ends later than anything can: the clock was set back. Answers what has become of the route, and the link whose place it took.
const KEEP: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local since = now - ARGV[3]
local standing, former = 1, false
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local route, from, ends = string.match(all[at + 1], '^(%S+ %S+) (%d+) (%d+)$')
  ends = tonumber(ends)
  if not route or ends <= now or ends > now + ARGV[4] then
    redis.call('HDEL', KEYS[1], all[at])
  elseif all[at] == ARGV[1] then
    if route == ARGV[2] then standing = 0
    elseif tonumber(from) > since then standing = 2
    else former = route end
  end
end
if standing < 2 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. string.format(' %.0f %.0f', since, now + ARGV[4]))
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return {standing, former}
";

const LEAVE: &str = "
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and string.match(known, '^%S+ %S+') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
";

/// Routes in Redis.
pub struct Redis {
    shared: Arc<Shared>,
    kept: Duration,
    keep: Script,
    leave: Script,
}

struct Shared {
    current: Mutex<Current>,
    broken: Notify,
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
    /// Routes in the Redis at `target`, each gone within the lifetime. Needs a Tokio runtime, in which it connects by itself, again and again.
    pub fn new(target: Target, lifetime: Duration) -> Redis {
        let (current, broken) = (Mutex::default(), Notify::new());
        let shared = Arc::new(Shared { current, broken, asked: seconds(), failures: By::default() });
        tokio::spawn(keep_connected(Arc::downgrade(&shared), target));
        let [keep, leave] = [KEEP, LEAVE].map(Script::new);
        Redis { shared, kept: kept(lifetime), keep, leave }
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
        self.shared.failed("unanswered");
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
}

#[async_trait]
impl Routes for Redis {
    async fn keep(&self, routes: &[Kept]) -> Result<Vec<(Standing, Option<Route>)>, Away> {
        let call = |Kept { device, route, age }: &Kept| {
            let mut call = self.keep.prepare_invoke();
            call.key(key(&device.user)).arg(name_of(device, *route)).arg(written(*route));
            call.arg(age.as_millis() as u64).arg(self.kept.as_millis() as u64);
            call
        };
        let answers: Vec<(u8, Option<String>)> = self.each(&routes.iter().map(call).collect::<Vec<_>>()).await?;
        let told = |((standing, former), kept): ((u8, Option<String>), &Kept)| {
            let standing = match standing {
                0 => Standing::Stands,
                1 => Standing::New,
                _ => Standing::Displaced,
            };
            let former = former.and_then(|text| read(&text));
            (standing, former.map(|(gateway, link)| Route { gateway, link, ..kept.route }))
        };
        Ok(answers.into_iter().zip(routes).map(told).collect())
    }

    async fn leave(&self, routes: &[(Device, Route)]) -> Result<(), Away> {
        let call = |(device, route): &(Device, Route)| {
            let mut call = self.leave.prepare_invoke();
            call.key(key(&device.user)).arg(name_of(device, *route)).arg(written(*route));
            call
        };
        self.each::<()>(&routes.iter().map(call).collect::<Vec<_>>()).await.map(drop)
    }

    async fn gateways(&self, users: &[UserId]) -> Result<Vec<Vec<GatewayId>>, Away> {
        let mut found = Vec::with_capacity(users.len());
        for some in users.chunks(AT_A_TIME) {
            let written: Vec<Vec<String>> = self.ask(async |connection| values(connection, some).await).await?;
            let gateway = |text: &String| Some(read(text)?.0);
            found.extend(written.iter().map(|values| distinct(values.iter().filter_map(gateway))));
        }
        Ok(found)
    }
}

/// What is written of each user's routes.
async fn values(connection: Connection, users: &[UserId]) -> RedisResult<Vec<Vec<String>>> {
    match connection {
        Connection::One(mut connection) => {
            let mut all = redis::pipe();
            for user in users {
                all.hvals(key(user));
            }
            all.query_async(&mut connection).await
        }
        Connection::Cluster(connection) => {
            try_join_all(users.iter().map(|user| {
                let mut connection = connection.clone();
                async move { Cmd::hvals(key(user)).query_async(&mut connection).await }
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
            tracing::warn!(%error, "Redis refused");
            return;
        }
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

/// The hash with the routes of a user, whose name is its hash tag.
fn key(user: &UserId) -> String {
    format!("tern:{{{user}}}:routes")
}

fn written(route: Route) -> String {
    format!("{} {:x}", route.gateway, route.link)
}

fn read(text: &str) -> Option<(GatewayId, u64)> {
    let mut words = text.split(' ');
    let mut number = || u64::from_str_radix(words.next()?, 16).ok();
    Some((GatewayId::of(number()?), number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_it_was_written() {
        let route = Route { gateway: GatewayId::of(0xfeed), link: 0x1f, is_wait: false };
        assert_eq!(written(route), "000000000000feed 1f");
        assert_eq!(read("000000000000feed 1f 1700000000000 1700000000001"), Some((route.gateway, route.link)));
        assert_eq!(read("what"), None);
    }
}
