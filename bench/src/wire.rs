//! The bytes of the protocol, read in place: packets and the few protobuf fields that the generator looks at.
//!
//! A generator that decoded every body into owned messages would measure its own allocator. Keys are opaque to a client, so
//! they stay the bytes that the server sent.

use tern_proto::Command;
use tern_proto::limits::PACKET_BYTES;
use tern_proto::packet::{HEADER_BYTES, VERSION};

/// The server sent what the protocol does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("a packet's header is broken")]
    Header,
    #[error("a body does not decode")]
    Body,
}

/// One packet, where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) command: u32,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// Takes the first packet out of `input`; `None` until all of it has arrived.
pub(crate) fn next_packet<'a>(input: &mut &'a [u8]) -> Result<Option<Packet<'a>>, Broken> {
    let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let total = word(0) as usize;
    if word(4) != (HEADER_BYTES as u32) << 16 | u32::from(VERSION) || !(HEADER_BYTES..=PACKET_BYTES).contains(&total) {
        return Err(Broken::Header);
    }
    let Some((body, after)) = rest.split_at_checked(total - HEADER_BYTES) else { return Ok(None) };
    *input = after;
    Ok(Some(Packet { command: word(8), sequence: word(12), body }))
}

/// Appends a packet whose body `put` appends.
pub(crate) fn put_packet(out: &mut Vec<u8>, command: Command, sequence: u32, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    put(out);
    let total = (out.len() - start) as u32;
    let header = &mut out[start..start + HEADER_BYTES];
    header[..4].copy_from_slice(&total.to_be_bytes());
    header[4..6].copy_from_slice(&(HEADER_BYTES as u16).to_be_bytes());
    header[6..8].copy_from_slice(&VERSION.to_be_bytes());
    header[8..12].copy_from_slice(&command.number().to_be_bytes());
    header[12..].copy_from_slice(&sequence.to_be_bytes());
}

/// Appends a request that presents a key and nothing else: an ack or a sync, whose key is field 1 alike.
pub(crate) fn put_key(out: &mut Vec<u8>, command: Command, sequence: u32, key: &[u8]) {
    put_packet(out, command, sequence, |out| {
        prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, out);
        prost::encoding::encode_varint(key.len() as u64, out);
        out.extend_from_slice(key);
    });
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    /// A text, a message, or packed numbers.
    Bytes(&'a [u8]),
}

/// The fields of one protobuf message, in their order. Ends behind the first that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Fields<'a> {
        Fields(message)
    }

    /// The bytes of the last field with this number; empty if there is none.
    pub(crate) fn bytes(message: &'a [u8], number: u32) -> Result<&'a [u8], Broken> {
        let mut found: &[u8] = &[];
        for field in Fields(message) {
            if let (tag, Value::Bytes(bytes)) = field?
                && tag == number
            {
                found = bytes;
            }
        }
        Ok(found)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Broken> {
        let tag = self.number()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Broken::Body)?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            2 => {
                let bytes = usize::try_from(self.number()?).map_err(|_| Broken::Body)?;
                let (value, rest) = self.0.split_at_checked(bytes).ok_or(Broken::Body)?;
                self.0 = rest;
                Value::Bytes(value)
            }
            // The protocol has no field of a fixed width.
            _ => return Err(Broken::Body),
        };
        Ok((number, value))
    }

    fn number(&mut self) -> Result<u64, Broken> {
        prost::encoding::decode_varint(&mut self.0).map_err(|_| Broken::Body)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tern_proto::{packet, v1};

    use super::*;

    fn key() -> v1::SyncKey {
        v1::SyncKey { epoch: 9, classes: vec![v1::Position { class: 1, version: 4096 }] }
    }

    #[test]
    fn packets_are_those_of_the_products_codec() {
        let mut out = Vec::new();
        put_key(&mut out, Command::Ack, 7, &key().encode_to_vec());
        let request = v1::AckRequest { key: Some(key()) };
        let mut theirs = bytes::BytesMut::new();
        packet::encode_message(&mut theirs, Command::Ack.number(), 7, &request);
        assert_eq!(out, theirs);

        let mut input = &out[..];
        let read = next_packet(&mut input).unwrap().unwrap();
        assert_eq!((read.command, read.sequence, input.len()), (1003, 7, 0));
        assert_eq!(Fields::bytes(read.body, 1).unwrap(), key().encode_to_vec());
        for cut in 0..out.len() {
            let mut part = &out[..cut];
            assert_eq!((next_packet(&mut part), part.len()), (Ok(None), cut), "nothing is taken before all is there");
        }
    }

    #[test]
    fn broken_bytes_are_told_and_never_read_beyond() {
        for at in [4, 5, 6, 7] {
            let mut out = Vec::new();
            put_packet(&mut out, Command::Heartbeat, 1, |_| ());
            out[at] ^= 0x40;
            assert_eq!(next_packet(&mut &out[..]), Err(Broken::Header));
        }
        let fields = |bytes: &'static [u8]| Fields::of(bytes).collect::<Vec<_>>();
        assert_eq!(fields(&[0x08, 0x96, 0x01]), [Ok((1, Value::Number(150)))]);
        for bad in [&[0x08][..], &[0x0a, 5, 1], &[0x0d, 0, 0, 0, 0], &[0x80]] {
            assert_eq!(fields(bad), [Err(Broken::Body)], "{bad:?}");
        }
    }
}
