//! Notify and delta.

use tern_proto::{Command, v1};

use crate::bench::Bench;
use crate::peer::{Peer, at, sync};

fn versions(delta: &v1::Delta) -> (u64, Vec<u64>, u64) {
    let entries = delta.entries.iter().map(|entry| entry.version).collect();
    (at(&delta.before), entries, at(&delta.after))
}

#[tokio::test]
async fn before_a_sync_there_is_one_notify_and_no_delta() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    bench.service.commit("bob", "1");
    bob.expect(Command::Notify.number(), 0).await;
    bench.service.commit("bob", "2");
    bob.quiet().await;
    assert_eq!(bench.service.calls("push"), []);
    // A page that is not the last one does not arm, but allows another notify.
    bob.ask(Command::Sync, 2, &v1::SyncRequest { limit: 1, ..sync(0) }).await;
    let page: v1::SyncReply = bob.reply(Command::Sync, 2).await;
    assert_eq!(page.more, [1]);
    bench.service.commit("bob", "3");
    bob.expect(Command::Notify.number(), 0).await;
}

#[tokio::test]
async fn after_a_sync_deltas_chain_from_its_key_and_acks_do_not_move_them() {
    let bench = Bench::start();
    bench.service.commit("bob", "1");
    let mut bob = bench.enter("bob", "d1").await;
    assert_eq!(bob.sync(2, 0).await, 1);
    bench.service.commit("bob", "2");
    assert_eq!(versions(&bob.delta().await), (1, vec![2], 2));
    bench.service.commit("bob", "3");
    assert_eq!(versions(&bob.delta().await), (2, vec![3], 3));
    bob.ask(Command::Ack, 3, &v1::AckRequest { key: Some(crate::peer::key(2)) }).await;
    let _: v1::AckReply = bob.reply(Command::Ack, 3).await;
    bench.service.commit_quietly("bob", "4");
    bench.service.commit("bob", "5");
    assert_eq!(versions(&bob.delta().await), (3, vec![4, 5], 5));
    // A sync starts the chain afresh, at its own key.
    assert_eq!(bob.sync(4, 1).await, 5);
    bench.service.hint("bob");
    bob.quiet().await;
    bench.service.commit("bob", "6");
    assert_eq!(versions(&bob.delta().await), (5, vec![6], 6));
}

#[tokio::test]
async fn entries_that_come_with_hints_are_deltas_without_a_look() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    bench.service.commit_with_news("bob", "1", "d2");
    bob.expect(Command::Notify.number(), 0).await;
    assert_eq!(bob.sync(2, 0).await, 1);
    bench.service.commit_with_news("bob", "2", "d2");
    assert_eq!(versions(&bob.delta().await), (1, vec![2], 2));
    // What the device has sent itself waits, and comes as a stub.
    bench.service.commit_with_news("bob", "3", "d1");
    bob.quiet().await;
    bench.service.commit_with_news("bob", "4", "d2");
    let delta = bob.delta().await;
    assert_eq!(versions(&delta), (2, vec![3, 4], 4));
    assert!(matches!(delta.entries[0].body, Some(v1::entry::Body::Stub(_))));
    assert_eq!(bench.service.calls("push"), []);
    // Where one is missing, all that lies between comes by a look.
    bench.service.commit_quietly("bob", "5");
    bench.service.commit_with_news("bob", "6", "d2");
    assert_eq!(versions(&bob.delta().await), (4, vec![5, 6], 6));
    assert_eq!(bench.service.calls("push").len(), 1);
}

// first-sync-race: what is committed during a sync comes after it, never instead of its page.
#[tokio::test]
async fn a_hint_during_a_sync_is_handled_after_it() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    bench.service.commit("bob", "1");
    bob.expect(Command::Notify.number(), 0).await;
    bench.service.hold("sync");
    bob.ask(Command::Sync, 2, &sync(0)).await;
    bench.service.reached("sync", 1).await;
    bench.service.commit("bob", "2");
    bob.quiet().await;
    assert_eq!(bench.service.calls("push"), [], "not while the sync is under way");
    bench.service.release("sync");
    let page: v1::SyncReply = bob.reply(Command::Sync, 2).await;
    assert_eq!(at(&page.key), 1);
    assert_eq!(versions(&bob.delta().await), (1, vec![2], 2));
}

#[tokio::test]
async fn a_hint_during_a_push_means_another_round() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    bob.sync(2, 0).await;
    bench.service.hold("push");
    bench.service.commit("bob", "1");
    bench.service.reached("push", 1).await;
    bench.service.commit("bob", "2");
    bob.quiet().await;
    assert_eq!(bench.service.calls("push").len(), 1, "one push in flight");
    bench.service.release("push");
    assert_eq!(versions(&bob.delta().await), (0, vec![1], 1));
    assert_eq!(versions(&bob.delta().await), (1, vec![2], 2));
}

#[tokio::test]
async fn a_push_that_a_sync_overtakes_is_dropped() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    bob.sync(2, 0).await;
    bench.service.hold("push");
    bench.service.commit("bob", "1");
    bench.service.reached("push", 1).await;
    assert_eq!(bob.sync(3, 0).await, 1);
    bench.service.release("push");
    bob.quiet().await;
    bench.service.commit("bob", "2");
    assert_eq!(versions(&bob.delta().await), (1, vec![2], 2));
}

async fn too_much(bench: &Bench) -> Peer {
    let mut bob = bench.enter("bob", "d1").await;
    bob.sync(2, 0).await;
    bench.service.commit("bob", "1");
    bob
}

#[tokio::test]
async fn too_much_for_a_delta_is_a_notify() {
    let bench = Bench::start();
    bench.service.have_too_much();
    let mut bob = too_much(&bench).await;
    bob.expect(Command::Notify.number(), 0).await;
    bench.service.commit("bob", "2");
    bob.quiet().await;
    assert_eq!(bench.service.calls("push").len(), 1, "disarmed");
}

#[tokio::test]
async fn the_device_that_sent_gets_no_hint_and_the_others_do() {
    let bench = Bench::start();
    let mut d1 = bench.enter("bob", "d1").await;
    let mut d2 = bench.enter("bob", "d2").await;
    // The service of these tests lets one send to oneself.
    d1.ask(Command::Send, 2, &crate::peer::send(1..=1)).await;
    let _: v1::SendReply = d1.reply(Command::Send, 2).await;
    d2.expect(Command::Notify.number(), 0).await;
    d1.quiet().await;
}
