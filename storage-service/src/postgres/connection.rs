//! One connection to the database, ready for use: tables there, epoch looked at, statements prepared.

use std::time::Duration;

use tern_postgres::{Commits, Failure};
use tokio_postgres::Client;

use super::epoch;
use super::options::Options;
use super::sql::Statements;
use crate::Durability;

/// The longest wait for a connection to be ready. The first one makes the tables.
const READY: Duration = Duration::from_secs(20);
/// What brings the tables up to date; a step that was released is never changed.
const STEPS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];

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
        tern_postgres::ready_within(READY, Box::pin(Connection::try_open(options))).await
    }

    async fn try_open(options: &Options) -> Result<Connection, Failure> {
        let mut client = tern_postgres::connect(&options.url, "tern-storage").await?;
        let wanted = if options.durability == Durability::Disk { Commits::OnDisk } else { Commits::Taken };
        let durability = match tern_postgres::set_commits(&client, wanted).await? {
            Commits::OnDisk => Durability::Disk,
            Commits::Taken => Durability::Os,
        };
        tern_postgres::migrate(&mut client, "migrations", &STEPS).await?;
        epoch::adopt(&mut client, options.nothing_lost.as_ref()).await?;
        let statements = Box::pin(Statements::prepare(&client)).await?;
        Ok(Connection { client, statements, durability })
    }
}
