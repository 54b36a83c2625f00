use super::*;
use crate::audio::sample::{m4a, part};

fn place(clip: &[u8], name: &[u8; 4]) -> usize {
    clip.windows(4).position(|window| window == name).expect("it is there")
}

/// A clip of 2 s, of 32 samples, with these bytes in the payload of this box.
fn with(name: &[u8; 4], at: usize, bytes: &[u8]) -> Result<u32, BadAudio> {
    let mut clip = m4a(2.0, 1);
    let at = place(&clip, name) + 4 + at;
    clip[at..at + bytes.len()].copy_from_slice(bytes);
    lasts(&clip)
}

/// Renames a box.
fn renamed(name: &[u8; 4], other: &[u8; 4]) -> Result<u32, BadAudio> {
    let mut clip = m4a(2.0, 1);
    let at = place(&clip, name);
    clip[at..at + 4].copy_from_slice(other);
    lasts(&clip)
}

fn broken(told: Result<u32, BadAudio>) -> bool {
    matches!(told, Err(BadAudio::Broken(_)))
}

#[test]
fn every_box_is_needed_once() {
    for name in [
        b"moov", b"mvhd", b"trak", b"mdia", b"mdhd", b"hdlr", b"minf", b"stbl", b"stsd", b"stts", b"stsc", b"stsz",
        b"stco", b"mdat",
    ] {
        assert!(broken(renamed(name, b"free")), "{name:?}");
    }
    let clip = m4a(2.0, 1);
    let moov = &clip[place(&clip, b"moov") - 4..place(&clip, b"mdat") - 4];
    assert!(is_broken(&[&clip[..], moov].concat()), "a second one behind");
    assert_eq!(lasts(&[&clip[..], &part(b"free", &[b"room"])].concat()), Ok(2000));
}

#[test]
fn what_is_not_one_track_of_aac_is_refused() {
    assert_eq!(with(b"hdlr", 8, b"soun"), Ok(2000));
    assert!(broken(with(b"hdlr", 8, b"vide")) && broken(with(b"hdlr", 8, b"text")));
    for coder in [b"alac", b"Opus", b"enca", b"avc1"] {
        assert!(broken(renamed(b"mp4a", coder)));
    }
    assert!(broken(with(b"stsd", 4, &[0, 0, 0, 2])), "two entries");
    let clip = m4a(2.0, 1);
    let (trak, mdat) = (place(&clip, b"trak") - 4, place(&clip, b"mdat") - 4);
    let mut two = [&clip[..mdat], &clip[trak..mdat], &clip[mdat..]].concat();
    let moov = place(&two, b"moov") - 4;
    let bytes = (mdat - moov + mdat - trak) as u32;
    two[moov..moov + 4].copy_from_slice(&bytes.to_be_bytes());
    assert!(is_broken(&two));
    assert!(broken(renamed(b"mdat", b"moof")));
}

#[test]
fn a_brand_is_of_sound_or_may_be() {
    let brand = |brand: &[u8; 4]| with(b"ftyp", 0, brand);
    assert!([b"M4A ", b"M4B ", b"mp42", b"isom"].into_iter().all(|name| brand(name) == Ok(2000)));
    assert!([b"qt  ", b"avif", b"heic", b"crx "].into_iter().all(|name| brand(name) == Err(NotTaken)));
}

#[test]
fn lies_about_time_are_refused() {
    assert_eq!(with(b"mdhd", 16, &32_000_u32.to_be_bytes()), Ok(2000));
    // A tenth of a second is let pass, and is not what is told.
    assert_eq!(with(b"mdhd", 16, &33_600_u32.to_be_bytes()), Ok(2000));
    for lie in [0, 1, 30_399, 33_601, u32::MAX] {
        assert!(broken(with(b"mdhd", 16, &lie.to_be_bytes())), "{lie}");
    }
    // Of each sample but the last.
    for lie in [0, 1, 2048, u32::MAX] {
        assert!(with(b"stts", 12, &lie.to_be_bytes()).is_err(), "{lie}");
    }
    for name in [b"mdhd", b"mvhd"] {
        assert!(broken(with(name, 12, &[0; 4])) && broken(with(name, 0, &[2])));
    }
    // Of a clock of 64 bits the rate stands elsewhere.
    assert!(broken(with(b"mdhd", 0, &[1])));
}

#[test]
fn lies_about_counts_are_refused() {
    // There are 31 samples and a shorter one.
    for lie in [0, 30, 33, u32::MAX] {
        assert!(broken(with(b"stts", 8, &u32::to_be_bytes(lie))), "{lie} samples");
        assert!(broken(with(b"stsz", 8, &u32::to_be_bytes(lie))), "{lie} sizes");
    }
    for lie in [0, 1, 3, u32::MAX] {
        assert!(broken(with(b"stts", 4, &u32::to_be_bytes(lie))), "{lie} rows");
    }
    for lie in [0, 31, 33, u32::MAX] {
        assert!(broken(with(b"stsc", 12, &u32::to_be_bytes(lie))), "{lie} in the chunk");
    }
    for lie in [0, 2, u32::MAX] {
        assert!(broken(with(b"stsc", 8, &u32::to_be_bytes(lie))), "the first chunk is {lie}");
    }
    // All of one size, and yet there are rows.
    assert!(broken(with(b"stsz", 4, &u32::to_be_bytes(9))));
}

#[test]
fn samples_are_within_the_data() {
    let clip = m4a(2.0, 1);
    let data = place(&clip, b"mdat") as u32 + 4;
    assert_eq!(with(b"stco", 8, &data.to_be_bytes()), Ok(2000));
    for lie in [0, data - 1, data + 1, u32::MAX] {
        assert!(broken(with(b"stco", 8, &lie.to_be_bytes())), "{lie}");
    }
    for lie in [0x0100_0000, u32::MAX] {
        assert!(broken(with(b"stsz", 12, &lie.to_be_bytes())), "a sample of {lie} bytes");
    }
}

/// A track by its tables: durations, sizes, chunks, all as rows of numbers.
fn of_tables(rate: u32, lasts: u32, stts: &[u32], stsz: &[u32], stsc: &[u32], stco: &[u32], data: usize) -> Vec<u8> {
    let numbers = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>();
    let full = |name, rows: &[u32]| part(name, &[&[0; 4], &numbers(rows)]);
    let stsd = part(b"stsd", &[&numbers(&[0, 1]), &part(b"mp4a", &[&[0; 28]])]);
    let stbl = [stsd, full(b"stts", stts), full(b"stsz", stsz), full(b"stsc", stsc), full(b"stco", stco)].concat();
    let clock = |name| full(name, &[0, 0, rate, lasts, 0]);
    let minf = part(b"minf", &[&part(b"stbl", &[&stbl])]);
    let hdlr = part(b"hdlr", &[&[0; 8], b"soun", &[0; 12]]);
    let trak = part(b"trak", &[&part(b"mdia", &[&clock(b"mdhd"), &hdlr, &minf])]);
    let moov = part(b"moov", &[&clock(b"mvhd"), &trak]);
    [part(b"ftyp", &[b"mp42\0\0\0\0"]), part(b"mdat", &[&vec![0; data]]), moov].concat()
}

#[test]
fn chunks_follow_each_other_and_samples_may_be_of_one_size() {
    // The data begins at 24; six samples of 10 bytes, in chunks of 1, 1, 2 and 2.
    let of = |stco: &[u32]| {
        let stco = [&[stco.len() as u32], stco].concat();
        lasts(&of_tables(100, 60, &[1, 6, 10], &[10, 6], &[2, 1, 1, 1, 3, 2, 1], &stco, 100))
    };
    assert_eq!((of(&[24, 34, 44, 64]), of(&[25, 40, 50, 104])), (Ok(600), Ok(600)));
    for bad in [
        &[24, 34, 44, 105][..],
        &[23, 34, 44, 64],
        &[24, 33, 44, 64],
        &[44, 34, 24, 64],
        &[24, 34, 44],
        &[24, 34, 44, 64, 84],
        &[],
    ] {
        assert!(broken(of(bad)), "{bad:?}");
    }
    let clip = of_tables(100, 60, &[1, 6, 10], &[10, 6], &[1, 1, 6, 1], &[1, 24], 60);
    assert_eq!(heard(&clip).unwrap(), Heard { duration_ms: 600, waveform: vec![] });
}

#[test]
fn numbers_as_large_as_they_can_be_are_refused() {
    const MOST: u32 = u32::MAX;
    let rows = [4, MOST, MOST, MOST, MOST, MOST, MOST, MOST, MOST];
    for rate in [1, MOST] {
        assert!(lasts(&of_tables(rate, MOST, &rows, &[1, MOST], &[1, 1, MOST, 1], &[1, 24], 60)).is_err());
        assert!(lasts(&of_tables(rate, MOST, &rows[..5], &[1, MOST], &[1, 1, MOST, 1], &[1, 24], 60)).is_err());
        assert!(lasts(&of_tables(rate, MOST, &[1, 1, MOST], &[0, 1, MOST], &[1, 1, 1, 1], &[1, 24], 60)).is_err());
    }
    assert_eq!(lasts(&of_tables(1, 601, &[1, 601, 1], &[1, 601], &[1, 1, 601, 1], &[1, 24], 601)), Err(TooLong));
}

#[test]
fn a_box_may_have_a_long_size_and_none_may_have_no_end() {
    let clip = m4a(2.0, 1);
    let mdat = place(&clip, b"mdat") - 4;
    let payload = &clip[mdat + 8..];
    // Eight bytes more before the data, of which eight are taken from before it.
    let with_size = |size: u64| {
        let long = [&1_u32.to_be_bytes()[..], b"mdat", &size.to_be_bytes(), payload].concat();
        let mut whole = [&clip[..mdat], &long].concat();
        let stco = place(&whole, b"stco") + 12;
        whole[stco..stco + 4].copy_from_slice(&(mdat as u32 + 16).to_be_bytes());
        lasts(&whole)
    };
    let right = payload.len() as u64 + 16;
    assert_eq!(with_size(right), Ok(2000));
    for lie in [0, 8, 15, 16, right - 1, right + 1, u64::MAX, 1 << 63] {
        assert!(broken(with_size(lie)), "{lie}");
    }
    for lie in [0, 2, 7, 8, clip.len() as u32] {
        let mut whole = clip.clone();
        whole[mdat..mdat + 4].copy_from_slice(&lie.to_be_bytes());
        assert!(is_broken(&whole), "{lie}");
    }
}

#[test]
fn there_are_not_too_many_boxes() {
    let clip = m4a(2.0, 1);
    let with_free = |count: usize| lasts(&[&clip[..], &part(b"free", &[]).repeat(count)].concat());
    assert_eq!(with_free(253), Ok(2000));
    assert!(broken(with_free(254)) && broken(with_free(100_000)));
}
