//! A PostgreSQL server for tests, from the machine's packages, with a database for each case.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tern_cluster::PostgresOptions;
use tern_media::contract::Opened;
use tern_media::uploads::Uploads;
use tern_media::uploads::postgres::{Options, Postgres};

/// A server, stopped when it is dropped.
pub(super) struct Server {
    pub(super) server: tern_cluster::Postgres,
    dir: PathBuf,
}

impl Server {
    /// The one of this process; it is stopped when the last test that uses it ends.
    pub(super) fn of_process() -> Arc<Server> {
        static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        server.upgrade().unwrap_or_else(|| {
            let found = Arc::new(Server::start());
            *server = Arc::downgrade(&found);
            found
        })
    }

    /// One of its own.
    pub(super) fn start() -> Server {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tern-test-media-{}-{number}", std::process::id()));
        let options = PostgresOptions { fsync: false, ..PostgresOptions::new(&dir) };
        Server { server: tern_cluster::Postgres::start(&options).expect("PostgreSQL starts"), dir }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.server.stop("immediate").expect("it stops");
        std::fs::remove_dir_all(&self.dir).expect("its directory goes");
    }
}

/// A database of its own.
pub(super) struct Database {
    pub(super) server: Arc<Server>,
    name: OnceLock<String>,
}

impl Database {
    /// On the server of this process.
    pub(super) fn new() -> Database {
        Database::on(Server::of_process())
    }

    /// On this server.
    pub(super) fn on(server: Arc<Server>) -> Database {
        Database { server, name: OnceLock::new() }
    }

    fn name(&self) -> &str {
        self.name.get_or_init(|| {
            let name = format!("test_{}_{}", std::process::id(), fastrand::u32(..));
            self.server.server.create_database(&name).expect("a database");
            name
        })
    }

    /// A replica in front of it.
    pub(super) async fn replica(&self) -> Arc<dyn Uploads> {
        self.replica_at(self.server.server.port()).await
    }

    /// One that reaches it through another port.
    pub(super) async fn replica_at(&self, port: u16) -> Arc<dyn Uploads> {
        let options = Options::new(&self.server.server.url_at(port, self.name()));
        Arc::new(Postgres::open(options).await.expect("it opens"))
    }

    /// What the server says.
    pub(super) fn sql(&self, statements: &str) -> String {
        self.server.server.sql(self.name(), statements).expect("the server takes it")
    }

    /// What the counts say that are kept, and what is there.
    pub(super) fn assert_counts_are_exact(&self) {
        let kept = self.sql("SELECT user_id, open, bytes FROM media_owners ORDER BY user_id");
        let there = self.sql(
            "SELECT user_id, count(*) FILTER (WHERE media IS NULL), sum(bytes) FROM media_uploads
            WHERE failed IS NULL GROUP BY user_id ORDER BY user_id",
        );
        assert_eq!(kept, there);
        let strays = "SELECT count(*) FROM media_parts p LEFT JOIN media_uploads u ON u.id = p.upload
            WHERE u.id IS NULL OR u.media IS NOT NULL OR u.failed IS NOT NULL";
        assert_eq!(self.sql(strays), "0", "parts of uploads that are not open");
    }
}

impl Opened for Database {
    async fn open(&self) -> Arc<dyn Uploads> {
        self.replica().await
    }
}
