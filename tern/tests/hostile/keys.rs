//! Keys of another user, of another epoch and from the future.

use std::time::Duration;

use tern_client::link::ShortLink;
use tern_proto::key::Key;
use tern_proto::v1::KeyOrder::{ReplaceAhead, ReplaceEpoch};
use tern_proto::{Command, v1};

use crate::device::{Device, numbers};
use crate::place::Place;

fn wire(key: Key) -> Option<v1::SyncKey> {
    Some((&key).into())
}

#[tokio::test]
async fn a_key_that_does_not_stand_is_replaced_by_what_was_acknowledged_and_acknowledges_nothing() {
    let place = Place::start(&[]);
    let mut alice = Device::enter(&place, "alice", "d1", None).await;
    alice.send(1, (1..=3).map(|number| format!("text {number}"))).await;
    let (_, of_alice) = alice.drain(None).await;

    let mut bob = Device::enter(&place, "bob", "d1", None).await;
    let first = bob.page(None, 1).await;
    let standing = first.key.clone().unwrap();
    let _: v1::AckReply = bob.link.request(Command::Ack, &v1::AckRequest { key: first.key.clone() }).await.unwrap();
    let at = Key::from(&standing);
    let [messages, receipts] = at.versions.map(|version| version.unwrap());

    let foreign = Key::from(&of_alice.unwrap());
    let bad = [
        ("of another user", foreign, ReplaceEpoch),
        ("of another user, in the future", Key::at(foreign.epoch, [u64::MAX; 2]), ReplaceEpoch),
        ("of another epoch", Key { epoch: at.epoch ^ 1, ..at }, ReplaceEpoch),
        ("without an epoch", Key { epoch: 0, ..at }, ReplaceEpoch),
        ("from the future", Key::at(at.epoch, [messages + (1 << 40), receipts]), ReplaceAhead),
        ("from the future in its receipts", Key::at(at.epoch, [messages, receipts + (1 << 40)]), ReplaceAhead),
        ("from the end of time", Key::at(at.epoch, [u64::MAX; 2]), ReplaceAhead),
    ];
    // A key that acknowledged anything would move what the next one is replaced by.
    for (what, key, order) in bad {
        let ordered = (order, Some(standing.clone()));
        let mut on_short_link = place.short_link("bob", "d1");
        assert_eq!(replies(&mut on_short_link, key).await, vec![ordered.clone(); 4], "{what}");
        bob = Device::enter(&place, "bob", "d1", wire(key)).await;
        assert_eq!((bob.welcome.key_order(), bob.welcome.key.clone()), ordered, "{what}");
        let page = bob.page(wire(key), 0).await;
        assert_eq!((page.entries.len(), page.more.len()), (0, 0), "{what}");
        assert_eq!((page.key_order(), page.key), ordered, "{what}");
    }
    let (rest, _) = bob.drain(first.key).await;
    assert_eq!(numbers(&rest), [2, 3], "a key before them still gets them");
}

/// The order and the key in the reply to every request that presents a key, over HTTP.
async fn replies(link: &mut ShortLink, key: Key) -> Vec<(v1::KeyOrder, Option<v1::SyncKey>)> {
    let (key, now) = (wire(key), Duration::ZERO);
    let hello = v1::HelloRequest { protocol: 1, key: key.clone(), ..Default::default() };
    let hello: v1::HelloReply = link.request(Command::Hello, &hello, now).await.unwrap();
    let sync = v1::SyncRequest { key: key.clone(), ..Default::default() };
    let sync: v1::SyncReply = link.request(Command::Sync, &sync, now).await.unwrap();
    assert_eq!(sync.entries, []);
    let check = v1::CheckRequest { key: key.clone(), ..Default::default() };
    let check: v1::CheckReply = link.request(Command::Check, &check, now).await.unwrap();
    let ack: v1::AckReply = link.request(Command::Ack, &v1::AckRequest { key }, now).await.unwrap();
    let orders = [hello.key_order(), sync.key_order(), check.key_order(), ack.key_order()];
    orders.into_iter().zip([hello.key, sync.key, check.key, ack.key]).collect()
}
