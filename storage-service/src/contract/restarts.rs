//! What was told before a stop holds after it.

use tern_proto::key::Class;
use tern_proto::v1;
use tokio::task::JoinSet;

use super::Place;
use super::history::{
    ack, commit, conversation, delivered, device, raised, read, receipts, refused, sent, start, state, text, timelines,
    versions,
};
use crate::{Outcome, Sent};

/// Every entry at its version, for every reader, in the same epoch.
pub async fn messages_are_there_afterwards(place: &dyn Place) {
    let store = place.open().await;
    for id in 1..=5 {
        sent(&*store, text("alice/d1", id, "bob", &format!("message {id}"))).await;
        sent(&*store, text("bob/d1", id, "carol", "")).await;
    }
    let readers = ["alice/d1", "alice/d2", "bob/d1", "carol/d1"];
    let mut before = Vec::new();
    for reader in readers {
        before.push((state(&*store, reader).await, timelines(&*store, &device(reader)).await));
    }
    drop(store);
    for _ in 0..2 {
        let store = place.open().await;
        for (reader, before) in readers.iter().zip(&before) {
            let after = (state(&*store, reader).await, timelines(&*store, &device(reader)).await);
            assert_eq!(after, *before, "{reader}");
        }
    }
}

/// The same id gets the same answer, other content is a conflict, a refusal stays one.
pub async fn resends_are_recognised_afterwards(place: &dyn Place) {
    let store = place.open().await;
    let first = sent(&*store, text("alice/d1", 3, "bob", "hi")).await;
    commit(&*store, refused("alice/d1", 9, 1)).await;
    drop(store);
    let store = place.open().await;
    assert_eq!(state(&*store, "alice/d1").await.highest_client_msg_id, 9);
    assert_eq!(sent(&*store, text("alice/d1", 3, "bob", "hi")).await, Sent { fresh: false, ..first });
    assert_eq!(commit(&*store, text("alice/d1", 3, "bob", "ho")).await, Outcome::Conflict);
    assert_eq!(commit(&*store, refused("alice/d1", 9, 1)).await, Outcome::Refused(v1::Code::EmptyText));
    assert_eq!(commit(&*store, text("alice/d1", 9, "bob", "hi")).await, Outcome::Conflict);
    assert_eq!(timelines(&*store, &device("bob/d1")).await.len(), 1);
}

/// Sequence numbers, message ids and versions are not used again.
pub async fn numbering_goes_on(place: &dyn Place) {
    let mut last = Sent { server_msg_id: 0, conversation: conversation("alice:bob"), seq: 0, time_ms: 0, fresh: true };
    let mut ids = Vec::new();
    for round in 1..=4 {
        let store = place.open().await;
        let before = state(&*store, "bob/d1").await.heads[0];
        let sent = sent(&*store, text("alice/d1", round, "bob", "hi")).await;
        assert_eq!(sent.seq, last.seq + 1);
        assert!(!ids.contains(&sent.server_msg_id));
        assert!(state(&*store, "bob/d1").await.heads[0] > before);
        ids.push(sent.server_msg_id);
        last = sent;
    }
}

/// The version of a receipt that was replaced before the stop is not given again.
pub async fn versions_go_on_above_what_was_replaced(place: &dyn Place) {
    let store = place.open().await;
    for id in 1..=3 {
        sent(&*store, text("alice/d1", id, "bob", "hi")).await;
    }
    for seq in 1..=2 {
        raised(&*store, read("bob/d1", "alice:bob", seq)).await;
    }
    let before = state(&*store, "alice/d1").await.heads;
    drop(store);
    let store = place.open().await;
    assert_eq!(state(&*store, "alice/d1").await.heads, before);
    raised(&*store, read("bob/d1", "alice:bob", 3)).await;
    let held = receipts(&*store, "alice/d1").await;
    assert_eq!(held.len(), 1, "the older is replaced across the stop");
    assert!(held[0].0 > before[1]);
}

/// Acknowledgements cannot be derived, so they are kept, and so is how far receipts are derived from them.
pub async fn acknowledgements_are_there_afterwards(place: &dyn Place) {
    let store = place.open().await;
    for id in 1..=3 {
        sent(&*store, text("alice/d1", id, "bob", "hi")).await;
    }
    raised(&*store, read("alice/d1", "alice:bob", 1)).await;
    let [first, second, third] = versions(&*store, "bob/d1", Class::Messages).await.try_into().expect("three");
    commit(&*store, ack("bob/d1", [Some(second), None])).await;
    raised(&*store, delivered("bob/d1", first, "alice:bob", 1)).await;
    commit(&*store, ack("bob/d2", [Some(third), None])).await;
    raised(&*store, delivered("bob/d2", third, "alice:bob", 3)).await;
    commit(&*store, start("bob/d3", v1::Start::Heads)).await;
    commit(&*store, start("bob/d4", v1::Start::Oldest)).await;
    drop(store);

    let store = place.open().await;
    for (name, acked, derived) in
        [("bob/d1", second, first), ("bob/d2", third, third), ("bob/d3", third, third), ("bob/d4", 0, 0)]
    {
        let state = state(&*store, name).await;
        assert_eq!((state.known, state.acked, state.derived), (true, [acked, 0], derived), "{name}");
    }
    assert_eq!(store.underived(None, 10).await, Ok(vec![device("bob/d1")]));
}

/// Read and delivered positions are kept: nothing is told twice, nothing goes back.
pub async fn receipts_are_there_afterwards(place: &dyn Place) {
    let store = place.open().await;
    for id in 1..=4 {
        sent(&*store, text("alice/d1", id, "bob", "hi")).await;
    }
    raised(&*store, delivered("bob/d1", 0, "alice:bob", 3)).await;
    raised(&*store, read("bob/d1", "alice:bob", 2)).await;
    let before = receipts(&*store, "alice/d1").await;
    drop(store);
    let store = place.open().await;
    assert_eq!(receipts(&*store, "alice/d1").await, before);
    assert!(raised(&*store, read("bob/d2", "alice:bob", 1)).await.is_empty());
    assert!(raised(&*store, delivered("bob/d2", 0, "alice:bob", 3)).await.is_empty());
    assert_eq!(commit(&*store, read("bob/d2", "alice:bob", 5)).await, Outcome::BeyondHead);
    assert_eq!(receipts(&*store, "alice/d1").await, before);
    assert_eq!(raised(&*store, delivered("bob/d2", 0, "alice:bob", 4)).await, ["alice"]);
}

/// Callers that vanish and a store that stops under load: what was answered is there, and each message once.
pub async fn what_was_answered_while_stopping_is_there(place: &dyn Place) {
    const EACH: u64 = 40;
    let store = place.open().await;
    let (answer, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (store, answer) = (store.clone(), answer.clone());
        writers.spawn(async move {
            let name = format!("alice{writer}/d1");
            for id in 1..=EACH {
                let sent = sent(&*store, text(&name, id, "bob", "hi")).await;
                let _ = answer.send((name.clone(), id, sent));
            }
        });
    }
    for _ in 0..EACH {
        answers.recv().await.expect("an answer");
    }
    writers.shutdown().await;
    drop((store, answer));

    let store = place.open().await;
    while let Some((name, id, first)) = answers.recv().await {
        let again = sent(&*store, text(&name, id, "bob", "hi")).await;
        assert_eq!(again, Sent { fresh: false, ..first }, "{name} {id}");
    }
    for writer in 0..4 {
        for id in 1..=EACH {
            sent(&*store, text(&format!("alice{writer}/d1"), id, "bob", "hi")).await;
        }
    }
    assert_eq!(timelines(&*store, &device("bob/d1")).await.len() as u64, 4 * EACH);
}
