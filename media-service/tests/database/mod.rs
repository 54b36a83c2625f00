//! A PostgreSQL database for each case, and replicas in front of it.

use std::sync::Arc;

use tern_cluster::{TestDatabase, TestPostgres};
use tern_media::contract::Opened;
use tern_media::uploads::Uploads;
use tern_media::uploads::postgres::{Options, Postgres};

/// A database of its own.
pub(super) struct Database(pub(super) TestDatabase);

impl Database {
    /// On the server of this process.
    pub(super) fn new() -> Database {
        Database(TestDatabase::of_process())
    }

    /// On a server of its own.
    pub(super) fn alone() -> Database {
        Database(TestDatabase::on(Arc::new(TestPostgres::start())))
    }

    /// A replica in front of it.
    pub(super) async fn replica(&self) -> Arc<dyn Uploads> {
        self.replica_at(self.0.server.port()).await
    }

    /// One that reaches it through another port.
    pub(super) async fn replica_at(&self, port: u16) -> Arc<dyn Uploads> {
        let options = Options::new(&self.0.url_at(port));
        Arc::new(Postgres::open(options).await.expect("it opens"))
    }

    /// What the counts say that are kept, and what is there.
    pub(super) fn assert_counts_are_exact(&self) {
        let kept = self.0.sql("SELECT user_id, open, bytes FROM media_owners ORDER BY user_id");
        let there = self.0.sql(
            "SELECT user_id, count(*) FILTER (WHERE media IS NULL AND failed IS NULL),
            sum(CASE WHEN failed IS NULL THEN GREATEST(bytes, 4096) ELSE 4096 END)
            FROM media_uploads GROUP BY user_id ORDER BY user_id",
        );
        assert_eq!(kept, there);
        let strays = "SELECT count(*) FROM media_parts p LEFT JOIN media_uploads u ON u.id = p.upload
            WHERE u.id IS NULL OR u.media IS NOT NULL OR u.failed IS NOT NULL";
        assert_eq!(self.0.sql(strays), "0", "parts of uploads that are not open");
    }
}

impl Opened for Database {
    async fn open(&self) -> Arc<dyn Uploads> {
        self.replica().await
    }
}
