//! How long an Opus packet sounds, by its first byte and how its frames are packed.
//!
//! Source: RFC 6716, section 3; what it requires of a packet, R1 to R7, is checked.

/// Of a frame.
const MAX_FRAME_BYTES: usize = 1275;
/// Of a packet: 120 ms.
const MAX_SAMPLES: u32 = 5760;

/// Samples of a packet at 48 kHz, or none if it is malformed.
pub(super) fn samples(packet: &[u8]) -> Option<u32> {
    let (&first, rest) = packet.split_first()?;
    let frames = match first & 3 {
        0 => equal(rest.len(), 1)?,
        1 => equal(rest.len(), 2)?,
        2 => {
            let (length, rest) = length(rest)?;
            rest.len().checked_sub(length).filter(|second| *second <= MAX_FRAME_BYTES)?;
            2
        }
        _ => many(rest)?,
    };
    Some(frame_samples(first >> 3) * frames).filter(|samples| *samples <= MAX_SAMPLES)
}

/// Of each frame, by the coder and its mode.
fn frame_samples(mode: u8) -> u32 {
    let step = u32::from(mode & 3);
    match mode {
        // SILK: 10, 20, 40 or 60 ms.
        0..12 if step == 3 => 2880,
        0..12 => 480 << step,
        // Both: 10 or 20 ms.
        12..16 => 480 << (step & 1),
        // CELT: 2.5 to 20 ms.
        _ => 120 << step,
    }
}

/// Checks that so many frames of equal size fill so many bytes.
fn equal(bytes: usize, frames: u32) -> Option<u32> {
    let count = frames as usize;
    (count > 0 && bytes.is_multiple_of(count) && bytes / count <= MAX_FRAME_BYTES).then_some(frames)
}

/// Of a packet that tells how many frames it has: how many.
fn many(rest: &[u8]) -> Option<u32> {
    let (&told, mut rest) = rest.split_first()?;
    let (own_sizes, padded, frames) = (told & 0x80 != 0, told & 0x40 != 0, u32::from(told & 0x3f));
    if padded {
        let padding;
        (padding, rest) = padding_bytes(rest)?;
        rest = rest.get(..rest.len().checked_sub(padding)?)?;
    }
    if !own_sizes {
        return equal(rest.len(), frames);
    }
    let mut taken = 0_usize;
    // The last one fills what is left.
    for _ in 1..frames {
        let bytes;
        (bytes, rest) = length(rest)?;
        taken += bytes;
    }
    let last = rest.len().checked_sub(taken)?;
    (frames > 0 && last <= MAX_FRAME_BYTES).then_some(frames)
}

/// Bytes at the end that mean nothing: each 255 stands for 254 and more to come.
fn padding_bytes(mut rest: &[u8]) -> Option<(usize, &[u8])> {
    let mut padding = 0_usize;
    loop {
        let (&told, behind) = rest.split_first()?;
        rest = behind;
        if told < u8::MAX {
            return Some((padding + usize::from(told), rest));
        }
        padding += 254;
    }
}

/// The length of a frame, in one byte or two.
fn length(rest: &[u8]) -> Option<(usize, &[u8])> {
    match *rest {
        [first @ ..252, ref rest @ ..] => Some((usize::from(first), rest)),
        [first, second, ref rest @ ..] => Some((usize::from(second) * 4 + usize::from(first), rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_how_long_a_frame_is() {
        // RFC 6716, table 2, in samples at 48 kHz.
        let silk = [480, 960, 1920, 2880];
        let celt = [120, 240, 480, 960];
        for mode in 0..32_u8 {
            let step = usize::from(mode % 4);
            let expected = match mode {
                0..12 => silk[step],
                12..16 => silk[step % 2],
                _ => celt[step],
            };
            assert_eq!(samples(&[mode << 3]), Some(expected), "{mode}");
            assert_eq!(samples(&[mode << 3 | 4, 1, 2]), Some(expected), "{mode} of two channels");
        }
    }

    #[test]
    fn frames_are_packed_by_the_rules() {
        const MS_20: u8 = 1 << 3;
        let of = |code: u8, rest: &[u8]| samples(&[&[MS_20 | code], rest].concat());
        assert_eq!((of(0, &[0; 1275]), of(0, &[0; 1276])), (Some(960), None));
        assert_eq!((of(1, &[0; 4]), of(1, &[0; 3]), of(1, &[0; 2552])), (Some(1920), None, None));
        assert_eq!((of(2, &[1, 9, 8]), of(2, &[3, 9, 8]), of(2, &[]), of(2, &[252])), (Some(1920), None, None, None));
        assert_eq!((of(2, &[&[252, 1][..], &[0; 256]].concat()), of(2, &[0; 1277])), (Some(1920), None));
        // Three of equal sizes, with padding and without; none; more than 120 ms.
        assert_eq!((of(3, &[3, 1, 2, 3]), of(3, &[3, 1, 2]), of(3, &[0])), (Some(2880), None, None));
        assert_eq!((of(3, &[0x43, 2, 1, 2, 3, 0, 0]), of(3, &[0x43, 2, 0])), (Some(2880), None));
        assert_eq!(of(3, &[&[0x41, 255, 0][..], &[0; 255]].concat()), Some(960));
        assert_eq!((of(3, &[6]), of(3, &[7]), of(3, &[0x41, 255])), (Some(5760), None, None));
        // Three of sizes of their own.
        assert_eq!((of(3, &[0x83, 1, 0, 9, 8]), of(3, &[0x83, 1, 2, 9, 8]), of(3, &[0x80])), (Some(2880), None, None));
        assert_eq!((of(3, &[]), samples(&[])), (None, None));
    }
}
