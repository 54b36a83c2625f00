//! Pixels on their way to a thumbnail.

use bytes::Bytes;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{PixelType, ResizeOptions, Resizer};
use image::codecs::jpeg::JpegEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage, RgbaImage};

use super::{BadImage, THUMBNAIL_BYTES, broken};

/// Qualities at which a thumbnail is tried, until it is small enough.
const QUALITIES: [u8; 5] = [80, 65, 50, 35, 20];
/// A thumbnail that is too large at every quality is tried at this many percent of its size.
const SHRINK_PERCENT: u32 = 70;
/// Pixels of the longer side of what a placeholder is made from.
const THUMBHASH_SIDE: u32 = 100;

/// An image in eight bits, with transparency where it has any.
pub(super) enum Pixels {
    Rgb(RgbImage),
    Rgba(RgbaImage),
}

impl Pixels {
    pub(super) fn of(image: DynamicImage) -> Pixels {
        if image.color().has_alpha() { Pixels::Rgba(image.into_rgba8()) } else { Pixels::Rgb(image.into_rgb8()) }
    }

    fn size(&self) -> (u32, u32) {
        match self {
            Pixels::Rgb(image) => image.dimensions(),
            Pixels::Rgba(image) => image.dimensions(),
        }
    }

    /// Made smaller, so that the longer side has at most so many pixels. Never larger.
    pub(super) fn shrunk_to(self, side: u32) -> Result<Pixels, BadImage> {
        let (width, height) = self.size();
        let longer = width.max(height);
        if longer <= side {
            return Ok(self);
        }
        let scaled = |length: u32| {
            let rounded = (u64::from(length) * u64::from(side) + u64::from(longer) / 2) / u64::from(longer);
            u32::try_from(rounded).unwrap_or(side).max(1)
        };
        let (to_width, to_height) = (scaled(width), scaled(height));
        let (bytes, kind) = match &self {
            Pixels::Rgb(image) => (image.as_raw(), PixelType::U8x3),
            Pixels::Rgba(image) => (image.as_raw(), PixelType::U8x4),
        };
        let from = ImageRef::new(width, height, bytes, kind).map_err(broken)?;
        let mut to = Image::new(to_width, to_height, kind);
        Resizer::new().resize(&from, &mut to, &ResizeOptions::new()).map_err(broken)?;
        let bytes = to.into_vec();
        let shrunk = match self {
            Pixels::Rgb(_) => RgbImage::from_raw(to_width, to_height, bytes).map(Pixels::Rgb),
            Pixels::Rgba(_) => RgbaImage::from_raw(to_width, to_height, bytes).map(Pixels::Rgba),
        };
        shrunk.ok_or_else(|| broken("it has no pixels"))
    }

    /// Turned so that it is to be shown as it is.
    pub(super) fn upright(self, orientation: Orientation) -> Pixels {
        let mut image = match self {
            Pixels::Rgb(image) => DynamicImage::from(image),
            Pixels::Rgba(image) => DynamicImage::from(image),
        };
        image.apply_orientation(orientation);
        Pixels::of(image)
    }

    /// Some 25 bytes from which a placeholder is painted.
    pub(super) fn thumbhash(&self) -> Result<Vec<u8>, BadImage> {
        let small = self.copy().shrunk_to(THUMBHASH_SIDE)?;
        let image = match small {
            Pixels::Rgb(image) => DynamicImage::from(image).into_rgba8(),
            Pixels::Rgba(image) => image,
        };
        let (width, height) = image.dimensions();
        Ok(thumbhash::rgba_to_thumb_hash(width as usize, height as usize, image.as_raw()))
    }

    /// A JPEG that is small enough; what is transparent shows white.
    pub(super) fn thumbnail(&self) -> Result<Bytes, BadImage> {
        let mut pixels = Pixels::Rgb(self.on_white());
        loop {
            let Pixels::Rgb(image) = &pixels else { return Err(broken("it has no pixels")) };
            for quality in QUALITIES {
                let mut jpeg = Vec::new();
                JpegEncoder::new_with_quality(&mut jpeg, quality).encode_image(image).map_err(broken)?;
                if jpeg.len() <= THUMBNAIL_BYTES {
                    return Ok(jpeg.into());
                }
            }
            let (width, height) = image.dimensions();
            pixels = pixels.shrunk_to(width.max(height) * SHRINK_PERCENT / 100)?;
        }
    }

    fn on_white(&self) -> RgbImage {
        match self {
            Pixels::Rgb(image) => image.clone(),
            Pixels::Rgba(image) => {
                let (width, height) = image.dimensions();
                RgbImage::from_fn(width, height, |x, y| {
                    let [red, green, blue, alpha] = image.get_pixel(x, y).0.map(u16::from);
                    let over = |color: u16| ((color * alpha + 255 * (255 - alpha)) / 255) as u8;
                    image::Rgb([over(red), over(green), over(blue)])
                })
            }
        }
    }

    fn copy(&self) -> Pixels {
        match self {
            Pixels::Rgb(image) => Pixels::Rgb(image.clone()),
            Pixels::Rgba(image) => Pixels::Rgba(image.clone()),
        }
    }
}
