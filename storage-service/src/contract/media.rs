//! Messages about media: what is told of it, and who refers to it.

use tern_proto::v1::entry::Body;
use tern_proto::{ConversationId, MediaId, v1};

use super::Place;
use super::history::{commit, conversation, device, past, refusal, sent, timelines, user};
use crate::{Content, Op, Outcome, Recipient, Storage};

/// What is known of the media with this number.
pub(super) fn media(number: u128) -> v1::Media {
    let id = MediaId::from_u128(number).to_string();
    v1::Media {
        id,
        r#type: "image/jpeg".into(),
        bytes: 9,
        width: 4,
        height: 3,
        thumbhash: vec![1, 2],
        ..v1::Media::default()
    }
}

fn about(from: &str, client_msg_id: u64, to: &str, text: &str, media: Option<v1::Media>) -> Op {
    let content = Content::Text { to: Recipient::User(user(to)), text: text.to_owned(), media };
    Op::Send { from: device(from), client_msg_id, content, time_ms: 1_000 }
}

async fn references(store: &dyn Storage, number: u128) -> Vec<(String, u64)> {
    let all = store.references(MediaId::from_u128(number), None, None, 100).await.expect("available");
    all.into_iter().map(|(conversation, seq)| (conversation.to_string(), seq)).collect()
}

async fn told(store: &dyn Storage, reader: &str) -> Vec<(String, Option<v1::Media>)> {
    let entries = timelines(store, &device(reader)).await;
    let messages = entries.into_iter().filter_map(|entry| match entry.body? {
        Body::Message(message) => Some((message.text, message.media)),
        _ => None,
    });
    messages.collect()
}

/// Whoever is handed the message is told what it is about, with a text or without one.
pub async fn what_a_message_is_about_is_told(place: &dyn Place) {
    let store = place.open().await;
    sent(&*store, about("alice/d1", 1, "bob", "", Some(media(7)))).await;
    sent(&*store, about("alice/d1", 2, "bob", "look", Some(media(8)))).await;
    let all = vec![(String::new(), Some(media(7))), ("look".to_owned(), Some(media(8)))];
    assert_eq!(told(&*store, "bob/d1").await, all);
    assert_eq!(told(&*store, "alice/d2").await, all);
    let history = past(&*store, &conversation("alice:bob"), (1, u64::MAX), 9).await;
    assert_eq!(history.messages.into_iter().map(|message| (message.text, message.media)).collect::<Vec<_>>(), all);
}

/// Another id of media is other content; the same again is the same message, whatever else is known of the media by then.
pub async fn media_is_part_of_the_content(place: &dyn Place) {
    let store = place.open().await;
    let first = sent(&*store, about("alice/d1", 1, "bob", "hi", Some(media(7)))).await;
    let more = v1::Media { width: 5, ..media(7) };
    let again = sent(&*store, about("alice/d1", 1, "bob", "hi", Some(more))).await;
    assert_eq!((again.server_msg_id, again.seq), (first.server_msg_id, 1));
    for other in [Some(media(8)), None] {
        assert_eq!(commit(&*store, about("alice/d1", 1, "bob", "hi", other)).await, Outcome::Conflict);
    }
    let hash = Content::Text { to: Recipient::User(user("bob")), text: "hi".into(), media: Some(media(7)) }.hash();
    let content = Content::Refused { code: v1::Code::NoSuchMedia, hash };
    let refused = Op::Send { from: device("alice/d1"), client_msg_id: 1, content, time_ms: 2_000 };
    assert_eq!(sent(&*store, refused).await.server_msg_id, first.server_msg_id, "it was good when it was stored");
}

/// A reference is there as soon as its message is acknowledged, by conversation, at the newest message.
pub async fn references_are_found_by_media(place: &dyn Place) {
    let store = place.open().await;
    assert_eq!(references(&*store, 7).await, []);
    sent(&*store, about("alice/d1", 1, "bob", "", Some(media(7)))).await;
    assert_eq!(references(&*store, 7).await, [("alice:bob".to_owned(), 1)]);
    sent(&*store, about("alice/d1", 2, "carol", "", Some(media(7)))).await;
    sent(&*store, about("bob/d1", 1, "alice", "", Some(media(8)))).await;
    for _ in 0..2 {
        sent(&*store, about("bob/d1", 2, "alice", "again", Some(media(7)))).await;
    }
    assert_eq!(references(&*store, 7).await, [("alice:bob".to_owned(), 3), ("alice:carol".to_owned(), 1)]);
    assert_eq!(references(&*store, 8).await, [("alice:bob".to_owned(), 2)]);
    let first = store.references(MediaId::from_u128(7), None, None, 1).await.expect("available");
    let rest = store.references(MediaId::from_u128(7), None, Some(&first[0].0), 9).await.expect("available");
    assert_eq!((first.len(), rest), (1, vec![(conversation("alice:carol"), 1)]));
}

/// A message that is refused refers to nothing.
pub async fn a_refused_message_refers_to_nothing(place: &dyn Place) {
    let store = place.open().await;
    let to = Recipient::Group(ConversationId::of_group(u64::MAX));
    let content = Content::Text { to, text: String::new(), media: Some(media(9)) };
    let op = Op::Send { from: device("alice/d1"), client_msg_id: 1, content, time_ms: 1_000 };
    assert_eq!(refusal(&*store, op).await, v1::Code::NotAMember);
    assert_eq!(references(&*store, 9).await, []);
}

/// References and what is told of the media are there after a stop.
pub async fn references_are_there_afterwards(place: &dyn Place) {
    let store = place.open().await;
    sent(&*store, about("alice/d1", 1, "bob", "", Some(media(7)))).await;
    drop(store);
    let store = place.open().await;
    sent(&*store, about("bob/d1", 1, "carol", "", Some(media(7)))).await;
    drop(store);
    for _ in 0..2 {
        let store = place.open().await;
        let all = [("alice:bob".to_owned(), 1), ("bob:carol".to_owned(), 1)];
        assert_eq!(references(&*store, 7).await, all);
        assert_eq!(told(&*store, "carol/d1").await, [(String::new(), Some(media(7)))]);
        assert_eq!(commit(&*store, about("bob/d1", 1, "carol", "", Some(media(8)))).await, Outcome::Conflict);
    }
}
