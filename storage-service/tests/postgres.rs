//! The engine over PostgreSQL passes the contract: as it is, and where the database keeps transactions apart.
//!
//! Each process of tests starts a server of its own, from the machine's packages, and each case gets a database in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tern_cluster::TestDatabase;
use tern_proto::{ConversationId, MediaId, UserId};
use tern_storage::contract::Place;
use tern_storage::contract::retention::RULES;
use tern_storage::postgres::{Isolation, Options, Postgres};
use tern_storage::{
    Conversation, Device, DeviceState, Durability, History, HistoryRequest, Listed, Op, Outcome, Page, PageRequest,
    Retained, Storage, Unavailable,
};

/// A database of its own.
struct Database {
    isolation: Isolation,
    at: TestDatabase,
}

impl Database {
    fn new(isolation: Isolation) -> Database {
        Database { isolation, at: TestDatabase::of_process() }
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
            ..Options::new(&self.at.url())
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

/// Two engines in front of one database, asked in turn: no answer may rest on what only one of them knows.
struct InTurn {
    replicas: [Arc<dyn Storage>; 2],
    calls: AtomicU32,
}

impl InTurn {
    fn next(&self) -> &dyn Storage {
        &*self.replicas[self.calls.fetch_add(1, Ordering::Relaxed) as usize % 2]
    }
}

#[async_trait]
impl Storage for InTurn {
    async fn commit(&self, ops: Vec<Op>) -> Vec<Outcome> {
        self.next().commit(ops).await
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Unavailable> {
        self.next().page(request).await
    }

    async fn device(&self, device: &Device) -> Result<DeviceState, Unavailable> {
        self.next().device(device).await
    }

    async fn highest_client_msg_id(&self, device: &Device) -> Result<u64, Unavailable> {
        self.next().highest_client_msg_id(device).await
    }

    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable> {
        self.next().underived(after, limit).await
    }

    async fn conversations(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<Listed>, Unavailable> {
        self.next().conversations(user, after, limit).await
    }

    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, Unavailable> {
        self.next().conversation(id).await
    }

    async fn references(
        &self,
        media: MediaId,
        reader: Option<&UserId>,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<(ConversationId, u64)>, Unavailable> {
        self.next().references(media, reader, after, limit).await
    }

    async fn history(&self, request: HistoryRequest) -> Result<History, Unavailable> {
        self.next().history(request).await
    }

    /// One of them holds the lease.
    async fn retain(&self, now_ms: i64) -> Result<Retained, Unavailable> {
        self.replicas[0].retain(now_ms).await
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        self.next().ready().await
    }

    fn durability(&self) -> Durability {
        self.replicas[0].durability()
    }
}

/// A database of its own with two replicas.
struct Shared(Database);

#[async_trait]
impl Place for Shared {
    async fn open(&self) -> Arc<dyn Storage> {
        Arc::new(InTurn { replicas: [self.0.open().await, self.0.open().await], calls: AtomicU32::new(0) })
    }
}

mod two_replicas {
    use tern_storage::postgres::Isolation::ReadCommitted;
    tern_storage::contract_cases!(crate::Shared(crate::Database::new(ReadCommitted)));
}

/// Several that start at once bring the tables up to date together, and agree on the epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_agree() {
    let database = Database::new(Isolation::ReadCommitted);
    let stores = futures_util::future::join_all((0..6).map(|_| database.open())).await;
    let device = Device { user: "alice".parse().expect("a user"), id: "d1".parse().expect("a device") };
    let states = futures_util::future::join_all(stores.iter().map(|store| store.device(&device))).await;
    let epochs: Vec<u64> = states.into_iter().map(|state| state.expect("available").epoch).collect();
    assert!(epochs[0] != 0 && epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
}

/// A database that is on another lineage than its epoch begins a new one, unless the operator says that nothing was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_has_moved_begins_a_new_epoch() {
    let database = Database::new(Isolation::ReadCommitted);
    let device = Device { user: "alice".parse().expect("a user"), id: "d1".parse().expect("a device") };
    let epoch = async || database.open().await.device(&device).await.expect("available").epoch;
    let first = epoch().await;
    assert_eq!(epoch().await, first);
    let now = database.at.sql("SELECT system_identifier || ':' || timeline FROM store");
    let moves = || database.at.sql("UPDATE store SET timeline = timeline + 7");
    moves();
    let second = epoch().await;
    assert_ne!(second, first);
    moves();
    let nothing_lost = Some(now.parse().expect("a lineage"));
    let options = Options { nothing_lost, ..Options::new(&database.at.url()) };
    let store = Postgres::open(options).await.expect("the store opens");
    assert_eq!(store.device(&device).await.expect("available").epoch, second);
}

mod serializable {
    use tern_storage::postgres::Isolation::Serializable;
    tern_storage::contract_cases!(crate::Database::new(Serializable));
}
