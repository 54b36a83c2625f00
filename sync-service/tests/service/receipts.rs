//! Receipts: derived once, recovered after a crash, brought together, and there when the sender comes back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tern_proto::key::Key;
use tern_proto::v1;
use tern_proto::v1::entry::Body;
use tern_proto::v1::{Code, ReceiptKind};
use tern_storage::{Op, Storage};
use tern_sync::SyncApi;
use tokio::time::{Instant, sleep};

use super::stage::{Stage, device, message};

const PACE: Duration = Duration::from_millis(250);

fn delivered(member: &str, seq: u64) -> (String, ReceiptKind, u64) {
    (member.into(), ReceiptKind::Delivered, seq)
}

fn read(member: &str, seq: u64) -> (String, ReceiptKind, u64) {
    (member.into(), ReceiptKind::Read, seq)
}

async fn alice_writes_bob(stage: &Stage, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        stage.send("alice/d1", id, "bob", "hi").await;
    }
}

fn delivered_commits(stage: &Stage) -> usize {
    let ops = stage.storage.take_commits().into_iter().flatten();
    ops.filter(|op| matches!(op, Op::Delivered { .. })).count()
}

#[tokio::test(start_paused = true)]
async fn the_first_device_delivers_and_the_second_tells_nobody() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=3).await;
    let head = stage.head("bob/d1").await;
    stage.take_hints();
    stage.sync("bob/d1", head).await;
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, [delivered("bob", 3)]);
    assert_eq!(stage.receipts("bob/d1").await, []);
    assert_eq!(stage.take_hints(), ["alice"]);
    let first = stage.head("alice/d1").await;

    stage.ack("bob/d2", head).await;
    stage.service.quiet().await;
    assert_eq!(stage.head("alice/d1").await, first);
    assert!(stage.take_hints().is_empty());
    assert_eq!(stage.storage.reference.underived(None, 10).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn only_what_is_acknowledged_is_delivered_and_own_messages_never() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=2).await;
    let two = stage.head("bob/d1").await;
    alice_writes_bob(&stage, 3..=4).await;
    stage.ack("bob/d1", two).await;
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, [delivered("bob", 2)], "the third was there but not acknowledged");

    stage.send("bob/d2", 1, "carol", "from bob's other device").await;
    let head = stage.head("alice/d2").await;
    stage.ack("alice/d2", head).await;
    stage.ack("bob/d1", stage.head("bob/d1").await).await;
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, [delivered("bob", 4)]);
    for user in ["bob/d1", "carol/d1"] {
        assert_eq!(stage.receipts(user).await, [], "the sender's own acknowledgement delivers nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_by_a_send_a_peek_or_a_page() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=2).await;
    let head = stage.head("bob/d1").await;
    stage.peek("bob/d1", Some(head)).await;
    stage.sync("bob/d1", Key::oldest(head.epoch)).await;
    stage.send("bob/d1", 1, "alice", "yes").await;
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, []);
}

#[tokio::test(start_paused = true)]
async fn delivered_receipts_keep_their_pace_and_the_last_comes() {
    let stage = Stage::new();
    let began = Instant::now();
    for id in 1..=50 {
        alice_writes_bob(&stage, [id]).await;
        let head = stage.head("bob/d1").await;
        // Two devices of bob in turn: the pace is the member's, not the device's.
        stage.ack(["bob/d1", "bob/d2"][id as usize % 2], head).await;
        sleep(Duration::from_millis(20)).await;
    }
    stage.service.quiet().await;
    let paces = began.elapsed().as_millis() / PACE.as_millis() + 1;
    assert_eq!(stage.receipts("alice/d1").await, [delivered("bob", 50)]);
    let hints = stage.take_hints().into_iter().filter(|hint| hint == "alice").count();
    assert!((2..=paces as usize).contains(&hints), "{hints} receipts in {paces} paces");
}

#[tokio::test(start_paused = true)]
async fn long_arrears_are_derived_in_bounded_steps() {
    let stage = Stage::new();
    for first in (1..=10_000).step_by(250) {
        let batch = (first..first + 250).map(|id| message(id, "bob", "x")).collect();
        stage.service.send(&device("alice/d1"), batch).await;
    }
    let epoch = stage.head("bob/d1").await.epoch;
    let head = Key::at(epoch, stage.state("bob/d1").await.heads);
    stage.ack("bob/d1", head).await;
    stage.storage.take_commits();
    stage.service.quiet().await;
    assert_eq!(delivered_commits(&stage), 3, "four pages of 1,000 entries a step");
    assert_eq!(stage.state("bob/d1").await.derived, head.versions[0].unwrap());
    let messages = stage.state("alice/d1").await.heads[0];
    let reply =
        stage.peek("alice/d1", Some(Key { versions: [Some(messages), Some(0)], ..stage.head("alice/d1").await })).await;
    assert!(
        matches!(&reply.entries[..], [v1::Entry { body: Some(Body::Receipt(receipt)), .. }] if receipt.seq == 10_000),
        "{reply:?}"
    );
}

// hot-timeline: one who acknowledges what hundreds have sent holds up nobody.
#[tokio::test(start_paused = true)]
async fn receipts_to_many_are_many_commits_and_none_is_lost() {
    let stage = Stage::new();
    let sender = |number: usize| format!("sender-{number}");
    for number in 0..100 {
        stage.send(&format!("{}/d1", sender(number)), 1, "bob", "hi").await;
    }
    stage.take_hints();
    stage.ack("bob/d1", stage.head("bob/d1").await).await;
    stage.storage.take_commits();
    stage.service.quiet().await;
    let raised = |ops: &Vec<Op>| match &ops[..] {
        [Op::Delivered { positions, .. }] => positions.len(),
        other => panic!("{other:?}"),
    };
    let sizes: Vec<usize> = stage.storage.take_commits().iter().map(raised).collect();
    assert_eq!(sizes, [32, 32, 32, 4]);
    assert_eq!(stage.take_hints().len(), 100);
    for number in 0..100 {
        assert_eq!(stage.receipts(&format!("{}/d1", sender(number))).await, [delivered("bob", 1)]);
    }
    let bob = stage.state("bob/d1").await;
    assert_eq!(bob.derived, bob.acked[0]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_acknowledgement_and_receipt_loses_none() {
    let crashed = Stage::new();
    alice_writes_bob(&crashed, 1..=2).await;
    crashed.send("carol/d1", 1, "dave", "hi").await;
    for name in ["bob/d1", "bob/d2", "dave/d1"] {
        let versions = crashed.head(name).await.versions;
        let epoch = crashed.storage.reference.epoch();
        let op = Op::Ack { device: device(name), epoch, versions, time_ms: 0 };
        crashed.storage.reference.commit(vec![op]).await;
    }
    let stage = Stage::over(crashed.storage.clone());
    stage.service.recover();
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, [delivered("bob", 2)]);
    assert_eq!(stage.receipts("carol/d1").await, [delivered("dave", 1)]);
    assert_eq!(stage.take_hints(), ["alice", "carol"]);
    assert_eq!(stage.storage.reference.underived(None, 10).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_outage_delays_receipts_and_loses_none() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=2).await;
    let head = stage.head("bob/d1").await;
    stage.ack("bob/d1", head).await;
    stage.storage.down.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(30)).await;
    stage.storage.down.store(false, Ordering::SeqCst);
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, [delivered("bob", 2)]);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_was_stored_unheard_is_derived_from_the_next() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=2).await;
    let head = stage.head("bob/d1").await;
    stage.storage.mute.store(true, Ordering::SeqCst);
    stage.sync("bob/d1", head).await;
    stage.service.quiet().await;
    stage.storage.mute.store(false, Ordering::SeqCst);
    assert_eq!(stage.receipts("alice/d1").await, []);
    stage.sync("bob/d1", head).await;
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, [delivered("bob", 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_stored_with_the_reply_and_spares_its_device_the_hint() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=3).await;
    stage.take_hints();
    stage.read("bob/d1", "alice:bob", 2).await.unwrap();
    assert_eq!(stage.receipts("alice/d1").await, [read("bob", 2)]);
    assert_eq!(stage.receipts("bob/d2").await, [read("bob", 2)]);
    assert_eq!(stage.take_hints(), ["alice", "bob but d1"]);
    stage.read("bob/d1", "alice:bob", 1).await.unwrap();
    assert_eq!(stage.receipts("alice/d1").await, [read("bob", 2)], "a mark never goes back");
    assert!(stage.take_hints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_read_implies_delivered_without_an_entry_of_its_own() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=2).await;
    stage.read("bob/d1", "alice:bob", 2).await.unwrap();
    stage.ack("bob/d1", stage.head("bob/d1").await).await;
    stage.service.quiet().await;
    assert_eq!(stage.receipts("alice/d1").await, [read("bob", 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_read_is_refused() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=2).await;
    stage.storage.take_commits();
    for (by, of) in [("carol/d1", "alice:bob"), ("bob/d1", "bob:alice"), ("bob/d1", "nonsense"), ("bob/d1", "")] {
        assert_eq!(stage.read(by, of, 1).await, Err(Code::NotAMember), "{of}");
    }
    assert!(stage.storage.take_commits().is_empty());
    assert_eq!(stage.read("bob/d1", "alice:bob", 3).await, Err(Code::BeyondHead));
    assert_eq!(stage.read("bob/d1", "bob:carol", 1).await, Err(Code::BeyondHead));
    stage.storage.down.store(true, Ordering::SeqCst);
    assert_eq!(stage.read("bob/d1", "alice:bob", 2).await, Err(Code::Unavailable));
    stage.storage.down.store(false, Ordering::SeqCst);
    assert_eq!(stage.receipts("alice/d1").await, []);
}

#[tokio::test(start_paused = true)]
async fn reads_that_come_together_are_one_receipt_and_one_commit() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=9).await;
    stage.read("bob/d1", "alice:bob", 1).await.unwrap();
    stage.take_hints();
    stage.storage.take_commits();
    let began = Instant::now();
    let (five, nine, beyond, three) = tokio::join!(
        stage.read("bob/d1", "alice:bob", 5),
        stage.read("bob/d2", "alice:bob", 9),
        stage.read("bob/d1", "alice:bob", 99),
        stage.read("bob/d1", "alice:bob", 3),
    );
    assert_eq!((five.is_ok(), nine.is_ok(), beyond, three.is_ok()), (true, true, Err(Code::BeyondHead), true));
    assert_eq!(stage.storage.take_commits().len(), 1);
    assert_eq!(stage.take_hints(), ["alice", "bob but d2"], "one receipt, made by the highest that is there");
    assert_eq!(stage.receipts("alice/d1").await, [read("bob", 9)]);
    assert!(began.elapsed() >= PACE - Duration::from_millis(1), "not sooner than the pace");

    let quiet = Instant::now();
    stage.service.quiet().await;
    stage.read("alice/d1", "alice:bob", 9).await.unwrap();
    assert!(quiet.elapsed() < 2 * PACE, "another member does not wait for bob's pace");
}

#[tokio::test(start_paused = true)]
async fn reads_in_quick_succession_keep_their_pace_and_the_last_comes() {
    let stage = Stage::new();
    alice_writes_bob(&stage, 1..=40).await;
    stage.storage.take_commits();
    let mut callers = tokio::task::JoinSet::new();
    for seq in 1..=40 {
        let service = stage.service.clone();
        callers.spawn(async move {
            let request = v1::ReadRequest { conversation: "alice:bob".into(), seq };
            service.read(&device("bob/d1"), request).await.unwrap();
        });
        sleep(Duration::from_millis(20)).await;
    }
    callers.join_all().await;
    assert_eq!(stage.receipts("alice/d1").await, [read("bob", 40)]);
    let commits = stage.storage.take_commits().len();
    assert!((2..=5).contains(&commits), "{commits} commits in 0.8 s");
}

#[tokio::test(start_paused = true)]
async fn receipts_wait_for_a_sender_who_is_away() {
    let stage = Stage::new();
    alice_writes_bob(&stage, [1]).await;
    let left = stage.head("alice/d1").await;
    stage.ack("bob/d1", stage.head("bob/d1").await).await;
    stage.service.quiet().await;
    stage.read("bob/d1", "alice:bob", 1).await.unwrap();
    stage.service.quiet().await;
    let restarted = Stage::over(stage.storage.clone());
    let entries = restarted.peek("alice/d1", Some(left)).await.entries;
    assert_eq!(entries.len(), 2, "delivered and read");
    assert!(entries.iter().all(|entry| entry.class == 2));
}
