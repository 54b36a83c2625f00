//! Read marks and delivered receipts.

use tern_proto::v1::ReceiptKind::{Delivered, Read};

use super::Place;
use super::history::{NOW, at, commit, delivered, device, raised, read, receipts, sent, state, text, timelines};
use crate::{Outcome, Storage};

async fn alice_writes_bob(store: &dyn Storage, count: u64) {
    for id in 1..=count {
        sent(store, text("alice/d1", id, "bob", "hi")).await;
    }
}

/// What a timeline holds of receipts, without versions.
async fn held(store: &dyn Storage, reader: &str) -> Vec<(String, tern_proto::v1::ReceiptKind, u64)> {
    receipts(store, reader).await.into_iter().map(|(_, member, kind, seq)| (member, kind, seq)).collect()
}

/// The author learns it, and so do the reader's other devices.
pub async fn a_read_reaches_reader_and_author(place: &dyn Place) {
    let store = place.open().await;
    alice_writes_bob(&*store, 3).await;
    assert_eq!(raised(&*store, at(NOW + 5, read("bob/d1", "alice:bob", 2))).await, ["alice", "bob"]);
    for reader in ["alice/d1", "bob/d1", "bob/d2"] {
        assert_eq!(held(&*store, reader).await, [("bob".to_owned(), Read, 2)], "{reader}");
    }
    let entries = timelines(&*store, &device("alice/d1")).await;
    let receipt = entries.iter().find(|entry| entry.class == 2).and_then(|entry| entry.body.clone());
    let want = tern_proto::v1::Receipt {
        conversation: "alice:bob".into(),
        member: "bob".into(),
        kind: Read.into(),
        seq: 2,
        time_ms: NOW + 5,
    };
    assert_eq!(receipt, Some(tern_proto::v1::entry::Body::Receipt(want)));
}

/// Nobody else is told where nothing of theirs is newly read.
pub async fn a_read_of_own_messages_reaches_the_reader_only(place: &dyn Place) {
    let store = place.open().await;
    alice_writes_bob(&*store, 2).await;
    assert_eq!(raised(&*store, read("alice/d1", "alice:bob", 1)).await, ["alice"]);
    sent(&*store, text("bob/d1", 1, "alice", "yes")).await;
    assert_eq!(raised(&*store, read("alice/d1", "alice:bob", 3)).await, ["alice", "bob"]);
    sent(&*store, text("alice/d1", 3, "bob", "good")).await;
    assert_eq!(raised(&*store, read("alice/d1", "alice:bob", 4)).await, ["alice"]);
    assert_eq!(held(&*store, "bob/d1").await, [("alice".to_owned(), Read, 3)]);
}

/// A smaller or equal mark is accepted and does nothing.
pub async fn a_read_mark_never_goes_back(place: &dyn Place) {
    let store = place.open().await;
    alice_writes_bob(&*store, 3).await;
    raised(&*store, read("bob/d1", "alice:bob", 2)).await;
    let before = receipts(&*store, "alice/d1").await;
    for seq in [0, 1, 2] {
        assert!(raised(&*store, read("bob/d2", "alice:bob", seq)).await.is_empty());
    }
    assert_eq!(receipts(&*store, "alice/d1").await, before);
}

/// read-ahead: a mark beyond the head would swallow what is yet to come.
pub async fn a_read_beyond_the_head_is_refused(place: &dyn Place) {
    let store = place.open().await;
    assert_eq!(commit(&*store, read("bob/d1", "alice:bob", 1)).await, Outcome::BeyondHead);
    assert!(raised(&*store, read("bob/d1", "alice:bob", 0)).await.is_empty(), "nothing read of nothing");
    alice_writes_bob(&*store, 2).await;
    assert_eq!(commit(&*store, read("bob/d1", "alice:bob", 3)).await, Outcome::BeyondHead);
    assert_eq!(commit(&*store, read("bob/d1", "alice:bob", u64::MAX)).await, Outcome::BeyondHead);
    assert_eq!(held(&*store, "alice/d1").await, []);
    assert_eq!(raised(&*store, read("bob/d1", "alice:bob", 2)).await, ["alice", "bob"]);
}

/// Whoever is not a member cannot tell whether the conversation is there.
pub async fn a_stranger_is_refused(place: &dyn Place) {
    let store = place.open().await;
    alice_writes_bob(&*store, 1).await;
    for of in ["alice:bob", "alice:zoe"] {
        assert_eq!(commit(&*store, read("carol/d1", of, 1)).await, Outcome::NotAMember);
    }
    assert!(raised(&*store, delivered("carol/d1", 0, "alice:bob", 1)).await.is_empty());
    assert_eq!(held(&*store, "alice/d1").await, []);
    assert_eq!(held(&*store, "bob/d1").await, []);
}

/// No delivered entry follows for what is read; a later one beyond it does.
pub async fn a_read_implies_delivered(place: &dyn Place) {
    let store = place.open().await;
    alice_writes_bob(&*store, 3).await;
    raised(&*store, read("bob/d1", "alice:bob", 2)).await;
    assert!(raised(&*store, delivered("bob/d1", 0, "alice:bob", 2)).await.is_empty());
    assert_eq!(held(&*store, "alice/d1").await, [("bob".to_owned(), Read, 2)]);
    assert_eq!(raised(&*store, delivered("bob/d1", 0, "alice:bob", 3)).await, ["alice"]);
    assert_eq!(held(&*store, "alice/d1").await, [("bob".to_owned(), Read, 2), ("bob".to_owned(), Delivered, 3)]);
}

/// The member's own timeline gets none; of several positions each counts by itself.
pub async fn delivered_reaches_the_other_member_only(place: &dyn Place) {
    let store = place.open().await;
    alice_writes_bob(&*store, 2).await;
    sent(&*store, text("carol/d1", 1, "bob", "hi")).await;
    let mut op = delivered("bob/d1", 0, "alice:bob", 2);
    if let crate::Op::Delivered { positions, .. } = &mut op {
        positions.push((super::history::conversation("bob:carol"), 1));
    }
    assert_eq!(raised(&*store, op.clone()).await, ["alice", "carol"]);
    assert_eq!(held(&*store, "alice/d1").await, [("bob".to_owned(), Delivered, 2)]);
    assert_eq!(held(&*store, "carol/d1").await, [("bob".to_owned(), Delivered, 1)]);
    assert_eq!(held(&*store, "bob/d1").await, []);
    assert!(raised(&*store, op).await.is_empty(), "the second device delivers nothing new");
    assert!(!state(&*store, "bob/d1").await.known, "deriving remembers no device");
}

/// Of a conversation that stands twice the highest position counts, in whichever order they come; each user is told once.
pub async fn delivered_twice_in_one_op_is_the_highest(place: &dyn Place) {
    let store = place.open().await;
    alice_writes_bob(&*store, 9).await;
    for (seqs, highest) in [([3, 2], 3), ([5, 6], 6), ([9, 7], 9)] {
        let positions = seqs.map(|seq| (super::history::conversation("alice:bob"), seq)).to_vec();
        let op = crate::Op::Delivered { by: device("bob/d1"), derived: 0, positions, time_ms: NOW };
        assert_eq!(raised(&*store, op).await, ["alice"]);
        assert_eq!(held(&*store, "alice/d1").await, [("bob".to_owned(), Delivered, highest)]);
    }
}

/// A position above the head, and one of a conversation that is not there, deliver only what is there.
pub async fn delivered_stops_at_the_head(place: &dyn Place) {
    let store = place.open().await;
    assert!(raised(&*store, delivered("bob/d1", 0, "alice:bob", 5)).await.is_empty());
    alice_writes_bob(&*store, 2).await;
    assert_eq!(raised(&*store, delivered("bob/d1", 0, "alice:bob", 5)).await, ["alice"]);
    assert_eq!(held(&*store, "alice/d1").await, [("bob".to_owned(), Delivered, 2)]);
}

/// Class 2 holds the latest of each (conversation, member, kind), at a new version above all earlier ones.
pub async fn a_newer_receipt_replaces_the_older(place: &dyn Place) {
    let store = place.open().await;
    alice_writes_bob(&*store, 3).await;
    let mut newest = 0;
    for seq in 1..=3 {
        raised(&*store, delivered("bob/d1", 0, "alice:bob", seq)).await;
        let held = receipts(&*store, "alice/d1").await;
        assert_eq!(held.len(), 1);
        assert!(held[0].0 > newest, "a new version");
        assert_eq!((held[0].2, held[0].3), (Delivered, seq));
        newest = held[0].0;
        assert_eq!(state(&*store, "alice/d1").await.heads[1], newest);
    }
    raised(&*store, read("bob/d1", "alice:bob", 3)).await;
    assert_eq!(held(&*store, "alice/d1").await.len(), 2, "another kind stands beside it");
}
