//! Starts, acknowledgements and the devices of a user.

use tern_proto::key::Class;
use tern_proto::{limits, v1};

use super::Place;
use super::history::{
    NOW, ack, at, commit, delivered, device, highest, raised, read, sent, start, state, text, versions,
};
use crate::{Op, Outcome, Storage};

/// In milliseconds.
const HOUR: i64 = 3_600_000;

/// Three messages from alice to bob; their versions in bob's timeline.
async fn three_messages(store: &dyn Storage) -> [u64; 3] {
    for id in 1..=3 {
        sent(store, text("alice/d1", id, "bob", "hi")).await;
    }
    versions(store, "bob/d1", Class::Messages).await.try_into().expect("three versions")
}

/// A user exists without having been made.
pub async fn an_unknown_device_stands_nowhere(place: &dyn Place) {
    let store = place.open().await;
    let state = state(&*store, "nobody/d1").await;
    assert!(!state.known);
    assert_ne!(state.epoch, 0);
    assert_eq!((state.heads, state.acked, state.derived), ([0, 0], [0, 0], 0));
    assert_eq!(store.underived(None, 10).await, Ok(vec![]));
}

/// The heads become the position, and no delivered receipt is owed for what lies below.
pub async fn a_start_at_heads_is_no_acknowledgement(place: &dyn Place) {
    let store = place.open().await;
    let [first, _, last] = three_messages(&*store).await;
    assert_eq!(commit(&*store, start("bob/new", v1::Start::Heads)).await, Outcome::Started([last, 0]));
    let new = state(&*store, "bob/new").await;
    assert_eq!((new.known, new.acked, new.derived), (true, [last, 0], last));
    assert_eq!(store.underived(None, 10).await, Ok(vec![]));

    commit(&*store, ack("bob/old", [Some(first), None])).await;
    assert_eq!(commit(&*store, start("bob/old", v1::Start::Heads)).await, Outcome::Started([last, 0]));
    let old = state(&*store, "bob/old").await;
    assert_eq!((old.acked, old.derived), ([last, 0], last), "a known device is raised");
}

/// An unknown device is remembered at the oldest; a known one keeps what it has acknowledged.
pub async fn a_start_at_the_oldest_leaves_a_known_device_alone(place: &dyn Place) {
    let store = place.open().await;
    let [_, second, _] = three_messages(&*store).await;
    assert_eq!(commit(&*store, start("bob/d1", v1::Start::Oldest)).await, Outcome::Started([0, 0]));
    let new = state(&*store, "bob/d1").await;
    assert_eq!((new.known, new.acked, new.derived), (true, [0, 0], 0));
    commit(&*store, ack("bob/d1", [Some(second), None])).await;
    assert_eq!(commit(&*store, start("bob/d1", v1::Start::Oldest)).await, Outcome::Started([0, 0]));
    assert_eq!(state(&*store, "bob/d1").await.acked, [second, 0]);
}

/// Per class only up, and a class that is absent stays; the device is remembered by it.
pub async fn acknowledgements_never_move_back(place: &dyn Place) {
    let store = place.open().await;
    let [first, second, third] = three_messages(&*store).await;
    sent(&*store, text("bob/d2", 1, "alice", "yes")).await;
    raised(&*store, read("alice/d1", "alice:bob", 4)).await;
    let receipt = versions(&*store, "bob/d1", Class::Receipts).await[0];
    let steps = [
        ([Some(second), None], [second, 0]),
        ([Some(first), Some(receipt)], [second, receipt]),
        ([Some(third), Some(0)], [third, receipt]),
        ([None, None], [third, receipt]),
    ];
    for (versions, want) in steps {
        let outcome = commit(&*store, ack("bob/d1", versions)).await;
        let state = state(&*store, "bob/d1").await;
        assert_eq!((state.known, state.acked), (true, want));
        assert_eq!(outcome, Outcome::Acked(state));
    }
}

/// What is no position in the user's timelines acknowledges nothing, and the device is not remembered by it.
pub async fn a_key_that_does_not_stand_acknowledges_nothing(place: &dyn Place) {
    let store = place.open().await;
    let [first, _, third] = three_messages(&*store).await;
    let before = state(&*store, "bob/d1").await;
    let of_epoch = |of, versions| match ack("bob/d1", versions) {
        Op::Ack { device, versions, time_ms, .. } => Op::Ack { device, epoch: of, versions, time_ms },
        other => other,
    };
    for op in [
        of_epoch(!before.epoch, [Some(first), None]),
        of_epoch(before.epoch, [Some(third + 1), None]),
        of_epoch(before.epoch, [Some(first), Some(1)]),
    ] {
        assert_eq!(commit(&*store, op).await, Outcome::Acked(before.clone()));
        assert_eq!(state(&*store, "bob/d1").await, before);
    }
    let (good, bad) = (of_epoch(before.epoch, [Some(third), Some(0)]), of_epoch(before.epoch, [Some(third + 1), None]));
    store.commit(vec![bad.clone(), good, bad]).await;
    assert_eq!(state(&*store, "bob/d1").await.acked, [third, 0], "a bad one fails none of its neighbours");
}

/// Polling with the same key again and again writes nothing, but for now and then that the device was heard.
pub async fn an_acknowledgement_of_nothing_new_is_heard_once_an_hour(place: &dyn Place) {
    let store = place.open().await;
    let [first, second, _] = three_messages(&*store).await;
    for (time_ms, version, heard_ms) in [
        (NOW, second, NOW),
        (NOW + HOUR - 1, second, NOW),
        (NOW + HOUR - 1, first, NOW),
        (NOW + HOUR, second, NOW + HOUR),
    ] {
        commit(&*store, at(time_ms, ack("bob/d1", [Some(version), None]))).await;
        let state = state(&*store, "bob/d1").await;
        assert_eq!((state.acked[0], state.heard_ms), (second, heard_ms), "at {time_ms}");
    }
}

/// An acknowledgement is of one device.
pub async fn a_device_moves_alone(place: &dyn Place) {
    let store = place.open().await;
    let [_, _, third] = three_messages(&*store).await;
    commit(&*store, start("bob/d2", v1::Start::Oldest)).await;
    commit(&*store, ack("bob/d1", [Some(third), None])).await;
    assert_eq!(state(&*store, "bob/d2").await.acked, [0, 0]);
    assert!(!state(&*store, "bob/d3").await.known);
    assert!(!state(&*store, "alice/d1").await.known);
}

/// A sender has not seen its own timeline by sending.
pub async fn sending_acknowledges_nothing(place: &dyn Place) {
    let store = place.open().await;
    commit(&*store, start("alice/d1", v1::Start::Oldest)).await;
    three_messages(&*store).await;
    let state = state(&*store, "alice/d1").await;
    assert_eq!((state.acked, state.derived), ([0, 0], 0));
    assert_ne!(state.heads[0], 0);
}

/// Each device whose acknowledgements are ahead of what is derived, in order, a few at a time.
pub async fn the_underived_are_listed_in_order(place: &dyn Place) {
    let store = place.open().await;
    let [first, second, third] = three_messages(&*store).await;
    let (a1, b1, b2) = (device("alice/d1"), device("bob/d1"), device("bob/d2"));
    let answer = sent(&*store, text("bob/d1", 1, "alice", "hi")).await;
    assert_eq!(answer.seq, 4);
    let alices = versions(&*store, "alice/d1", Class::Messages).await;
    for op in [
        ack("bob/d2", [Some(third), None]),
        ack("alice/d1", [Some(alices[3]), None]),
        ack("bob/d1", [Some(second), None]),
        start("bob/d3", v1::Start::Oldest),
    ] {
        commit(&*store, op).await;
    }
    assert_eq!(store.underived(None, 10).await, Ok(vec![a1.clone(), b1.clone(), b2.clone()]));
    assert_eq!(store.underived(None, 1).await, Ok(vec![a1.clone()]));
    assert_eq!(store.underived(Some(&a1), 1).await, Ok(vec![b1.clone()]));
    assert_eq!(store.underived(Some(&b2), 10).await, Ok(vec![]));

    raised(&*store, delivered("bob/d1", first, "alice:bob", 1)).await;
    assert_eq!(state(&*store, "bob/d1").await.derived, first);
    assert_eq!(store.underived(Some(&a1), 10).await, Ok(vec![b1, b2.clone()]), "derived in part");
    raised(&*store, delivered("bob/d1", second, "alice:bob", 2)).await;
    assert_eq!(store.underived(Some(&a1), 10).await, Ok(vec![b2]));
    raised(&*store, delivered("bob/d1", first, "alice:bob", 1)).await;
    assert_eq!(state(&*store, "bob/d1").await.derived, second, "derived never moves back");
}

/// Of too many devices the one heard last the longest ago is forgotten, but not the ids it used.
pub async fn the_longest_silent_device_yields(place: &dyn Place) {
    let store = place.open().await;
    let [first, _, third] = three_messages(&*store).await;
    let name = |n: usize| format!("bob/n{n:02}");
    sent(&*store, text(&name(1), 5, "alice", "from a device that yields")).await;
    for n in 0..limits::DEVICES {
        commit(&*store, at(NOW + n as i64, ack(&name(n), [Some(first), None]))).await;
    }
    let later = NOW + 2 * HOUR;
    commit(&*store, at(later, ack(&name(0), [Some(first), None]))).await;
    commit(&*store, at(later + 1, ack("bob/late", [Some(third), None]))).await;
    commit(&*store, at(later + 2, start("bob/later", v1::Start::Heads))).await;

    for (n, known) in [(0, true), (1, false), (2, false), (3, true), (limits::DEVICES - 1, true)] {
        let state = state(&*store, &name(n)).await;
        assert_eq!(state.known, known, "{}", name(n));
        assert_eq!(state.acked, [if known { first } else { 0 }, 0]);
    }
    assert!(state(&*store, "bob/late").await.known);
    assert_eq!(highest(&*store, &name(1)).await, 5);
    assert!(sent(&*store, text(&name(1), 5, "alice", "from a device that yields")).await.owed.is_empty());
}
