//! What every kind has in common: lengths, limits, bytes that are missing, wrong or too many. Each kind has tests of
//! its own.

use super::BadAudio::{NotTaken, TooLong};
use super::*;

/// The kinds that are heard.
const CLIPS: [Kind; 5] = [Kind::Amr, Kind::AmrWb, Kind::Silk, Kind::OggOpus, Kind::M4a];

mod amr;
mod m4a;
mod ogg_opus;
mod silk;

/// What the bytes are heard as, by the kind that they begin like.
fn heard(bytes: &[u8]) -> Result<Heard, BadAudio> {
    hear(bytes, recognise(bytes).ok_or(NotTaken)?)
}

fn lasts(bytes: &[u8]) -> Result<u32, BadAudio> {
    heard(bytes).map(|heard| heard.duration_ms)
}

fn is_broken(bytes: &[u8]) -> bool {
    matches!(heard(bytes), Err(BadAudio::Broken(_)))
}

/// One of each kind, and of SILK both.
fn clips(seconds: f32) -> Vec<Vec<u8>> {
    let mut clips: Vec<_> = CLIPS.map(|kind| sample::clip(kind, seconds, 7)).into();
    clips.push(sample::silk_tencent(seconds, 7));
    clips
}

/// Whether a clip has no end but that of its bytes.
fn is_endless(clip: &[u8]) -> bool {
    clip.starts_with(b"#!AMR") || recognise(clip) == Some(Kind::Silk)
}

#[test]
fn a_clip_is_as_long_as_it_was_made() {
    for (seconds, ms) in [(0.02, 20), (0.064, 60), (2.0, 2000), (60.0, 60_000)] {
        for clip in clips(seconds) {
            let heard = heard(&clip).unwrap();
            let by_the_sample = matches!(recognise(&clip), Some(Kind::OggOpus | Kind::M4a));
            assert_eq!(heard.duration_ms, if by_the_sample { (seconds * 1000.0) as u32 } else { ms });
            assert!(heard.waveform.len() <= PEAKS && heard.waveform.iter().all(|peak| *peak <= LOUDEST));
        }
    }
}

#[test]
fn a_waveform_goes_from_quiet_to_loud() {
    for clip in [sample::amr(60.0, 1), sample::silk(60.0, 1), sample::ogg_opus(60.0, 1), sample::m4a(60.0, 1)] {
        let waveform = heard(&clip).unwrap().waveform;
        assert_eq!((waveform.len(), waveform.iter().min(), waveform.iter().max()), (PEAKS, Some(&0), Some(&LOUDEST)));
    }
    // Of less than that there is one value for each frame.
    let short = heard(&sample::silk(0.5, 1)).unwrap().waveform;
    assert_eq!(short.len(), 25);
    assert!(short[0] < 8 && short[12] > 24 && short[24] < 8, "{short:?}");
}

#[test]
fn times_of_a_waveform_are_equal_whatever_the_frames() {
    let mut frames = Frames::at(100);
    for (ticks, loudness) in [(3, 10), (0, 99), (1, 20), (2, 40)] {
        frames.push(ticks, loudness).unwrap();
    }
    // Each is of a tick and a half.
    assert_eq!(frames.peaks(), [10, 10, 40, 40]);
    assert_eq!(frames.heard(6).unwrap(), Heard { duration_ms: 60, waveform: vec![0, 0, 31, 31] });
}

#[test]
fn a_millisecond_is_the_nearest_and_at_least_one() {
    assert_eq!(duration_ms(1, 48_000), Ok(1));
    assert_eq!((duration_ms(1499, 1_000_000), duration_ms(1500, 1_000_000)), (Ok(1), Ok(2)));
    assert_eq!(
        (duration_ms(600, 1), duration_ms(600_001, 1000), duration_ms(u64::MAX, 1)),
        (Ok(MAX_MS), Err(TooLong), Err(TooLong))
    );
    assert!(duration_ms(0, 1).is_err() && duration_ms(1, 0).is_err());
}

#[test]
fn ten_minutes_are_taken_and_no_more() {
    for kind in CLIPS {
        assert_eq!(lasts(&sample::clip(kind, 600.0, 1)), Ok(MAX_MS), "{kind:?}");
        assert_eq!(lasts(&sample::clip(kind, 600.02, 1)), Err(TooLong), "{kind:?}");
        assert_eq!(lasts(&sample::clip(kind, 700.0, 1)), Err(TooLong), "{kind:?}");
    }
}

#[test]
fn a_kind_is_known_by_its_first_bytes() {
    for kind in CLIPS {
        let clip = sample::clip(kind, 0.1, 1);
        assert_eq!(recognise(&clip), Some(kind));
        for other in CLIPS.into_iter().filter(|other| *other != kind) {
            assert_eq!(hear(&clip, other), Err(NotTaken));
        }
    }
    assert_eq!(recognise(&sample::silk_tencent(0.1, 1)), Some(Kind::Silk));
    let ogg_of_vorbis = [&sample::page(2, 0, (1, 0), &[b"\x01vorbis".to_vec()])[..], &[0; 30]].concat();
    let avif = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1isom";
    for none in [
        &b""[..],
        b"hello, world",
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF....WAVE",
        b"#!AMR",
        b"#!AMR_MC1.0\n",
        b"#!SILK_V2",
        b"\x03#!SILK_V3",
        b"OggS",
        &ogg_of_vorbis,
        avif,
    ] {
        assert_eq!(recognise(none), None, "{none:?}");
        for kind in CLIPS {
            assert_eq!(hear(none, kind), Err(NotTaken));
        }
    }
}

#[test]
fn a_clip_without_frames_is_none() {
    for empty in [&b"#!AMR\n"[..], b"#!AMR-WB\n", b"#!SILK_V3", b"#!SILK_V3\xff\xff", b"\x02#!SILK_V3"] {
        assert!(is_broken(empty), "{empty:?}");
    }
}

#[test]
fn a_clip_that_is_cut_off_is_refused_or_shorter() {
    for clip in clips(0.3) {
        let (whole, mut shorter) = (lasts(&clip).unwrap(), 0);
        for cut in 0..clip.len() {
            if let Ok(ms) = lasts(&clip[..cut]) {
                assert!(is_endless(&clip) && ms <= whole && ms % 20 == 0, "{cut} of {}", clip.len());
                shorter += 1;
                assert_eq!(ms, shorter * 20);
            }
        }
        // Without its mark a clip is as long.
        let marked = clip.ends_with(&[0xff, 0xff]);
        assert_eq!(shorter, if is_endless(&clip) { whole / 20 - u32::from(!marked) } else { 0 });
    }
}

#[test]
fn a_flipped_bit_never_panics_and_never_makes_it_too_long() {
    for clip in clips(0.1) {
        for bit in 0..clip.len() * 8 {
            let mut flipped = clip.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let told = heard(&flipped);
            assert!(recognise(&clip) != Some(Kind::OggOpus) || told.is_err(), "a checksum covers bit {bit}");
            assert!(told.is_err() || told.is_ok_and(|heard| (1..=MAX_MS).contains(&heard.duration_ms)));
        }
    }
}

#[test]
fn noise_never_panics() {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for clip in clips(0.1) {
        for _ in 0..20_000 {
            let mut noisy = clip.clone();
            for _ in 0..=next() % 8 {
                let at = next() % noisy.len();
                noisy[at] = [0, 1, 0x7f, 0x80, 0xff, next() as u8][next() % 6];
            }
            if next() % 4 == 0 {
                noisy.truncate(next() % noisy.len());
            }
            let _ = heard(&noisy);
        }
    }
}

#[test]
fn what_stands_behind_a_clip_is_refused() {
    let picture = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01";
    let archive = b"PK\x03\x04\x14\0\0\0\0\0";
    let script = b"<script>alert(1)</script>";
    for clip in clips(0.3) {
        for junk in [&b"\0"[..], b"\n", b"\xff", picture, archive, script, &clip] {
            let both = [&clip, junk].concat();
            assert!(is_broken(&both), "{:?} with {} bytes behind it", recognise(&clip), junk.len());
        }
    }
}

#[test]
fn what_is_wrong_is_told() {
    assert!(BadAudio::Broken("why").to_string().ends_with("why") && TooLong.to_string().contains("600000"));
    assert!(!NotTaken.to_string().is_empty());
}
