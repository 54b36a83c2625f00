//! What is answered without storage, and when storage is asked after all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tern_proto::key::{Class, Key};
use tern_proto::v1;
use tern_proto::v1::Code;
use tern_sync::recent::{CONFIRM, Memory};
use tern_sync::{Recent, Risen, SyncApi};

use super::stage::{Stage, device, message};

/// Notes are made behind the answer.
async fn noted() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// `Err` where storage was asked, which is down.
async fn check(stage: &Stage, of: &str, key: &Key, peek: bool) -> Result<bool, Code> {
    let request = v1::CheckRequest { key: Some(key.into()), peek, wait_ms: 0 };
    let reply = stage.service.check(&device(of), &request).await;
    noted().await;
    reply.map(|reply| reply.pending).map_err(|refusal| refusal.code)
}

/// Bob has a message and has acknowledged it, storage has said so, and is down now.
async fn confirmed() -> (Stage, Arc<Memory>, Key) {
    let (stage, recent) = Stage::shared();
    stage.send("alice/d1", 1, "bob", "hi").await;
    let key = stage.head("bob/d1").await;
    stage.ack("bob/d1", key).await;
    assert_eq!(check(&stage, "bob/d1", &key, false).await, Ok(false));
    stage.storage.down.store(true, Ordering::SeqCst);
    (stage, recent, key)
}

const ASKED: Result<bool, Code> = Err(Code::Unavailable);

#[tokio::test(start_paused = true)]
async fn nothing_new_is_answered_for_as_long_as_it_was_confirmed() {
    let (stage, _, key) = confirmed().await;
    assert_eq!(check(&stage, "bob/d1", &key, false).await, Ok(false));
    assert_eq!(check(&stage, "bob/d2", &key, true).await, ASKED, "of that device");
    tokio::time::sleep(CONFIRM).await;
    assert_eq!(check(&stage, "bob/d1", &key, false).await, ASKED);
    stage.storage.down.store(false, Ordering::SeqCst);
    assert_eq!(check(&stage, "bob/d1", &key, false).await, Ok(false));
    stage.storage.down.store(true, Ordering::SeqCst);
    assert_eq!(check(&stage, "bob/d1", &key, false).await, Ok(false), "confirmed again");
}

/// A hint that wakes it may be of what nobody has noted.
#[tokio::test(start_paused = true)]
async fn a_check_that_waits_goes_to_storage() {
    let (stage, _, key) = confirmed().await;
    let request = v1::CheckRequest { key: Some((&key).into()), peek: true, wait_ms: 1 };
    assert_eq!(stage.service.check(&device("bob/d1"), &request).await.unwrap_err().code, Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_rises_is_news_at_once() {
    let (stage, recent, key) = confirmed().await;
    let version = key.version(Class::Messages).unwrap() + 1;
    recent
        .raise(&[Risen { user: device("bob/d1").user, epoch: key.epoch, class: Class::Messages, version }])
        .await
        .unwrap();
    assert_eq!(check(&stage, "bob/d1", &key, false).await, Ok(true));
    assert_eq!(check(&stage, "bob/d2", &key, false).await, Ok(true), "for every device");
}

/// What is not acknowledged yet has to be stored.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_acknowledged_goes_to_storage() {
    let (stage, _) = Stage::shared();
    stage.send("alice/d1", 1, "bob", "hi").await;
    let key = stage.head("bob/d1").await;
    assert_eq!(check(&stage, "bob/d1", &key, true).await, Ok(false));
    stage.storage.down.store(true, Ordering::SeqCst);
    assert_eq!(check(&stage, "bob/d1", &key, true).await, Ok(false));
    assert_eq!(check(&stage, "bob/d1", &key, false).await, ASKED);
    stage.storage.down.store(false, Ordering::SeqCst);
    assert_eq!(check(&stage, "bob/d1", &key, false).await, Ok(false));
    stage.service.quiet().await;
    assert_eq!(stage.state("bob/d1").await.acked.map(Some), key.versions);
}

#[tokio::test(start_paused = true)]
async fn keys_that_do_not_stand_go_to_storage() {
    let (stage, _, key) = confirmed().await;
    let ahead = Key::at(key.epoch, key.versions.map(|version| version.unwrap_or(0) + 1));
    let foreign = Key { epoch: key.epoch ^ 1, ..key };
    assert_eq!(check(&stage, "bob/d1", &ahead, true).await, ASKED);
    assert_eq!(check(&stage, "bob/d1", &foreign, true).await, ASKED);
}

fn again(client_msg_id: u64, to: &str, text: &str) -> v1::OutMessage {
    v1::OutMessage { again: true, ..message(client_msg_id, to, text) }
}

#[tokio::test(start_paused = true)]
async fn a_resend_gets_its_result_without_storage() {
    let (stage, _) = Stage::shared();
    let first = stage.send("alice/d1", 1, "bob", "hi").await;
    noted().await;
    stage.storage.take_commits();
    let batch = vec![again(1, "bob", "hi"), message(2, "bob", "more"), again(1, "bob", "other"), again(3, "bob", "x")];
    let results = stage.service.send(&device("alice/d1"), batch).await;
    assert_eq!(results[0], first);
    let codes: Vec<Code> = results.iter().map(v1::SendResult::code).collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::Conflict, Code::Ok]);
    assert_eq!((results[1].seq, results[3].seq), (2, 3));
    let commits = stage.storage.take_commits();
    assert_eq!(commits.iter().map(Vec::len).collect::<Vec<_>>(), [3]);
    // Who does not say that it is a resend gets the same from storage.
    assert_eq!(stage.send("alice/d1", 1, "bob", "hi").await, first);
    assert_eq!(stage.storage.take_commits().len(), 1);
}

/// Nothing is known of what storage has not said, nor told while storage says nothing.
#[tokio::test(start_paused = true)]
async fn results_are_told_only_while_storage_answers() {
    let (stage, _) = Stage::shared();
    stage.storage.mute.store(true, Ordering::SeqCst);
    let unknown = stage.service.send(&device("alice/d1"), vec![message(1, "bob", "hi")]).await;
    assert_eq!(unknown[0].code(), Code::OutcomeUnknown);
    stage.storage.mute.store(false, Ordering::SeqCst);
    let second = stage.send("alice/d1", 2, "bob", "ho").await;
    noted().await;
    stage.storage.down.store(true, Ordering::SeqCst);
    let results = stage.service.send(&device("alice/d1"), vec![again(1, "bob", "hi"), again(2, "bob", "ho")]).await;
    assert_eq!((results[0].code(), &results[1]), (Code::Unavailable, &second));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let results = stage.service.send(&device("alice/d1"), vec![again(2, "bob", "ho")]).await;
    assert_eq!(results[0].code(), Code::Unavailable);
}
