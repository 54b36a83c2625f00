//! huge-first-sync: a user who is owed 100,000 entries. And texts at their limit.

use std::time::Duration;

use tern_proto::{Command, v1};

use crate::device::{Device, messages};
use crate::place::Place;

const OWED: u64 = 100_000;

#[tokio::test]
async fn a_user_who_is_owed_100_000_entries_gets_each_once_and_in_order() {
    let place = Place::start(&[("TERN_STORAGE__DURABILITY", "os")]);
    let mut alice = Device::enter(&place, "alice", "d1", None).await;
    alice.send(1, (1..=OWED).map(|number| format!("text {number}"))).await;

    let mut bob = Device::enter(&place, "bob", "d1", None).await;
    assert!(bob.welcome.pending);
    let (mut key, mut seen, mut version) = (None, 0, 0);
    loop {
        let page = bob.page(key, 0).await;
        assert!(page.entries.len() <= 1_000);
        for entry in &page.entries {
            assert!(entry.version > version, "{entry:?} after {version}");
            version = entry.version;
        }
        for message in messages(&page.entries) {
            seen += 1;
            assert_eq!((message.seq, &message.text), (seen, &format!("text {seen}")));
        }
        key = page.key;
        if page.more.is_empty() {
            break;
        }
    }
    assert_eq!(seen, OWED);
    let check = v1::CheckRequest { key, ..Default::default() };
    let nothing: v1::CheckReply = bob.link.request(Command::Check, &check).await.unwrap();
    assert!(!nothing.pending);
}

#[tokio::test]
async fn a_text_of_16_kib_is_taken_and_one_byte_more_is_not() {
    let place = Place::start(&[]);
    let mut alice = Device::enter(&place, "alice", "d1", None).await;
    let (fits, wide) = ("x".repeat(16_384), "ü".repeat(8_192));
    alice.send(1, [fits.clone(), wide.clone()]).await;
    for (client_msg_id, text) in [(3, format!("{fits}x")), (4, format!("{wide}x"))] {
        let message = v1::OutMessage { client_msg_id, to: "bob".into(), text, ..Default::default() };
        let on_long_link = alice.try_send(vec![message.clone()]).await;
        assert_eq!(on_long_link[0].code(), v1::Code::TextTooLong);
        let request = v1::SendRequest { messages: vec![message], ..Default::default() };
        let reply: v1::SendReply =
            place.short_link("alice", "d1").request(Command::Send, &request, Duration::ZERO).await.unwrap();
        assert_eq!(reply.results, on_long_link, "it is remembered");
    }
    let (entries, _) = Device::enter(&place, "bob", "d1", None).await.drain(None).await;
    let texts: Vec<_> = messages(&entries).map(|message| message.text.as_str()).collect();
    assert_eq!(texts, [fits, wide]);
}
