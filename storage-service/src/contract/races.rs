//! Many at once: commit-order-jump, lost-ack-other-pod, hot-timeline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tern_proto::key::{CLASSES, Version};
use tern_proto::v1;
use tern_proto::v1::entry::Body;
use tokio::task::JoinSet;

use super::Place;
use super::history::{delivered, device, page, raised, read, sent, text, timelines};
use crate::{Sent, Storage};

/// A reader that has not met the end of its timeline by then has lost something.
const PATIENCE: Duration = Duration::from_secs(60);

/// A reader who pages while many commit sees every entry once, in ascending versions: nothing appears below a version that was
/// handed out. What is answered can be read.
pub async fn a_reader_misses_nothing(place: &dyn Place) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 24;
    let store = place.open().await;
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        // Two devices of each of four users, so that conversations are shared too.
        let name = format!("user{}/d{}", writer / 2, writer % 2);
        tasks.spawn(async move {
            for first in (1..=EACH).step_by(3) {
                let ops = (first..first + 3).map(|id| text(&name, id, "bob", "hi")).collect();
                store.commit(ops).await;
                let own = timelines(&*store, &device(&name)).await;
                let is_stub = |entry: &&v1::Entry| matches!(entry.body, Some(Body::Stub(_)));
                assert_eq!(own.iter().filter(is_stub).count() as u64, first + 2, "what is answered can be read");
            }
        });
    }
    let readers: Vec<_> = (0..2).map(|seed| tokio::spawn(read_until(store.clone(), WRITERS * EACH, seed))).collect();
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a writer");
    }
    let all = timelines(&*store, &device("bob/d0")).await;
    assert_in_order(&all);
    for reader in readers {
        assert_eq!(reader.await.expect("a reader"), all, "a reader saw what the timeline holds");
    }
}

/// Pages forward until `count` entries are seen.
async fn read_until(store: Arc<dyn Storage>, count: u64, seed: u64) -> Vec<v1::Entry> {
    let mut random = fastrand::Rng::with_seed(seed);
    let bob = device(&format!("bob/r{seed}"));
    let mut seen: Vec<v1::Entry> = Vec::new();
    let mut above: [Option<Version>; CLASSES] = [Some(0), None];
    let reading = async {
        while (seen.len() as u64) < count {
            let page = page(&*store, &bob, above, random.usize(1..20)).await;
            for entry in &page.entries {
                assert!(Some(entry.version) > above[0] && entry.version <= page.heads[0]);
                above[0] = Some(entry.version);
            }
            assert_eq!(page.after, above);
            seen.extend(page.entries);
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reading).await.is_ok(), "{} of {count} entries seen", seen.len());
    seen
}

/// Versions ascend, and in each conversation the sequence is contiguous in their order.
fn assert_in_order(entries: &[v1::Entry]) {
    assert!(entries.is_sorted_by(|a, b| a.version < b.version));
    let mut heads: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in entries {
        let (conversation, seq) = match &entry.body {
            Some(Body::Message(message)) => (message.conversation.as_str(), message.seq),
            Some(Body::Stub(stub)) => (stub.conversation.as_str(), stub.seq),
            other => panic!("a message: {other:?}"),
        };
        let head = heads.entry(conversation).or_default();
        *head += 1;
        assert_eq!(seq, *head, "{conversation} is contiguous");
    }
}

/// Both members and all their devices see a conversation in the same order, and each device's own order is kept.
pub async fn one_conversation_has_one_order(place: &dyn Place) {
    const EACH: u64 = 20;
    let store = place.open().await;
    let mut tasks = JoinSet::new();
    for (from, to) in [("alice/d1", "bob"), ("alice/d2", "bob"), ("bob/d1", "alice"), ("bob/d2", "alice")] {
        let store = store.clone();
        tasks.spawn(async move {
            for id in 1..=EACH {
                assert!(!sent(&*store, text(from, id, to, from)).await.owed.is_empty());
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a writer");
    }
    let (alices, bobs) = (timelines(&*store, &device("alice/x")).await, timelines(&*store, &device("bob/x")).await);
    assert_eq!(alices.len() as u64, 4 * EACH);
    assert_in_order(&alices);
    let bodies = |entries: &[v1::Entry]| entries.iter().map(|entry| entry.body.clone()).collect::<Vec<_>>();
    assert_eq!(bodies(&alices), bodies(&bobs));
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for entry in bobs {
        if let Some(Body::Message(message)) = entry.body {
            let last = last.entry(message.text).or_default();
            assert!(message.client_msg_id > *last, "the order of one device is kept");
            *last = message.client_msg_id;
        }
    }
}

/// Copies of a message that arrive together over several ways are one message with one answer.
pub async fn racing_resends_give_one_message(place: &dyn Place) {
    const MESSAGES: u64 = 20;
    let store = place.open().await;
    for id in 1..=MESSAGES {
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let store = store.clone();
            tasks.spawn(async move { sent(&*store, text("alice/d1", id, "bob", "hi")).await });
        }
        let answers = tasks.join_all().await;
        assert_eq!(answers.iter().filter(|sent| !sent.owed.is_empty()).count(), 1, "one of the copies is stored");
        let same = |sent: &Sent| sent.clone().repeated();
        assert!(answers.iter().all(|sent| same(sent) == same(&answers[0])));
        assert_eq!(answers[0].seq, id);
    }
    assert_eq!(timelines(&*store, &device("bob/d1")).await.len() as u64, MESSAGES);
}

/// Receipts that race never go back for whoever reads them, and the last of each is the highest.
pub async fn racing_receipts_stay_in_order(place: &dyn Place) {
    const MESSAGES: u64 = 16;
    let store = place.open().await;
    for id in 1..=MESSAGES {
        sent(&*store, text("alice/d1", id, "bob", "hi")).await;
    }
    let mut tasks = JoinSet::new();
    for by in ["bob/d1", "bob/d2", "bob/d3"] {
        let store = store.clone();
        tasks.spawn(async move {
            for seq in 1..=MESSAGES {
                raised(&*store, read(by, "alice:bob", seq)).await;
                raised(&*store, delivered(by, 0, "alice:bob", seq + 1)).await;
            }
        });
    }
    let alice = device("alice/d1");
    let mut above: [Option<Version>; CLASSES] = [None, Some(0)];
    let mut seqs: BTreeMap<i32, u64> = BTreeMap::new();
    let reading = async {
        while seqs.get(&v1::ReceiptKind::Read.into()) != Some(&MESSAGES) {
            let page = page(&*store, &alice, above, 10).await;
            for entry in &page.entries {
                assert!(Some(entry.version) > above[1]);
                above[1] = Some(entry.version);
                let Some(Body::Receipt(receipt)) = &entry.body else { panic!("a receipt: {entry:?}") };
                let last = seqs.insert(receipt.kind, receipt.seq);
                assert!(last < Some(receipt.seq), "a receipt never goes back: {last:?}, {receipt:?}");
            }
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reading).await.is_ok(), "the last receipt is the highest: {seqs:?}");
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a reader");
    }
    let rest = page(&*store, &alice, above, 10).await.entries;
    assert!(rest.iter().all(
        |entry| matches!(&entry.body, Some(Body::Receipt(receipt)) if receipt.kind() == v1::ReceiptKind::Delivered)
    ));
}
