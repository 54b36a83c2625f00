//! What each kind has of its own.

use super::*;

/// Grey, of 16 to 16 pixels, in six scans, with a restart behind every block.
const PROGRESSIVE: [&str; 8] = [
    "ffd8ffe000104a46494600010100000100010000ffdb004300100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d",
    "3c3933383740485c4e404457453738506d51575f626768673e4d71797064785c656763ffc2000b080010001001011100ffc400150001",
    "0100000000000000000000000000000405ffdd00040001ffda00080101000000019fffd077ffd12fffd24fffc4001a10000202030000",
    "0000000000000000000001030002041112ffda0008010100010502489fffd05eab5fffd1489fffd269e717ffc4001a10000202030000",
    "0000000000000000000000010211123151ffda0008010100063f023fffd0c9e91fffd13fffd29b5ca3ffc4001a100100020301000000",
    "0000000000000000010031112161c1ffda0008010100013f21aa7fffd0685c06567fffd1aa7fffd26386eceebd9fffda000801010000",
    "0010ff00ffd0ff00ffd1ff00ffd2ff00ffc4001910010003010100000000000000000000000100112141a1ffda0008010100013f109b",
    "ffd0b143d65a02d727ffd19bffd26c0430e3178a7fffd9",
];

fn progressive() -> Vec<u8> {
    let digits = PROGRESSIVE.concat();
    let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
    bytes.collect::<Result<_, _>>().unwrap()
}

/// Puts bytes before every segment behind the first, but not into data.
fn between(jpeg: &[u8], what: &[u8]) -> Vec<u8> {
    let marker = |pair: &[u8]| pair[0] == 0xff && matches!(pair[1], 0xc0..=0xcf | 0xd9..=0xdf);
    let mut bytes = jpeg[..2].to_vec();
    for (at, byte) in jpeg.iter().enumerate().skip(2) {
        if jpeg.get(at..at + 2).is_some_and(marker) {
            bytes.extend(what);
        }
        bytes.push(*byte);
    }
    bytes
}

#[test]
fn jpeg_scans_are_copied_whatever_stands_between() {
    let plain = progressive();
    assert!(matches!(stripped(&plain, Kind::Jpeg), Ok(Cow::Borrowed(_))));
    let comment = segment(0xfe, SECRET);
    // A comment; padding before one; bytes that should not be there behind one.
    for what in [&comment[..], &[&[0xff; 3], &comment[..]].concat(), &[&comment, SECRET].concat()] {
        let bytes = between(&plain, what);
        assert!(bytes.len() > plain.len() + 10 * what.len());
        let once = once(&bytes, Kind::Jpeg);
        assert!(!holds(&once, SECRET));
        assert_eq!(seen(&once, Kind::Jpeg), seen(&plain, Kind::Jpeg));
    }
    // Padding behind the data of a scan cannot be told from it.
    assert_eq!(stripped(&between(&plain, &comment), Kind::Jpeg).unwrap(), plain);
}

#[test]
fn jpeg_without_its_end_is_cut_off() {
    let plain = progressive();
    for cut in 3..plain.len() {
        assert_eq!(stripped(&plain[..cut], Kind::Jpeg), Err(Unstrippable::Cut), "{cut}");
    }
    let head = &plain[..20];
    let bad = |rest: &[u8]| stripped(&[head, rest].concat(), Kind::Jpeg).unwrap_err();
    assert_eq!(bad(b""), Unstrippable::Cut);
    for rest in [&[0xff, 0xfe, 0, 1][..], &[0xff, 0xd8], &[0xff, 1], &[0xff, 0xbf, 0, 2], &[0xff, 0xd7]] {
        assert!(matches!(bad(rest), Unstrippable::Broken(_)), "{rest:?}");
    }
}

#[test]
fn jpeg_takes_the_last_orientation_before_its_pixels() {
    let plain = progressive();
    let exif = |to| segment(0xe1, &[b"Exif\0\0", &tiff(true, to)[..]].concat());
    let end = plain.len() - 2;
    for (first, last) in [(6, 3), (1, 8), (8, 1)] {
        let bytes = [&plain[..2], &exif(first), &exif(last), &plain[2..end], &exif(5), &plain[end..]].concat();
        let once = once(&bytes, Kind::Jpeg);
        assert_eq!(seen(&once, Kind::Jpeg), seen(&bytes, Kind::Jpeg));
        assert_eq!(seen(&once, Kind::Jpeg).orientation.to_exif(), last);
        // Behind JFIF.
        assert_eq!(once[..20], plain[..20]);
    }
}

#[test]
fn png_keeps_its_animation_and_the_first_orientation() {
    let plain = encoded(picture(1), ImageFormat::Png);
    let other = encoded(picture(200), ImageFormat::Png);
    let data = &other[41..other.len() - 16];
    assert_eq!(&other[37..41], b"IDAT");
    let control = |number| {
        let place = [number, 0, 0, 0, 16, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 10, 0, 0];
        png_chunk(b"fcTL", &[&[0, 0, 0][..], &place].concat())
    };
    let mut exif = png_chunk(b"eXIf", &tiff(true, 3));
    let good = png_chunk(b"eXIf", &[b"Exif\0\0", &tiff(false, 6)[..]].concat());
    *exif.last_mut().unwrap() ^= 1;
    let (head, first) = plain.split_at(33);
    let end = first.len() - 12;
    let bytes = [
        head,
        &png_chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]),
        &exif,
        &good,
        &png_chunk(b"eXIf", &tiff(true, 8)),
        &control(0),
        &first[..end],
        &control(1),
        &png_chunk(b"fdAT", &[&[0, 0, 0, 2], data].concat()),
        &first[end..],
    ]
    .concat();
    let once = once(&bytes, Kind::Png);
    let seen = |bytes| frames(PngDecoder::new(Cursor::new(bytes)).unwrap().apng().unwrap());
    assert_eq!((seen(&once).len(), seen(&once)), (2, seen(&bytes)));
    // With a prefix that `image` does not read, and others do.
    assert!(holds(&once, b"\0\0\0\x20eXIfExif\0\0MM\0\x2a") && holds(&once, b"\x01\x12\0\x03\0\0\0\x01\0\x06"));
    assert!(!holds(&once, SECRET));
}

#[test]
fn png_that_cannot_be_shown_without_the_unknown_is_refused() {
    let plain = encoded(picture(1), ImageFormat::Png);
    let bytes = [&plain[..33], &png_chunk(b"CgBI", SECRET), &plain[33..]].concat();
    assert!(matches!(stripped(&bytes, Kind::Png), Err(Unstrippable::Broken(_))));
    let without_end = &plain[..plain.len() - 12];
    assert_eq!(stripped(without_end, Kind::Png), Ok(Cow::Borrowed(without_end)));
}

#[test]
fn webp_frames_are_stripped_too() {
    let frame = |shade| {
        let picture = &encoded(picture(shade), ImageFormat::WebP)[12..];
        let place = [0, 0, 0, 0, 0, 0, 15, 0, 0, 7, 0, 0, 100, 0, 0, 2];
        webp_chunk(b"ANMF", &[&place, picture, &webp_chunk(b"odd ", SECRET)].concat())
    };
    let loops = webp_chunk(b"ANIM", &[0; 6]);
    let empty = webp_file(&[&features(0x12)[..], &loops, &webp_chunk(b"ANMF", &[0; 16])].concat());
    assert!(matches!(stripped(&empty, Kind::Webp), Err(Unstrippable::Broken(_))));
    let bytes = webp_file(&[features(0x12), loops, frame(1), frame(200), webp_chunk(b"XMP ", SECRET)].concat());
    let once = once(&bytes, Kind::Webp);
    let seen = |bytes| frames(WebPDecoder::new(Cursor::new(bytes)).unwrap());
    assert_eq!((seen(&once).len(), seen(&once)), (2, seen(&bytes)));
    assert!(!holds(&once, SECRET));
}

#[test]
fn webp_says_what_it_has() {
    let orientations = [(1, 0x30), (6, 0x38)];
    for (orientation, flags) in orientations {
        let once = once(&webp(&tiff(true, orientation)), Kind::Webp);
        assert_eq!(once[20], flags);
        assert_eq!(u32::from_le_bytes(*once[4..].first_chunk().unwrap()) as usize, once.len() - 8);
    }
    let picture = encoded(picture(1), ImageFormat::WebP);
    // Without features there is no orientation, and with no length there is no picture.
    let exif = webp_chunk(b"EXIF", &tiff(true, 6));
    let simple = webp_file(&[&picture[12..], &exif].concat());
    assert_eq!(stripped(&simple, Kind::Webp).unwrap(), picture);
    let mut empty = picture.clone();
    empty[4..8].fill(0);
    assert!(matches!(stripped(&empty, Kind::Webp), Err(Unstrippable::Broken(_))));
    let long = webp_file(&[webp_chunk(b"VP8X", &[0; 12]), picture[12..].to_vec()].concat());
    assert!(matches!(stripped(&long, Kind::Webp), Err(Unstrippable::Broken(_))));
}

#[test]
fn gif_keeps_its_animation() {
    let bytes = gif();
    let once = once(&bytes, Kind::Gif);
    let seen = |bytes| frames(GifDecoder::new(Cursor::new(bytes)).unwrap());
    assert_eq!((seen(&once).len(), seen(&once)), (2, seen(&bytes)));
    assert!(holds(&once, b"\x0bNETSCAPE2.0\x03\x01\x03\0\0") && !holds(&once, b"XMP"));
    assert!(once.windows(2).filter(|pair| *pair == [0x21, 0xf9]).count() >= 2);
    let without_end = once.strip_suffix(b";").unwrap();
    let unknown = [without_end, &gif_extension(0x77, b"NETSCAPE2.0"), b";"].concat();
    assert_eq!(stripped(&unknown, Kind::Gif).unwrap(), once);
    assert_eq!(stripped(without_end, Kind::Gif), Ok(Cow::Borrowed(without_end)));
    assert!(matches!(stripped(&[without_end, b"\0;"].concat(), Kind::Gif), Err(Unstrippable::Broken(_))));
}
