//! poison-entry: one bad record in the store is one damaged entry, and nothing else.

use std::fs;
use std::os::unix::fs::FileExt;

use tern_proto::v1::entry::Body;

use crate::device::Device;
use crate::place::Place;

/// Where a small log has its records.
const SEARCHED: usize = 1024 * 1024;

#[tokio::test]
async fn a_damaged_record_is_handed_out_as_damaged_in_its_place() {
    let text = |number: u64| format!("the text with the number {number}");
    let mut place = Place::start(&[]);
    Device::enter(&place, "alice", "d1", None).await.send(1, (1..=5).map(text)).await;
    let (before, _) = Device::enter(&place, "bob", "d1", None).await.drain(None).await;
    place.stop();
    flip_a_bit_of(&place, &text(3));
    place.start_again();

    for (user, device) in [("bob", "d2"), ("alice", "d2")] {
        let mut reader = Device::enter(&place, user, device, None).await;
        let (entries, key) = reader.drain(None).await;
        let messages: Vec<_> = entries.iter().filter(|entry| entry.class == 1).collect();
        let versions =
            |entries: &[&_]| entries.iter().map(|entry: &&tern_proto::v1::Entry| entry.version).collect::<Vec<_>>();
        assert_eq!(versions(&messages), versions(&before.iter().filter(|entry| entry.class == 1).collect::<Vec<_>>()));
        for (number, entry) in (1..).zip(&messages) {
            match &entry.body {
                Some(Body::Damaged(_)) => assert_eq!(number, 3),
                Some(Body::Message(message)) => assert_eq!((message.seq, &message.text), (number, &text(number))),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(reader.drain(key).await.0, [], "it is acknowledged like any other");
    }
    let mut alice = Device::enter(&place, "alice", "d1", None).await;
    alice.send(6, [text(6)]).await;
}

/// In the log of a stopped server.
fn flip_a_bit_of(place: &Place, text: &str) {
    let mut found = 0;
    for path in place.log() {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let mut bytes = vec![0; SEARCHED.min(file.metadata().unwrap().len() as usize)];
        file.read_exact_at(&mut bytes, 0).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 1, "the record is in one place");
}
