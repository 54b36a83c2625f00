//! WebP: chunks with a name each, of which those stay that pixels, colours and animation need.
//!
//! Source: RFC 9649, sections 2.3 to 2.7.

use super::{Unstrippable, exif, take, take_array};

/// `RIFF`, the length of what is behind it, `WEBP`.
const FILE_HEAD_BYTES: usize = 12;
/// Of a chunk: its name and its length.
const HEAD_BYTES: usize = 8;
/// Of a frame of an animation, before the chunks of its picture.
const FRAME_BYTES: usize = 16;
/// What a first chunk `VP8X` says of the others.
const FEATURES_BYTES: usize = 10;
/// Where its flags are in the file.
const FLAGS_AT: usize = FILE_HEAD_BYTES + HEAD_BYTES;
const EXIF_FLAG: u8 = 0x08;
const XMP_FLAG: u8 = 0x04;

struct Chunk<'a> {
    name: [u8; 4],
    payload: &'a [u8],
}

pub(super) fn strip(bytes: &[u8], kept: &mut Vec<u8>) -> Result<(), Unstrippable> {
    let mut rest = bytes;
    let head = take(&mut rest, FILE_HEAD_BYTES)?;
    kept.extend(head);
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    // It counts `WEBP` too. Where it is too large, the file may still have all of its chunks.
    chunks(&rest[..length.saturating_sub(4).min(rest.len())], kept)?;
    set_length(0, kept)
}

fn chunks(mut rest: &[u8], kept: &mut Vec<u8>) -> Result<(), Unstrippable> {
    let is_extended = rest.starts_with(b"VP8X");
    let (mut has_picture, mut has_exif, mut flags) = (false, false, 0);
    while let Some(Chunk { name, payload }) = next(&mut rest)? {
        match &name {
            b"VP8X" if kept.len() == FILE_HEAD_BYTES && payload.len() != FEATURES_BYTES => {
                return Err(Unstrippable::Broken("its features have another length"));
            }
            b"VP8X" if kept.len() == FILE_HEAD_BYTES => keep(&name, payload, kept),
            b"ALPH" | b"ANIM" | b"ICCP" => keep(&name, payload, kept),
            b"VP8 " | b"VP8L" => {
                has_picture = true;
                keep(&name, payload, kept);
            }
            b"ANMF" => {
                has_picture = true;
                frame(payload, kept)?;
            }
            // The first counts, and none where there are no features.
            b"EXIF" if is_extended && !has_exif => {
                has_exif = true;
                if let Some(only) = exif::only_orientation(payload) {
                    flags = EXIF_FLAG;
                    keep(&name, &only, kept);
                }
            }
            _ => {}
        }
    }
    // The file's own length may be a lie that would leave the picture out.
    if !has_picture {
        return Err(Unstrippable::Broken("it has no picture"));
    }
    if let Some(features) = kept.get_mut(FLAGS_AT).filter(|_| is_extended) {
        *features = *features & !(EXIF_FLAG | XMP_FLAG) | flags;
    }
    Ok(())
}

/// The chunks of a frame are stripped too: it may have some that nobody knows.
fn frame(mut rest: &[u8], kept: &mut Vec<u8>) -> Result<(), Unstrippable> {
    let start = kept.len();
    kept.extend(b"ANMF\0\0\0\0");
    kept.extend(take(&mut rest, FRAME_BYTES)?);
    let mut has_picture = false;
    while let Some(Chunk { name, payload }) = next(&mut rest)? {
        if matches!(&name, b"ALPH" | b"VP8 " | b"VP8L") {
            has_picture |= name != *b"ALPH";
            keep(&name, payload, kept);
        }
    }
    if !has_picture {
        return Err(Unstrippable::Broken("a frame has no picture"));
    }
    set_length(start, kept)
}

/// None, if what is left is too short for one.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<Chunk<'a>>, Unstrippable> {
    if rest.len() < HEAD_BYTES {
        return Ok(None);
    }
    let name = take_array(rest)?;
    let length = u32::from_le_bytes(take_array(rest)?) as usize;
    let payload = take(rest, length)?;
    // To an even length, which the last chunk may lack.
    let _ = take(rest, length % 2);
    Ok(Some(Chunk { name, payload }))
}

fn keep(name: &[u8; 4], payload: &[u8], kept: &mut Vec<u8>) {
    kept.extend(name);
    kept.extend((payload.len() as u32).to_le_bytes());
    kept.extend(payload);
    if payload.len() % 2 == 1 {
        kept.push(0);
    }
}

/// Of the file or the chunk that begins here and ends where all ends.
fn set_length(start: usize, kept: &mut [u8]) -> Result<(), Unstrippable> {
    let length = kept.len().saturating_sub(start + HEAD_BYTES);
    let length = u32::try_from(length).map_err(|_| Unstrippable::Broken("it is longer than it can say"))?;
    if let Some(field) = kept.get_mut(start + 4..start + HEAD_BYTES) {
        field.copy_from_slice(&length.to_le_bytes());
    }
    Ok(())
}
