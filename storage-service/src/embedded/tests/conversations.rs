//! Conversations and their history: what is damaged, what is long, and what is not durable yet.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use super::*;
use crate::{ConversationId, History, HistoryRequest};

fn pair() -> ConversationId {
    ConversationId::new("alice:bob").unwrap()
}

async fn history(store: &Embedded, before: u64, max_entries: usize) -> History {
    let request = HistoryRequest { conversation: pair(), before, from: 0, max_entries, max_bytes: 1 << 20 };
    store.history(request).await.unwrap()
}

#[tokio::test]
async fn history_shows_what_is_known_of_damaged_messages() {
    let (dir, all) = crashed().await;
    drop(open(dir.path()));
    flip(&segment(dir.path(), 0), text_of(dir.path(), &all[2]) + 4);
    flip(&segment(dir.path(), 0), all[3].server_msg_id + 20);
    let store = open(dir.path());
    let History { messages, more } = history(&store, u64::MAX, 100).await;
    assert_eq!((messages.len(), more), (5, false));
    let parts = |at: usize| (messages[at].seq, messages[at].from.as_str(), messages[at].text.clone());
    assert_eq!(parts(1), (2, "alice", text(2)));
    assert_eq!(parts(2), (3, "alice", String::new()), "only the text is damaged");
    assert_eq!(parts(3), (4, "", String::new()), "only its place is known");
    assert_eq!(messages[3].server_msg_id, all[3].server_msg_id);
    assert_eq!(parts(4), (5, "alice", text(5)));
}

#[tokio::test]
async fn a_long_history_is_read_from_many_blocks() {
    const MESSAGES: u64 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    for with_index in [false, true] {
        let store = open(dir.path());
        if !with_index {
            for first in (1..=MESSAGES).step_by(500) {
                sent_many(&store, first).await;
            }
        }
        let (mut before, mut seen) = (u64::MAX, Vec::new());
        while before > 1 {
            let page = history(&store, before, 700).await;
            assert!(page.messages.iter().all(|message| message.text == text(message.client_msg_id)));
            seen.splice(0..0, page.messages.iter().map(|message| message.seq));
            before = seen[0];
            assert_eq!(page.more, before > 1);
        }
        assert_eq!(seen, (1..=MESSAGES).collect::<Vec<u64>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_durable_yet_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let held = Arc::new(AtomicBool::new(false));
    let (syncing, begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let is_held = held.clone();
    let sync = Arc::new(move |file: &fs::File| {
        if is_held.load(Ordering::SeqCst) {
            let _ = syncing.send(());
            let _ = released.lock().unwrap().recv();
        }
        file.sync_data()
    });
    let store = Arc::new(Embedded::open(Options { sync: Some(sync), ..options(dir.path()) }).unwrap());
    let pair = pair();
    assert_eq!(store.conversation(&pair).await.unwrap().unwrap().seq, 0, "nothing is under way");
    held.store(true, Ordering::SeqCst);
    let writing = tokio::spawn({
        let store = store.clone();
        async move { sent(&store, 1).await }
    });
    tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
    let reading = store.conversation(&pair);
    tokio::pin!(reading);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut reading).await;
    assert!(early.is_err(), "the message may still be lost");
    drop(release);
    assert_eq!(reading.await.unwrap().unwrap().seq, 1);
    assert_eq!(writing.await.unwrap().seq, 1);
    assert_eq!(history(&store, u64::MAX, 10).await.messages.len(), 1);
}
