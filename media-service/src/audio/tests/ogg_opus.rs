use super::*;
use crate::audio::ogg::{crc, flags};
use crate::audio::sample::{page, page_of};

const SKIPPED: u64 = 312;
/// 20 ms.
const PACKET: [u8; 4] = [9 << 3, 1, 2, 3];

fn head() -> Vec<u8> {
    b"OpusHead\x01\x01\x38\x01\x80\x3e\0\0\0\0\0".to_vec()
}

fn tags() -> Vec<u8> {
    b"OpusTags\0\0\0\0\0\0\0\0".to_vec()
}

/// Pages of stream 5, with so many packets each, that tell of such ends.
fn stream(pages: &[(usize, u64)]) -> Vec<u8> {
    with_head(head(), tags(), pages)
}

fn with_head(head: Vec<u8>, tags: Vec<u8>, pages: &[(usize, u64)]) -> Vec<u8> {
    let mut stream = [page(flags::FIRST, 0, (5, 0), &[head]), page(0, 0, (5, 1), &[tags])].concat();
    for (at, (packets, told)) in pages.iter().enumerate() {
        let last = if at + 1 == pages.len() { flags::LAST } else { 0 };
        stream.extend(page(last, *told, (5, at as u32 + 2), &vec![PACKET.to_vec(); *packets]));
    }
    stream
}

#[test]
fn the_checksum_is_that_of_ogg() {
    // The check value of CRC-32/CKSUM, which inverts the result.
    assert_eq!(crc(&[b"1234", b"56789"]), !0x765e_7680);
    let mut clip = sample::ogg_opus(2.0, 1);
    let last = clip.len() - 1;
    clip[last] ^= 1;
    assert_eq!(lasts(&clip), Err(BadAudio::Broken("the checksum of a page is wrong")));
}

#[test]
fn an_end_is_believed_within_its_page() {
    for (told, ms) in [(4800, 94), (4800 - 959, 74), (961, 14), (2881, 54)] {
        assert_eq!(lasts(&stream(&[(1, 960), (4, told)])), Ok(ms), "{told}");
    }
    for lie in [4801, 48_000, 960, 959, 0, u64::MAX, u64::MAX - 1, 1 << 63] {
        assert!(is_broken(&stream(&[(1, 960), (4, lie)])), "{lie}");
    }
    // A page in the middle is held to the same, also where the last one is right.
    assert_eq!(lasts(&stream(&[(2, 1920), (2, 3840)])), Ok(74));
    assert!(is_broken(&stream(&[(2, 1921), (2, 3840)])));
    assert!(is_broken(&stream(&[(2, 0), (2, 3840)])));
    // Cut out of a longer one.
    assert!(is_broken(&stream(&[(2, 1_001_920), (2, 1_003_840)])));
    // All of it is skipped.
    assert!(is_broken(&stream(&[(1, SKIPPED)])));
    assert_eq!(lasts(&stream(&[(1, SKIPPED + 1)])), Ok(1));
}

#[test]
fn there_is_one_stream() {
    let one = stream(&[(2, 1920), (2, 3840)]);
    assert_eq!(lasts(&one), Ok(74));
    assert!(is_broken(&[&one[..], &one].concat()));
    let beside = [page(flags::FIRST, 0, (5, 0), &[head()]), page(flags::FIRST, 0, (6, 0), &[head()])].concat();
    let first = page(flags::FIRST, 0, (5, 0), &[head()]).len();
    assert!(is_broken(&[&beside, &one[first..]].concat()));
    assert!(is_broken(&one[..first]), "there is no sound");
}

#[test]
fn pages_come_in_order_and_to_an_end() {
    let ids = |sequence| (5, sequence);
    let begin = [page(flags::FIRST, 0, ids(0), &[head()]), page(0, 0, ids(1), &[tags()])].concat();
    let sound = |flags, sequence, told| page(flags, told, ids(sequence), &[PACKET.to_vec()]);
    let taken = |pages: &[Vec<u8>]| lasts(&[begin.clone(), pages.concat()].concat());
    assert_eq!(taken(&[sound(0, 2, 960), sound(4, 3, 1920)]), Ok(34));
    assert_eq!(taken(&[sound(0, 2, 960), page(4, 960, ids(3), &[])]), Ok(14), "an empty page may be the last");
    for bad in [
        &[sound(0, 2, 960), sound(0, 3, 1920)][..],
        &[sound(0, 2, 960), sound(4, 4, 1920)],
        &[sound(0, 3, 1920), sound(4, 2, 960)],
        &[sound(4, 2, 960), sound(4, 3, 1920)],
        &[sound(flags::CONTINUED, 2, 960), sound(4, 3, 1920)],
        &[sound(0, 2, 960), page(4, 961, ids(3), &[])],
        &[sound(8, 2, 960), sound(4, 3, 1920)],
        &[page(4, 960, ids(2), &[vec![]])],
    ] {
        assert!(matches!(taken(bad), Err(BadAudio::Broken(_))), "{bad:?}");
    }
}

#[test]
fn a_packet_may_go_on_with_the_next_page() {
    let packet = [&[9 << 3][..], &[1; 599]].concat();
    let begin = [page(flags::FIRST, 0, (5, 0), &[head()]), page(0, 0, (5, 1), &[tags()])].concat();
    let first = page_of(0, u64::MAX, (5, 2), &[255, 255], &packet[..510]);
    let second = page_of(flags::CONTINUED | flags::LAST, 960, (5, 3), &[90], &packet[510..]);
    assert_eq!(lasts(&[&begin[..], &first, &second].concat()), Ok(14));
    let anew = page_of(flags::LAST, 960, (5, 3), &[90], &packet[510..]);
    assert!(is_broken(&[&begin[..], &first, &anew].concat()));
    let unended = page_of(flags::LAST, u64::MAX, (5, 2), &[255, 255], &packet[..510]);
    assert!(is_broken(&[&begin[..], &unended].concat()));
}

#[test]
fn a_head_is_of_a_voice() {
    let with = |at: usize, byte: u8| {
        let mut head = head();
        head[at] = byte;
        lasts(&with_head(head, tags(), &[(1, 960)]))
    };
    assert_eq!((with(8, 15), with(9, 2), with(10, 0)), (Ok(14), Ok(14), Ok(15)));
    for (at, byte) in [(8, 16), (9, 0), (9, 3), (18, 1), (18, 255)] {
        assert!(with(at, byte).is_err(), "{byte} at {at}");
    }
    assert!(is_broken(&with_head(head()[..18].to_vec(), tags(), &[(1, 960)])));
    assert!(is_broken(&with_head([head(), vec![0]].concat(), tags(), &[(1, 960)])));
    assert!(is_broken(&with_head(head(), b"OpusTag".to_vec(), &[(1, 960)])));
}

#[test]
fn comments_end_with_their_page() {
    let first = page(flags::FIRST, 0, (5, 0), &[head()]);
    let both = page(flags::LAST, 960, (5, 1), &[tags(), PACKET.to_vec()]);
    assert!(is_broken(&[&first[..], &both].concat()));
    let long = [tags(), vec![0; 700]].concat();
    assert_eq!(lasts(&with_head(head(), long, &[(1, 960)])), Ok(14));
}

#[test]
fn noise_under_right_checksums_never_panics() {
    let mut state = 1_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let begin = [page(flags::FIRST, 0, (5, 0), &[head()]), page(0, 0, (5, 1), &[tags()])].concat();
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut stream = begin.clone();
        let (pages, mut open, mut told) = (1 + next(3), 0, 0);
        for at in 0..pages {
            let lacing: Vec<_> = (0..next(4)).map(|_| [1, 3, 9, 255][next(4)]).collect();
            let body: Vec<_> =
                (0..lacing.iter().map(|lace| usize::from(*lace)).sum()).map(|_| next(256) as u8).collect();
            let flags = if at + 1 == pages { flags::LAST } else { 0 } | open;
            told += [0, 1, 480, 960, 2880][next(5)];
            stream.extend(page_of(
                flags,
                if next(4) == 0 { u64::MAX } else { told },
                (5, at as u32 + 2),
                &lacing,
                &body,
            ));
            open = u8::from(lacing.last() == Some(&255));
        }
        taken += u32::from(lasts(&stream).is_ok());
    }
    assert!(taken > 0, "some of it is a clip");
}
