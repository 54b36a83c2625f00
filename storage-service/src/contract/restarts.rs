//! What was told before a stop holds after it.

use tern_proto::key::Class;
use tern_proto::{ConversationId, v1};
use tokio::task::JoinSet;

use super::Place;
use super::history::{
    ack, change, commit, conversation, delivered, device, group_text, group_with, highest, list, past, raised, read,
    receipts, refusal, refused, sent, seqs, standing, start, state, text, timelines, versions,
};
use crate::{Outcome, Storage};

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
    assert_eq!(highest(&*store, "alice/d1").await, 9);
    assert_eq!(sent(&*store, text("alice/d1", 3, "bob", "hi")).await, first.repeated());
    assert_eq!(commit(&*store, text("alice/d1", 3, "bob", "ho")).await, Outcome::Conflict);
    assert_eq!(commit(&*store, refused("alice/d1", 9, 1)).await, Outcome::Refused(v1::Code::EmptyText));
    assert_eq!(commit(&*store, text("alice/d1", 9, "bob", "hi")).await, Outcome::Conflict);
    assert_eq!(timelines(&*store, &device("bob/d1")).await.len(), 1);
}

/// Sequence numbers, message ids and versions are not used again.
pub async fn numbering_goes_on(place: &dyn Place) {
    let mut last = 0;
    let mut ids = Vec::new();
    for round in 1..=4 {
        let store = place.open().await;
        let before = state(&*store, "bob/d1").await.heads[0];
        let sent = sent(&*store, text("alice/d1", round, "bob", "hi")).await;
        assert_eq!(sent.seq, last + 1);
        assert!(!ids.contains(&sent.server_msg_id));
        assert!(state(&*store, "bob/d1").await.heads[0] > before);
        ids.push(sent.server_msg_id);
        last = sent.seq;
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

/// Members, owner, title and positions, what each member has, and every answer.
pub async fn groups_are_there_afterwards(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob", "carol"]).await;
    let titled = || change("bob/d1", 1, Some(&group), "T", &["dan", "bob"], &["zoe"]);
    let first = sent(&*store, titled()).await;
    sent(&*store, change("alice/d1", 2, Some(&group), "", &[], &["alice", "carol"])).await;
    let stranger = || group_text("carol/d1", 1, &group, "still there?");
    assert_eq!(refusal(&*store, stranger()).await, v1::Code::NotAMember);
    raised(&*store, read("dan/d1", group.as_str(), 2)).await;
    raised(&*store, delivered("bob/d1", 0, group.as_str(), 1)).await;
    let before = (standing(&*store, &group).await, seqs_of_all(&*store, &group).await);
    drop(store);
    for _ in 0..2 {
        let store = place.open().await;
        assert_eq!((standing(&*store, &group).await, seqs_of_all(&*store, &group).await), before);
        assert_eq!(sent(&*store, titled()).await, first.clone().repeated());
        assert_eq!(commit(&*store, group_text("bob/d1", 1, &group, "T")).await, Outcome::Conflict);
        assert_eq!(refusal(&*store, stranger()).await, v1::Code::NotAMember);
        assert!(raised(&*store, read("dan/d1", group.as_str(), 2)).await.is_empty());
    }
}

async fn seqs_of_all(store: &dyn Storage, group: &ConversationId) -> Vec<Vec<u64>> {
    let mut all = Vec::new();
    for reader in ["alice/d2", "bob/d2", "carol/d2", "dan/d2"] {
        all.push(seqs(store, reader, group).await);
    }
    all
}

/// Who came, went and came back in different runs of the store gets what it should, and has it in its list.
pub async fn membership_goes_on_afterwards(place: &dyn Place) {
    let mut store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    for (id, is_in) in [(2, false), (4, true), (6, false), (8, true)] {
        drop(store);
        store = place.open().await;
        let (add, remove): (&[&str], &[&str]) = if is_in { (&["bob"], &[]) } else { (&[], &["bob"]) };
        sent(&*store, change("alice/d1", id, Some(&group), "", add, remove)).await;
        drop(store);
        store = place.open().await;
        let owed = sent(&*store, group_text("alice/d1", id + 1, &group, "hi")).await.owed;
        assert_eq!((owed.len(), list(&*store, "bob", None, 9).await.len()), if is_in { (2, 1) } else { (1, 0) });
    }
    assert_eq!(seqs(&*store, "bob/d1", &group).await, [1, 2, 4, 5, 6, 8, 9]);
    assert_eq!(seqs(&*store, "alice/d2", &group).await, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(past(&*store, &group, (0, u64::MAX), 20).await.messages.len(), 9);
}

/// Across several stops, so that history comes from all of them.
pub async fn lists_and_history_are_there_afterwards(place: &dyn Place) {
    let mut store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    let mut id = 1;
    for _ in 0..4 {
        for _ in 0..5 {
            id += 1;
            sent(&*store, group_text("alice/d1", id, &group, &format!("message {id}"))).await;
            sent(&*store, text("bob/d1", id, "alice", &format!("message {id}"))).await;
        }
        let lists = (list(&*store, "alice", None, 9).await, list(&*store, "bob", None, 9).await);
        assert_eq!(lists.0.len(), 2);
        let whole = past(&*store, &group, (0, u64::MAX), 100).await;
        drop(store);
        store = place.open().await;
        assert_eq!((list(&*store, "alice", None, 9).await, list(&*store, "bob", None, 9).await), lists);
        assert_eq!(past(&*store, &group, (0, u64::MAX), 100).await, whole);
        for (from, before) in [(0, id), (3, id - 3), (id - 2, id + 9)] {
            let part = past(&*store, &group, (from, before), 100).await.messages;
            let wanted = whole.messages.iter().filter(|message| (from..before).contains(&message.seq));
            assert_eq!(part, wanted.cloned().collect::<Vec<v1::Message>>(), "{from}..{before} of {id}");
        }
    }
    assert_eq!(past(&*store, &group, (0, u64::MAX), 100).await.messages.len(), 21);
    let paired = past(&*store, &conversation("alice:bob"), (0, u64::MAX), 100).await;
    assert_eq!(paired.messages.len(), 20);
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
        assert_eq!(again, first.repeated(), "{name} {id}");
    }
    for writer in 0..4 {
        for id in 1..=EACH {
            sent(&*store, text(&format!("alice{writer}/d1"), id, "bob", "hi")).await;
        }
    }
    assert_eq!(timelines(&*store, &device("bob/d1")).await.len() as u64, 4 * EACH);
}
