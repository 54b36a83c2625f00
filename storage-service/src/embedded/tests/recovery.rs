//! Failures that the store gets over without a restart.

use std::time::Instant;

use super::*;
use crate::embedded::Failure;
use crate::embedded::tables::IndexError;

/// A disk that can be told to fail.
#[derive(Clone, Default)]
struct Disk(Arc<AtomicBool>);

impl Disk {
    fn fail(&self, fails: bool) {
        self.0.store(fails, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    }

    /// A store whose log stands on this disk.
    fn store(&self, dir: &Path) -> Embedded {
        let disk = self.clone();
        let sync = Arc::new(move |file: &fs::File| disk.check().and_then(|()| file.sync_data()));
        Embedded::open(Options { sync: Some(sync), ..options(dir) }).unwrap()
    }
}

/// Sends again and again until it is stored; whatever comes before must be a refusal that may be tried again.
pub(super) async fn sent_in_time(store: &Embedded, id: u64) -> Sent {
    let since = Instant::now();
    loop {
        match store.commit(vec![send(id)]).await.remove(0) {
            Outcome::Sent(sent) => return sent,
            Outcome::Unavailable | Outcome::Unknown => {}
            other => panic!("{other:?}"),
        }
        assert!(since.elapsed() < Duration::from_secs(30), "it does not recover: {:?}", store.failure());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_store_recovers_from_a_failed_sync() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let store = disk.store(dir.path());
    let first = sent(&store, 1).await;
    let epoch = page(&store).await.epoch;
    disk.fail(true);
    assert_eq!(store.commit(vec![send(2)]).await, [Outcome::Unknown]);
    assert_eq!(store.commit(vec![send(3)]).await, [Outcome::Unavailable]);
    assert!(store.ready().await.is_err() && store.retain(0).await.is_err());
    assert_eq!(readable(&store).await.0, [1], "reads go on");
    disk.fail(false);
    assert_eq!(sent_in_time(&store, 3).await.seq, 3, "what had no certain outcome was on disk after all");
    assert_eq!(sent(&store, 2).await.seq, 2, "and a resend gets its result");
    assert_eq!(sent(&store, 1).await, first.clone().repeated());
    assert_eq!((store.ready().await, store.failure()), (Ok(()), None));
    assert_eq!(page(&store).await.epoch, epoch, "a key from before stays good");
    assert_eq!(page(&store).await.entries[0].version, first.server_msg_id);
    assert_eq!(store.counters().recoveries.get(), 1);
    drop(store);
    let store = open(dir.path());
    assert!(!store.recovered().new_epoch);
    assert_eq!(readable(&store).await, (vec![1, 2, 3], vec![]));
}

#[tokio::test]
async fn a_store_fails_and_recovers_more_than_once() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let store = disk.store(dir.path());
    for id in 1..=2 {
        sent_in_time(&store, 2 * id - 1).await;
        disk.fail(true);
        assert_eq!(store.commit(vec![send(2 * id)]).await, [Outcome::Unknown]);
        disk.fail(false);
    }
    sent_in_time(&store, 5).await;
    assert_eq!(readable(&store).await, (vec![1, 2, 3, 4, 5], vec![]));
    assert_eq!(store.counters().recoveries.get(), 2);
}

#[tokio::test]
async fn an_index_without_room_stops_the_store_only_until_there_is() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let full = disk.clone();
    let before_checkpoint = Some(Arc::new(move || full.check()) as _);
    let store = Embedded::open(Options { before_checkpoint, checkpoint_bytes: 1, ..options(dir.path()) }).unwrap();
    sent(&store, 1).await;
    disk.fail(true);
    let since = Instant::now();
    let mut id = 2;
    while let Outcome::Sent(_) = store.commit(vec![send(id)]).await.remove(0) {
        id += 1;
        assert!(since.elapsed() < Duration::from_secs(30), "no checkpoint is written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let all: Vec<u64> = (1..id).collect();
    assert_eq!(readable(&store).await.0, all, "reads go on");
    assert!(store.failure().unwrap().contains("the disk is gone"));
    disk.fail(false);
    assert_eq!(sent_in_time(&store, id).await.seq, id);
    assert_eq!(readable(&store).await.0.len() as u64, id);
}

#[tokio::test]
async fn a_damaged_index_is_made_anew_while_the_store_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for id in 1..=3 {
        sent(&store, id).await;
    }
    store.current.get().fail(&Failure::Index(IndexError::Damaged));
    assert!(dir.path().join("index.damaged").exists());
    assert_eq!(sent_in_time(&store, 4).await.seq, 4);
    assert!(!dir.path().join("index.damaged").exists());
    assert_eq!(readable(&store).await, (vec![1, 2, 3, 4], vec![]));
}

#[tokio::test]
async fn a_failed_store_is_closed_like_any_other() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let store = disk.store(dir.path());
    sent(&store, 1).await;
    disk.fail(true);
    assert_eq!(store.commit(vec![send(2)]).await, [Outcome::Unknown]);
    store.close();
    let again = open(dir.path());
    assert!(!again.recovered().new_epoch);
    assert_eq!(readable(&again).await.0[0], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_writer_that_has_died() {
    let dir = tempfile::tempdir().unwrap();
    let dies = Arc::new(AtomicBool::new(false));
    let now = dies.clone();
    let sync = Arc::new(move |file: &fs::File| {
        assert!(!now.load(Ordering::SeqCst), "the writer dies here");
        file.sync_data()
    });
    let store = Embedded::open(Options { sync: Some(sync), ..options(dir.path()) }).unwrap();
    let conversation = sent(&store, 1).await.conversation;
    dies.store(true, Ordering::SeqCst);
    assert_eq!(store.commit(vec![send(2)]).await, [Outcome::Unknown]);
    let refused = store.commit(vec![send(3)]).await;
    assert!(matches!(refused[..], [Outcome::Unavailable | Outcome::Unknown]), "{refused:?}");
    // The decider has taken note of the second message, which nobody will ever see.
    assert!(store.conversation(&conversation).await.is_err());
    assert!(store.ready().await.is_err());
    assert_eq!(readable(&store).await.0, [1]);
    drop(store);
    assert_eq!(sent(&open(dir.path()), 2).await.seq, 2);
}
