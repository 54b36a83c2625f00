use super::*;

/// A frame of 12.2 kbit/s whose code has this gain in every quarter, and no pitch. The places are those of TS 26.101.
fn frame(code: u8) -> Vec<u8> {
    let mut speech = [0; 31];
    for (bit, first) in [59, 63, 67, 92, 104].into_iter().enumerate() {
        for place in first..first + 4 {
            speech[place / 8] |= (code >> (4 - bit) & 1) << (7 - place % 8);
        }
    }
    [&[0x3c], &speech[..]].concat()
}

fn narrow(frames: &[Vec<u8>]) -> Vec<u8> {
    [b"#!AMR\n", &frames.concat()[..]].concat()
}

#[test]
fn it_has_the_bytes_that_others_have() {
    // 1 byte and 31 a frame, or 1 and 12.
    assert_eq!(sample::amr(2.0, 1).len(), 3206);
    assert_eq!(sample::amr_at(0, 2.0, 1).len(), 1306);
    assert_eq!(sample::amr_wb(2.0, 1).len(), 9 + 100 * 33);
    for rate in 0..8 {
        assert_eq!(lasts(&sample::amr_at(rate, 2.0, 1)), Ok(2000));
    }
}

#[test]
fn each_type_of_frame_is_20_ms_or_refused() {
    let sizes = |magic: &[u8], kind: u8| -> Vec<usize> {
        let of = |bytes| [magic, &[kind << 3 | 4], &vec![0; bytes]].concat();
        (0..=60).filter(|bytes| lasts(&of(*bytes)) == Ok(20)).collect()
    };
    // Of types of no bytes, the bytes behind are frames of their own, of type 0.
    let narrow = [12, 13, 15, 17, 19, 20, 26, 31, 5].into_iter().enumerate();
    let wide = [17, 23, 32, 36, 40, 46, 50, 58, 60, 5].into_iter().enumerate();
    narrow.for_each(|(kind, bytes)| assert_eq!(sizes(b"#!AMR\n", kind as u8), [bytes]));
    wide.for_each(|(kind, bytes)| assert_eq!(sizes(b"#!AMR-WB\n", kind as u8), [bytes]));
    assert!((9..15).all(|kind| sizes(b"#!AMR\n", kind).is_empty()) && sizes(b"#!AMR\n", 15) == [0]);
    assert!((10..14).all(|kind| sizes(b"#!AMR-WB\n", kind).is_empty()));
    assert!((14..16).all(|kind| sizes(b"#!AMR-WB\n", kind) == [0]));
}

#[test]
fn a_frame_begins_with_bits_that_are_always_0() {
    for head in [0x3d, 0x3e, 0xbc] {
        let mut clip = sample::amr(0.1, 1);
        clip[6 + 32] = head;
        assert!(is_broken(&clip));
    }
}

#[test]
fn gains_are_heard() {
    let quiet_loud_quiet = narrow(&[0, 8, 16, 24, 16, 8, 0].map(frame));
    let waveform = heard(&quiet_loud_quiet).unwrap().waveform;
    assert_eq!(waveform.len(), 7);
    assert_eq!(waveform[3], LOUDEST);
    assert!(waveform[..4].is_sorted() && waveform[0] == 0 && waveform[6] <= 1, "{waveform:?}");
}

#[test]
fn a_pitch_that_grows_without_end_is_bounded() {
    let loudest = [&[0x3c], &[0xff; 31][..]].concat();
    assert_eq!(lasts(&narrow(&vec![loudest.clone(); 30_000])), Ok(MAX_MS));
    let waveform = heard(&narrow(&[vec![loudest; 20], vec![frame(0); 2]].concat())).unwrap().waveform;
    assert_eq!((waveform[19], waveform[21]), (LOUDEST, 0));
}

#[test]
fn a_pause_is_heard_at_every_rate() {
    let (pause, nothing) = (vec![0x44, 0, 0, 0, 0, 0], vec![0x7c]);
    for rate in [0_u8, 4] {
        let speech = [vec![rate << 3 | 4], vec![0x55; [12, 19][usize::from(rate) / 4]]].concat();
        let clip = narrow(&[speech.clone(), pause.clone(), nothing.clone(), speech]);
        assert_eq!(heard(&clip).unwrap(), Heard { duration_ms: 80, waveform: vec![31, 0, 0, 31] });
    }
    let clip = narrow(&[frame(20), pause, nothing, frame(20)]);
    let waveform = heard(&clip).unwrap().waveform;
    assert!(waveform[0] > 0 && waveform[1..3] == [0, 0] && waveform[3] == 31, "{waveform:?}");
}

#[test]
fn a_fixed_rate_tells_nothing_but_at_12_2() {
    for rate in 0..7 {
        assert!(heard(&sample::amr_at(rate, 2.0, 1)).unwrap().waveform.is_empty());
    }
    assert!(!heard(&sample::amr_at(7, 2.0, 1)).unwrap().waveform.is_empty());
    assert!(heard(&sample::amr_wb(2.0, 1)).unwrap().waveform.is_empty());
    // A frame that is marked as bad is not heard.
    let bad = [&[0x38][..], &frame(31)[1..]].concat();
    assert_eq!(heard(&narrow(&[frame(20), bad, frame(20)])).unwrap().waveform[1], 0);
}
