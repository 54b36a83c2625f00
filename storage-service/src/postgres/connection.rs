//! One connection to the database, ready for use: tables there, epoch looked at, statements prepared.

use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, NoTls};

use super::epoch;
use super::failure::{Failure, told};
use super::options::Options;
use super::schema;
use super::sql::Statements;
use crate::Durability;

/// The longest wait for a connection to be ready. The first one makes the tables.
const READY: Duration = Duration::from_secs(20);
/// A connection over which nothing comes back is given up within this time by the operating system.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// How each session is set.
///
/// Every statement here is meant to be driven by an index, whatever the statistics of a young table say. A session whose process is stopped in the middle of a
/// transaction holds locks that others wait for, so the server ends it soon.
const SESSION: &str = "SET application_name = 'tern-storage';
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
    SET enable_bitmapscan = off; SET enable_material = off; SET jit = off;
    SET plan_cache_mode = force_generic_plan; SET max_parallel_workers_per_gather = 0;
    SET idle_in_transaction_session_timeout = '2s'; SET lock_timeout = '4s'; SET statement_timeout = '8s'";

/// A connection.
pub(super) struct Connection {
    pub client: Client,
    pub statements: Statements,
    /// What a commit over it proves.
    pub durability: Durability,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`Failure::Unconnected`] with the reason.
    pub(super) async fn open(options: &Options) -> Result<Connection, Failure> {
        match tokio::time::timeout(READY, Box::pin(Connection::try_open(options))).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(failure)) => Err(Failure::Unconnected(failure.to_string())),
            Err(_) => Err(Failure::Unconnected(format!("not ready within {READY:?}"))),
        }
    }

    async fn try_open(options: &Options) -> Result<Connection, Failure> {
        let mut config: Config = options.url.parse().map_err(|error| Failure::Unconnected(told(&error)))?;
        // Of several hosts the one that takes writes.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.connect_timeout(Duration::from_secs(2)).tcp_user_timeout(UNACKNOWLEDGED);
        config
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(1))
            .keepalives_retries(4);
        let (mut client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            // Whoever uses the client is told as well.
            if let Err(error) = connection.await {
                tracing::debug!(error = %told(&error), "a connection to the database has ended");
            }
        });
        client.batch_execute(SESSION).await?;
        let durability = set_durability(&client, options.durability).await?;
        schema::migrate(&mut client).await?;
        epoch::adopt(&mut client, options.nothing_lost.as_ref()).await?;
        let statements = Box::pin(Statements::prepare(&client)).await?;
        Ok(Connection { client, statements, durability })
    }
}

/// Asks for what the settings say and looks at what the server makes of it.
async fn set_durability(client: &Client, wanted: Durability) -> Result<Durability, Failure> {
    let commit = if wanted == Durability::Disk { "on" } else { "off" };
    client.batch_execute(&format!("SET synchronous_commit = {commit}")).await?;
    let fsync: String = client.query_one("SHOW fsync", &[]).await?.get(0);
    if wanted == Durability::Disk && fsync != "on" {
        tracing::warn!(
            "the database runs with fsync = off: an acknowledgement does not prove that a message is on disk"
        );
    }
    Ok(if fsync == "on" { wanted } else { Durability::Os })
}
