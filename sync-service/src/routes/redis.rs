//! Routes in Redis, or what speaks its protocol: one server, one that sentinels know, or a cluster.
//!
//! Those of a user are one hash, whose name has the user as its hash tag, so that a script may touch it in a cluster. Redis counts the time: what is kept is no concern of anybody's clock but its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Script, Value};
use tern_proto::UserId;
use tokio::sync::Notify;

use super::{Away, GatewayId, Route, Routes, Standing, kept, name_of};
use crate::Device;

mod target;

pub use target::{BadTarget, Target};

/// A Redis that has not answered by then is away. What waits for it is bounded by what comes in this time.
const PATIENCE: Duration = Duration::from_millis(300);
/// The longest wait for a new connection.
const CONNECT: Duration = Duration::from_secs(1);
/// Between two attempts to connect, and a little more or less, so that not all replicas come at once.
const AGAIN: Duration = Duration::from_millis(200);

/// What a route is written as: the run of the gateway, the link, and when it ends, in milliseconds of Redis's own clock.
const ENTER: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now + ARGV[3]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if not before then return false end
local route, ends = string.match(before, '^(%S+ %S+) (%d+)$')
if not route or route == ARGV[2] or tonumber(ends) <= now then return false end
return route
";

/// Also removes what has ended of the user's other devices. 0: it stood, 1: it was lost, 2: another has its place.
const RENEW: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
local standing = 1
for at = 1, #all, 2 do
  local route, ends = string.match(all[at + 1], '^(%S+ %S+) (%d+)$')
  if not route or tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], all[at])
  elseif all[at] == ARGV[1] then
    if route == ARGV[2] then standing = 0 else standing = 2 end
  end
end
if standing < 2 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now + ARGV[3]))
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return standing
";

const LEAVE: &str = "
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and string.match(known, '^%S+ %S+') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
";

/// Routes in Redis.
pub struct Redis {
    shared: Arc<Shared>,
    kept: Duration,
    enter: Script,
    renew: Script,
    leave: Script,
}

struct Shared {
    target: Target,
    current: Mutex<Current>,
    broken: Notify,
}

/// The connection, and the how many-th it is.
#[derive(Default)]
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
        let shared = Arc::new(Shared { target, current: Mutex::default(), broken: Notify::new() });
        tokio::spawn(keep_connected(Arc::downgrade(&shared)));
        let [enter, renew, leave] = [ENTER, RENEW, LEAVE].map(Script::new);
        Redis { shared, kept: kept(lifetime), enter, renew, leave }
    }

    /// Asks, if Redis is there, for no longer than it is worth.
    async fn ask<T>(&self, ask: impl AsyncFnOnce(Connection) -> RedisResult<T>) -> Result<T, Away> {
        let Current { number, connection } = self.shared.current().clone();
        let connection = connection.ok_or_else(|| Away("there is no connection to Redis".into()))?;
        let error = match tokio::time::timeout(PATIENCE, ask(connection)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => RedisError::from((ErrorKind::Io, "no answer in time")),
        };
        self.shared.leave(number, &error);
        Err(Away(error.to_string()))
    }

    /// Calls a script for each route.
    async fn each<T: redis::FromRedisValue>(
        &self,
        script: &Script,
        routes: &[(Device, Route)],
    ) -> Result<Vec<T>, Away> {
        self.ask(async |connection| {
            let calls = routes.iter().map(|(device, route)| {
                let mut connection = connection.clone();
                let mut call = script.prepare_invoke();
                call.key(key(&device.user)).arg(name_of(device, *route)).arg(written(*route)).arg(self.millis());
                async move { call.invoke_async(&mut connection).await }
            });
            try_join_all(calls).await
        })
        .await
    }

    fn millis(&self) -> u64 {
        self.kept.as_millis() as u64
    }
}

#[async_trait]
impl Routes for Redis {
    async fn enter(&self, device: &Device, route: Route) -> Result<Option<Route>, Away> {
        let before: Vec<Option<String>> = self.each(&self.enter, &[(device.clone(), route)]).await?;
        let before = before.into_iter().flatten().next();
        Ok(before.and_then(|text| read(&text)).map(|(gateway, link)| Route { gateway, link, ..route }))
    }

    async fn renew(&self, routes: &[(Device, Route)]) -> Result<Vec<Standing>, Away> {
        let standing = |number: u8| match number {
            0 => Standing::Stands,
            1 => Standing::Restored,
            _ => Standing::Displaced,
        };
        Ok(self.each(&self.renew, routes).await?.into_iter().map(standing).collect())
    }

    async fn leave(&self, routes: &[(Device, Route)]) -> Result<(), Away> {
        self.each::<()>(&self.leave, routes).await.map(drop)
    }

    async fn gateways(&self, users: &[UserId]) -> Result<Vec<Vec<GatewayId>>, Away> {
        let found: Vec<Vec<String>> = self.ask(async |connection| values(connection, users).await).await?;
        let of_user = |values: Vec<String>| {
            let mut gateways: Vec<GatewayId> =
                values.iter().filter_map(|text| read(text)).map(|(gateway, _)| gateway).collect();
            gateways.sort_unstable();
            gateways.dedup();
            gateways
        };
        Ok(found.into_iter().map(of_user).collect())
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

    /// Leaves a connection that is of no use any more, or a server that became a replica.
    fn leave(&self, number: u64, error: &RedisError) {
        let is_readonly = error.kind() == ErrorKind::Server(redis::ServerErrorKind::ReadOnly);
        if !error.is_io_error() && !error.is_unrecoverable_error() && !is_readonly {
            tracing::warn!(%error, "Redis refused");
            return;
        }
        let mut current = self.current();
        if current.number == number && current.connection.take().is_some() {
            tracing::warn!(%error, "Redis is away: hints go to every gateway until it is back");
            self.broken.notify_one();
        }
    }
}

/// Connects, and again whenever the connection was left, until nobody asks any more.
async fn keep_connected(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let is_there = shared.current().connection.is_some();
        if is_there {
            let _ = tokio::time::timeout(CONNECT, shared.broken.notified()).await;
            continue;
        }
        match tokio::time::timeout(CONNECT, shared.target.connect()).await {
            Ok(Ok(connection)) => {
                let mut current = shared.current();
                current.number += 1;
                current.connection = Some(connection);
                tracing::info!("connected to Redis");
                continue;
            }
            Ok(Err(error)) => tracing::debug!(%error, "Redis cannot be reached"),
            Err(_) => tracing::debug!("Redis does not answer"),
        }
        drop(shared);
        tokio::time::sleep(AGAIN.mul_f64(0.5 + fastrand::f64())).await;
    }
}

impl Clone for Current {
    fn clone(&self) -> Current {
        Current { number: self.number, connection: self.connection.clone() }
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
        assert_eq!(read("000000000000feed 1f 1700000000000"), Some((route.gateway, route.link)));
        assert_eq!(read("what"), None);
    }
}
