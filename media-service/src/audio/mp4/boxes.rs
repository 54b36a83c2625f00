//! Boxes and the numbers in them.

use crate::audio::BadAudio::{self, Broken};

/// Boxes that one box, or the file, may have within it.
const MAX_BOXES: usize = 256;

const CUT_OFF: BadAudio = Broken("a box is cut off");

/// `| bytes: 4 | name: 4 | payload |`, or `| 1: 4 | name: 4 | bytes: 8 | payload |`; the bytes are of all of it.
pub(super) struct Part<'a> {
    pub(super) name: [u8; 4],
    pub(super) payload: &'a [u8],
    /// Where in what was split the payload begins.
    pub(super) start: usize,
}

/// Splits into boxes all that is there: each says where it ends, and the last one ends with the whole.
pub(super) fn boxes(whole: &[u8]) -> Result<Vec<Part<'_>>, BadAudio> {
    let mut boxes = Vec::new();
    let mut rest = whole;
    while !rest.is_empty() {
        let (size, fields) = Fields(rest).u32()?;
        let (name, fields) = fields.name()?;
        let (size, fields) = if size == 1 { fields.u64()? } else { (u64::from(size), fields) };
        let head = rest.len() - fields.0.len();
        let size = usize::try_from(size).ok().and_then(|size| size.checked_sub(head)).ok_or(CUT_OFF)?;
        let (payload, behind) = fields.0.split_at_checked(size).ok_or(CUT_OFF)?;
        boxes.push(Part { name, payload, start: whole.len() - fields.0.len() });
        if boxes.len() > MAX_BOXES {
            return Err(Broken("it has too many boxes"));
        }
        rest = behind;
    }
    Ok(boxes)
}

/// The payload of the one box of this name: readers differ about which of two they take.
pub(super) fn only<'a>(boxes: &[Part<'a>], name: &[u8; 4]) -> Result<&'a [u8], BadAudio> {
    let mut named = boxes.iter().filter(|part| part.name == *name);
    match (named.next(), named.next()) {
        (Some(one), None) => Ok(one.payload),
        (Some(_), Some(_)) => Err(Broken("it has two boxes, or tracks, where there is one")),
        (None, _) => Err(Broken("it lacks a box")),
    }
}

/// What is left of a payload, whose numbers have their highest byte first.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Behind the version and the flags.
    pub(super) fn of_full(payload: &'a [u8]) -> Result<Fields<'a>, BadAudio> {
        Fields(payload).skip(4)
    }

    pub(super) fn skip(self, bytes: usize) -> Result<Fields<'a>, BadAudio> {
        self.0.get(bytes..).map(Fields).ok_or(CUT_OFF)
    }

    pub(super) fn u32(self) -> Result<(u32, Fields<'a>), BadAudio> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(CUT_OFF)?;
        Ok((u32::from_be_bytes(*bytes), Fields(rest)))
    }

    pub(super) fn u64(self) -> Result<(u64, Fields<'a>), BadAudio> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(CUT_OFF)?;
        Ok((u64::from_be_bytes(*bytes), Fields(rest)))
    }

    fn name(self) -> Result<([u8; 4], Fields<'a>), BadAudio> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(CUT_OFF)?;
        Ok((*bytes, Fields(rest)))
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// As many rows as a number here says, which are all that is left.
    pub(super) fn rows<const BYTES: usize>(self) -> Result<&'a [[u8; BYTES]], BadAudio> {
        let (count, rows) = self.u32()?;
        match rows.0.as_chunks() {
            (rows, []) if rows.len() as u64 == u64::from(count) => Ok(rows),
            _ => Err(Broken("a table has not as many rows as it says")),
        }
    }
}
