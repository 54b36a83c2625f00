//! Invariant 13: readers that stop are cut off, cost bounded memory, and lose nothing.

use prost::Message;
use prost::bytes::BytesMut;
use tern_client::link::LongLink;
use tern_proto::{Command, Packet, v1};
use tokio::time::{Duration, Instant};

use crate::device::{Device, numbers};
use crate::place::Place;
use crate::process::PATIENCE;

/// Devices that stop reading.
const READERS: usize = 8;
/// Messages of 16 KiB that each of them is owed; three of them fill a page.
const MESSAGES: u64 = 60;
/// Pages that each of them asks for and does not read: 49 MB, far more than the buffers of both sockets take.
const ASKED: u32 = 1_000;
/// What the server may grow by meanwhile: a third of all that was asked for, and three times what the links may hold.
const GROWTH: u64 = 128 * 1024 * 1024;

#[tokio::test]
async fn readers_that_stop_are_cut_off_and_get_the_rest_when_they_are_back() {
    let place = Place::start(&[("TERN_LINK__WRITE_STALL", "1s"), ("TERN_STORAGE__DURABILITY", "os")]);
    let mut alice = Device::enter(&place, "alice", "d1", None).await;
    let (sockets, resident) = (place.sockets(), place.resident());
    let mut readers = Vec::new();
    for number in 0..READERS {
        let mut reader = Device::enter(&place, "bob", &format!("d{number}"), None).await;
        // Caught up: from here on it is sent deltas, as long as they are small enough.
        let (entries, key) = reader.drain(None).await;
        assert_eq!(entries, []);
        readers.push((reader.link, key));
    }
    for first in (1..=MESSAGES).step_by(3) {
        alice.send(first, (first..first + 3).map(|number| format!("{number:016384}"))).await;
    }
    for (link, _) in &mut readers {
        link.send_bytes(&asks()).await.unwrap();
    }
    cut_off(&place, sockets, resident).await;

    for (number, (link, key)) in readers.into_iter().enumerate() {
        let (mut seen, pages, key) = what_came(link, key).await;
        assert!(pages < ASKED, "all was sent to a reader that read nothing");
        let mut again = Device::enter(&place, "bob", &format!("d{number}"), key.clone()).await;
        seen.extend(numbers(&again.drain(key).await.0));
        assert_eq!(seen, (1..=MESSAGES).collect::<Vec<_>>(), "each once and in order");
    }
}

/// Requests for the first page, which acknowledge nothing.
fn asks() -> BytesMut {
    let mut asks = BytesMut::new();
    for sequence in 1_000..1_000 + ASKED {
        Packet::new(Command::Sync.number(), sequence, &v1::SyncRequest::default()).encode(&mut asks);
    }
    asks
}

/// Waits until the server has closed the readers' links, and watches its memory.
async fn cut_off(place: &Place, sockets: usize, resident: u64) {
    let deadline = Instant::now() + PATIENCE;
    while place.sockets() > sockets {
        assert!(Instant::now() < deadline, "the readers were not cut off");
        let growth = place.resident().saturating_sub(resident);
        assert!(growth < GROWTH, "it grew by {} MiB", growth >> 20);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a link brought before it ended: the messages of the deltas that follow each other from the key on, the number of pages,
/// and the key after the deltas.
async fn what_came(mut link: LongLink, mut key: Option<v1::SyncKey>) -> (Vec<u64>, u32, Option<v1::SyncKey>) {
    let (mut seen, mut pages) = (Vec::new(), 0);
    // It ends with a reset, or with a close behind the go-away.
    while let Ok(packet) = tokio::time::timeout(PATIENCE, link.receive()).await.expect("the link was not closed") {
        pages += u32::from(packet.command == Command::Sync.reply());
        if packet.known_command() == Some(Command::Delta) {
            let delta = v1::Delta::decode(packet.body).unwrap();
            if delta.before == key {
                seen.extend(numbers(&delta.entries));
                key = delta.after;
            }
        }
    }
    (seen, pages, key)
}
