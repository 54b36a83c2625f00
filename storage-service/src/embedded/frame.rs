//! The bytes of the log: frames of records.
//!
//! A frame is what one group commit writes at once, so a crash can tear only the last one.
//!
//! ```text
//! frame   0        8          16       20       24    28       32
//!         | salt   | position | length | count  | crc | 0      | records, each padded to 8 bytes
//!
//! record  0           4           8          12         16
//!         | meta len  | body len  | meta crc | body crc | meta | body | padding
//! ```
//!
//! Little-endian. `salt` is the store's own random number: no text that a user sends can look like a frame. The frame's crc covers
//! its first 24 bytes; `meta crc` covers the record's position, both lengths and the meta; `body crc` the body.

use super::record::Meta;
use prost::Message as _;

pub(super) const FRAME_HEADER: usize = 32;
const RECORD_HEADER: usize = 16;
/// Frames and records start at multiples of this.
pub(super) const ALIGN: u64 = 8;

/// A frame under construction.
pub(super) struct FrameBuilder {
    salt: u64,
    position: u64,
    count: u32,
    bytes: Vec<u8>,
}

impl FrameBuilder {
    /// A frame that will stand at `position`.
    pub(super) fn new(salt: u64, position: u64) -> FrameBuilder {
        FrameBuilder { salt, position, count: 0, bytes: vec![0; FRAME_HEADER] }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a record and returns its position in the log.
    pub(super) fn push(&mut self, meta: &Meta, body: &[u8]) -> u64 {
        let start = self.bytes.len();
        let position = self.position + start as u64;
        self.bytes.resize(start + RECORD_HEADER, 0);
        meta.encode_raw(&mut self.bytes);
        let meta_len = self.bytes.len() - start - RECORD_HEADER;
        self.bytes.extend_from_slice(body);
        self.bytes.resize(align(self.bytes.len() as u64) as usize, 0);
        let (header, rest) = self.bytes[start..].split_at_mut(RECORD_HEADER);
        header[0..4].copy_from_slice(&(meta_len as u32).to_le_bytes());
        header[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
        let meta_crc = meta_crc(position, &header[0..8], &rest[..meta_len]);
        header[8..12].copy_from_slice(&meta_crc.to_le_bytes());
        header[12..16].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        self.count += 1;
        position
    }

    /// The finished frame and where it stands.
    pub(super) fn finish(mut self) -> (u64, Vec<u8>) {
        let length = self.bytes.len() as u32;
        self.bytes[0..8].copy_from_slice(&self.salt.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&self.position.to_le_bytes());
        self.bytes[16..20].copy_from_slice(&length.to_le_bytes());
        self.bytes[20..24].copy_from_slice(&self.count.to_le_bytes());
        let crc = crc32fast::hash(&self.bytes[..24]);
        self.bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        (self.position, self.bytes)
    }
}

/// A frame header that checks out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub length: usize,
    pub count: u32,
}

impl FrameHeader {
    /// The header at the start of `bytes`, if it is one of this store for this position.
    pub(super) fn read(bytes: &[u8], salt: u64, position: u64) -> Option<FrameHeader> {
        let header = bytes.get(..FRAME_HEADER)?;
        let ours = read_u64(header, 0) == salt && read_u64(header, 8) == position;
        let length = read_u32(header, 16) as usize;
        let whole = read_u32(header, 24) == crc32fast::hash(&header[..24]);
        (ours && whole && length >= FRAME_HEADER).then_some(FrameHeader { length, count: read_u32(header, 20) })
    }
}

/// A record as it was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub meta: Meta,
    /// `None` if the body is damaged.
    pub body: Option<Vec<u8>>,
    /// Bytes of the body, also where it is not wanted or damaged.
    pub body_length: usize,
    /// Where the next record would start, relative to this one.
    pub length: usize,
}

/// Bytes that a record takes in the log.
pub(super) fn record_bytes(meta: &Meta, body: usize) -> u64 {
    align((RECORD_HEADER + meta.encoded_len() + body) as u64)
}

/// How many bytes of a record must be there before [`read_record`] can say more.
pub(super) fn record_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..RECORD_HEADER)?;
    let (meta, body) = (read_u32(header, 0) as u64, read_u32(header, 4) as u64);
    usize::try_from(align(RECORD_HEADER as u64 + meta + body)).ok()
}

/// What of a record is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    All,
    /// Without the body, which is then empty.
    Meta,
}

/// The record at the start of `bytes`; `None` if not even its meta can be trusted.
pub(super) fn read_record(bytes: &[u8], position: u64, want: Want) -> Option<Found> {
    let length = record_length(bytes)?;
    let (meta_len, body_len) = (read_u32(bytes, 0) as usize, read_u32(bytes, 4) as usize);
    let meta = bytes.get(RECORD_HEADER..RECORD_HEADER.checked_add(meta_len)?)?;
    if meta_crc(position, &bytes[..8], meta) != read_u32(bytes, 8) {
        return None;
    }
    let body_start = RECORD_HEADER + meta_len;
    let body = match want {
        Want::All => {
            bytes.get(body_start..body_start + body_len).filter(|body| crc32fast::hash(body) == read_u32(bytes, 12))
        }
        Want::Meta => Some(&[][..]),
    };
    let body = body.map(<[u8]>::to_vec);
    Some(Found { meta: Meta::decode(meta).ok()?, body, body_length: body_len, length })
}

pub(super) fn align(length: u64) -> u64 {
    length.next_multiple_of(ALIGN)
}

fn meta_crc(position: u64, lengths: &[u8], meta: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&position.to_le_bytes());
    crc.update(lengths);
    crc.update(meta);
    crc.finalize()
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::record::{Fact, Message};
    use super::*;

    fn meta(seq: u64) -> Meta {
        let message = Message { from: "alice".into(), to: "bob".into(), seq, ..Default::default() };
        Meta { fact: Some(Fact::Message(message)) }
    }

    fn frame() -> (Vec<u8>, Vec<u64>) {
        let mut frame = FrameBuilder::new(7, 4096);
        let positions = (1..4).map(|seq| frame.push(&meta(seq), format!("text {seq}").as_bytes())).collect();
        (frame.finish().1, positions)
    }

    #[test]
    fn a_frame_reads_back() {
        let (bytes, positions) = frame();
        let header = FrameHeader::read(&bytes, 7, 4096).unwrap();
        assert_eq!(header, FrameHeader { length: bytes.len(), count: 3 });
        for (seq, position) in (1..).zip(positions) {
            let found = read_record(&bytes[(position - 4096) as usize..], position, Want::All).unwrap();
            assert_eq!(found.meta, meta(seq));
            assert_eq!(found.body.unwrap(), format!("text {seq}").as_bytes());
        }
    }

    #[test]
    fn a_frame_of_another_store_or_place_is_none() {
        let (bytes, _) = frame();
        assert_eq!(FrameHeader::read(&bytes, 8, 4096), None);
        assert_eq!(FrameHeader::read(&bytes, 7, 4104), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (good, positions) = frame();
        let at = (positions[1] - 4096) as usize;
        let want = read_record(&good[at..], positions[1], Want::All).unwrap();
        for bit in 0..want.length * 8 {
            let mut bytes = good.clone();
            bytes[at + bit / 8] ^= 1 << (bit % 8);
            let found = read_record(&bytes[at..], positions[1], Want::All);
            let in_padding =
                bit / 8 >= RECORD_HEADER + read_u32(&good[at..], 0) as usize + read_u32(&good[at..], 4) as usize;
            assert!(in_padding || found.as_ref() != Some(&want), "bit {bit} went unnoticed");
            assert!(found.is_none_or(|found| found.meta == want.meta), "bit {bit} gave another meta");
        }
        for bit in 0..28 * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::read(&bytes, 7, 4096), None, "bit {bit} of the header");
        }
    }
}
