//! The one field of EXIF that changes how an image is shown.
//!
//! Source: TIFF 6.0, section 2; EXIF 2.32, section 4.6.4.

/// Before the TIFF file in JPEG; in the chunks of PNG and WebP it should not be, but some write it there too.
pub(crate) const PREFIX: &[u8] = b"Exif\0\0";

const ORIENTATION: u16 = 0x0112;
/// The type of its value.
const SHORT: u16 = 3;
/// A TIFF file of one directory, of one field, as far as its value.
const BEFORE_VALUE: &[u8; 18] = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01";

/// The block without all but its orientation; none, if it shows the pixels as they are stored.
///
/// A prefix is left as it was found: some readers insist on it, and others see no block then.
pub(super) fn only_orientation(block: &[u8]) -> Option<Vec<u8>> {
    let (prefix, tiff) = match block.strip_prefix(PREFIX) {
        Some(tiff) => (PREFIX, tiff),
        None => (&[][..], block),
    };
    let orientation = orientation(tiff)?;
    // Behind the value its field is filled up, and there is no other directory.
    Some([prefix, BEFORE_VALUE, &[0, orientation, 0, 0], &[0; 4]].concat())
}

/// From 2 to 8, if the first directory says so.
fn orientation(tiff: &[u8]) -> Option<u8> {
    type Number<const BYTES: usize, N> = fn([u8; BYTES]) -> N;
    let (short, long): (Number<2, u16>, Number<4, u32>) = match tiff.get(..4)? {
        b"II\x2a\0" => (u16::from_le_bytes, u32::from_le_bytes),
        b"MM\0\x2a" => (u16::from_be_bytes, u32::from_be_bytes),
        _ => return None,
    };
    let directory = long(*tiff.get(4..)?.first_chunk()?);
    let (fields, entries) = tiff.get(usize::try_from(directory).ok()?..)?.split_first_chunk()?;
    let (entries, _) = entries.as_chunks::<12>();
    let value = entries.iter().take(short(*fields).into()).find_map(|&[a, b, c, d, e, f, g, h, i, j, ..]| {
        let head = (short([a, b]), short([c, d]), long([e, f, g, h]));
        (head == (ORIENTATION, SHORT, 1)).then(|| short([i, j]))
    })?;
    u8::try_from(value).ok().filter(|value| (2..=8).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orientation_is_found_in_either_byte_order() {
        let big = b"MM\0\x2a\0\0\0\x09-\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0";
        let little = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        let only = only_orientation(big).unwrap();
        assert_eq!(only, b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0");
        assert_eq!(only_orientation(little).unwrap(), only);
        assert_eq!(only_orientation(&only).unwrap(), only);
        let prefixed = [PREFIX, &only].concat();
        assert_eq!(only_orientation(&[PREFIX, little].concat()).unwrap(), prefixed);
        assert_eq!(only_orientation(&prefixed).unwrap(), prefixed);
        for cut in 0..little.len() {
            assert_eq!(only_orientation(&little[..cut]), None);
        }
    }

    #[test]
    fn what_says_nothing_is_none() {
        let with = |at: usize, bytes: &[u8]| {
            let mut tiff = [&BEFORE_VALUE[..], &[0, 6, 0, 0]].concat();
            tiff[at..at + bytes.len()].copy_from_slice(bytes);
            only_orientation(&tiff)
        };
        assert!(with(0, b"").is_some());
        // Another order, a directory beyond the end, no field, another field, another type, two values.
        let heads = [(0, &b"II"[..]), (4, &[0xff; 4]), (8, &[0, 0]), (11, &[0x13]), (13, &[4]), (17, &[2])];
        // Upright, and values that mean nothing.
        let values = [(18, &[0, 1][..]), (18, &[0, 0]), (18, &[0, 9]), (18, &[1, 6])];
        for (at, bytes) in heads.into_iter().chain(values) {
            assert_eq!(with(at, bytes), None, "{bytes:?} at {at}");
        }
    }
}
