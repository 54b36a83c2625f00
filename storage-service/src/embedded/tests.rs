//! The engine on real files that a crash or a disk has hurt.

mod conversations;
mod recovery;
mod retention;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tern_proto::v1::entry::Body;
use tern_proto::{DeviceId, UserId, v1};

use super::frame::{FRAME_HEADER, align, read_u32};
use super::log::SEGMENT_HEADER;
use super::{Embedded, OpenError, Options};
use crate::{Content, Device, Durability, Op, Outcome, Page, PageRequest, Recipient, Sent, Storage};

fn device(user: &str, id: &str) -> Device {
    Device { user: UserId::new(user).unwrap(), id: DeviceId::new(id).unwrap() }
}

fn options(dir: &Path) -> Options {
    Options { segment_bytes: 1024 * 1024, ..Options::new(dir) }
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(options(dir)).unwrap()
}

fn text(id: u64) -> String {
    format!("this is message number {id}")
}

fn send(id: u64) -> Op {
    let content = Content::Text { to: Recipient::User(UserId::new("bob").unwrap()), text: text(id), media: None };
    Op::Send { from: device("alice", "a1"), client_msg_id: id, content, time_ms: 1_700_000_000_000 }
}

async fn sent(store: &Embedded, id: u64) -> Sent {
    match store.commit(vec![send(id)]).await.as_slice() {
        [Outcome::Sent(sent)] => sent.clone(),
        other => panic!("message {id}: {other:?}"),
    }
}

async fn page(store: &Embedded) -> Page {
    let request = PageRequest {
        device: device("bob", "b1"),
        above: [Some(0), Some(0)],
        max_entries: 1000,
        max_bytes: 1 << 20,
        texts: true,
    };
    store.page(request).await.unwrap()
}

/// The sequence numbers that bob can read, and those that are damaged.
async fn readable(store: &Embedded) -> (Vec<u64>, Vec<u64>) {
    let (mut good, mut damaged) = (Vec::new(), Vec::new());
    for entry in page(store).await.entries {
        match entry.body.unwrap() {
            Body::Message(message) => {
                assert_eq!(message.text, text(message.client_msg_id));
                good.push(message.seq);
            }
            Body::Damaged(entry) => damaged.push(entry.seq),
            other => panic!("{other:?}"),
        }
    }
    (good, damaged)
}

/// A store with five messages, each in a frame of its own, as a crash leaves it: copied while it was open.
async fn crashed() -> (TempDir, Vec<Sent>) {
    let running = tempfile::tempdir().unwrap();
    let store = open(running.path());
    let mut all = Vec::new();
    for id in 1..=5 {
        all.push(sent(&store, id).await);
    }
    (copy(running.path()), all)
}

fn copy(dir: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    fs::create_dir(to.path().join("log")).unwrap();
    for part in ["", "log"] {
        for entry in fs::read_dir(dir.join(part)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.path().join(part).join(entry.file_name())).unwrap();
            }
        }
    }
    to
}

fn segment(dir: &Path, index: u64) -> PathBuf {
    dir.join("log").join(format!("{index:016x}.seg"))
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Where the frame of a message starts: each has only one record.
fn frame_of(sent: &Sent) -> u64 {
    sent.server_msg_id - FRAME_HEADER as u64
}

/// Where the text of a message stands in its segment.
fn text_of(dir: &Path, sent: &Sent) -> u64 {
    let bytes = fs::read(segment(dir, 0)).unwrap();
    let meta = read_u32(&bytes, sent.server_msg_id as usize);
    sent.server_msg_id + 16 + u64::from(meta)
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_answered() {
    let (dir, all) = crashed().await;
    let store = open(dir.path());
    assert!(!store.recovered().new_epoch);
    assert_eq!(readable(&store).await, (vec![1, 2, 3, 4, 5], vec![]));
    assert_eq!(sent(&store, 3).await, all[2].clone().repeated());
    assert_eq!(sent(&store, 6).await.seq, 6);
}

#[tokio::test]
async fn every_torn_tail_is_cut_off_and_nothing_else() {
    let (dir, all) = crashed().await;
    let end = align(text_of(dir.path(), &all[4]) + text(5).len() as u64);
    let epoch = open(copy(dir.path()).path()).recovered().epoch;
    for kept in (frame_of(&all[4])..end).step_by(3) {
        let torn = copy(dir.path());
        let file = OpenOptions::new().write(true).open(segment(torn.path(), 0)).unwrap();
        file.write_all_at(&vec![0; (end - kept) as usize], kept).unwrap();
        let store = open(torn.path());
        let recovered = store.recovered();
        assert_eq!((recovered.epoch, recovered.new_epoch), (epoch, false), "kept {kept}");
        let cut = kept < text_of(dir.path(), &all[4]) + text(5).len() as u64;
        let want = if cut { vec![1, 2, 3, 4] } else { vec![1, 2, 3, 4, 5] };
        assert_eq!(readable(&store).await, (want, vec![]), "kept {kept}");
        // The message that was cut off was never answered: it is new, and takes its place.
        assert_eq!(sent(&store, 5).await.seq, 5);
    }
}

#[tokio::test]
async fn what_a_torn_write_left_never_comes_back() {
    let (dir, all) = crashed().await;
    flip(&segment(dir.path(), 0), frame_of(&all[4]) + 8);
    let store = open(dir.path());
    assert_eq!(readable(&store).await.0, vec![1, 2, 3, 4]);
    assert_eq!(sent(&store, 7).await.seq, 5);
    drop(store);
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = open(dir.path());
    assert!(!store.recovered().new_epoch);
    assert_eq!(readable(&store).await, (vec![1, 2, 3, 4, 5], vec![]));
}

#[tokio::test]
async fn a_flipped_bit_in_a_text_is_handed_out_as_damaged() {
    for with_index in [false, true] {
        let (mut dir, all) = crashed().await;
        if with_index {
            drop(open(dir.path()));
            dir = copy(dir.path());
        }
        let epoch = all[0].server_msg_id;
        assert!(epoch > SEGMENT_HEADER);
        flip(&segment(dir.path(), 0), text_of(dir.path(), &all[2]) + 4);
        let store = open(dir.path());
        assert!(!store.recovered().new_epoch, "its place is known");
        assert_eq!(readable(&store).await, (vec![1, 2, 4, 5], vec![3]));
        assert_eq!(sent(&store, 3).await, all[2].clone().repeated(), "it was answered, and is again");
    }
}

#[tokio::test]
async fn a_record_that_nobody_can_name_makes_a_new_epoch_and_versions_go_on() {
    for at in [0, 20, FRAME_HEADER as u64 + 1, FRAME_HEADER as u64 + 20] {
        let (dir, all) = crashed().await;
        let epoch = open(copy(dir.path()).path()).recovered().epoch;
        flip(&segment(dir.path(), 0), frame_of(&all[2]) + at);
        let store = open(dir.path());
        assert!(store.recovered().new_epoch, "byte {at}");
        assert_ne!(store.recovered().epoch, epoch);
        assert_eq!(readable(&store).await, (vec![1, 2, 4, 5], vec![]), "byte {at}");
        let next = sent(&store, 6).await;
        assert!(next.server_msg_id > all[4].server_msg_id && next.seq == 6);
        let new = store.recovered().epoch;
        drop(store);
        assert_eq!(open(dir.path()).recovered().epoch, new, "the new epoch stays");
    }
}

#[tokio::test]
async fn a_damaged_record_behind_the_checkpoint_is_known_by_the_index() {
    let (dir, all) = crashed().await;
    drop(open(dir.path()));
    flip(&segment(dir.path(), 0), all[1].server_msg_id + 20);
    let store = open(dir.path());
    assert!(!store.recovered().new_epoch);
    assert_eq!(readable(&store).await, (vec![1, 3, 4, 5], vec![0]));
    assert_eq!(store.commit(vec![send(2)]).await, [Outcome::TooOld], "neither stored again nor wrongly answered");
}

#[tokio::test]
async fn a_lost_log_makes_a_new_epoch_and_versions_never_go_back() {
    let (dir, all) = crashed().await;
    drop(open(dir.path()));
    fs::remove_file(segment(dir.path(), 0)).unwrap();
    let store = open(dir.path());
    assert!(store.recovered().new_epoch);
    assert!(sent(&store, 6).await.server_msg_id > all[4].server_msg_id);
    assert!(page(&store).await.heads[0] > all[4].server_msg_id);
}

#[tokio::test]
async fn damage_in_an_older_segment_is_found_when_the_index_is_rebuilt() {
    let (dir, all) = three_segments().await;
    flip(&segment(dir.path(), 0), text_of(dir.path(), &all[7]) + 1);
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = open(dir.path());
    assert_eq!((store.recovered().new_epoch, store.recovered().damaged), (false, 1));
    assert_eq!(store.recovered().replayed, all.len() as u64 + 1);
    assert_eq!(readable(&store).await.1, vec![8]);
    assert_eq!(sent(&store, all.len() as u64 + 1).await.seq, all.len() as u64 + 1);
}

/// A store whose log has gone over into its third segment, closed.
async fn three_segments() -> (TempDir, Vec<Sent>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut all = Vec::new();
    while all.last().is_none_or(|last: &Sent| last.server_msg_id < 2 * 1024 * 1024) {
        all.extend(sent_many(&store, all.len() as u64 + 1).await);
    }
    (dir, all)
}

async fn sent_many(store: &Embedded, first: u64) -> Vec<Sent> {
    let outcomes = store.commit((first..first + 500).map(send).collect()).await;
    let sent = |outcome| match outcome {
        Outcome::Sent(sent) => sent,
        other => panic!("{other:?}"),
    };
    outcomes.into_iter().map(sent).collect()
}

#[tokio::test]
async fn a_lost_newest_segment_is_noticed_even_without_the_index() {
    for with_index in [false, true] {
        let (dir, all) = three_segments().await;
        fs::remove_file(segment(dir.path(), 2)).unwrap();
        if !with_index {
            fs::remove_file(dir.path().join("index.redb")).unwrap();
        }
        let store = open(dir.path());
        assert!(store.recovered().new_epoch, "index: {with_index}");
        let next = sent(&store, all.len() as u64 + 1).await;
        assert!(next.server_msg_id > all[all.len() - 1].server_msg_id, "versions never go back");
    }
}

#[tokio::test]
async fn a_restored_backup_starts_an_epoch_far_above_what_was_lost() {
    let (backup, all) = crashed().await;
    let store = Embedded::open(Options { restored: true, ..options(backup.path()) }).unwrap();
    let epoch = store.recovered().epoch;
    assert!(store.recovered().new_epoch);
    let next = sent(&store, 6).await;
    assert!(next.server_msg_id > all[4].server_msg_id + (1 << 39) && next.seq == 6);
    assert_eq!(sent(&store, 2).await, all[1].clone().repeated());
    drop(store);
    fs::remove_file(backup.path().join("index.redb")).unwrap();
    let store = open(backup.path());
    assert_eq!((store.recovered().epoch, store.recovered().new_epoch), (epoch, false), "once");
    assert_eq!(readable(&store).await.0, vec![1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_crash_between_two_segments_loses_nothing() {
    let (dir, all) = three_segments().await;
    let (from, to) = (all.iter().position(|sent| sent.server_msg_id > 2 * 1024 * 1024).unwrap(), all.len());
    // As it was when the third segment was prepared and the second one sealed, but nothing written yet.
    fs::write(segment(dir.path(), 2), vec![0; 1024 * 1024]).unwrap();
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = open(dir.path());
    assert!(!store.recovered().new_epoch);
    assert_eq!(sent(&store, to as u64 + 1).await.seq, from as u64 + 1);
}

#[tokio::test]
async fn a_segment_that_was_cut_short_is_a_torn_tail() {
    let (dir, all) = crashed().await;
    let end = text_of(dir.path(), &all[4]) + text(5).len() as u64;
    for kept in [frame_of(&all[4]) + 33, end - 1, frame_of(&all[4]) + 7] {
        let cut = copy(dir.path());
        OpenOptions::new().write(true).open(segment(cut.path(), 0)).unwrap().set_len(kept).unwrap();
        let store = open(cut.path());
        assert!(!store.recovered().new_epoch);
        assert_eq!(readable(&store).await, (vec![1, 2, 3, 4], vec![]), "kept {kept}");
        assert_eq!(sent(&store, 5).await.seq, 5);
    }
}

#[tokio::test]
async fn one_epoch_answers_for_the_same_damage() {
    let (dir, all) = crashed().await;
    flip(&segment(dir.path(), 0), frame_of(&all[2]));
    let store = open(dir.path());
    let epoch = store.recovered().epoch;
    assert!(store.recovered().new_epoch);
    drop(store);
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = open(dir.path());
    assert_eq!((store.recovered().epoch, store.recovered().new_epoch), (epoch, false));
}

#[tokio::test]
async fn without_room_for_a_segment_sends_are_refused_until_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let obstacle = segment(dir.path(), 1);
    fs::create_dir(&obstacle).unwrap();
    let mut id = 1;
    let refused = loop {
        match store.commit((id..id + 500).map(send).collect()).await.iter().position(|o| *o == Outcome::Unavailable) {
            Some(at) => break id + at as u64,
            None => id += 500,
        }
        assert!(id < 100_000, "the segment is never full");
    };
    assert_eq!(store.failure(), None);
    assert_eq!(store.commit(vec![send(refused)]).await, [Outcome::Unavailable]);
    fs::remove_dir(&obstacle).unwrap();
    assert_eq!(recovery::sent_in_time(&store, refused).await.seq, refused);
}

#[tokio::test]
async fn the_largest_id_leaves_room_for_the_others() {
    let dir = tempfile::tempdir().unwrap();
    for round in [vec![1, 2, 3, u64::MAX], vec![4], vec![2, 4, u64::MAX, 5]] {
        let store = open(dir.path());
        for id in round {
            sent(&store, id).await;
        }
    }
    assert_eq!(readable(&open(dir.path())).await.0, vec![1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn an_index_found_damaged_is_rebuilt_at_the_next_start() {
    let (dir, _) = crashed().await;
    drop(open(dir.path()));
    fs::write(dir.path().join("index.damaged"), b"").unwrap();
    let store = open(dir.path());
    assert!(store.recovered().replayed > 5, "all of the log is read again");
    assert!(!dir.path().join("index.damaged").exists());
    assert_eq!(readable(&store).await, (vec![1, 2, 3, 4, 5], vec![]));
}

#[tokio::test]
async fn a_failed_sync_is_never_answered_as_stored() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let disk = broken.clone();
    let sync = Arc::new(move |file: &fs::File| match disk.load(Ordering::SeqCst) {
        true => Err(io::Error::other("the disk is gone")),
        false => file.sync_data(),
    });
    let store = Embedded::open(Options { sync: Some(sync), ..options(dir.path()) }).unwrap();
    sent(&store, 1).await;
    broken.store(true, Ordering::SeqCst);
    assert_eq!(store.commit(vec![send(2), send(1)]).await, [Outcome::Unknown, Outcome::Unknown]);
    assert_eq!(store.commit(vec![send(3)]).await, [Outcome::Unavailable], "nothing was begun");
    assert!(store.failure().unwrap().contains("the disk is gone"));
    assert_eq!(readable(&store).await.0, vec![1], "what has no certain outcome is not shown");
    drop(store);
    let store = open(dir.path());
    let seen = readable(&store).await.0;
    assert!(seen == [1] || seen == [1, 2], "{seen:?}");
    assert_eq!(sent(&store, 2).await.seq, 2, "the same id may be tried again");
    assert_eq!(readable(&store).await.0, vec![1, 2]);
}

#[test]
fn nobody_else_reads_a_new_directory() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    open(&data);
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(Embedded::open(options(dir.path())), Err(OpenError::Locked(_))));
    store.close();
    assert_eq!(store.commit(vec![send(1)]).await, [Outcome::Unavailable]);
    open(dir.path());
}

#[tokio::test]
async fn another_format_and_a_damaged_format_are_refused() {
    let (dir, _) = crashed().await;
    let path = dir.path().join("format");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("tern-store 2", "tern-store 1")).unwrap();
    assert!(matches!(Embedded::open(options(dir.path())), Err(OpenError::Format { .. })));
    fs::write(&path, text.replace("salt ", "salt 1")).unwrap();
    assert!(matches!(Embedded::open(options(dir.path())), Err(OpenError::DamagedFormat(_))));
    fs::remove_file(&path).unwrap();
    assert!(matches!(Embedded::open(options(dir.path())), Err(OpenError::DamagedFormat(_))));
    fs::write(&path, text).unwrap();
    assert_eq!(readable(&open(dir.path())).await.0, vec![1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_damaged_index_is_rebuilt() {
    let (dir, _) = crashed().await;
    drop(open(dir.path()));
    fs::write(dir.path().join("index.redb"), b"this is no database").unwrap();
    let store = open(dir.path());
    assert!(!store.recovered().new_epoch);
    assert_eq!(readable(&store).await, (vec![1, 2, 3, 4, 5], vec![]));
}

#[tokio::test]
async fn results_are_forgotten_after_their_time_and_then_too_old_to_tell() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Options { keep_results: Duration::from_secs(60), checkpoint_bytes: 1, ..options(dir.path()) };
    let store = Embedded::open(keep).unwrap();
    let at = |id: u64, seconds: i64| match send(id) {
        Op::Send { from, client_msg_id, content, time_ms } => {
            Op::Send { from, client_msg_id, content, time_ms: time_ms + seconds * 1000 }
        }
        other => other,
    };
    store.commit(vec![at(1, 0), at(5, 0)]).await;
    // Each commit is followed by a checkpoint, which forgets what has become too old by then.
    let mut id = 10;
    let outcome = loop {
        store.commit(vec![at(id, 120)]).await;
        match store.commit(vec![at(5, 120)]).await.remove(0) {
            Outcome::Sent(sent) => assert!(sent.owed.is_empty()),
            outcome => break outcome,
        }
        id += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(id < 1000, "it is never forgotten");
    };
    assert_eq!(outcome, Outcome::TooOld);
    assert_eq!(store.commit(vec![at(3, 120)]).await, [Outcome::TooOld], "unseen, but below the floor");
    assert!(matches!(&store.commit(vec![at(7, 120)]).await[..], [Outcome::Sent(sent)] if sent.owed.len() == 2));
    assert!(matches!(&store.commit(vec![at(10, 120)]).await[..], [Outcome::Sent(sent)] if sent.owed.is_empty()));
}

#[tokio::test]
async fn lazy_ops_are_answered_though_nothing_else_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(Options { durability: Durability::Os, ..options(dir.path()) }).unwrap();
    let start = Op::Start { device: device("bob", "b1"), start: v1::Start::Oldest, time_ms: 0 };
    let epoch = store.device(&device("bob", "b1")).await.unwrap().epoch;
    let ack = Op::Ack { device: device("bob", "b1"), epoch, versions: [Some(0), None], time_ms: 0 };
    let outcomes = store.commit(vec![start, ack]).await;
    assert!(matches!(&outcomes[..], [Outcome::Started([0, 0]), Outcome::Acked(_)]), "{outcomes:?}");
}
