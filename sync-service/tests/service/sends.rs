//! Sends: results, dedup, hints, and what a page and a push make of them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use prost::Message;
use tern_proto::key::Key;
use tern_proto::packet::HEADER_BYTES;
use tern_proto::v1::entry::Body;
use tern_proto::v1::{Code, KeyOrder};
use tern_proto::{limits, v1};
use tern_sync::{Pushed, SyncApi};

use super::stage::{Stage, device, key_of, message};

fn codes(results: &[v1::SendResult]) -> Vec<Code> {
    results.iter().map(v1::SendResult::code).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_one_commit_with_a_result_for_each_in_order() {
    let stage = Stage::new();
    let batch = vec![
        message(1, "bob", "one"),
        message(0, "bob", "no id"),
        message(2, "bob", ""),
        message(3, "alice", "to myself"),
        message(4, "carol", "four"),
        message(1, "bob", "other content"),
        message(5, "bob", "five"),
    ];
    let results = stage.service.send(&device("alice/d1"), batch).await;
    let want = [Code::Ok, Code::BadMessageId, Code::EmptyText, Code::BadRecipient, Code::Ok, Code::Conflict, Code::Ok];
    assert_eq!(codes(&results), want);
    assert_eq!(results.iter().map(|result| result.client_msg_id).collect::<Vec<_>>(), [1, 0, 2, 3, 4, 1, 5]);
    assert_eq!((results[0].seq, results[4].seq, results[6].seq), (1, 1, 2));
    assert_eq!(results[6].conversation, "alice:bob");
    let commits = stage.storage.take_commits();
    assert_eq!(commits.iter().map(Vec::len).collect::<Vec<_>>(), [6], "id 0 never reaches storage");
    let hints: BTreeSet<String> = stage.take_hints().into_iter().collect();
    assert_eq!(hints.iter().collect::<Vec<_>>(), ["alice but d1", "bob", "carol"]);
}

/// What a hint carries is what a page has, for each device, and says where it stands.
#[tokio::test(start_paused = true)]
async fn news_is_the_entry_of_the_page() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob"]).await;
    assert!(stage.take_news().iter().all(|news| news.body.is_none()), "what becomes of a change is for storage to say");
    stage.service.send(&device("alice/d1"), vec![message(2, "bob", "hi"), message(3, &group, "all")]).await;
    stage.read("bob/d1", "alice:bob", 1).await.unwrap();
    let news = stage.take_news();
    assert_eq!(news.len(), 4, "two messages, and a receipt for each of two");
    for name in ["alice/d1", "alice/d2", "bob/d1"] {
        let reader = device(name);
        let page = stage.peek(name, None).await.entries;
        let places = news.iter().flat_map(|news| news.places.iter().map(move |placed| (news, placed)));
        for (news, placed) in places.filter(|(_, placed)| placed.user == reader.user) {
            let entry = news.entry(placed, &reader.id).unwrap();
            let at = page.iter().position(|known| *known == entry);
            let at = at.unwrap_or_else(|| panic!("{name}: {entry:?} is not in {page:?}"));
            let before =
                page[..at].iter().rev().find(|known| known.class == entry.class).map_or(0, |known| known.version);
            assert_eq!(placed.before, before, "{name}: {entry:?}");
            assert_eq!(placed.epoch, stage.head(name).await.epoch);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_resend_gets_the_same_result_and_hints_nobody() {
    let stage = Stage::new();
    let first = stage.send("alice/d1", 1, "bob", "hi").await;
    stage.take_hints();
    assert_eq!(stage.send("alice/d1", 1, "bob", "hi").await, first);
    assert!(stage.take_hints().is_empty());
    let refused = stage.service.send(&device("alice/d1"), vec![message(2, "bob", ""); 2]).await;
    assert_eq!(codes(&refused), [Code::EmptyText; 2]);
    let valid = stage.service.send(&device("alice/d1"), vec![message(2, "bob", "now with text")]).await;
    assert_eq!(codes(&valid), [Code::Conflict], "a refused id never becomes a message");
    assert!(stage.take_hints().is_empty());
    assert_eq!(stage.peek("bob/d1", None).await.entries.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_fails_gives_each_message_a_retryable_code() {
    let stage = Stage::new();
    stage.storage.down.store(true, Ordering::SeqCst);
    let batch = vec![message(1, "bob", "hi"), message(0, "bob", ""), message(2, "bob", "")];
    let results = stage.service.send(&device("alice/d1"), batch).await;
    assert_eq!(codes(&results), [Code::Unavailable, Code::BadMessageId, Code::Unavailable]);
    assert!(results[0].retry_after_ms > 0 && results[1].retry_after_ms == 0);
    let refusal = stage.service.sync(&device("bob/d1"), v1::SyncRequest::default()).await.unwrap_err();
    assert_eq!(refusal.code, Code::Unavailable);
    assert!(!refusal.retry_after.is_zero());

    stage.storage.down.store(false, Ordering::SeqCst);
    stage.storage.mute.store(true, Ordering::SeqCst);
    let results = stage.service.send(&device("alice/d1"), vec![message(1, "bob", "hi")]).await;
    assert_eq!(codes(&results), [Code::OutcomeUnknown]);
    assert!(results[0].retry_after_ms > 0);
    stage.storage.mute.store(false, Ordering::SeqCst);
    assert_eq!(stage.send("alice/d1", 1, "bob", "hi").await.seq, 1, "the resend is not a second message");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_takes_no_hint_with_it() {
    let stage = Stage::new();
    stage.storage.slow.store(true, Ordering::SeqCst);
    {
        let alice = device("alice/d1");
        let mut send = stage.service.send(&alice, vec![message(1, "bob", "hi")]);
        // Polled once: the commit is begun, and the caller is gone before it hears of it.
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(send.as_mut().poll(&mut context).is_pending());
    }
    // The rest of it runs in a task of its own.
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.take_hints(), ["alice but d1", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn the_sending_device_gets_a_stub_and_the_others_the_message() {
    let stage = Stage::new();
    let result = stage.send("alice/d1", 7, "bob", "hi").await;
    let only = |reply: v1::SyncReply| {
        assert_eq!((reply.entries.len(), reply.more.len(), reply.key_order()), (1, 0, KeyOrder::None));
        reply.entries[0].body.clone().unwrap()
    };
    match only(stage.peek("alice/d1", None).await) {
        Body::Stub(stub) => assert_eq!((stub.client_msg_id, stub.server_msg_id), (7, result.server_msg_id)),
        other => panic!("{other:?}"),
    }
    for reader in ["alice/d2", "bob/d1"] {
        match only(stage.peek(reader, None).await) {
            Body::Message(message) => assert_eq!((message.text.as_str(), message.seq), ("hi", 1)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stub_alone_pushes_nothing_but_travels_with_what_comes() {
    let stage = Stage::new();
    let start = stage.head("alice/d1").await;
    let alice = device("alice/d1");
    assert!(matches!(stage.service.push(&alice, &start).await, Ok(Pushed::Nothing)));
    stage.send("alice/d1", 1, "bob", "hi").await;
    assert!(matches!(stage.service.push(&alice, &start).await, Ok(Pushed::Nothing)));
    stage.send("bob/d1", 1, "alice", "ho").await;
    match stage.service.push(&alice, &start).await.unwrap() {
        Pushed::Delta(entries, after) => {
            assert!(matches!(entries[0].body, Some(Body::Stub(_))), "it carries everything in between");
            assert!(matches!(entries[1].body, Some(Body::Message(_))));
            assert_eq!(after, stage.head("alice/d1").await);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn deltas_chain_from_key_to_key() {
    let stage = Stage::new();
    let bob = device("bob/d1");
    let mut key = stage.head("bob/d1").await;
    for id in 1..=3 {
        stage.send("alice/d1", id, "bob", &id.to_string()).await;
        match stage.service.push(&bob, &key).await.unwrap() {
            Pushed::Delta(entries, after) => {
                assert_eq!(entries.len(), 1, "only what lies above the last one");
                assert_eq!(after.versions[0], Some(entries[0].version));
                key = after;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(stage.service.push(&bob, &key).await, Ok(Pushed::Nothing)));
    let messages_only = Key { versions: [key.versions[0], None], ..key };
    stage.read("bob/d2", "alice:bob", 3).await.unwrap();
    assert!(matches!(stage.service.push(&bob, &messages_only).await, Ok(Pushed::Nothing)), "classes of the key only");
    assert!(matches!(stage.service.push(&bob, &key).await, Ok(Pushed::Delta(..))));
}

#[tokio::test(start_paused = true)]
async fn more_than_a_delta_carries_is_left_to_a_sync() {
    let stage = Stage::new();
    let start = stage.head("bob/d1").await;
    let long = "x".repeat(limits::TEXT_BYTES);
    for id in 1..=4 {
        stage.send("alice/d1", id, "bob", &long).await;
    }
    let bob = device("bob/d1");
    assert!(matches!(stage.service.push(&bob, &start).await, Ok(Pushed::TooMuch)));
    let foreign = Key { epoch: start.epoch + 1, ..start };
    assert!(matches!(stage.service.push(&bob, &foreign).await, Ok(Pushed::TooMuch)), "the sync brings the order");
}

#[tokio::test(start_paused = true)]
async fn pages_fit_a_packet_and_end() {
    let stage = Stage::new();
    for id in 1..=300_u64 {
        let length = if id % 7 == 0 { limits::TEXT_BYTES } else { 1 + (id as usize * 97) % 900 };
        stage.send("alice/d1", id, "bob", &"x".repeat(length)).await;
    }
    let bob = device("bob/d1");
    let mut key = None;
    let mut seen = 0;
    loop {
        let request = v1::SyncRequest { key: key.clone(), peek: true, limit: 50 };
        let reply = stage.service.sync(&bob, request).await.unwrap();
        assert!(HEADER_BYTES + reply.encoded_len() <= limits::PACKET_BYTES);
        assert!((1..=50).contains(&reply.entries.len()));
        seen += reply.entries.len();
        key = reply.key;
        if reply.more.is_empty() {
            break;
        }
        assert_eq!(reply.more, [1]);
    }
    assert_eq!(seen, 300);
    let end = stage.peek("bob/d1", Some(key_of(key))).await;
    assert!(end.entries.is_empty() && end.more.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_0_or_too_large_is_that_of_the_protocol() {
    let stage = Stage::new();
    for first in (1..=1_200).step_by(200) {
        let batch = (first..first + 200).map(|id| message(id, "bob", "x")).collect();
        stage.service.send(&device("alice/d1"), batch).await;
    }
    for (limit, want) in [(0, limits::PAGE_ENTRIES), (u32::MAX, limits::PAGE_ENTRIES), (3, 3)] {
        let request = v1::SyncRequest { key: None, peek: true, limit };
        let reply = stage.service.sync(&device("bob/d1"), request).await.unwrap();
        assert_eq!((reply.entries.len(), reply.more), (want, vec![1]));
    }
}
