//! A connection to the database, set as every service needs it.

use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, NoTls};

use crate::failure::{Failure, told};

/// A connection over which nothing comes back is given up within this time by the operating system.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// How each session is set.
///
/// Every statement of a service is meant to be driven by an index, whatever the statistics of a young table say. A session whose process is stopped in the
/// middle of a transaction holds locks that others wait for, so the server ends it soon.
const SESSION: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
    SET enable_bitmapscan = off; SET enable_material = off; SET jit = off;
    SET plan_cache_mode = force_generic_plan; SET max_parallel_workers_per_gather = 0;
    SET idle_in_transaction_session_timeout = '2s'; SET lock_timeout = '4s'; SET statement_timeout = '8s'";

/// Connects to the database at `url`, as libpq takes it: a URL or `host=… dbname=…`. The server shows the connection under this name.
///
/// # Errors
/// [`Failure`] with what the database or the network says.
pub async fn connect(url: &str, name: &str) -> Result<Client, Failure> {
    let mut config: Config = url.parse().map_err(|error| Failure::Unconnected(told(&error)))?;
    // Of several hosts the one that takes writes.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite).application_name(name);
    config.connect_timeout(Duration::from_secs(2)).tcp_user_timeout(UNACKNOWLEDGED);
    config.keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(1)).keepalives_retries(4);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // Whoever uses the client is told as well.
        if let Err(error) = connection.await {
            tracing::debug!(error = %told(&error), "a connection to the database has ended");
        }
    });
    client.batch_execute(SESSION).await?;
    Ok(client)
}

/// What makes a connection ready, for so long at most.
///
/// # Errors
/// [`Failure::Unconnected`] with the reason.
pub async fn ready_within<T>(
    limit: Duration,
    connecting: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(|failure| Failure::Unconnected(failure.to_string())),
        Err(_) => Err(Failure::Unconnected(format!("not ready within {limit:?}"))),
    }
}

/// What a commit proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    /// It is on the server's disk.
    OnDisk,
    /// The server has it.
    Taken,
}

/// Asks for what is wanted, and tells what the server makes of it.
///
/// # Errors
/// [`Failure`] with what the database or the network says.
pub async fn set_commits(client: &Client, wanted: Commits) -> Result<Commits, Failure> {
    let commit = if wanted == Commits::OnDisk { "on" } else { "off" };
    client.batch_execute(&format!("SET synchronous_commit = {commit}")).await?;
    let fsync: String = client.query_one("SHOW fsync", &[]).await?.get(0);
    if wanted == Commits::OnDisk && fsync != "on" {
        tracing::warn!("the database runs with fsync = off: what it has acknowledged may not be on disk");
    }
    Ok(if fsync == "on" { wanted } else { Commits::Taken })
}
