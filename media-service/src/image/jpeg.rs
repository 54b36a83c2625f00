//! JPEG, decoded at an eighth, a quarter or a half of its size where that is enough for a thumbnail: that is most of the work saved.

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use jpeg_decoder::{Decoder, PixelFormat};

use super::pixels::Pixels;
use super::{BadImage, DECODED_BYTES, Decoded, THUMBNAIL_SIDE, broken, check_size};

/// Decodes an image, at a scale at which it is still larger than its thumbnail.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, BadImage> {
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(DECODED_BYTES as usize);
    decoder.read_info().map_err(broken)?;
    let head = decoder.info().ok_or_else(|| broken("it has no head"))?;
    let size = (u32::from(head.width), u32::from(head.height));
    check_size(size.0, size.1)?;
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk);
    // The decoder takes the smallest scale at which one of the sides is as long as it was asked for; the longer one shall be.
    let side = THUMBNAIL_SIDE as u16;
    let (width, height) = if size.0 >= size.1 { (side, u16::MAX) } else { (u16::MAX, side) };
    let (width, height) = decoder.scale(width, height).map_err(broken)?;
    let bytes = decoder.decode().map_err(broken)?;
    let (width, height) = (u32::from(width), u32::from(height));
    let image = match head.pixel_format {
        PixelFormat::L8 => GrayImage::from_raw(width, height, bytes).map(DynamicImage::from),
        PixelFormat::L16 => {
            let high = bytes.chunks_exact(2).map(|pair| pair[1]).collect();
            GrayImage::from_raw(width, height, high).map(DynamicImage::from)
        }
        PixelFormat::RGB24 => RgbImage::from_raw(width, height, bytes).map(DynamicImage::from),
        PixelFormat::CMYK32 => RgbImage::from_raw(width, height, rgb_of(&bytes)).map(DynamicImage::from),
    };
    let image = image.ok_or_else(|| broken("it has fewer pixels than its head says"))?;
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    Ok(Decoded { pixels: Pixels::of(image), size, orientation })
}

/// As a screen would show it, more or less: without the profile of a printer.
fn rgb_of(cmyk: &[u8]) -> Vec<u8> {
    let light = |ink: u8, key: u8| (u16::from(255 - ink) * u16::from(255 - key) / 255) as u8;
    let pixels = cmyk.chunks_exact(4);
    pixels.flat_map(|pixel| [light(pixel[0], pixel[3]), light(pixel[1], pixel[3]), light(pixel[2], pixel[3])]).collect()
}
