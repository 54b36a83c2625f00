//! PostgreSQL for tests: a server for as long as somebody uses it, and a database in it for each case.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{Postgres, PostgresOptions};

/// A server, stopped and removed when it is dropped. Its commits are not synced, so it may be stopped, not killed with the machine.
#[derive(Debug)]
pub struct TestPostgres {
    server: Postgres,
    dir: PathBuf,
}

impl TestPostgres {
    /// The one of this process; it is stopped when the last test that uses it ends.
    ///
    /// # Panics
    /// It does not start.
    pub fn of_process() -> Arc<TestPostgres> {
        static SERVER: Mutex<Weak<TestPostgres>> = Mutex::new(Weak::new());
        let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        server.upgrade().unwrap_or_else(|| {
            let found = Arc::new(TestPostgres::start());
            *server = Arc::downgrade(&found);
            found
        })
    }

    /// One of its own.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> TestPostgres {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tern-test-postgres-{}-{number}", std::process::id()));
        let options = PostgresOptions { fsync: false, ..PostgresOptions::new(&dir) };
        TestPostgres { server: Postgres::start(&options).expect("PostgreSQL starts"), dir }
    }
}

impl Deref for TestPostgres {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        &self.server
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        self.server.stop("immediate").expect("it stops");
        fs::remove_dir_all(&self.dir).expect("its directory goes");
    }
}

/// A database of its own.
#[derive(Debug)]
pub struct TestDatabase {
    /// Where it is.
    pub server: Arc<TestPostgres>,
    name: String,
}

impl TestDatabase {
    /// Makes one on this server.
    ///
    /// # Panics
    /// The server refuses.
    pub fn on(server: Arc<TestPostgres>) -> TestDatabase {
        let name = format!("test_{}_{}", std::process::id(), fastrand::u32(..));
        server.create_database(&name).expect("a database");
        TestDatabase { server, name }
    }

    /// Makes one on the server of this process.
    ///
    /// # Panics
    /// There is no server, or it refuses.
    pub fn of_process() -> TestDatabase {
        TestDatabase::on(TestPostgres::of_process())
    }

    /// Where it is, with the password.
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// The same through another port, behind which somebody forwards to the server.
    pub fn url_at(&self, port: u16) -> String {
        self.server.url_at(port, &self.name)
    }

    /// Runs statements and gives what `psql` prints.
    ///
    /// # Panics
    /// The server refuses.
    pub fn sql(&self, statements: &str) -> String {
        self.server.sql(&self.name, statements).expect("the server takes it")
    }
}
