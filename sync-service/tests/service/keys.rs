//! Keys: starts, replacements, acknowledgements, peeks.

use std::sync::atomic::Ordering;

use tern_proto::key::Key;
use tern_proto::v1;
use tern_proto::v1::{Code, KeyOrder, Start};
use tern_storage::Op;
use tern_sync::{Pushed, SyncApi};

use super::stage::{Stage, device, key_of};

fn first_hello(start: Start) -> v1::HelloRequest {
    v1::HelloRequest { start: start.into(), ..Default::default() }
}

fn hello_with(key: Key) -> v1::HelloRequest {
    v1::HelloRequest { key: Some((&key).into()), ..Default::default() }
}

/// Two messages wait for bob; the key after each.
async fn two_messages(stage: &Stage) -> [Key; 2] {
    stage.send("alice/d1", 1, "bob", "one").await;
    let first = stage.head("bob/d1").await;
    stage.send("alice/d1", 2, "bob", "two").await;
    [first, stage.head("bob/d1").await]
}

#[tokio::test(start_paused = true)]
async fn a_start_at_the_oldest_is_before_everything() {
    let stage = Stage::new();
    let empty = stage.hello("bob/d1", first_hello(Start::Oldest)).await;
    assert_eq!((empty.key_order, empty.pending), (KeyOrder::Start, false));
    two_messages(&stage).await;
    let welcome = stage.hello("bob/d1", first_hello(Start::Oldest)).await;
    assert_eq!((welcome.key_order, welcome.pending), (KeyOrder::Start, true));
    let key = welcome.key.unwrap();
    assert_eq!(key.versions, [Some(0), Some(0)]);
    assert_ne!(key.epoch, 0);
    assert_eq!(stage.peek("bob/d1", Some(key)).await.entries.len(), 2);
    stage.service.quiet().await;
    assert!(stage.state("bob/d1").await.known, "remembered, though nobody waited for it");
    assert_eq!(stage.hello("alice/d1", first_hello(Start::Oldest)).await.highest_client_msg_id, 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_at_heads_is_stored_before_the_reply_and_delivers_nothing() {
    let stage = Stage::new();
    let [_, head] = two_messages(&stage).await;
    let welcome = stage.hello("bob/d1", first_hello(Start::Heads)).await;
    assert_eq!((welcome.key_order, welcome.pending, welcome.key), (KeyOrder::Start, false, Some(head)));
    assert!(stage.state("bob/d1").await.known);
    stage.sync("bob/d1", head).await;
    stage.ack("bob/d1", head).await;
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, []);

    stage.send("alice/d1", 3, "bob", "three").await;
    let head = stage.head("bob/d1").await;
    stage.ack("bob/d1", head).await;
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, [("bob".into(), v1::ReceiptKind::Delivered, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_start_at_heads_derives_first_what_was_acknowledged() {
    let stage = Stage::new();
    let [first, head] = two_messages(&stage).await;
    let epoch = stage.storage.reference.epoch();
    let op = Op::Ack { device: device("bob/d1"), epoch, versions: first.versions, time_ms: 0 };
    tern_storage::Storage::commit(&stage.storage.reference, vec![op]).await;
    assert_eq!(stage.hello("bob/d1", first_hello(Start::Heads)).await.key, Some(head));
    assert_eq!(stage.receipts("alice/d1").await, [("bob".into(), v1::ReceiptKind::Delivered, 1)]);
}

#[tokio::test(start_paused = true)]
async fn hello_judges_and_acknowledges_its_key() {
    let stage = Stage::new();
    let [first, head] = two_messages(&stage).await;
    let welcome = stage.hello("bob/d1", hello_with(first)).await;
    assert_eq!((welcome.key_order, welcome.key, welcome.pending), (KeyOrder::None, None, true));
    assert!(!stage.hello("bob/d1", hello_with(head)).await.pending);
    let messages_only = Key { versions: [head.versions[0], None], ..head };
    stage.read("bob/d2", "alice:bob", 2).await.unwrap();
    assert!(!stage.hello("bob/d1", hello_with(messages_only)).await.pending, "of the classes in the key");
    assert!(stage.hello("bob/d1", hello_with(head)).await.pending);
    stage.service.quiet().await;
    assert_eq!(stage.state("bob/d1").await.acked[0], head.versions[0].unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_foreign_key_and_one_ahead_are_replaced_by_what_is_acknowledged() {
    let stage = Stage::new();
    let [first, head] = two_messages(&stage).await;
    stage.ack("bob/d1", first).await;
    let acked = first;
    let ahead = Key { versions: [head.versions[0].map(|version| version + 1), Some(0)], ..head };
    let alices = stage.head("alice/d1").await;
    assert_ne!(alices.epoch, head.epoch, "each user has an epoch of its own");
    for (key, order) in [
        (ahead, KeyOrder::ReplaceAhead),
        (alices, KeyOrder::ReplaceEpoch),
        (Key::at(0, [0, 0]), KeyOrder::ReplaceEpoch),
    ] {
        let reply = stage.sync("bob/d1", key).await;
        assert_eq!((reply.key_order(), key_of(reply.key)), (order, acked));
        assert!(reply.entries.is_empty() && reply.more.is_empty());
        let welcome = stage.hello("bob/d1", hello_with(key)).await;
        assert_eq!((welcome.key_order, welcome.key, welcome.pending), (order, Some(acked), true));
        let check = v1::CheckRequest { key: Some((&key).into()), ..Default::default() };
        let reply = stage.service.check(&device("bob/d1"), &check).await.unwrap();
        assert_eq!((reply.key_order(), key_of(reply.key)), (order, acked));
        let reply = stage.ack("bob/d1", key).await;
        assert_eq!((reply.key_order(), key_of(reply.key)), (order, acked));
        assert!(matches!(stage.service.push(&device("bob/d1"), &key).await, Ok(Pushed::TooMuch)));
    }
    let unknown = stage.sync("bob/new", ahead).await;
    assert_eq!(key_of(unknown.key), Key::oldest(head.epoch), "nothing is acknowledged by an unknown device");
    stage.service.quiet().await;
    let state = stage.state("bob/d1").await;
    assert_eq!(state.acked.map(Some), acked.versions, "nothing was acknowledged by a replaced key");
    assert!(!stage.state("bob/new").await.known);
}

#[tokio::test(start_paused = true)]
async fn sync_check_and_hello_acknowledge_soon_unless_they_peek() {
    let stage = Stage::new();
    let [_, head] = two_messages(&stage).await;
    let wire = Some((&head).into());
    let request = v1::HelloRequest { key: wire.clone(), peek: true, ..Default::default() };
    stage.hello("bob/d1", request).await;
    stage.hello("bob/d1", v1::HelloRequest { peek: true, start: Start::Heads.into(), ..Default::default() }).await;
    stage.hello("bob/d1", v1::HelloRequest { peek: true, ..Default::default() }).await;
    stage.peek("bob/d1", Some(head)).await;
    let check = v1::CheckRequest { key: wire.clone(), peek: true, wait_ms: 0 };
    stage.service.check(&device("bob/d1"), &check).await.unwrap();
    stage.service.quiet().await;
    assert!(!stage.state("bob/d1").await.known, "a peek leaves no trace");

    stage.hello("bob/d2", hello_with(head)).await;
    stage.sync("bob/d3", head).await;
    let check = v1::CheckRequest { key: wire, ..Default::default() };
    stage.service.check(&device("bob/d4"), &check).await.unwrap();
    stage.service.quiet().await;
    for name in ["bob/d2", "bob/d3", "bob/d4"] {
        assert_eq!(stage.state(name).await.acked.map(Some), head.versions, "{name}");
    }
    assert!(!stage.state("bob/d1").await.known, "the devices of a user move alone");
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_only_rise_and_the_presented_key_alone_decides() {
    let stage = Stage::new();
    let [first, head] = two_messages(&stage).await;
    stage.ack("bob/d1", head).await;
    assert_eq!(stage.state("bob/d1").await.acked.map(Some), head.versions, "durable with the reply");
    let again = stage.sync("bob/d1", first).await;
    assert_eq!(again.entries.len(), 1, "an older key gets older entries again");
    stage.service.quiet().await;
    assert_eq!(stage.state("bob/d1").await.acked.map(Some), head.versions);
    stage.storage.take_commits();
    stage.hello("bob/d1", hello_with(head)).await;
    stage.sync("bob/d1", head).await;
    stage.service.quiet().await;
    assert!(stage.storage.take_commits().is_empty(), "what is stored is not stored again");
    let before = stage.state("bob/d1").await;
    stage.ack("bob/d1", head).await;
    assert_eq!(stage.state("bob/d1").await, before, "storage sees that itself");
}

#[tokio::test(start_paused = true)]
async fn an_ack_needs_a_key_and_tells_if_it_was_not_stored() {
    let stage = Stage::new();
    let [_, head] = two_messages(&stage).await;
    let bob = device("bob/d1");
    let refusal = stage.service.ack(&bob, v1::AckRequest { key: None }).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after.is_zero()), (Code::BadBody, true));
    let request = v1::AckRequest { key: Some((&head).into()) };
    stage.storage.mute.store(true, Ordering::SeqCst);
    assert_eq!(stage.service.ack(&bob, request.clone()).await.unwrap_err().code, Code::OutcomeUnknown);
    stage.storage.down.store(true, Ordering::SeqCst);
    assert_eq!(stage.service.ack(&bob, request).await.unwrap_err().code, Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn check_tells_whether_something_lies_above() {
    let stage = Stage::new();
    let bob = device("bob/d1");
    let pending = async |key: Option<Key>| {
        let request = v1::CheckRequest { key: key.map(|key| (&key).into()), peek: true, wait_ms: 0 };
        stage.service.check(&bob, &request).await.unwrap().pending
    };
    assert!(!pending(None).await);
    let [first, head] = two_messages(&stage).await;
    assert!(pending(None).await, "without a key: above nothing");
    assert!(pending(Some(first)).await);
    assert!(!pending(Some(head)).await);
}

#[tokio::test(start_paused = true)]
async fn the_durability_is_that_of_storage() {
    assert_eq!(Stage::new().service.durability(), v1::Durability::Disk);
}
