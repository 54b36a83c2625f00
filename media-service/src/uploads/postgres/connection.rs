//! One connection to the database, ready for use: tables there, statements prepared.

use std::time::Duration;

use tern_postgres::{Commits, Failure};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::sql::Statements;

/// What brings the tables up to date; a step that was released is never changed.
const STEPS: [&str; 1] = [include_str!("schema_1.sql")];

/// Values for a statement.
type Values<'a, const N: usize> = [&'a (dyn ToSql + Sync); N];

/// A connection.
pub(super) struct Connection {
    pub client: Client,
    pub statements: Statements,
}

impl Connection {
    /// Connects, within this time.
    ///
    /// # Errors
    /// [`Failure::Unconnected`] with the reason.
    pub(super) async fn open(url: &str, limit: Duration) -> Result<Connection, Failure> {
        tern_postgres::ready_within(limit, Box::pin(Connection::try_open(url))).await
    }

    async fn try_open(url: &str) -> Result<Connection, Failure> {
        let mut client = tern_postgres::connect(url, "tern-media").await?;
        tern_postgres::set_commits(&client, Commits::OnDisk).await?;
        tern_postgres::migrate(&mut client, "media_migrations", &STEPS).await?;
        let statements = Box::pin(Statements::prepare(&client)).await?;
        Ok(Connection { client, statements })
    }

    // The values are taken, so that several statements can be one flight.

    pub(super) async fn execute<const N: usize>(&self, what: &Statement, values: Values<'_, N>) -> Result<u64, Error> {
        self.client.execute(what, &values).await
    }

    pub(super) async fn rows<const N: usize>(
        &self,
        what: &Statement,
        values: Values<'_, N>,
    ) -> Result<Vec<Row>, Error> {
        self.client.query(what, &values).await
    }

    pub(super) async fn row<const N: usize>(
        &self,
        what: &Statement,
        values: Values<'_, N>,
    ) -> Result<Option<Row>, Error> {
        self.client.query_opt(what, &values).await
    }

    pub(super) async fn begin(&self) -> Result<(), Error> {
        self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await
    }

    pub(super) async fn commit(&self) -> Result<(), Error> {
        self.client.batch_execute("COMMIT").await
    }
}
