//! What is kept and what is not, of images that have everything.

mod kinds;

use std::io::Cursor;

use image::codecs::gif::{GifDecoder, GifEncoder, Repeat};
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, Frame, ImageDecoder, ImageFormat, Rgba, RgbaImage};

use super::*;

/// What nobody may learn from what is kept.
const SECRET: &[u8] = b"GPSLatitude secret 48.85";
/// What is kept, though it is not of the pixels.
const PROFILE: &[u8] = b"a colour profile";

fn picture(shade: u8) -> RgbaImage {
    RgbaImage::from_fn(16, 8, |x, y| Rgba([x as u8 * 16, y as u8 * 32, shade, if x < 8 { 255 } else { shade }]))
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// As cameras write it: of two fields, the first of which points to the secret.
fn tiff(is_big: bool, orientation: u8) -> Vec<u8> {
    let short = |number: u16| if is_big { number.to_be_bytes() } else { number.to_le_bytes() };
    let long = |number: u32| if is_big { number.to_be_bytes() } else { number.to_le_bytes() };
    let field = |tag, kind, count, value: [u8; 4]| [&short(tag)[..], &short(kind), &long(count), &value].concat();
    let [high, low] = short(orientation.into());
    [
        if is_big { b"MM" } else { b"II" },
        &short(42)[..],
        &long(8),
        &short(2),
        &field(0x010e, 2, SECRET.len() as u32, long(38)),
        &field(0x0112, 3, 1, [high, low, 0, 0]),
        &long(0),
        SECRET,
    ]
    .concat()
}

fn segment(marker: u8, payload: &[u8]) -> Vec<u8> {
    [&[0xff, marker], &(payload.len() as u16 + 2).to_be_bytes()[..], payload].concat()
}

fn jpeg(exif: &[u8]) -> Vec<u8> {
    let plain = encoded(DynamicImage::from(picture(99)).into_rgb8(), ImageFormat::Jpeg);
    let app = |number: u8, head: &[u8]| segment(0xe0 + number, &[head, SECRET].concat());
    // Behind the segment of JFIF, which is put anew, with a thumbnail of eight pixels.
    let rest = &plain[20..];
    [
        &[0xff, 0xd8][..],
        &app(0, b"JFIF\0\x01\x02\0\0\x01\0\x01\x08\x01"),
        &app(0, b"JFXX\0\x10"),
        &segment(0xe1, &[b"Exif\0\0", exif].concat()),
        &app(1, b"http://ns.adobe.com/xap/1.0/\0"),
        &app(2, b"MPF\0"),
        &segment(0xe2, &[b"ICC_PROFILE\0\x01\x01", PROFILE].concat()),
        &(3..=13).flat_map(|number| app(number, b"Photoshop 3.0\0")).collect::<Vec<_>>(),
        &app(14, b"Adobe\0\x64\0\0\0\0\x01"),
        &app(14, b"Other\0\x64\0\0\0\0\x01"),
        &app(15, b""),
        &segment(0xfe, SECRET),
        rest,
        &plain[..20],
        &segment(0xe1, &[b"Exif\0\0", exif].concat()),
        rest,
    ]
    .concat()
}

fn png_chunk(name: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    let checksum = crc32fast::hash(&[name, payload].concat()).to_be_bytes();
    [&(payload.len() as u32).to_be_bytes()[..], name, payload, &checksum].concat()
}

fn png(exif: &[u8]) -> Vec<u8> {
    let plain = encoded(picture(99), ImageFormat::Png);
    let (head, rest) = plain.split_at(33);
    let secret = |name| png_chunk(name, &[b"Comment\0\0\0\0\0", SECRET].concat());
    let names = [b"tEXt", b"zTXt", b"iTXt", b"tIME", b"prIv", b"caBX", b"dSIG"];
    // A profile of one stored block.
    let zlib = [&[0x78, 1, 1, 16, 0, 0xef, 0xff], PROFILE, &[0x32, 0x6d, 0x06, 0x27]].concat();
    let profile = png_chunk(b"iCCP", &[b"icc\0\0", &zlib[..]].concat());
    let density = png_chunk(b"pHYs", &[0, 0, 0, 1, 0, 0, 0, 1, 0]);
    let texts = names.into_iter().flat_map(secret).collect::<Vec<_>>();
    [head, &profile, &density, &png_chunk(b"eXIf", exif), &texts, rest, SECRET].concat()
}

fn webp_chunk(name: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    let padding = vec![0; payload.len() % 2];
    [&name[..], &(payload.len() as u32).to_le_bytes(), payload, &padding].concat()
}

fn webp_file(chunks: &[u8]) -> Vec<u8> {
    [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", chunks].concat()
}

/// Of 16 to 8 pixels.
fn features(flags: u8) -> Vec<u8> {
    webp_chunk(b"VP8X", &[flags, 0, 0, 0, 15, 0, 0, 7, 0, 0])
}

fn webp(exif: &[u8]) -> Vec<u8> {
    let picture = &encoded(picture(99), ImageFormat::WebP)[12..];
    let secret = |name| webp_chunk(name, SECRET);
    let profile = webp_chunk(b"ICCP", PROFILE);
    let exif = webp_chunk(b"EXIF", exif);
    let chunks = [&features(0x3c), &profile, &secret(b"odd "), picture, &exif, &secret(b"XMP "), &secret(b"EXIF")];
    [&webp_file(&chunks.concat()), SECRET].concat()
}

fn gif_extension(label: u8, name: &[u8]) -> Vec<u8> {
    let name = if name.is_empty() { vec![] } else { [&[name.len() as u8], name].concat() };
    [&[0x21, label], &name[..], &[SECRET.len() as u8], SECRET, &[1, 0, 0]].concat()
}

fn gif() -> Vec<u8> {
    let mut plain = Vec::new();
    let mut encoder = GifEncoder::new(&mut plain);
    encoder.set_repeat(Repeat::Finite(3)).unwrap();
    encoder.encode_frames([1, 200].map(|shade| Frame::new(picture(shade)))).unwrap();
    drop(encoder);
    // Behind a table of two colours.
    assert_eq!(plain[10] & 0x87, 0x80);
    let (head, rest) = plain.split_at(19);
    let extensions = [
        gif_extension(0xfe, b""),
        gif_extension(0xff, b"XMP DataXMP"),
        gif_extension(0xff, b"NETSCAPE2.0 or so"),
        gif_extension(0x01, &[0; 12]),
    ]
    .concat();
    let blocks = rest.strip_suffix(b";").unwrap();
    [head, &extensions, blocks, &extensions, b";", SECRET].concat()
}

/// One of every kind.
fn images(exif: &[u8]) -> [(Kind, Vec<u8>); 4] {
    [(Kind::Jpeg, jpeg(exif)), (Kind::Png, png(exif)), (Kind::Webp, webp(exif)), (Kind::Gif, gif())]
}

/// All that may be seen of an image.
#[derive(Debug, PartialEq)]
struct Seen {
    orientation: Orientation,
    profile: Option<Vec<u8>>,
    pixels: DynamicImage,
}

fn seen(bytes: &[u8], kind: Kind) -> Seen {
    fn of(mut decoder: impl ImageDecoder) -> Seen {
        let (orientation, profile) = (decoder.orientation().unwrap(), decoder.icc_profile().unwrap());
        Seen { orientation, profile, pixels: DynamicImage::from_decoder(decoder).unwrap() }
    }
    let bytes = Cursor::new(bytes);
    match kind {
        Kind::Jpeg => of(JpegDecoder::new(bytes).unwrap()),
        Kind::Png => of(PngDecoder::new(bytes).unwrap()),
        Kind::Webp => of(WebPDecoder::new(bytes).unwrap()),
        Kind::Gif => of(GifDecoder::new(bytes).unwrap()),
        _ => unreachable!("{kind:?} is no image"),
    }
}

fn frames<'a>(decoder: impl AnimationDecoder<'a>) -> Vec<(RgbaImage, (u32, u32))> {
    let frames = decoder.into_frames().collect_frames().unwrap();
    frames.into_iter().map(|frame| (frame.buffer().clone(), frame.delay().numer_denom_ms())).collect()
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Strips what has something to strip, which cannot be done twice.
fn once(bytes: &[u8], kind: Kind) -> Vec<u8> {
    let Ok(Cow::Owned(once)) = stripped(bytes, kind) else {
        panic!("{kind:?} is not stripped: {:?}", stripped(bytes, kind))
    };
    assert!(matches!(stripped(&once, kind), Ok(Cow::Borrowed(same)) if same == once), "{kind:?}");
    once
}

#[test]
fn the_secret_is_gone_and_the_image_is_as_it_was() {
    for (is_big, orientation) in [true, false].into_iter().flat_map(|is_big| (0..=9).map(move |to| (is_big, to))) {
        for (kind, bytes) in images(&tiff(is_big, orientation)) {
            assert!(holds(&bytes, SECRET));
            let (once, before) = (once(&bytes, kind), seen(&bytes, kind));
            assert!(!holds(&once, SECRET), "{kind:?}");
            assert_eq!(seen(&once, kind), before, "{kind:?}");
            if kind != Kind::Gif {
                assert_eq!(
                    before.orientation,
                    Orientation::from_exif(orientation).unwrap_or(Orientation::NoTransforms)
                );
                assert_eq!(before.profile.as_deref(), Some(PROFILE), "{kind:?}");
                // The field of orientation is left only where it says something.
                assert_eq!(holds(&once, b"\x01\x12\0\x03"), (2..=8).contains(&orientation), "{kind:?}");
            }
        }
    }
}

#[test]
fn what_has_no_metadata_is_borrowed() {
    let rgb = DynamicImage::from(picture(1)).into_rgb8();
    let formats = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif];
    for (kind, format) in Kind::ALL.into_iter().zip(formats) {
        let bytes = encoded(rgb.clone(), format);
        assert!(matches!(stripped(&bytes, kind), Ok(Cow::Borrowed(same)) if same == bytes), "{kind:?}");
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            assert_eq!(stripped(&bytes, other), Err(Unstrippable::Kind(other)));
        }
    }
}

#[test]
fn what_is_cut_off_is_refused_or_holds_no_secret() {
    for (kind, bytes) in images(&tiff(true, 6)) {
        let whole = once(&bytes, kind);
        for cut in 0..bytes.len() {
            match stripped(&bytes[..cut], kind) {
                Ok(kept) => assert!(!holds(&kept, SECRET) && kept.len() <= whole.len(), "{kind:?} at {cut}"),
                Err(refused) => assert!(matches!(refused, Unstrippable::Cut | Unstrippable::Broken(_)) || cut < 12),
            }
        }
    }
}

#[test]
fn whatever_is_flipped_stripping_ends_and_is_done_once() {
    for (kind, bytes) in images(&tiff(false, 6)) {
        let mut flipped = bytes.clone();
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            flipped[at] ^= 1 << bit;
            if let Ok(kept) = stripped(&flipped, kind) {
                assert!(matches!(stripped(&kept, kind), Ok(Cow::Borrowed(_))), "{kind:?}: bit {bit} of byte {at}");
            }
            flipped[at] = bytes[at];
        }
    }
}
