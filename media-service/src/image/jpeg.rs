//! JPEG, decoded at eighths of its size where that is enough for a thumbnail: that is most of the work saved.
//!
//! The decoder is libjpeg's, in C. So what it would take, in memory and in time, is judged here before it sees a byte.

use std::panic::{catch_unwind, resume_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use mozjpeg::Decompress;
use mozjpeg::decompress::{DecompressStarted, Format};

use super::pixels::Pixels;
use super::{BadImage, DECODED_BYTES, Decoded, THUMBNAIL_SIDE, broken, check_size};
use crate::apart;
use crate::jpeg::{APP1, Malformed, SOF0, SOF15, SOS, Segments};
use crate::strip::exif::PREFIX;

/// Scans of one image: encoders make some ten, and each goes over the whole of it.
const SCANS: usize = 64;
/// In how many parts of its size an image can be decoded.
const EIGHTHS: u32 = 8;
/// Lines of what is decoded that are made at once.
const LINES: usize = 8;

// Frames, by ITU-T T.81, table B.1.
const SOF1: u8 = 0xc1;
const SOF2: u8 = 0xc2;
/// Among them, and no frames: codes, an extension, and codes for arithmetic.
const NO_FRAMES: [u8; 3] = [0xc4, 0xc8, 0xcc];

/// Decodes an image, at a scale at which it is still larger than its thumbnail.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, BadImage> {
    let head = Head::of(bytes)?;
    head.check()?;
    let pixels = catch_unwind(|| pixels(bytes, &head)).unwrap_or_else(|why| match why.downcast_ref::<String>() {
        // What it cannot decode the library says by unwinding.
        Some(said) if said.starts_with("libjpeg") => Err(broken(said)),
        _ => resume_unwind(why),
    })?;
    Ok(Decoded { pixels, size: head.size, orientation: head.orientation })
}

/// What the segments of an image say of it.
struct Head {
    size: (u32, u32),
    components: u8,
    /// All of it has to be in memory before any of it is made: it is progressive, or a scan has some of its components only.
    is_held: bool,
    scans: usize,
    orientation: Orientation,
}

impl Head {
    fn of(bytes: &[u8]) -> Result<Head, BadImage> {
        let (mut frame, mut scans, mut orientation) = (None, 0, Orientation::NoTransforms);
        for segment in Segments::of(bytes)? {
            let segment = segment?;
            match (segment.marker, segment.payload) {
                (marker @ SOF0..=SOF15, payload) if !NO_FRAMES.contains(&marker) => {
                    let earlier = frame.replace(Frame::of(marker, payload)?);
                    if earlier.is_some() {
                        return Err(broken("it has two frames"));
                    }
                }
                (SOS, payload) => {
                    scans += 1;
                    let frame = frame.as_mut().ok_or_else(|| broken("it has no frame before a scan"))?;
                    frame.is_held |= payload.first().is_none_or(|&components| components < frame.components);
                }
                // An orientation that cannot be read is none; of several blocks decoders take the last.
                (APP1, payload) if scans == 0 && payload.starts_with(PREFIX) => {
                    let read = Orientation::from_exif_chunk(&payload[PREFIX.len()..]);
                    orientation = read.unwrap_or(Orientation::NoTransforms);
                }
                _ => {}
            }
        }
        let Frame { size, components, is_held } = frame.ok_or_else(|| broken("it has no frame"))?;
        Ok(Head { size, components, is_held, scans, orientation })
    }

    /// Whether the decoder's work is bounded: of its own it takes as many scans as there are, and what it holds in memory is the whole before it scales.
    fn check(&self) -> Result<(), BadImage> {
        let (width, height) = self.size;
        check_size(width, height)?;
        let coefficients = 2 * u64::from(self.components) * u64::from(width) * u64::from(height);
        if self.is_held && coefficients > DECODED_BYTES {
            return Err(BadImage::Deep(coefficients));
        }
        if self.scans > SCANS { Err(BadImage::Scans(self.scans)) } else { Ok(()) }
    }

    /// Eighths of its size at which the longer side is still as long as that of a thumbnail.
    fn eighths(&self) -> u8 {
        let longer = self.size.0.max(self.size.1);
        (THUMBNAIL_SIDE * EIGHTHS).div_ceil(longer).min(EIGHTHS) as u8
    }
}

struct Frame {
    size: (u32, u32),
    components: u8,
    is_held: bool,
}

impl Frame {
    fn of(marker: u8, payload: &[u8]) -> Result<Frame, BadImage> {
        let is_progressive = match marker {
            SOF0 | SOF1 => false,
            SOF2 => true,
            _ => return Err(broken("it is neither sequential nor progressive")),
        };
        let &[precision, h1, h0, w1, w0, components, ..] = payload else { return Err(broken(Malformed::Cut)) };
        if precision != 8 {
            return Err(broken("it has not eight bits"));
        }
        let [width, height] = [[w1, w0], [h1, h0]].map(|length| u32::from(u16::from_be_bytes(length)));
        Ok(Frame { size: (width, height), components, is_held: is_progressive })
    }
}

impl From<Malformed> for BadImage {
    fn from(malformed: Malformed) -> BadImage {
        broken(malformed)
    }
}

fn pixels(bytes: &[u8], head: &Head) -> Result<Pixels, BadImage> {
    let mut decoder = Decompress::new_mem(bytes).map_err(broken)?;
    let read = (decoder.width() as u32, decoder.height() as u32, decoder.components().len());
    if read != (head.size.0, head.size.1, usize::from(head.components)) {
        return Err(broken("its head can be read in two ways"));
    }
    decoder.scale(head.eighths());
    let image = match decoder.image().map_err(broken)? {
        Format::RGB(decoder) => lines(decoder, rgb),
        Format::Gray(decoder) => {
            lines(decoder, |(width, height), bytes| GrayImage::from_raw(width, height, bytes).map(DynamicImage::from))
        }
        Format::CMYK(decoder) => lines(decoder, |size, bytes| rgb(size, rgb_of(&bytes))),
    };
    Ok(Pixels::of(image?))
}

fn lines(
    mut decoder: DecompressStarted<&[u8]>,
    image: impl FnOnce((u32, u32), Vec<u8>) -> Option<DynamicImage>,
) -> Result<DynamicImage, BadImage> {
    let size = (decoder.width() as u32, decoder.height() as u32);
    let mut bytes = vec![0; decoder.min_flat_buffer_size()];
    let line = bytes.len() / decoder.height();
    for lines in bytes.chunks_mut(LINES * line) {
        decoder.read_scanlines_into(lines).map_err(broken)?;
        apart::give_way();
    }
    image(size, bytes).ok_or_else(|| broken("it has fewer pixels than its head says"))
}

fn rgb((width, height): (u32, u32), bytes: Vec<u8>) -> Option<DynamicImage> {
    RgbImage::from_raw(width, height, bytes).map(DynamicImage::from)
}

/// As a screen would show it, more or less: without the profile of a printer. What is stored is how much of each ink is missing, as all programs do that make such images.
fn rgb_of(cmyk: &[u8]) -> Vec<u8> {
    let light = |lack: u8, key: u8| (u16::from(lack) * u16::from(key) / 255) as u8;
    let pixels = cmyk.chunks_exact(4);
    pixels.flat_map(|pixel| [light(pixel[0], pixel[3]), light(pixel[1], pixel[3]), light(pixel[2], pixel[3])]).collect()
}
