//! An image that is whole: what it is, its thumbnail, its placeholder. Pure, and heavy: for threads that may be busy.
//!
//! What others sent is decoded here, so everything that a head says is judged before anything is reserved for it.

mod jpeg;
mod pixels;
mod webp;

use std::io::Cursor;

use bytes::Bytes;
use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, Limits};

use crate::declared::Kind;
use pixels::Pixels;

/// Pixels of the largest image that is decoded.
pub const MAX_PIXELS: u64 = 40_000_000;
/// Bytes that a decoded image may have, and bytes that its decoder may reserve beside it: 40 million pixels of four bytes.
const DECODED_BYTES: u64 = 4 * MAX_PIXELS;
/// Pixels of the longer side of a thumbnail.
pub const THUMBNAIL_SIDE: u32 = 240;
/// Bytes of the largest thumbnail.
pub const THUMBNAIL_BYTES: usize = 10 * 1024;

/// What was made of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Upright, in pixels.
    pub width: u32,
    /// Upright, in pixels.
    pub height: u32,
    /// From which a placeholder is painted.
    pub thumbhash: Vec<u8>,
    /// A JPEG of at most [`THUMBNAIL_BYTES`].
    pub thumbnail: Bytes,
}

/// Why bytes are no image that is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadImage {
    /// They are of another kind, or of none.
    #[error("the bytes are not {}", .0.media_type())]
    Kind(Kind),
    /// Its head says so.
    #[error("{0}x{1} pixels are more than {MAX_PIXELS}, or none")]
    Size(u32, u32),
    /// It would take too many bytes, though not too many pixels.
    #[error("to decode it takes {0} bytes, which are more than {DECODED_BYTES}")]
    Deep(u64),
    /// It would take too long: each scan goes over the whole image.
    #[error("{0} scans are too many")]
    Scans(usize),
    /// It is cut off, or breaks the rules of its kind.
    #[error("it cannot be decoded: {0}")]
    Broken(String),
}

/// Looks at an image: all of it is decoded once.
///
/// # Errors
/// [`BadImage`]; the same bytes are refused again.
pub fn look(bytes: &[u8], kind: Kind) -> Result<Looked, BadImage> {
    if Kind::of(bytes) != Some(kind) {
        return Err(BadImage::Kind(kind));
    }
    let Decoded { pixels, size, orientation } = match kind {
        Kind::Jpeg => jpeg::decode(bytes)?,
        Kind::Png => other(|| PngDecoder::with_limits(Cursor::new(bytes), limits()))?,
        Kind::Webp => {
            webp::check(bytes)?;
            other(|| WebPDecoder::new(Cursor::new(bytes)))?
        }
        Kind::Gif => other(|| GifDecoder::new(Cursor::new(bytes)))?,
        Kind::Amr | Kind::AmrWb | Kind::Silk | Kind::OggOpus | Kind::M4a => return Err(BadImage::Kind(kind)),
    };
    let (width, height) = upright(size, orientation);
    let small = pixels.shrunk_to(THUMBNAIL_SIDE)?.upright(orientation);
    Ok(Looked { width, height, thumbhash: small.thumbhash()?, thumbnail: small.thumbnail()? })
}

/// What a decoder gives: maybe fewer pixels than the image has.
struct Decoded {
    pixels: Pixels,
    /// Of the image, as it is stored.
    size: (u32, u32),
    orientation: Orientation,
}

/// Whether an image of this size is taken.
fn check_size(width: u32, height: u32) -> Result<(), BadImage> {
    let pixels = u64::from(width) * u64::from(height);
    if (1..=MAX_PIXELS).contains(&pixels) { Ok(()) } else { Err(BadImage::Size(width, height)) }
}

/// Limits that some decoders heed; those that do not are why sizes are judged here as well.
fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODED_BYTES);
    limits
}

/// Of an animation the first picture.
fn other<D: ImageDecoder>(decoder: impl FnOnce() -> image::ImageResult<D>) -> Result<Decoded, BadImage> {
    let mut decoder = decoder().map_err(broken)?;
    let size = decoder.dimensions();
    check_size(size.0, size.1)?;
    if decoder.total_bytes() > DECODED_BYTES {
        return Err(BadImage::Deep(decoder.total_bytes()));
    }
    decoder.set_limits(limits()).map_err(broken)?;
    // An orientation that cannot be read is none.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    Ok(Decoded { pixels: Pixels::of(image), size, orientation })
}

fn broken(error: impl std::fmt::Display) -> BadImage {
    BadImage::Broken(error.to_string())
}

fn upright((width, height): (u32, u32), orientation: Orientation) -> (u32, u32) {
    match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            (height, width)
        }
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => (width, height),
    }
}

#[cfg(test)]
mod tests;
