//! SILK version 3: blocks with a length before each, one block for every 20 ms.
//!
//! There is no standard of it; this is what the SDK of its authors writes, and what WeChat and QQ made of that: a byte
//! before the magic, and no mark behind the last block. A block that the SDK was told to pack with more than its 20 ms
//! is not told from others without its decoder.

use super::BadAudio::Broken;
use super::{BadAudio, Frames, Heard};

const MAGIC: &[u8] = b"#!SILK_V3";
/// What Tencent puts before the magic.
const TENCENT: u8 = 2;
/// In place of a length: there are no more blocks.
const END: u16 = 0xffff;
/// Of a block; the decoder of the SDK has room for no more.
const MAX_BLOCK_BYTES: u16 = 1024;
const BLOCKS_A_SECOND: u32 = 50;

/// What stands behind the magic.
pub(super) fn blocks(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(&[TENCENT]).unwrap_or(bytes).strip_prefix(MAGIC)
}

/// Hears the whole. The mark behind the last block may be missing: Tencent leaves it out, and so do others.
pub(super) fn hear(bytes: &[u8]) -> Result<Heard, BadAudio> {
    let mut rest = blocks(bytes).ok_or(BadAudio::NotTaken)?;
    let mut frames = Frames::at(BLOCKS_A_SECOND);
    let mut ended = false;
    while let Some((length, behind)) = rest.split_first_chunk() {
        rest = behind;
        match u16::from_le_bytes(*length) {
            END => {
                ended = true;
                break;
            }
            // One of 0 bytes is a pause.
            length @ ..=MAX_BLOCK_BYTES => {
                rest = behind.get(usize::from(length)..).ok_or(Broken("a block is cut off"))?;
                frames.push(1, u32::from(length))?;
            }
            _ => return Err(Broken("a block is too long")),
        }
    }
    match rest {
        [] => frames.heard(frames.ticks),
        _ if ended => Err(Broken("something stands behind its end")),
        _ => Err(Broken("the length of a block is cut off")),
    }
}
