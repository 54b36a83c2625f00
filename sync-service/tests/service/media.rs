//! Messages about media: who may refer to it, and who sees it.

#![allow(clippy::unwrap_used, reason = "these are tests, their support included")]

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tern_media::{MediaApi, Opened, References};
use tern_proto::v1::entry::Body;
use tern_proto::v1::{Code, OutMessage, SendResult};
use tern_proto::{MediaId, Refusal, UserId, v1};
use tern_sync::SyncApi;

use crate::stage::{Stage, add, asking, device, message};

/// A media service that only knows what there is.
#[derive(Default)]
struct Shelf {
    all: Mutex<HashMap<MediaId, Opened>>,
    /// By their digests: what they have become, or how they are refused.
    clips: Mutex<HashMap<String, Result<MediaId, Code>>>,
    down: AtomicBool,
}

impl Shelf {
    fn put(&self, number: u128, owner: &str) -> String {
        let id = MediaId::from_u128(number);
        let media = v1::Media { id: id.to_string(), width: 4, ..Default::default() };
        let (thumbnail, content) = (Bytes::new(), Bytes::new());
        let as_nothing = Refusal::new(Code::NoSuchMedia, "none");
        let opened = Opened { owner: owner.parse().unwrap(), media, thumbnail, content, as_nothing };
        self.all.lock().unwrap().insert(id, opened);
        id.to_string()
    }
}

#[async_trait]
impl MediaApi for Shelf {
    async fn begin(&self, _: &UserId, _: v1::MediaBegin) -> Result<v1::MediaUpload, Refusal> {
        unreachable!()
    }
    async fn part(&self, _: &UserId, _: MediaId, _: u32, _: u32, _: Bytes) -> Result<u32, Refusal> {
        unreachable!()
    }
    async fn upload(&self, _: &UserId, _: MediaId) -> Result<v1::MediaUpload, Refusal> {
        unreachable!()
    }
    async fn complete(&self, _: &UserId, _: MediaId) -> Result<v1::MediaUpload, Refusal> {
        unreachable!()
    }
    async fn chunks(&self, _: &UserId, _: Vec<v1::Chunk>) -> Vec<v1::ChunksStored> {
        unreachable!()
    }
    async fn clip(&self, _: &UserId, clip: v1::MediaBegin) -> Result<v1::Media, Refusal> {
        let became = self.clips.lock().unwrap().get(&clip.sha256).copied();
        self.lease(became.unwrap_or(Err(Code::UploadIncomplete)).map_err(|code| Refusal::new(code, "refused"))?).await
    }
    async fn lease(&self, id: MediaId) -> Result<v1::Media, Refusal> {
        Ok(self.open(id).await?.media)
    }
    async fn open(&self, id: MediaId) -> Result<Opened, Refusal> {
        if self.down.load(Ordering::SeqCst) {
            return Err(Refusal::new(Code::Unavailable, "switched off"));
        }
        let found = self.all.lock().unwrap().get(&id).cloned();
        found.ok_or_else(|| Refusal::new(Code::MediaExpired, "none"))
    }
    async fn read(&self, _: MediaId, _: Range<u64>) -> Result<BoxStream<'static, Result<Bytes, Refusal>>, Refusal> {
        unreachable!()
    }
}

fn stage() -> (Stage, Arc<Shelf>) {
    let shelf = Arc::<Shelf>::default();
    (Stage::with_media(shelf.clone()), shelf)
}

fn about(client_msg_id: u64, to: &str, text: &str, media: &str) -> OutMessage {
    OutMessage { media: media.into(), ..message(client_msg_id, to, text) }
}

async fn send(stage: &Stage, from: &str, message: OutMessage) -> SendResult {
    stage.service.send(&device(from), vec![message]).await.remove(0)
}

async fn sees(stage: &Stage, user: &str, id: &str) -> bool {
    stage.service.sees_media(&device(&format!("{user}/d1")), id.parse().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_message_tells_what_it_is_about() {
    let (stage, shelf) = stage();
    let id = shelf.put(7, "alice");
    assert_eq!(send(&stage, "alice/d1", about(1, "bob", "", &id)).await.code(), Code::Ok);
    assert_eq!(send(&stage, "alice/d1", about(2, "bob", "look", &id)).await.code(), Code::Ok);
    let entries = stage.peek("bob/d1", None).await.entries;
    let told = entries.into_iter().filter_map(|entry| match entry.body? {
        Body::Message(message) => Some((message.text, message.media?.width)),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(String::new(), 4), ("look".to_owned(), 4)]);
}

#[tokio::test]
async fn only_who_may_fetch_it_may_refer_to_it() {
    let (stage, shelf) = stage();
    let id = shelf.put(7, "alice");
    let never = MediaId::from_u128(8).to_string();
    for (from, place, media) in
        [("eve/d1", 1, &id[..]), ("bob/d1", 1, &id), ("alice/d1", 1, &never), ("alice/d1", 2, "x")]
    {
        let refused = send(&stage, from, about(place, "carol", "hi", media)).await;
        assert_eq!((refused.code(), refused.retry_after_ms), (Code::NoSuchMedia, 0), "{from} {media}");
    }
    assert!(!sees(&stage, "bob", &id).await);
    send(&stage, "alice/d1", about(3, "bob", "", &id)).await;
    assert!(sees(&stage, "bob", &id).await && sees(&stage, "alice", &id).await && !sees(&stage, "carol", &id).await);
    // A refusal is remembered: what came too early needs a new id.
    assert_eq!(send(&stage, "bob/d1", about(1, "carol", "hi", &id)).await.code(), Code::NoSuchMedia);
    assert_eq!(send(&stage, "bob/d1", about(2, "carol", "hi", &id)).await.code(), Code::Ok);
    assert!(sees(&stage, "carol", &id).await && !sees(&stage, "eve", &id).await);
}

#[tokio::test]
async fn what_was_stored_is_answered_the_same_when_the_media_cannot_be_had_any_more() {
    let (stage, shelf) = stage();
    let id = shelf.put(7, "alice");
    let sent = send(&stage, "alice/d1", about(1, "bob", "hi", &id)).await;
    shelf.all.lock().unwrap().clear();
    assert_eq!(send(&stage, "alice/d1", about(1, "bob", "hi", &id)).await, sent);
    assert_eq!(send(&stage, "alice/d1", message(1, "bob", "hi")).await.code(), Code::Conflict);
    assert_eq!(send(&stage, "alice/d1", about(1, "bob", "other", &id)).await.code(), Code::Conflict);
}

fn speak(client_msg_id: u64, to: &str, sha256: &str) -> OutMessage {
    let clip = Some(v1::MediaBegin { sha256: sha256.into(), ..Default::default() });
    OutMessage { chunk: Some(v1::Chunk { clip, ..Default::default() }), ..message(client_msg_id, to, "") }
}

#[tokio::test]
async fn a_clip_is_what_it_has_become() {
    let (stage, shelf) = stage();
    let id = shelf.put(7, "alice");
    let incomplete = send(&stage, "alice/d1", speak(1, "bob", "a")).await;
    assert_eq!((incomplete.code(), incomplete.retry_after_ms), (Code::UploadIncomplete, 0));
    shelf.clips.lock().unwrap().insert("a".into(), Ok(id.parse().unwrap()));
    let sent = send(&stage, "alice/d1", speak(1, "bob", "a")).await;
    assert_eq!((sent.code(), sent.seq), (Code::Ok, 1), "that it was incomplete is no final refusal");
    assert_eq!(send(&stage, "alice/d1", speak(1, "bob", "a")).await, sent);
    assert_eq!(send(&stage, "alice/d1", about(1, "bob", "", &id)).await, sent);
    assert_eq!(send(&stage, "alice/d1", message(1, "bob", "a")).await.code(), Code::Conflict);
    assert!(sees(&stage, "bob", &id).await);
    let both = OutMessage { media: id.clone(), ..speak(2, "bob", "a") };
    assert_eq!(send(&stage, "alice/d1", both).await.code(), Code::NoSuchMedia);
    let change = OutMessage { change: Some(add(&["bob"])), ..speak(3, "", "a") };
    assert_eq!(send(&stage, "alice/d1", change).await.code(), Code::BadChange);
}

#[tokio::test]
async fn a_clip_that_is_refused_for_ever_stays_so() {
    let (stage, shelf) = stage();
    shelf.clips.lock().unwrap().insert("a".into(), Err(Code::BadDigest));
    assert_eq!(send(&stage, "alice/d1", speak(1, "bob", "a")).await.code(), Code::BadDigest);
    assert_eq!(send(&stage, "alice/d1", speak(1, "bob", "a")).await.code(), Code::BadDigest);
    shelf.clips.lock().unwrap().insert("b".into(), Err(Code::BadBody));
    assert_eq!(send(&stage, "alice/d1", speak(1, "bob", "b")).await.code(), Code::Conflict);
    assert_eq!(send(&stage, "alice/d1", speak(2, "bob", "b")).await.code(), Code::BadMedia);
    assert!(stage.peek("bob/d1", None).await.entries.is_empty());
}

#[tokio::test]
async fn a_clip_whose_time_is_over_is_brought_again() {
    let (stage, shelf) = stage();
    for over in [Code::MediaExpired, Code::NoSuchMedia] {
        shelf.clips.lock().unwrap().insert("a".into(), Err(over));
        assert_eq!(send(&stage, "alice/d1", speak(1, "bob", "a")).await.code(), Code::UploadIncomplete, "{over:?}");
    }
    let id = shelf.put(7, "alice").parse().unwrap();
    shelf.clips.lock().unwrap().insert("a".into(), Ok(id));
    assert_eq!(send(&stage, "alice/d1", speak(1, "bob", "a")).await.code(), Code::Ok);
}

// Invariant 16.
#[tokio::test]
async fn media_that_is_away_is_no_final_refusal_and_holds_back_nobody() {
    let (stage, shelf) = stage();
    let id = shelf.put(7, "alice");
    shelf.down.store(true, Ordering::SeqCst);
    let batch = vec![about(1, "bob", "", &id), message(2, "bob", "text"), about(0, "bob", "", &id)];
    let results = stage.service.send(&device("alice/d1"), batch).await;
    let codes: Vec<_> = results.iter().map(SendResult::code).collect();
    assert_eq!(codes, [Code::OutcomeUnknown, Code::Ok, Code::BadMessageId]);
    assert!(results[0].retry_after_ms > 0);
    shelf.down.store(false, Ordering::SeqCst);
    let sent = send(&stage, "alice/d1", about(1, "bob", "", &id)).await;
    assert_eq!(sent.seq, 2);
    // It is stored by now, so "nothing was stored" would be a lie.
    shelf.down.store(true, Ordering::SeqCst);
    assert_eq!(send(&stage, "alice/d1", about(1, "bob", "", &id)).await.code(), Code::OutcomeUnknown);
    shelf.down.store(false, Ordering::SeqCst);
    assert_eq!(send(&stage, "alice/d1", about(1, "bob", "", &id)).await, sent);
}

#[tokio::test]
async fn without_a_media_service_there_is_no_media() {
    let stage = Stage::new();
    let id = MediaId::from_u128(7).to_string();
    assert_eq!(send(&stage, "alice/d1", about(1, "bob", "hi", &id)).await.code(), Code::NoSuchMedia);
}

#[tokio::test]
async fn a_rule_of_the_message_comes_first() {
    let (stage, shelf) = stage();
    let id = shelf.put(7, "alice");
    assert_eq!(send(&stage, "alice/d1", about(1, "alice", "", &id)).await.code(), Code::BadRecipient);
    let long = "x".repeat(tern_proto::limits::TEXT_BYTES + 1);
    assert_eq!(send(&stage, "alice/d1", about(2, "bob", &long, &id)).await.code(), Code::TextTooLong);
    let change = OutMessage { media: id, ..asking(3, "", add(&["bob"])) };
    assert_eq!(send(&stage, "alice/d1", change).await.code(), Code::BadChange);
}

#[tokio::test]
async fn of_a_group_only_the_members_see_it() {
    let (stage, shelf) = stage();
    let id = shelf.put(7, "alice");
    let group = stage.group("alice/d1", 1, &["bob", "carol"]).await;
    assert_eq!(send(&stage, "alice/d1", about(2, &group, "", &id)).await.code(), Code::Ok);
    assert!(sees(&stage, "bob", &id).await && sees(&stage, "carol", &id).await && !sees(&stage, "dave", &id).await);
    let change = v1::GroupChange { remove: vec!["carol".into()], add: vec!["dave".into()], ..Default::default() };
    assert_eq!(stage.change("alice/d1", 3, &group, change).await.code(), Code::Ok);
    assert!(!sees(&stage, "carol", &id).await, "who has left");
    assert!(!sees(&stage, "dave", &id).await, "who joined later");
    send(&stage, "bob/d1", about(1, &group, "again", &id)).await;
    assert!(sees(&stage, "dave", &id).await && !sees(&stage, "carol", &id).await);
    assert!(!sees(&stage, "eve", &id).await);
}

#[tokio::test]
async fn whether_anything_refers_to_it_is_told() {
    let (stage, shelf) = stage();
    let (id, other) = (shelf.put(7, "alice"), shelf.put(8, "alice"));
    let refers = async |id: &str| stage.service.refers(id.parse().unwrap()).await.unwrap();
    assert!(!refers(&id).await);
    send(&stage, "alice/d1", about(1, "bob", "", &id)).await;
    assert!(refers(&id).await && !refers(&other).await);
}
