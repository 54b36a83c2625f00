//! The chunks of a WebP file, walked before anything is reserved for them: the decoder takes sizes at their word, and a picture within the file has a size of its own.
//!
//! Source: RFC 9649, sections 2.3 to 2.7; for the head of a VP8 frame RFC 6386, section 9.1, for that of VP8L RFC 9649, section 3.4.

use super::{BadImage, broken, check_size};

/// Of a chunk: its name and its length.
const HEAD_BYTES: usize = 8;
/// Of a frame of an animation, before the chunks of its picture.
const FRAME_BYTES: usize = 16;

/// Checks that every chunk lies within the file, and every picture within the limit.
pub(super) fn check(bytes: &[u8]) -> Result<(), BadImage> {
    let chunks = bytes.get(12..).ok_or_else(|| broken("it is cut off"))?;
    check_chunks(chunks, true)
}

/// The chunks of a file, or of a frame, in which there are no other frames.
fn check_chunks(mut rest: &[u8], frames: bool) -> Result<(), BadImage> {
    let beyond = || broken("a chunk of it reaches beyond its end");
    while let Some((head, behind)) = rest.split_at_checked(HEAD_BYTES) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let payload = behind.get(..length).ok_or_else(beyond)?;
        match &head[..4] {
            b"VP8 " => check_vp8(payload)?,
            b"VP8L" => check_vp8l(payload)?,
            b"VP8X" => check_size(minus_one(payload, 4)?, minus_one(payload, 7)?)?,
            b"ANMF" if frames => {
                check_size(minus_one(payload, 6)?, minus_one(payload, 9)?)?;
                check_chunks(payload.get(FRAME_BYTES..).ok_or_else(beyond)?, false)?;
            }
            _ => {}
        }
        // To an even length, which the last chunk may lack.
        rest = behind.get(length + length % 2..).unwrap_or_default();
    }
    Ok(())
}

/// A number of 24 bits that says one less than it means.
fn minus_one(payload: &[u8], at: usize) -> Result<u32, BadImage> {
    match payload.get(at..at + 3) {
        Some(&[a, b, c]) => Ok(u32::from_le_bytes([a, b, c, 0]) + 1),
        _ => Err(broken("a head of it is cut off")),
    }
}

fn check_vp8(payload: &[u8]) -> Result<(), BadImage> {
    match payload.get(6..10) {
        Some(&[a, b, c, d]) => {
            let pixels = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            check_size(pixels(a, b), pixels(c, d))
        }
        _ => Err(broken("a head of it is cut off")),
    }
}

fn check_vp8l(payload: &[u8]) -> Result<(), BadImage> {
    match payload.get(1..5) {
        Some(&[a, b, c, d]) => {
            let head = u32::from_le_bytes([a, b, c, d]);
            check_size((head & 0x3fff) + 1, (head >> 14 & 0x3fff) + 1)
        }
        _ => Err(broken("a head of it is cut off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        let padding = vec![0; payload.len() % 2];
        [&name[..], &(payload.len() as u32).to_le_bytes(), payload, &padding].concat()
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        let chunks = chunks.concat();
        [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunks].concat()
    }

    const SMALL: [u8; 10] = [0x30, 0, 0, 0x9d, 0x01, 0x2a, 16, 0, 16, 0];
    const GIANT: [u8; 10] = [0x30, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0x3f, 0xff, 0x3f];
    /// A canvas of one pixel.
    const CANVAS: [u8; 10] = [0; 10];

    #[test]
    fn a_picture_is_judged_wherever_it_stands() {
        let frame = |picture: &[u8]| [&[0; FRAME_BYTES][..], &chunk(b"VP8 ", picture)].concat();
        for good in [
            file(&[chunk(b"VP8 ", &SMALL)]),
            file(&[chunk(b"VP8X", &CANVAS), chunk(b"VP8 ", &SMALL)]),
            file(&[chunk(b"VP8X", &CANVAS), chunk(b"ANMF", &frame(&SMALL)), chunk(b"EXIF", b"odd")]),
            file(&[chunk(b"VP8L", &[0x2f, 0, 0, 0, 0])]),
        ] {
            assert_eq!(check(&good), Ok(()));
        }
        for bad in [
            file(&[chunk(b"VP8 ", &GIANT)]),
            file(&[chunk(b"VP8X", &CANVAS), chunk(b"VP8 ", &GIANT)]),
            file(&[chunk(b"VP8X", &CANVAS), chunk(b"ANMF", &frame(&GIANT))]),
            file(&[chunk(b"VP8X", &CANVAS), chunk(b"VP8L", &[0x2f, 0xff, 0xff, 0xff, 0xff])]),
            file(&[chunk(b"VP8X", &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])]),
        ] {
            assert!(matches!(check(&bad), Err(BadImage::Size(..))), "{bad:?}");
        }
    }

    #[test]
    fn a_chunk_that_reaches_beyond_the_end_is_refused() {
        let mut whole = file(&[chunk(b"VP8X", &CANVAS), chunk(b"EXIF", b"even"), chunk(b"VP8 ", &SMALL)]);
        assert_eq!(check(&whole), Ok(()));
        let exif = whole.windows(4).position(|name| name == b"EXIF").expect("it is there");
        whole[exif + 4..exif + 8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(check(&whole), Err(BadImage::Broken(_))));
        for cut in 0..whole.len() {
            let _ = check(&whole[..cut]);
        }
    }
}
