use image::codecs::gif::GifEncoder;
use image::{Frame, GrayImage, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

/// Red above, blue below, and a little structure.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let shade = (x * 7 % 40) as u8;
        if y < height / 2 { Rgb([255 - shade, 0, shade]) } else { Rgb([0, shade, 255 - shade]) }
    })
}

fn encoded(image: impl Into<DynamicImage>, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    encoded(picture(width, height), image::ImageFormat::Jpeg)
}

fn png(width: u32, height: u32) -> Vec<u8> {
    encoded(picture(width, height), image::ImageFormat::Png)
}

/// Of the first picture red, of the second green.
fn gif() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for color in [[255, 0, 0, 255], [0, 255, 0, 255]] {
        encoder.encode_frame(Frame::new(RgbaImage::from_pixel(300, 200, Rgba(color)))).unwrap();
    }
    drop(encoder);
    bytes
}

/// Puts an EXIF segment that turns the image, and says where it was taken, behind the first two bytes.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    exif.extend(b"GPS: 48.2N 16.4E");
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

/// The thumbnail as pixels.
fn thumbnail(looked: &Looked) -> RgbImage {
    assert!(looked.thumbnail.len() <= THUMBNAIL_BYTES, "{}", looked.thumbnail.len());
    image::load_from_memory_with_format(&looked.thumbnail, image::ImageFormat::Jpeg).unwrap().into_rgb8()
}

fn is_red([red, green, blue]: [u8; 3]) -> bool {
    red > 180 && green < 70 && blue < 90
}

fn is_blue([red, green, blue]: [u8; 3]) -> bool {
    red < 70 && green < 90 && blue > 180
}

#[test]
fn every_kind_gets_its_thumbnail() {
    let alpha = DynamicImage::from(picture(600, 400)).into_rgba8();
    let cases = [
        (jpeg(600, 400), Kind::Jpeg),
        (png(600, 400), Kind::Png),
        (encoded(alpha.clone(), image::ImageFormat::Png), Kind::Png),
        (encoded(picture(600, 400), image::ImageFormat::WebP), Kind::Webp),
        (encoded(alpha, image::ImageFormat::WebP), Kind::Webp),
    ];
    for (bytes, kind) in cases {
        let looked = look(&bytes, kind).unwrap();
        assert_eq!((looked.width, looked.height), (600, 400));
        assert!((5..40).contains(&looked.thumbhash.len()), "{kind:?}: {:?}", looked.thumbhash);
        let small = thumbnail(&looked);
        assert_eq!(small.dimensions(), (240, 160), "{kind:?}");
        assert!(is_red(small.get_pixel(120, 20).0) && is_blue(small.get_pixel(120, 140).0), "{kind:?}");
    }
}

#[test]
fn sizes_and_depths_of_all_sorts_are_taken() {
    for (width, height, shown) in [(1, 1, (1, 1)), (240, 1, (240, 1)), (5000, 3, (240, 1)), (3, 5000, (1, 240))] {
        for (bytes, kind) in [(jpeg(width, height), Kind::Jpeg), (png(width, height), Kind::Png)] {
            let looked = look(&bytes, kind).unwrap();
            assert_eq!((looked.width, looked.height), (width, height));
            assert_eq!(thumbnail(&looked).dimensions(), shown, "{kind:?} {width}x{height}");
        }
    }
    let gray = GrayImage::from_fn(500, 500, |x, _| image::Luma([(x / 2) as u8]));
    let deep = DynamicImage::from(gray.clone()).into_rgb16();
    for (bytes, kind) in [
        (encoded(gray.clone(), image::ImageFormat::Jpeg), Kind::Jpeg),
        (encoded(gray, image::ImageFormat::Png), Kind::Png),
        (encoded(deep, image::ImageFormat::Png), Kind::Png),
    ] {
        let small = thumbnail(&look(&bytes, kind).unwrap());
        let [left, right] = [5, 235].map(|x| small.get_pixel(x, 120).0);
        assert!(left[0] < 30 && right[0] > 225 && right[0].abs_diff(right[2]) < 9, "{kind:?} {left:?} {right:?}");
    }
}

#[test]
fn a_large_photo_is_decoded_small() {
    let looked = look(&jpeg(4000, 3000), Kind::Jpeg).unwrap();
    let small = thumbnail(&looked);
    assert_eq!((looked.width, small.dimensions()), (4000, (240, 180)));
    assert!(is_red(small.get_pixel(120, 20).0) && is_blue(small.get_pixel(120, 160).0));
}

#[test]
fn every_orientation_is_made_upright() {
    let bytes = jpeg(400, 200);
    // Where the red half comes to be: left, top, right or bottom.
    for (orientation, turns, at) in [
        (1, false, (0.5, 0.1)),
        (2, false, (0.5, 0.1)),
        (3, false, (0.5, 0.9)),
        (4, false, (0.5, 0.9)),
        (5, true, (0.1, 0.5)),
        (6, true, (0.9, 0.5)),
        (7, true, (0.9, 0.5)),
        (8, true, (0.1, 0.5)),
    ] {
        let looked = look(&turned(&bytes, orientation), Kind::Jpeg).unwrap();
        assert_eq!((looked.width, looked.height), if turns { (200, 400) } else { (400, 200) }, "{orientation}");
        let small = thumbnail(&looked);
        let (width, height) = small.dimensions();
        let pixel =
            |(x, y): (f64, f64)| small.get_pixel((x * f64::from(width)) as u32, (y * f64::from(height)) as u32).0;
        assert!(is_red(pixel(at)) && is_blue(pixel((1.0 - at.0, 1.0 - at.1))), "{orientation}");
    }
}

#[test]
fn of_several_orientations_the_last_one_counts_also_if_it_cannot_be_read() {
    let bytes = jpeg(400, 200);
    // Each goes in front of those before it.
    let mut unreadable = turned(&bytes, 6);
    let mark = unreadable.windows(2).position(|pair| pair == b"MM").unwrap();
    unreadable[mark..mark + 2].copy_from_slice(b"XX");
    for (image, shown) in [(turned(&turned(&bytes, 1), 6), (400, 200)), (turned(&unreadable, 6), (400, 200))] {
        let looked = look(&image, Kind::Jpeg).unwrap();
        assert_eq!((looked.width, looked.height), shown);
    }
    assert_eq!(look(&turned(&turned(&bytes, 6), 1), Kind::Jpeg).unwrap().width, 200);
}

#[test]
fn nothing_of_the_metadata_is_in_the_thumbnail() {
    let looked = look(&turned(&jpeg(400, 200), 6), Kind::Jpeg).unwrap();
    for trace in [&b"Exif"[..], b"GPS"] {
        assert!(!looked.thumbnail.windows(trace.len()).any(|bytes| bytes == trace));
    }
}

#[test]
fn of_an_animation_the_first_picture_is_shown() {
    let looked = look(&gif(), Kind::Gif).unwrap();
    assert_eq!((looked.width, looked.height), (300, 200));
    assert!(is_red(thumbnail(&looked).get_pixel(120, 80).0));
}

#[test]
fn what_is_transparent_shows_white() {
    let clear = RgbaImage::from_pixel(300, 300, Rgba([0, 0, 0, 0]));
    let looked = look(&encoded(clear, image::ImageFormat::Png), Kind::Png).unwrap();
    assert!(thumbnail(&looked).get_pixel(100, 100).0.iter().all(|&channel| channel > 250));
}

#[test]
fn a_thumbnail_of_noise_is_small_too() {
    let noise = RgbImage::from_fn(900, 900, |_, _| Rgb([fastrand::u8(..), fastrand::u8(..), fastrand::u8(..)]));
    let nearest = DynamicImage::from(noise).resize_exact(240, 240, image::imageops::FilterType::Nearest);
    thumbnail(&look(&encoded(nearest, image::ImageFormat::Png), Kind::Png).unwrap());
}

#[test]
fn what_lies_about_its_kind_is_refused() {
    let html = b"<html><script>alert(1)</script></html>".to_vec();
    for (bytes, kind) in
        [(png(9, 9), Kind::Jpeg), (jpeg(9, 9), Kind::Png), (html, Kind::Gif), (gif(), Kind::Webp), (vec![], Kind::Png)]
    {
        assert_eq!(look(&bytes, kind), Err(BadImage::Kind(kind)));
    }
}

#[test]
fn what_is_cut_off_is_refused() {
    let noise = RgbImage::from_fn(200, 200, |_, _| Rgb([fastrand::u8(..), fastrand::u8(..), fastrand::u8(..)]));
    for (format, kind) in [
        (image::ImageFormat::Jpeg, Kind::Jpeg),
        (image::ImageFormat::Png, Kind::Png),
        (image::ImageFormat::WebP, Kind::Webp),
        (image::ImageFormat::Gif, Kind::Gif),
    ] {
        let bytes = encoded(noise.clone(), format);
        for part in [16, 100, bytes.len() / 2, bytes.len() * 9 / 10] {
            assert!(matches!(look(&bytes[..part], kind), Err(BadImage::Broken(_))), "{kind:?} {part}");
        }
        assert!(look(&bytes, kind).is_ok(), "{kind:?}");
    }
}

/// The head of a PNG of this size, with hardly anything behind it.
fn png_bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(1, 1);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32fast::hash(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
fn a_bomb_is_refused_by_its_head() {
    assert_eq!(look(&png_bomb(20_000, 20_000), Kind::Png), Err(BadImage::Size(20_000, 20_000)));
    assert_eq!(look(&png_bomb(6_000_000, 7), Kind::Png), Err(BadImage::Size(6_000_000, 7)));
    let mut giant = jpeg(16, 16);
    // The height and the width of the frame header, behind its marker, length and precision.
    let frame = giant.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    giant[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    assert_eq!(look(&giant, Kind::Jpeg), Err(BadImage::Size(65_535, 65_535)));
    let mut giant = gif();
    giant[6..10].copy_from_slice(&[0xff; 4]);
    assert_eq!(look(&giant, Kind::Gif), Err(BadImage::Size(65_535, 65_535)));
    let mut none = gif();
    none[6..10].copy_from_slice(&[0; 4]);
    assert_eq!(look(&none, Kind::Gif), Err(BadImage::Size(0, 0)));
}

#[test]
fn a_jpeg_of_very_many_scans_is_refused() {
    let good = jpeg(64, 48);
    assert!(look(&good, Kind::Jpeg).is_ok());
    let end = good.len() - 2;
    let scan = good.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let again = [&good[..end], &good[scan..end].repeat(100), &good[end..]].concat();
    assert_eq!(look(&again, Kind::Jpeg), Err(BadImage::Scans(101)));
    // Those of a picture within a segment, and behind the end, are none of it.
    let within = [&good[..2], &[0xff, 0xef, 0x01, 0x02], &[0xff, 0xda].repeat(128), &good[2..]].concat();
    assert!(look(&within, Kind::Jpeg).is_ok());
    assert!(look(&[&good[..], &[0xff, 0xda].repeat(200)].concat(), Kind::Jpeg).is_ok());
}

#[test]
fn a_lossless_jpeg_is_refused() {
    let mut lossless = jpeg(64, 48);
    let frame = lossless.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    lossless[frame + 1] = 0xc3;
    assert!(matches!(look(&lossless, Kind::Jpeg), Err(BadImage::Broken(_))));
}

/// A JPEG whose scan is changed, from its marker on.
fn with_scan(jpeg: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = jpeg.to_vec();
    let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    change(&mut bytes[scan..]);
    bytes
}

#[test]
fn a_jpeg_that_has_to_be_held_is_bounded_by_its_pixels() {
    // 6,000 by 6,000 pixels of three components, of which the head says that they come one after the other, or a little of each.
    for (marker, components) in [(0xc0, 1), (0xc2, 3)] {
        let mut held = with_scan(&jpeg(64, 48), |scan| scan[4] = components);
        let frame = held.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        held[frame + 1] = marker;
        held[frame + 5..frame + 9].copy_from_slice(&[0x17, 0x70, 0x17, 0x70]);
        assert_eq!(look(&held, Kind::Jpeg), Err(BadImage::Deep(6 * 36_000_000)));
    }
}

#[test]
fn a_jpeg_without_its_end_is_cut_off() {
    let whole = jpeg(64, 48);
    assert!(matches!(look(&whole[..whole.len() - 1], Kind::Jpeg), Err(BadImage::Broken(_))));
    assert!(matches!(look(&whole[..whole.len() - 2], Kind::Jpeg), Err(BadImage::Broken(_))));
    assert!(look(&[&whole[..], b"a film"].concat(), Kind::Jpeg).is_ok());
}

#[test]
fn what_the_decoder_of_jpeg_refuses_is_broken() {
    // A component that the frame does not have; the library says so by unwinding.
    let foreign = with_scan(&jpeg(64, 48), |scan| scan[5] = 77);
    let Err(BadImage::Broken(why)) = look(&foreign, Kind::Jpeg) else { panic!("it is taken") };
    assert!(why.contains("libjpeg"), "{why}");
}

#[test]
fn inks_are_shown_as_light() {
    let mut encoder = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_CMYK);
    encoder.set_size(300, 200);
    let mut encoder = encoder.start_compress(Vec::new()).unwrap();
    // What is missing of cyan, magenta, yellow and black: red.
    encoder.write_scanlines(&[250, 10, 30, 255].repeat(300 * 200)).unwrap();
    let looked = look(&encoder.finish().unwrap(), Kind::Jpeg).unwrap();
    assert!(is_red(thumbnail(&looked).get_pixel(120, 80).0));
}

#[test]
fn flipped_bytes_never_panic() {
    let images = [
        (jpeg(64, 48), Kind::Jpeg),
        (png(64, 48), Kind::Png),
        (encoded(picture(64, 48), image::ImageFormat::WebP), Kind::Webp),
        (gif(), Kind::Gif),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for (bytes, kind) in images {
        for _ in 0..300 {
            let mut bad = bytes.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bad.len());
                bad[at] = random.u8(..);
            }
            let _ = look(&bad, kind);
        }
    }
}
