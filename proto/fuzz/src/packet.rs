//! A byte stream is the same packets however it is cut, and no length that it claims makes the decoder reserve memory.

use bytes::BytesMut;
use tern_proto::limits::PACKET_BYTES;
use tern_proto::packet::{HEADER_BYTES, Packet, PacketError, VERSION, decode};

/// Takes the input as a byte stream.
///
/// # Panics
/// If a rule is broken.
pub fn holds(stream: &[u8]) {
    let whole = read(stream, std::iter::once(stream.len()));
    assert_eq!(whole, read(stream, std::iter::repeat(1)), "byte by byte");
    let by_its_own_bytes = stream.iter().map(|byte| usize::from(*byte) + 1);
    assert_eq!(whole, read(stream, by_its_own_bytes), "in pieces");
    encodes_to(&whole, stream);
    ends_for_a_reason(&whole);
}

/// What a reader has after a stream.
#[derive(Debug, PartialEq)]
struct Seen {
    packets: Vec<Packet>,
    /// Not consumed.
    rest: Vec<u8>,
    error: Option<PacketError>,
}

/// Reads the stream in pieces of these lengths; the last piece is what is left of it.
fn read(mut stream: &[u8], mut lengths: impl Iterator<Item = usize>) -> Seen {
    let mut input = BytesMut::new();
    let (mut packets, mut error) = (Vec::new(), None);
    while !stream.is_empty() {
        let length = lengths.next().unwrap_or(stream.len()).min(stream.len());
        let (piece, later) = stream.split_at(length);
        stream = later;
        input.extend_from_slice(piece);
        while error.is_none() {
            let room = input.capacity();
            match decode(&mut input) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(broken) => error = Some(broken),
            }
            assert!(input.capacity() <= room, "the decoder reserved memory");
        }
    }
    Seen { packets, rest: input.to_vec(), error }
}

/// The packets' own bytes and what is left of the stream are the stream.
fn encodes_to(seen: &Seen, stream: &[u8]) {
    let mut again = BytesMut::new();
    for packet in &seen.packets {
        let before = again.len();
        packet.encode(&mut again);
        assert_eq!(again.len() - before, packet.encoded_len());
    }
    again.extend_from_slice(&seen.rest);
    assert_eq!(&again[..], stream);
}

/// The reader stopped at a broken header and nowhere else, or because a packet is not whole.
fn ends_for_a_reason(seen: &Seen) {
    let Some((header, _)) = seen.rest.split_first_chunk::<HEADER_BYTES>() else {
        return assert_eq!(seen.error, None, "less than a header");
    };
    let total = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let lengths_are_right = (HEADER_BYTES..=PACKET_BYTES).contains(&total) && header[4..6] == [0, 16];
    let is_good = lengths_are_right && header[6..8] == VERSION.to_be_bytes();
    assert_eq!(seen.error.is_none(), is_good, "{header:?}");
    assert!(!is_good || seen.rest.len() < total, "a whole packet was left");
}
