//! Retention on real files: what is deleted, what is read afterwards, and what a crash between two steps leaves.

use std::sync::Mutex;

use tern_proto::MediaId;

use super::*;
use crate::embedded::{Step, dump};
use crate::{ConversationId, DeviceState, HistoryRequest, Listed};

const NOW: i64 = 1_700_000_000_000;
const DAY: i64 = 24 * 3600 * 1000;
const LATER: i64 = NOW + 31 * DAY;
const SENT: u64 = 100;
/// Bob has acknowledged so many; carol is owed all.
const ACKNOWLEDGED: usize = 60;

fn small(dir: &Path) -> Options {
    Options { segment_bytes: 128 * 1024, ..Options::new(dir) }
}

fn reopen(dir: &Path) -> Embedded {
    Embedded::open(small(dir)).unwrap()
}

fn long(id: u64) -> Op {
    let to = Recipient::User(UserId::new(if id.is_multiple_of(10) { "carol" } else { "bob" }).unwrap());
    let content = Content::Text { to, text: format!("{id:>12000}"), media: None };
    Op::Send { from: device("alice", "a1"), client_msg_id: id, content, time_ms: NOW }
}

/// Everything that a client can read.
#[derive(Debug, PartialEq)]
struct Seen {
    timelines: Vec<Vec<v1::Entry>>,
    devices: Vec<DeviceState>,
    lists: Vec<Vec<Listed>>,
    history: Vec<v1::Message>,
    results: Vec<Outcome>,
}

async fn seen(store: &Embedded) -> Seen {
    let readers = [device("alice", "a2"), device("bob", "b1"), device("bob", "b2"), device("carol", "c1")];
    let mut seen = Seen { timelines: vec![], devices: vec![], lists: vec![], history: vec![], results: vec![] };
    for reader in readers {
        seen.timelines.push(timeline(store, &reader, 0).await);
        seen.devices.push(store.device(&reader).await.unwrap());
        seen.lists.push(store.conversations(&reader.user, None, 10).await.unwrap());
    }
    let conversation = ConversationId::new("alice:bob").unwrap();
    let request = HistoryRequest { conversation, before: u64::MAX, from: 1, max_entries: 1000, max_bytes: 1 << 24 };
    seen.history = store.history(request).await.unwrap().messages;
    seen.results = store.commit((1..=SENT).map(long).collect()).await;
    seen
}

async fn timeline(store: &Embedded, reader: &Device, above: u64) -> Vec<v1::Entry> {
    let above = [Some(above), Some(0)];
    let request = PageRequest { device: reader.clone(), above, max_entries: 1000, max_bytes: 1 << 24, texts: true };
    store.page(request).await.unwrap().entries
}

/// A store full of old messages, of which some are owed.
async fn filled(options: Options) -> (Embedded, Vec<v1::Entry>) {
    let store = Embedded::open(options).unwrap();
    for first in (1..=SENT).step_by(10) {
        store.commit((first..first + 10).map(long).collect()).await;
    }
    let bob = timeline(&store, &device("bob", "b1"), 0).await;
    let (part, head) = (bob[ACKNOWLEDGED - 1].version, bob[bob.len() - 1].version);
    for (id, version) in [("b1", part), ("b2", head)] {
        let by = device("bob", id);
        let ack =
            Op::Ack { device: by.clone(), epoch: epoch(&store).await, versions: [Some(version), None], time_ms: LATER };
        let derived = Op::Delivered { by, derived: version, positions: vec![], time_ms: LATER };
        store.commit(vec![ack, derived]).await;
    }
    let start = Op::Start { device: device("carol", "c1"), start: v1::Start::Oldest, time_ms: LATER };
    store.commit(vec![start]).await;
    (store, bob)
}

async fn epoch(store: &Embedded) -> u64 {
    store.device(&device("bob", "b1")).await.unwrap().epoch
}

/// How many entries of a user are kept, and the bytes of their records.
fn size(store: &Embedded, user: &str) -> (u64, u64) {
    let shared = store.current.get();
    shared.users.look(&shared.index, &user.parse().unwrap(), |user| (user.entries, user.bytes)).unwrap()
}

/// The segments on disk.
fn segments(dir: &Path) -> Vec<u64> {
    let names = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().file_name());
    let index = |name: std::ffi::OsString| u64::from_str_radix(name.to_str()?.strip_suffix(".seg")?, 16).ok();
    let mut segments: Vec<u64> = names.filter_map(index).collect();
    segments.sort_unstable();
    segments
}

/// What a message was about is known when its segment is gone, and the index had to be made anew from the dump.
#[tokio::test]
async fn references_outlive_their_segment_and_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let media = MediaId::from_u128(7);
    let store = Embedded::open(small(dir.path())).unwrap();
    let about = v1::Media { id: media.to_string(), ..v1::Media::default() };
    let Op::Send { content: Content::Text { to, text, .. }, time_ms, .. } = long(1) else { panic!("a text") };
    let content = Content::Text { to, text, media: Some(about) };
    store.commit(vec![Op::Send { from: device("alice", "a9"), client_msg_id: 1, content, time_ms }]).await;
    drop(store);
    let (store, _) = filled(small(dir.path())).await;
    store.retain(LATER).await.unwrap();
    assert!(!segments(dir.path()).contains(&0));
    let wanted = store.references(media, None, None, 9).await.unwrap();
    assert_eq!(wanted.len(), 1);
    drop(store);
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = Embedded::open(small(dir.path())).unwrap();
    assert_eq!(store.references(media, None, None, 9).await.unwrap(), wanted);
}

#[tokio::test]
async fn old_segments_go_and_what_is_owed_is_read_at_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let (store, bob) = filled(small(dir.path())).await;
    let carol = timeline(&store, &device("carol", "c1"), 0).await;
    let before = segments(dir.path());
    let retained = store.retain(LATER).await.unwrap();
    let after = segments(dir.path());
    assert!(!after.contains(&0) && after[0] >= 4, "{before:?} became {after:?}");
    let counters = store.counters();
    assert_eq!(counters.cleaned_segments.get(), after[0] - before[0]);
    assert_eq!(counters.segments.get(), after.len() as i64);
    assert_eq!(retained.freed, counters.cleaned_segments.get() * 128 * 1024);
    assert!(counters.moved_entries.get() >= 3 && counters.dropped_entries.get() == retained.dropped);
    assert_eq!(timeline(&store, &device("carol", "c1"), 0).await, carol, "she has acknowledged nothing");
    let rest = timeline(&store, &device("bob", "b1"), 0).await;
    assert_eq!(rest, bob[bob.len() - rest.len()..]);
    assert!(rest.len() < bob.len() && rest.len() >= bob.len() - ACKNOWLEDGED);
    let history = seen(&store).await.history;
    assert!(history.len() >= rest.len() && history.len() < bob.len() && history.iter().all(|m| !m.text.is_empty()));
    let first = after[0] * 128 * 1024;
    assert!(carol[0].version < first, "read from its copy");
    assert!(rest[0].version >= first, "bob is owed nothing that is so old");
}

#[tokio::test]
async fn a_cleaned_store_starts_as_it_was_with_its_index_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(small(dir.path())).await;
    store.retain(LATER).await.unwrap();
    let want = seen(&store).await;
    assert!(want.results.contains(&Outcome::TooOld), "the oldest results went with their segments");
    assert!(want.results.iter().any(|result| matches!(result, Outcome::Sent(_))));
    drop(store);
    for without_index in [false, true, false, true] {
        if without_index {
            fs::remove_file(dir.path().join("index.redb")).unwrap();
        }
        let store = reopen(dir.path());
        assert!(!store.recovered().new_epoch, "what was cleaned is not lost");
        assert_eq!(seen(&store).await, want, "without index: {without_index}");
        store.commit(vec![long(SENT)]).await;
    }
}

/// A crash behind each step, with the index and without it: nothing is lost that was owed, and the next pass finishes the work.
#[tokio::test]
async fn a_crash_behind_any_step_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let copies: Arc<Mutex<Vec<(Step, TempDir)>>> = Arc::default();
    let at_step = {
        let (copies, dir) = (copies.clone(), dir.path().to_owned());
        Arc::new(move |step| copies.lock().unwrap().push((step, copy(&dir)))) as _
    };
    let (store, bob) = filled(Options { at_step: Some(at_step), ..small(dir.path()) }).await;
    let carol = timeline(&store, &device("carol", "c1"), 0).await;
    store.retain(LATER).await.unwrap();
    let want = seen(&store).await;
    let copies = std::mem::take(&mut *copies.lock().unwrap());
    let steps: Vec<Step> = copies.iter().map(|(step, _)| *step).collect();
    let (once, deleted) = steps.split_at(4);
    assert_eq!(once, [Step::Committed, Step::Checkpointed, Step::Dumped, Step::Recorded]);
    assert!(deleted.len() >= 4 && deleted.iter().all(|step| *step == Step::Deleted));
    for (step, crashed) in &copies {
        for without_index in [false, true] {
            let crashed = copy(crashed.path());
            if without_index {
                fs::remove_file(crashed.path().join("index.redb")).unwrap();
            }
            let context = format!("{step:?}, without index: {without_index}");
            let store = reopen(crashed.path());
            assert!(!store.recovered().new_epoch, "{context}");
            assert_eq!(timeline(&store, &device("carol", "c1"), 0).await, carol, "{context}");
            let rest = timeline(&store, &device("bob", "b1"), 0).await;
            assert!(rest == bob[bob.len() - rest.len()..] && rest.len() >= bob.len() - ACKNOWLEDGED, "{context}");
            store.retain(LATER).await.unwrap();
            assert!(segments(crashed.path())[0] >= segments(dir.path())[0], "{context}: the work is finished");
            let seen = seen(&store).await;
            assert_eq!((&seen.timelines[3], &seen.devices), (&want.timelines[3], &want.devices), "{context}");
        }
    }
}

/// A store that was cleaned, closed.
async fn cleaned() -> (TempDir, Seen) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(small(dir.path())).await;
    store.retain(LATER).await.unwrap();
    let seen = seen(&store).await;
    drop(store);
    (dir, seen)
}

#[tokio::test]
async fn a_damaged_dump_is_written_anew_while_the_index_is_good() {
    for cut in [false, true] {
        let (dir, want) = cleaned().await;
        let path = dir.path().join("index.dump");
        if cut {
            OpenOptions::new().write(true).open(&path).unwrap().set_len(path.metadata().unwrap().len() - 1).unwrap();
        } else {
            flip(&path, path.metadata().unwrap().len() / 2);
        }
        assert!(dump::check(&path).is_err());
        let store = reopen(dir.path());
        assert_eq!(seen(&store).await, want);
        store.retain(NOW).await.unwrap();
        assert!(dump::check(&path).is_ok());
        drop(store);
        fs::remove_file(dir.path().join("index.redb")).unwrap();
        let store = reopen(dir.path());
        assert!(!store.recovered().new_epoch);
        assert_eq!(seen(&store).await, want);
    }
}

#[tokio::test]
async fn without_index_and_dump_the_loss_is_known() {
    let (dir, want) = cleaned().await;
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    flip(&dir.path().join("index.dump"), 100);
    let store = reopen(dir.path());
    assert!(store.recovered().new_epoch);
    let next = match store.commit(vec![long(SENT + 1)]).await.remove(0) {
        Outcome::Sent(sent) => sent,
        other => panic!("{other:?}"),
    };
    assert!(next.server_msg_id > want.devices[1].heads[0], "versions never go back");
}

#[tokio::test]
async fn a_lost_segment_is_told_from_a_cleaned_one() {
    let (dir, _) = cleaned().await;
    let kept = segments(dir.path());
    fs::remove_file(segment(dir.path(), kept[1])).unwrap();
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = reopen(dir.path());
    assert!(store.recovered().new_epoch);
    assert!(store.recovered().lost.contains(&(kept[1] * 128 * 1024)));
    let epoch = store.recovered().epoch;
    drop(store);
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = reopen(dir.path());
    assert_eq!((store.recovered().epoch, store.recovered().new_epoch), (epoch, false), "one epoch answers for it");
}

/// What is owed for longer than a window is copied again, and what is acknowledged at last goes with its copy.
#[tokio::test]
async fn copies_are_copied_and_at_last_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(small(dir.path())).await;
    let carol = timeline(&store, &device("carol", "c1"), 0).await;
    let mut first = 0;
    for pass in 1..=3 {
        let now = NOW + pass * 31 * DAY;
        let heard =
            Op::Ack { device: device("carol", "c1"), epoch: epoch(&store).await, versions: [None, None], time_ms: now };
        store.commit(vec![heard]).await;
        // Several calls: each gives back a few segments.
        while store.retain(now).await.unwrap().freed > 0 {}
        assert!(segments(dir.path())[0] > first, "pass {pass}");
        first = segments(dir.path())[0];
        assert_eq!(timeline(&store, &device("carol", "c1"), 0).await, carol, "pass {pass}");
    }
    let (entries, bytes) = size(&store, "carol");
    let (by, left) = (device("carol", "c1"), 3);
    let (acked, now) = (carol[carol.len() - 1 - left].version, NOW + 130 * DAY);
    let ack = Op::Ack { device: by.clone(), epoch: epoch(&store).await, versions: [Some(acked), None], time_ms: now };
    store.commit(vec![ack, Op::Delivered { by, derived: acked, positions: vec![], time_ms: now }]).await;
    while store.retain(now).await.unwrap().freed > 0 {}
    assert_eq!(timeline(&store, &device("carol", "c1"), 0).await, carol[carol.len() - left..]);
    let (entries_left, bytes_left) = size(&store, "carol");
    assert_eq!(entries_left, left as u64);
    assert!(bytes_left <= (left as u64 + 1) * (bytes / entries), "{bytes_left} bytes of {left} entries");
    assert_eq!(store.current.get().index.moved(carol[0].version).unwrap(), None);
}

#[tokio::test]
async fn a_pass_changes_nothing_where_the_disk_has_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let (store, bob) = filled(small(dir.path())).await;
    let carol = timeline(&store, &device("carol", "c1"), 0).await;
    // No room for the dump.
    let obstacle = dir.path().join("index.new");
    fs::create_dir(&obstacle).unwrap();
    assert!(store.retain(LATER).await.is_err());
    assert_eq!(segments(dir.path())[0], 0, "nothing is deleted without a dump");
    assert_eq!(store.failure(), None);
    assert_eq!(timeline(&store, &device("carol", "c1"), 0).await, carol);
    fs::remove_dir(&obstacle).unwrap();
    assert!(store.retain(LATER).await.unwrap().freed > 0);
    assert_eq!(timeline(&store, &device("carol", "c1"), 0).await, carol);
    let rest = timeline(&store, &device("bob", "b1"), 0).await;
    assert_eq!(rest, bob[bob.len() - rest.len()..]);
}

#[tokio::test]
async fn every_table_is_dumped() {
    let (dir, _) = cleaned().await;
    let store = reopen(dir.path());
    let shared = store.current.get();
    let mut named = Names(Vec::new());
    crate::embedded::tables::each_table(&mut named).unwrap();
    let transaction = shared.index.begin_read().unwrap();
    let mut there: Vec<String> =
        transaction.list_tables().unwrap().map(|table| redb::TableHandle::name(&table).to_owned()).collect();
    there.sort();
    named.0.sort();
    assert_eq!(there, named.0);
}

struct Names(Vec<String>);

impl crate::embedded::tables::Tables for Names {
    fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &mut self,
        table: redb::TableDefinition<'static, K, V>,
    ) -> crate::embedded::tables::Result<()> {
        self.0.push(redb::TableHandle::name(&table).to_owned());
        Ok(())
    }
}

/// Readers and senders go on while segments are deleted under them: who acknowledges what it read misses nothing, and who comes with an old
/// key finds a hole or the entry, never a damaged one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_disturb_nobody() {
    const MESSAGES: u64 = 1_500;
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(Options { device_silence: Duration::MAX, ..small(dir.path()) }).unwrap();
    let store = Arc::new(store);
    let by = device("bob", "b1");
    store.commit(vec![Op::Start { device: by.clone(), start: v1::Start::Oldest, time_ms: LATER }]).await;
    let done = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn({
        let store = store.clone();
        async move {
            for id in 1..=MESSAGES {
                let to = Recipient::User(UserId::new("bob").unwrap());
                let content = Content::Text { to, text: format!("{id:>2000}"), media: None };
                let op = Op::Send { from: device("alice", "a1"), client_msg_id: id, content, time_ms: NOW };
                assert!(matches!(store.commit(vec![op]).await[..], [Outcome::Sent(_)]));
            }
        }
    });
    let retaining = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move {
            let mut now = LATER;
            while !done.load(Ordering::SeqCst) {
                // Whatever is in the log is old.
                now += 31 * DAY;
                store.retain(now).await.unwrap();
            }
        }
    });
    let (mut key, mut first, mut seen) = (0, 0, Vec::new());
    while (seen.len() as u64) < MESSAGES {
        for entry in timeline(&store, &by, key).await {
            key = entry.version;
            match entry.body.unwrap() {
                Body::Message(message) => seen.push(message.seq),
                other => panic!("{other:?}"),
            }
        }
        first = if first == 0 { key } else { first };
        let ack =
            Op::Ack { device: by.clone(), epoch: epoch(&store).await, versions: [Some(key), None], time_ms: LATER };
        let derived = Op::Delivered { by: by.clone(), derived: key, positions: vec![], time_ms: LATER };
        assert!(!store.commit(vec![ack, derived]).await.contains(&Outcome::Unavailable));
        for entry in timeline(&store, &device("bob", "old"), first).await {
            assert!(matches!(entry.body, Some(Body::Message(_) | Body::Hole(_))), "{entry:?}");
        }
    }
    sending.await.unwrap();
    // The last pass finds all but the newest segment acknowledged.
    let since = std::time::Instant::now();
    while store.counters().cleaned_segments.get() < 10 {
        assert!(since.elapsed() < Duration::from_secs(60), "nothing is given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    done.store(true, Ordering::SeqCst);
    retaining.await.unwrap();
    assert_eq!(seen, (1..=MESSAGES).collect::<Vec<u64>>());
}
