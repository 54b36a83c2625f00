use super::*;

fn of(magic: &[u8], blocks: &[&[u8]]) -> Vec<u8> {
    [magic, &blocks.concat()].concat()
}

const OURS: &[u8] = b"#!SILK_V3";
const TENCENTS: &[u8] = b"\x02#!SILK_V3";
const BLOCK: &[u8] = b"\x03\0abc";
const END: &[u8] = b"\xff\xff";

#[test]
fn the_mark_at_its_end_may_be_missing_but_nothing_stands_behind_it() {
    for magic in [OURS, TENCENTS] {
        assert_eq!(lasts(&of(magic, &[BLOCK, BLOCK, END])), Ok(40));
        assert_eq!(lasts(&of(magic, &[BLOCK, BLOCK])), Ok(40));
    }
    for magic in [OURS, TENCENTS] {
        assert!(is_broken(&of(magic, &[BLOCK, END, BLOCK])) && is_broken(&of(magic, &[BLOCK, END, b"\0"])));
    }
}

#[test]
fn a_length_is_not_believed() {
    for lie in [&b"\x04\0abc"[..], b"\x02\0abc", b"\x03", b"\x01\x04a", b"\xfe\xffabc", b"\xff\x7fabc"] {
        assert!(is_broken(&of(TENCENTS, &[BLOCK, lie])), "{lie:?}");
    }
    let largest = [&b"\0\x04"[..], &[1; 1024]].concat();
    assert_eq!(lasts(&of(TENCENTS, &[BLOCK, &largest])), Ok(40));
}

#[test]
fn a_block_of_no_bytes_is_a_pause() {
    let pause = of(OURS, &[BLOCK, b"\0\0", b"\0\0", BLOCK, END]);
    assert_eq!(heard(&pause).unwrap(), Heard { duration_ms: 80, waveform: vec![31, 0, 0, 31] });
}
