//! JPEG, decoded at an eighth, a quarter or a half of its size where that is enough for a thumbnail: that is most of the work saved.

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use jpeg_decoder::{CodingProcess, Decoder, ImageInfo, PixelFormat};

use super::pixels::Pixels;
use super::{BadImage, DECODED_BYTES, Decoded, THUMBNAIL_SIDE, broken, check_size};

/// Scans of one image: encoders make some ten, and each goes over the whole of it.
const SCANS: usize = 64;

// Markers, by ITU-T T.81, table B.1.
const TEM: u8 = 0x01;
const RST0: u8 = 0xd0;
const RST7: u8 = 0xd7;
const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;

/// Decodes an image, at a scale at which it is still larger than its thumbnail.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, BadImage> {
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(DECODED_BYTES as usize);
    decoder.read_info().map_err(broken)?;
    let head = decoder.info().ok_or_else(|| broken("it has no head"))?;
    let size = (u32::from(head.width), u32::from(head.height));
    check_size(size.0, size.1)?;
    check_work(bytes, &head)?;
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

/// Whether the decoder's work is bounded: of its own it takes as many scans as there are, and keeps the whole of a progressive image in memory before it scales.
fn check_work(bytes: &[u8], head: &ImageInfo) -> Result<(), BadImage> {
    let components = match head.pixel_format {
        PixelFormat::L8 | PixelFormat::L16 => 1,
        PixelFormat::RGB24 => 3,
        PixelFormat::CMYK32 => 4,
    };
    let coefficients = 2 * components * u64::from(head.width) * u64::from(head.height);
    match head.coding_process {
        CodingProcess::DctSequential => {}
        CodingProcess::DctProgressive if coefficients > DECODED_BYTES => return Err(BadImage::Deep(coefficients)),
        CodingProcess::DctProgressive => {}
        CodingProcess::Lossless => return Err(broken("it is lossless")),
    }
    let scans = scans(bytes);
    if scans > SCANS { Err(BadImage::Scans(scans)) } else { Ok(()) }
}

/// How many scans the image has, as far as its markers can be followed: the decoder gets no further.
fn scans(bytes: &[u8]) -> usize {
    let (mut rest, mut scans) = (bytes.get(2..).unwrap_or_default(), 0);
    loop {
        // Whatever stands before a marker: padding, or the data of a scan.
        let Some(at) = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | RST0..=RST7))
        else {
            return scans;
        };
        let marker = rest[at + 1];
        rest = &rest[at + 2..];
        match marker {
            EOI => return scans,
            // Without a segment.
            TEM | SOI => continue,
            SOS => scans += 1,
            _ => {}
        }
        let Some(&[high, low]) = rest.get(..2) else { return scans };
        rest = rest.get(usize::from(u16::from_be_bytes([high, low])).max(2)..).unwrap_or_default();
    }
}

/// As a screen would show it, more or less: without the profile of a printer.
fn rgb_of(cmyk: &[u8]) -> Vec<u8> {
    let light = |ink: u8, key: u8| (u16::from(255 - ink) * u16::from(255 - key) / 255) as u8;
    let pixels = cmyk.chunks_exact(4);
    pixels.flat_map(|pixel| [light(pixel[0], pixel[3]), light(pixel[1], pixel[3]), light(pixel[2], pixel[3])]).collect()
}
