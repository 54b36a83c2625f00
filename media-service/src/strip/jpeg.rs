//! JPEG: segments with a marker each, of which those stay that pixels and colours need.
//!
//! Source: ITU-T T.81, annex B; JFIF 1.02; for the other applications what libjpeg reads of them.

use super::{Unstrippable, exif, take, take_array};

// Markers, by ITU-T T.81, table B.1.
/// The last of those that mean nothing here, from TEM on.
const RES: u8 = 0xbf;
/// The frame, and tables of codes: all of the sixteen are about pixels.
const SOF0: u8 = 0xc0;
const SOF15: u8 = 0xcf;
const RST0: u8 = 0xd0;
const RST7: u8 = 0xd7;
const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
/// The last of the tables that begin behind SOS.
const EXP: u8 = 0xdf;
const APP0: u8 = 0xe0;
const APP1: u8 = 0xe1;
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
        segment.strip(kept);
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

/// Markers and what belongs to each, to the first end of an image, or to the end of the bytes if that is in a scan.
///
/// Padding before a marker is passed over, and so are bytes that should not be there: decoders do the same.
struct Segments<'a> {
    rest: &'a [u8],
    is_over: bool,
}

struct Segment<'a> {
    marker: u8,
    payload: &'a [u8],
    /// The data of a scan.
    data: &'a [u8],
}

impl<'a> Iterator for Segments<'a> {
    type Item = Result<Segment<'a>, Unstrippable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let segment = self.segment();
        self.is_over = match &segment {
            Ok(segment) => segment.marker == EOI || segment.marker == SOS && self.rest.is_empty(),
            Err(_) => true,
        };
        Some(segment)
    }
}

impl<'a> Segments<'a> {
    fn of(bytes: &'a [u8]) -> Result<Segments<'a>, Unstrippable> {
        let mut rest = bytes;
        // The marker of the start.
        take(&mut rest, 2)?;
        Ok(Segments { rest, is_over: false })
    }

    fn segment(&mut self) -> Result<Segment<'a>, Unstrippable> {
        let marker = self.marker()?;
        match marker {
            EOI => return Ok(Segment { marker, payload: &[], data: &[] }),
            // Decoders do not agree where what follows begins.
            0..=RES | RST0..=RST7 | SOI => return Err(Unstrippable::Broken("it has a marker out of place")),
            _ => {}
        }
        let length = u16::from_be_bytes(take_array(&mut self.rest)?);
        // It counts itself.
        let length = length.checked_sub(2).ok_or(Unstrippable::Broken("a segment is shorter than its length"))?;
        let payload = take(&mut self.rest, length.into())?;
        let data = if marker == SOS { self.data() } else { &[] };
        Ok(Segment { marker, payload, data })
    }

    fn marker(&mut self) -> Result<u8, Unstrippable> {
        let at = self.rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff));
        let [.., marker] = take(&mut self.rest, at.ok_or(Unstrippable::Cut)? + 2)? else {
            return Err(Unstrippable::Cut);
        };
        Ok(*marker)
    }

    /// To the next marker that is not of the data itself, or to the end.
    ///
    /// A marker without meaning is of the data: there a bit has flipped, and what decoders make of it is theirs.
    fn data(&mut self) -> &'a [u8] {
        let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0..=RES | RST0..=RST7 | 0xff);
        let bytes = self.rest.windows(2).position(is_marker).unwrap_or(self.rest.len());
        self.rest.split_off(..bytes).unwrap_or_default()
    }
}

impl Segment<'_> {
    /// Appends what is kept of it.
    fn strip(&self, kept: &mut Vec<u8>) {
        match (self.marker, self.payload) {
            (SOF0..=SOF15 | SOS..=EXP, payload) => {
                keep(self.marker, &[payload], kept);
                kept.extend(self.data);
            }
            (EOI, _) => kept.extend([0xff, EOI]),
            // The thumbnail may show what was cut off or painted over since.
            (APP0, [b'J', b'F', b'I', b'F', 0, ..]) => {
                if let Some(head) = self.payload.get(..JFIF_BYTES) {
                    keep(APP0, &[head, NO_THUMBNAIL], kept);
                }
            }
            // A picture of a film, which may lack tables of codes because those are known.
            (APP0, [b'A', b'V', b'I', b'1', ..]) => keep(APP0, &[self.payload], kept),
            (APP2, payload) if payload.starts_with(b"ICC_PROFILE\0") => keep(APP2, &[payload], kept),
            (APP14, payload) if payload.starts_with(b"Adobe") => {
                if let Some(head) = payload.get(..ADOBE_BYTES) {
                    keep(APP14, &[head], kept);
                }
            }
            _ => {}
        }
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
