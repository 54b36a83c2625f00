//! One page of an Ogg stream.
//!
//! ```text
//! | OggS | 0 | flags | granule: 8 | serial: 4 | sequence: 4 | crc: 4 | n | lacing: n | body |
//! ```
//! The body is as long as the n lacing values together. Source: RFC 3533, section 6.

use crate::audio::BadAudio::{self, Broken};

pub(super) const MAGIC: &[u8] = b"OggS";
/// Before the lacing.
pub(super) const HEAD_BYTES: usize = 27;
/// Where in it the checksum stands, which is reckoned as if it were 0.
const CRC: std::ops::Range<usize> = 22..26;
/// As a granule: no packet ends on this page.
const NONE_ENDS: u64 = u64::MAX;

/// What a page is, as bits.
pub(in crate::audio) mod flags {
    /// It goes on with a packet of the page before it.
    pub(in crate::audio) const CONTINUED: u8 = 1;
    /// It is the first of its stream.
    pub(in crate::audio) const FIRST: u8 = 2;
    /// It is the last of its stream.
    pub(in crate::audio) const LAST: u8 = 4;
}

/// A page of which the checksum is right.
pub(super) struct Page<'a> {
    pub(super) flags: u8,
    pub(super) granule: Option<u64>,
    pub(super) serial: u32,
    pub(super) sequence: u32,
    /// 255 where a packet goes on behind these bytes, less where it ends with them.
    pub(super) lacing: &'a [u8],
    pub(super) body: &'a [u8],
}

/// The first page, and what stands behind it.
pub(super) fn split(bytes: &[u8]) -> Result<(Page<'_>, &[u8]), BadAudio> {
    let cut_off = Broken("a page is cut off");
    let (head, behind) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(cut_off)?;
    let (lacing, behind) = behind.split_at_checked(usize::from(head[26])).ok_or(cut_off)?;
    let body_bytes = lacing.iter().copied().map(usize::from).sum();
    let (body, rest) = behind.split_at_checked(body_bytes).ok_or(cut_off)?;
    if !head.starts_with(MAGIC) || head[4] != 0 || head[5] > 7 {
        return Err(Broken("a page does not begin like one"));
    }
    let mut reckoned = *head;
    reckoned[CRC].fill(0);
    if crc(&[&reckoned, lacing, body]) != number(head, CRC.start) as u32 {
        return Err(Broken("the checksum of a page is wrong"));
    }
    let granule = Some(number(head, 6)).filter(|granule| *granule != NONE_ENDS);
    let (serial, sequence) = (number(head, 14) as u32, number(head, 18) as u32);
    Ok((Page { flags: head[5], granule, serial, sequence, lacing, body }, rest))
}

/// Eight bytes of a head; its numbers of four are the lower half.
fn number(head: &[u8; HEAD_BYTES], at: usize) -> u64 {
    let bytes = head.get(at..).unwrap_or_default().iter().take(8);
    bytes.rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum >> 31 == 1 { sum << 1 ^ 0x04c1_1db7 } else { sum << 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

/// The checksum of a page: the highest bit first, from 0, and nothing done to the result, unlike the CRC-32 that
/// libraries have.
pub(in crate::audio) fn crc(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    bytes.fold(0, |sum: u32, byte| sum << 8 ^ TABLE[usize::from((sum >> 24) as u8 ^ byte)])
}
