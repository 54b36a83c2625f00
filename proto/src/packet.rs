//! The packet: a 16-byte header, then the body.
//!
//! ```text
//!  0               4       6       8              12              16
//!  +---------------+-------+-------+---------------+---------------+------
//!  | total length  | header|version|    command    |   sequence    | body
//!  |               | = 16  | = 1   |               |               |
//!  +---------------+-------+-------+---------------+---------------+------
//! ```
//!
//! Every number is big-endian; the total length counts header and body. Source: WeChat captures; S5 of the protocol
//! notes says that the cheapest packet is 16 bytes and that packets travel together, so [`decode`] takes them one by
//! one from whatever has arrived.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::command::Command;
use crate::limits::PACKET_BYTES;

/// Bytes of the header, and so of a packet without a body.
pub const HEADER_BYTES: usize = 16;
/// The only version of the header.
pub const VERSION: u16 = 1;

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// A number of the command table, or of a reply.
    pub command: u32,
    /// Chosen by the requester and repeated in the reply; 0 on a packet that the server starts.
    pub sequence: u32,
    /// A protobuf message, by command.
    pub body: Bytes,
}

/// Why bytes are not a packet. The link is closed after any of them: where the next packet starts is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The header length is not 16.
    #[error("header length {0}, expected 16")]
    HeaderLength(u16),
    /// The version is not 1.
    #[error("packet version {0}, expected 1")]
    Version(u16),
    /// The total length is below the header's own.
    #[error("total length {0} is below 16")]
    TooSmall(u32),
    /// The total length is over [`PACKET_BYTES`].
    #[error("total length {0} is over {PACKET_BYTES}")]
    TooLarge(u32),
}

impl Packet {
    /// A packet with an encoded message as its body.
    pub fn new(command: u32, sequence: u32, body: &impl prost::Message) -> Packet {
        Packet { command, sequence, body: body.encode_to_vec().into() }
    }

    /// A packet of 16 bytes.
    pub fn empty(command: u32, sequence: u32) -> Packet {
        Packet { command, sequence, body: Bytes::new() }
    }

    /// Bytes on the wire.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Appends the packet's bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(self.encoded_len());
        put_header(out, self.encoded_len(), self.command, self.sequence);
        out.put_slice(&self.body);
    }

    /// The command, if the table has it.
    pub fn known_command(&self) -> Option<Command> {
        Command::from_number(self.command)
    }
}

/// Appends a packet whose body is encoded in place, without a buffer of its own.
pub fn encode_message(out: &mut BytesMut, command: u32, sequence: u32, body: &impl prost::Message) {
    let total = HEADER_BYTES + body.encoded_len();
    out.reserve(total);
    put_header(out, total, command, sequence);
    body.encode_raw(out);
}

fn put_header(out: &mut BytesMut, total: usize, command: u32, sequence: u32) {
    out.put_u32(total as u32);
    out.put_u16(HEADER_BYTES as u16);
    out.put_u16(VERSION);
    out.put_u32(command);
    out.put_u32(sequence);
}

/// Takes the first packet out of `input`; `None` until all of it has arrived.
///
/// The header is checked as soon as it is there and before anything is reserved for the body.
///
/// # Errors
/// The bytes cannot be a packet; nothing is consumed, and nothing after them can be understood.
pub fn decode(input: &mut BytesMut) -> Result<Option<Packet>, PacketError> {
    let Some(mut header) = input.get(..HEADER_BYTES) else {
        return Ok(None);
    };
    let (total, header_length, version) = (header.get_u32(), header.get_u16(), header.get_u16());
    if usize::from(header_length) != HEADER_BYTES {
        return Err(PacketError::HeaderLength(header_length));
    }
    if version != VERSION {
        return Err(PacketError::Version(version));
    }
    if (total as usize) < HEADER_BYTES {
        return Err(PacketError::TooSmall(total));
    }
    if total as usize > PACKET_BYTES {
        return Err(PacketError::TooLarge(total));
    }
    let (command, sequence) = (header.get_u32(), header.get_u32());
    if input.len() < total as usize {
        return Ok(None);
    }
    input.advance(HEADER_BYTES);
    let body = input.split_to(total as usize - HEADER_BYTES).freeze();
    Ok(Some(Packet { command, sequence, body }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(mut input: BytesMut) -> Result<Vec<Packet>, PacketError> {
        let mut packets = Vec::new();
        while let Some(packet) = decode(&mut input)? {
            packets.push(packet);
        }
        Ok(packets)
    }

    #[test]
    fn a_heartbeat_is_these_16_bytes() {
        let mut out = BytesMut::new();
        Packet::empty(Command::Heartbeat.number(), 7).encode(&mut out);
        let want = [
            0, 0, 0, 16, // total length
            0, 16, // header length
            0, 1, // version
            0, 0, 0, 6, // command
            0, 0, 0, 7, // sequence
        ];
        assert_eq!(&out[..], &want);
        assert_eq!(decode(&mut out), Ok(Some(Packet::empty(6, 7))));
        assert!(out.is_empty());
    }

    #[test]
    fn broken_headers_are_refused_by_their_first_16_bytes() {
        let header = |total: u32, length: u16, version: u16| {
            let mut out = BytesMut::new();
            out.put_u32(total);
            out.put_u16(length);
            out.put_u16(version);
            out.put_u64(0);
            out
        };
        assert_eq!(decode(&mut header(16, 20, 1)), Err(PacketError::HeaderLength(20)));
        assert_eq!(decode(&mut header(16, 16, 2)), Err(PacketError::Version(2)));
        assert_eq!(decode(&mut header(15, 16, 1)), Err(PacketError::TooSmall(15)));
        assert_eq!(decode(&mut header(u32::MAX, 16, 1)), Err(PacketError::TooLarge(u32::MAX)));
        assert_eq!(decode(&mut header(PACKET_BYTES as u32, 16, 1)), Ok(None), "the largest is waited for");
    }

    #[test]
    fn both_encoders_give_the_same_bytes() {
        let body = crate::v1::ReadRequest { conversation: "alice:bob".into(), seq: 3 };
        let (mut a, mut b) = (BytesMut::new(), BytesMut::new());
        Packet::new(1004, 9, &body).encode(&mut a);
        encode_message(&mut b, 1004, 9, &body);
        assert_eq!(a, b);
    }

    fn packets() -> impl Strategy<Value = Vec<Packet>> {
        let packet = (any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(command, sequence, body)| Packet { command, sequence, body: body.into() });
        prop::collection::vec(packet, 0..8)
    }

    proptest! {
        // Invariant 11: any split or merge of the byte stream gives the same packets.
        #[test]
        fn any_split_gives_the_same_packets(packets in packets(), cuts in prop::collection::vec(1usize..64, 1..64)) {
            let mut wire = BytesMut::new();
            for packet in &packets {
                let before = wire.len();
                packet.encode(&mut wire);
                prop_assert_eq!(wire.len() - before, packet.encoded_len());
            }
            let mut seen = Vec::new();
            let mut buffer = BytesMut::new();
            let mut cuts = cuts.into_iter().cycle();
            while !wire.is_empty() {
                let cut = cuts.next().unwrap_or(1).min(wire.len());
                buffer.extend_from_slice(&wire.split_to(cut));
                while let Some(packet) = decode(&mut buffer).unwrap() {
                    seen.push(packet);
                }
            }
            prop_assert_eq!(seen, packets);
        }

        #[test]
        fn flipped_and_cut_bytes_never_panic(packets in packets(), flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8), cut in any::<usize>()) {
            let mut wire = BytesMut::new();
            packets.iter().for_each(|packet| packet.encode(&mut wire));
            for (at, bits) in flips {
                if !wire.is_empty() {
                    let at = at % wire.len();
                    wire[at] ^= bits;
                }
            }
            wire.truncate(cut % (wire.len() + 1));
            let _ = decode_all(wire);
        }
    }
}
