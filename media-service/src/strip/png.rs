//! PNG: chunks with a name each, of which those stay that pixels, colours and animation need.
//!
//! Source: PNG, third edition, sections 5.3, 5.4 and 11.

use super::{Unstrippable, exif, take, take_array};

const SIGNATURE_BYTES: usize = 8;
const END: &[u8; 4] = b"IEND";
const EXIF: &[u8; 4] = b"eXIf";
/// The last two have changed their case since they were drafted.
const KEPT: [&[u8; 4]; 22] = [
    b"IHDR", b"PLTE", b"IDAT", END, b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"hIST",
    b"sPLT", b"acTL", b"fcTL", b"fdAT", b"cICP", b"mDCV", b"cLLI", b"mDCv", b"cLLi",
];
/// In the first letter of a name: without the chunk the image can still be shown.
const ANCILLARY: u8 = 0x20;

/// One chunk: its length, its name, its payload, a checksum over the latter two.
struct Chunk<'a> {
    whole: &'a [u8],
    name: [u8; 4],
    payload: &'a [u8],
    checksum: u32,
}

pub(super) fn strip(bytes: &[u8], kept: &mut Vec<u8>) -> Result<(), Unstrippable> {
    let mut rest = bytes;
    kept.extend(take(&mut rest, SIGNATURE_BYTES)?);
    let mut oriented = false;
    // An image may end between two chunks: decoders need no end once they have all pixels.
    while !rest.is_empty() {
        let chunk = Chunk::take(&mut rest)?;
        match &chunk.name {
            name if KEPT.contains(&name) => kept.extend(chunk.whole),
            // The first counts, but for one that decoders pass over.
            EXIF if !oriented && chunk.checksum == checksum(EXIF, chunk.payload) => {
                oriented = true;
                keep_orientation(chunk.payload, kept);
            }
            [first, ..] if first & ANCILLARY == 0 => {
                return Err(Unstrippable::Broken("it needs a chunk that is unknown"));
            }
            _ => {}
        }
        if chunk.name == *END {
            break;
        }
    }
    Ok(())
}

impl<'a> Chunk<'a> {
    fn take(rest: &mut &'a [u8]) -> Result<Chunk<'a>, Unstrippable> {
        let start = *rest;
        let length = u32::from_be_bytes(take_array(rest)?);
        let name = take_array(rest)?;
        let payload = take(rest, length as usize)?;
        let checksum = u32::from_be_bytes(take_array(rest)?);
        Ok(Chunk { whole: &start[..start.len() - rest.len()], name, payload, checksum })
    }
}

/// Where the chunk stood: decoders differ in whether they look for it behind the pixels.
fn keep_orientation(exif: &[u8], kept: &mut Vec<u8>) {
    if let Some(only) = exif::only_orientation(exif) {
        kept.extend((only.len() as u32).to_be_bytes());
        kept.extend(EXIF);
        kept.extend(&only);
        kept.extend(checksum(EXIF, &only).to_be_bytes());
    }
}

fn checksum(name: &[u8], payload: &[u8]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(name);
    checksum.update(payload);
    checksum.finalize()
}
