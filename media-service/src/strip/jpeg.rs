//! JPEG: segments with a marker each, of which those stay that pixels and colours need.
//!
//! Source: ITU-T T.81, annex B; JFIF 1.02; for the other applications what libjpeg reads of them.

use super::{Unstrippable, exif};
use crate::jpeg::{APP1, EOI, SOF0, SOF15, SOI, SOS, Segment, Segments};

/// The last of the tables that begin behind SOS.
const EXP: u8 = 0xdf;
const APP0: u8 = 0xe0;
const APP2: u8 = 0xe2;
const APP14: u8 = 0xee;

/// A JFIF head before the size of its thumbnail, and the size of none.
const JFIF_BYTES: usize = 12;
const NO_THUMBNAIL: &[u8] = &[0, 0];
/// An Adobe head, of which the last byte says what colours the components are.
const ADOBE_BYTES: usize = 12;

pub(super) fn strip(bytes: &[u8], kept: &mut Vec<u8>) -> Result<(), Unstrippable> {
    let mut orientation = orientation(bytes)?;
    kept.extend([0xff, SOI]);
    for segment in Segments::of(bytes)? {
        let segment = segment?;
        // JFIF wants to be the first, wherever EXIF stood.
        if let Some(exif) = orientation.take_if(|_| !matches!(segment.marker, APP0 | APP1)) {
            keep(APP1, &[&exif], kept);
        }
        keep_of(&segment, kept);
    }
    Ok(())
}

/// The block that is left of EXIF. Decoders take the last before the first scan.
fn orientation(bytes: &[u8]) -> Result<Option<Vec<u8>>, Unstrippable> {
    let mut last = None;
    for segment in Segments::of(bytes)? {
        match segment? {
            Segment { marker: SOS, .. } => break,
            Segment { marker: APP1, payload, .. } if payload.starts_with(exif::PREFIX) => last = Some(payload),
            _ => {}
        }
    }
    Ok(last.and_then(exif::only_orientation))
}

/// Appends what is kept of a segment.
fn keep_of(segment: &Segment<'_>, kept: &mut Vec<u8>) {
    match (segment.marker, segment.payload) {
        (SOF0..=SOF15 | SOS..=EXP, payload) => {
            keep(segment.marker, &[payload], kept);
            kept.extend(segment.data);
        }
        (EOI, _) => kept.extend([0xff, EOI]),
        // The thumbnail may show what was cut off or painted over since.
        (APP0, [b'J', b'F', b'I', b'F', 0, ..]) => {
            if let Some(head) = segment.payload.get(..JFIF_BYTES) {
                keep(APP0, &[head, NO_THUMBNAIL], kept);
            }
        }
        // A picture of a film, which may lack tables of codes because those are known.
        (APP0, [b'A', b'V', b'I', b'1', ..]) => keep(APP0, &[segment.payload], kept),
        (APP2, payload) if payload.starts_with(b"ICC_PROFILE\0") => keep(APP2, &[payload], kept),
        (APP14, payload) if payload.starts_with(b"Adobe") => {
            if let Some(head) = payload.get(..ADOBE_BYTES) {
                keep(APP14, &[head], kept);
            }
        }
        _ => {}
    }
}

/// Appends a segment, of parts that together are no longer than one can be.
fn keep(marker: u8, parts: &[&[u8]], kept: &mut Vec<u8>) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + 2;
    kept.extend([0xff, marker]);
    kept.extend((length as u16).to_be_bytes());
    for part in parts {
        kept.extend(*part);
    }
}
