//! Uploads in PostgreSQL keep the contract: one replica, and two that are asked in turn. And what only several replicas can break.

mod database;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tern_cluster::TestPostgres;
use tern_media::contract::{self, Opened};
use tern_media::declared::{Declared, Kind, Sha256};
use tern_media::uploads::{Made, Quota, State, Upload, UploadError, Uploads};
use tern_proto::v1::Code;
use tern_proto::{MediaId, UserId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use self::database::Database;

const NOW: i64 = 1_764_000_000_000;
const DAY: i64 = 24 * 3_600_000;
const QUOTA: Quota = Quota { bytes: 1 << 20, open: 3, total_bytes: 4 << 20 };

/// Two in front of one database, asked in turn: no answer may rest on what only one of them knows.
struct InTurn {
    replicas: [Arc<dyn Uploads>; 2],
    calls: AtomicU32,
}

impl InTurn {
    fn next(&self) -> &dyn Uploads {
        &*self.replicas[self.calls.fetch_add(1, Ordering::Relaxed) as usize % 2]
    }
}

type Result<T> = std::result::Result<T, UploadError>;

#[async_trait]
impl Uploads for InTurn {
    async fn begin(&self, owner: &UserId, declared: &Declared, quota: &Quota, now_ms: i64) -> Result<Upload> {
        self.next().begin(owner, declared, quota, now_ms).await
    }

    async fn make(
        &self,
        owner: &UserId,
        declared: &Declared,
        quota: &Quota,
        made: Made,
        now_ms: i64,
    ) -> Result<Upload> {
        self.next().make(owner, declared, quota, made, now_ms).await
    }

    async fn look(&self, id: MediaId, now_ms: i64) -> Result<Upload> {
        self.next().look(id, now_ms).await
    }

    async fn put(&self, owner: &UserId, id: MediaId, index: u32, bytes: Bytes, now_ms: i64) -> Result<u32> {
        self.next().put(owner, id, index, bytes, now_ms).await
    }

    async fn bytes(&self, id: MediaId) -> Result<Bytes> {
        self.next().bytes(id).await
    }

    async fn end(&self, id: MediaId, became: std::result::Result<Made, Code>, now_ms: i64) -> Result<Upload> {
        self.next().end(id, became, now_ms).await
    }

    async fn lease(&self, id: MediaId, now_ms: i64) -> Result<Upload> {
        self.next().lease(id, now_ms).await
    }

    async fn lapsed(&self, now_ms: i64, limit: usize) -> Result<Vec<Upload>> {
        self.next().lapsed(now_ms, limit).await
    }

    async fn keep(&self, id: MediaId) -> Result<()> {
        self.next().keep(id).await
    }

    async fn remove(&self, id: MediaId) -> Result<()> {
        self.next().remove(id).await
    }
}

/// A database of its own with two replicas.
struct Shared(Database);

impl Opened for Shared {
    async fn open(&self) -> Arc<dyn Uploads> {
        Arc::new(InTurn { replicas: [self.0.replica().await, self.0.replica().await], calls: AtomicU32::new(0) })
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a user name")
}

fn declared(name: u8, bytes: u64) -> Declared {
    Declared { bytes, sha256: Sha256([name; 32]), kind: Kind::Png, part_bytes: 1024 }
}

fn made(upload: &Upload, by: u8) -> Made {
    let media = tern_proto::v1::Media { id: upload.id.to_string(), ..Default::default() };
    Made { media, thumbnail: vec![by; 4_000].into(), content: Bytes::new() }
}

fn part(upload: &Upload, index: u32) -> Bytes {
    let range = upload.declared.range(index);
    vec![index as u8; (range.end - range.start) as usize].into()
}

async fn begun(uploads: &Arc<dyn Uploads>, owner: &str, declared: &Declared) -> Upload {
    uploads.begin(&user(owner), declared, &QUOTA, NOW).await.expect("it begins")
}

async fn put(uploads: &Arc<dyn Uploads>, upload: &Upload, index: u32) -> Result<u32> {
    uploads.put(&upload.owner, upload.id, index, part(upload, index), NOW).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_keeps_the_contract() {
    let _all_the_while = TestPostgres::of_process();
    contract::all(Database::new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_keep_the_contract() {
    let _all_the_while = TestPostgres::of_process();
    contract::all(|| Shared(Database::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_share_the_tables() {
    let database = Database::new();
    let replicas = join_all((0..6).map(|_| database.replica())).await;
    let declared = declared(1, 900);
    let begun = join_all(replicas.iter().map(|uploads| begun(uploads, "alice", &declared))).await;
    assert!(begun.iter().all(|upload| upload.id == begun[0].id), "of one name there is one upload: {begun:?}");
    database.assert_counts_are_exact();
}

/// Each has tables of its own, and no other of that name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_may_be_shared_with_the_storage_service() {
    let database = Database::new();
    database.0.sql("CREATE TABLE migrations (step integer PRIMARY KEY); INSERT INTO migrations VALUES (1), (2)");
    database.0.sql(include_str!("../../storage-service/src/postgres/schema_1.sql"));
    database.0.sql(include_str!("../../storage-service/src/postgres/schema_2.sql"));
    begun(&database.replica().await, "alice", &declared(1, 900)).await;
    assert_eq!(database.0.sql("SELECT step FROM media_migrations"), "1");
}

/// Whichever replica stores the last part knows that none is left, and only that call does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_the_last_parts_sees_that_none_is_left() {
    let database = Database::new();
    let replicas = [database.replica().await, database.replica().await];
    for round in 0..40 {
        let upload = begun(&replicas[0], &format!("user-{round}"), &declared(round, 6 * 1024)).await;
        let calls = (0..6).map(|index| put(&replicas[index as usize % 2], &upload, index));
        let mut left: Vec<u32> = join_all(calls).await.into_iter().map(|left| left.expect("it is stored")).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 1, 2, 3, 4, 5]);
    }
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..100))).await;
}

async fn put_all(uploads: &Arc<dyn Uploads>, all: &[Upload]) {
    let calls = all.iter().flat_map(|upload| (0..20).map(move |index| (upload, index)));
    let calls = calls.map(|(upload, index)| async move {
        a_moment().await;
        put(uploads, upload, index).await
    });
    for stored in join_all(calls).await {
        // What has ended takes no part, and what is fenced is over.
        assert!(matches!(stored, Ok(_) | Err(UploadError::Expired)), "{stored:?}");
    }
}

/// Two of three, well or not.
async fn end_some(uploads: &Arc<dyn Uploads>, all: &[Upload], by: u8) -> Vec<Result<Upload>> {
    let calls = all.iter().map(|upload| (upload, upload.declared.sha256.0[0] % 3)).filter(|(_, kind)| *kind > 0);
    let calls = calls.map(|(upload, kind)| async move {
        a_moment().await;
        let became = if kind == 1 { Ok(made(upload, by)) } else { Err(Code::BadMedia) };
        uploads.end(upload.id, became, NOW).await
    });
    join_all(calls).await
}

/// Parts of many uploads, in batches of several, from both sides, while each upload ends twice and some are fenced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_part_outlives_its_upload_and_nothing_waits_in_a_circle() {
    let database = Database::new();
    let replicas = [database.replica().await, database.replica().await];
    let mut uploads = Vec::new();
    for number in 0..12u8 {
        uploads.push(begun(&replicas[0], &format!("user-{}", number / 3), &declared(number, 20 * 1024)).await);
    }
    let fences = async {
        for step in 0..6 {
            a_moment().await;
            replicas[step % 2].lapsed(NOW + DAY, 9).await.expect("it is told");
        }
    };
    let began = Instant::now();
    let ((), (), first, second, ()) = tokio::join!(
        put_all(&replicas[0], &uploads),
        put_all(&replicas[1], &uploads),
        end_some(&replicas[0], &uploads, 1),
        end_some(&replicas[1], &uploads, 2),
        fences
    );
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // The server counts them with a delay.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(database.0.sql(deadlocks), "0");
    for (one, other) in first.into_iter().zip(second) {
        match (one, other) {
            (Ok(one), Ok(other)) => assert_eq!(one, other, "both get the result of the first"),
            (Err(UploadError::Expired), Err(UploadError::Expired)) => {}
            // What failed may have been fenced between the two.
            (Ok(ended), Err(UploadError::Expired)) | (Err(UploadError::Expired), Ok(ended)) => {
                assert_eq!(ended.state, State::Failed(Code::BadMedia));
            }
            both => panic!("{both:?}"),
        }
    }
    database.assert_counts_are_exact();
    for upload in replicas[0].lapsed(NOW + 9 * DAY, 99).await.expect("it is told") {
        let (one, other) = tokio::join!(replicas[0].remove(upload.id), replicas[1].remove(upload.id));
        assert_eq!((one, other), (Ok(()), Ok(())));
    }
    database.assert_counts_are_exact();
    assert_eq!(database.0.sql("SELECT count(*) FROM media_owners"), "0");
    assert_eq!(database.0.sql("SELECT count(*) FROM media_parts"), "0");
}

/// As many as the quota says, whoever is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_is_exact_across_replicas() {
    let database = Database::new();
    let replicas = [database.replica().await, database.replica().await];
    let owner = user("alice");
    let all: Vec<_> = (0..12u8).map(|name| declared(name, 1_000)).collect();
    let calls = all.iter().enumerate();
    let calls = calls.map(|(number, declared)| replicas[number % 2].begin(&owner, declared, &QUOTA, NOW));
    let begun = join_all(calls).await;
    assert_eq!(begun.iter().filter(|begun| begun.is_ok()).count(), 3);
    assert!(begun.iter().all(|begun| matches!(begun, Ok(_) | Err(UploadError::Quota(_)))), "{begun:?}");
    database.assert_counts_are_exact();
}

/// What is told while the database is away, and that it is found again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_told_in_time_and_found_again() {
    let database = Database::alone();
    let uploads = database.replica().await;
    let upload = begun(&uploads, "alice", &declared(1, 2_000)).await;
    assert_eq!(put(&uploads, &upload, 0).await, Ok(1));
    database.0.server.stop("immediate").expect("it stops");
    let (asked, other) = (Instant::now(), declared(2, 900));
    let (part, look, begin) = tokio::join!(
        put(&uploads, &upload, 1),
        uploads.look(upload.id, NOW),
        uploads.begin(&upload.owner, &other, &QUOTA, NOW),
    );
    assert!(matches!(part, Err(UploadError::Unavailable(_))), "{part:?}");
    assert!(matches!(look, Err(UploadError::Unavailable(_))) && matches!(begin, Err(UploadError::Unavailable(_))));
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    database.0.server.launch().expect("it comes back");
    assert_eq!(put(&uploads, &upload, 1).await, Ok(0));
    assert!(matches!(uploads.look(upload.id, NOW).await.expect("it is there").state, State::Open(_)));
}

/// Forwards to a port, unless it is to stall: then everything is taken, and nothing comes back.
async fn forwarder(to: u16, stalls: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let pump = async |mut from: OwnedReadHalf, mut into: OwnedWriteHalf, stalls: Arc<AtomicBool>| {
        let mut buffer = [0; 4096];
        while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
            while stalls.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if into.write_all(&buffer[..bytes]).await.is_err() {
                break;
            }
        }
    };
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", to)).await.expect("the server is there");
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(pump(from_client, to_server, stalls.clone()));
            tokio::spawn(pump(from_server, to_client, stalls.clone()));
        }
    });
    port
}

/// Nobody waits for ever for a database that takes everything and answers nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_answer_is_told_in_time() {
    let (database, stalls) = (Database::new(), Arc::new(AtomicBool::new(false)));
    let port = forwarder(database.0.server.port(), stalls.clone()).await;
    let uploads = database.replica_at(port).await;
    let upload = begun(&uploads, "alice", &declared(1, 2_000)).await;
    assert_eq!(put(&uploads, &upload, 0).await, Ok(1));
    stalls.store(true, Ordering::Relaxed);
    let asked = Instant::now();
    let (part, look) = tokio::join!(put(&uploads, &upload, 1), uploads.look(upload.id, NOW));
    assert!(matches!((&part, &look), (Err(UploadError::Unavailable(_)), Err(UploadError::Unavailable(_)))), "{part:?}");
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    stalls.store(false, Ordering::Relaxed);
    assert_eq!(put(&uploads, &upload, 1).await, Ok(0));
}

/// A connection that the server has cut is made anew without anybody being told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_is_made_anew() {
    let database = Database::new();
    let uploads = database.replica().await;
    let upload = begun(&uploads, "alice", &declared(1, 9_000)).await;
    for index in 0..upload.declared.parts() {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'tern-media'";
        database.0.sql(cut);
        assert!(put(&uploads, &upload, index).await.is_ok());
        assert!(uploads.look(upload.id, NOW).await.is_ok());
    }
    assert_eq!(uploads.bytes(upload.id).await.expect("all are there").len(), 9_000);
}
