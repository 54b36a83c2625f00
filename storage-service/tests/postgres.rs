//! The engine over PostgreSQL passes the contract: as it is, and where the database keeps transactions apart.
//!
//! Each process of tests starts a server of its own, from the machine's packages, and each case gets a database in it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tern_cluster::PostgresOptions;
use tern_storage::Storage;
use tern_storage::contract::Place;
use tern_storage::contract::retention::RULES;
use tern_storage::postgres::{Isolation, Options, Postgres};

/// A server, stopped when it is dropped.
struct Server {
    server: tern_cluster::Postgres,
    dir: PathBuf,
}

impl Server {
    /// The one of this process; it is stopped when the last test that uses it ends.
    fn of_process() -> Arc<Server> {
        static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        server.upgrade().unwrap_or_else(|| {
            let found = Arc::new(Server::start());
            *server = Arc::downgrade(&found);
            found
        })
    }

    fn start() -> Server {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tern-test-postgres-{}-{number}", std::process::id()));
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
struct Database {
    isolation: Isolation,
    server: Arc<Server>,
    name: OnceLock<String>,
}

impl Database {
    fn new(isolation: Isolation) -> Database {
        Database { isolation, server: Server::of_process(), name: OnceLock::new() }
    }

    fn name(&self) -> &str {
        self.name.get_or_init(|| {
            let name = format!("test_{}_{}", std::process::id(), fastrand::u32(..));
            self.server.server.create_database(&name).expect("a database");
            name
        })
    }
}

#[async_trait]
impl Place for Database {
    async fn open(&self) -> Arc<dyn Storage> {
        let millis = |millis: i64| Duration::from_millis(millis.unsigned_abs());
        let options = Options {
            isolation: self.isolation,
            history: millis(RULES.history_ms),
            device_silence: millis(RULES.device_silence_ms),
            max_entries: RULES.max_entries,
            max_bytes: RULES.max_bytes,
            ..Options::new(&self.server.server.url(self.name()))
        };
        Arc::new(Postgres::open(options).await.expect("the store opens"))
    }
}

mod as_it_is {
    use tern_storage::postgres::Isolation::ReadCommitted;
    mod running {
        use super::*;
        tern_storage::contract_cases!(crate::Database::new(ReadCommitted));
        tern_storage::retention_cases!(crate::Database::new(ReadCommitted));
    }
    mod restarted {
        use super::*;
        tern_storage::restart_cases!(crate::Database::new(ReadCommitted));
    }
}

mod serializable {
    use tern_storage::postgres::Isolation::Serializable;
    tern_storage::contract_cases!(crate::Database::new(Serializable));
}
