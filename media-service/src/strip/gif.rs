//! GIF: pictures with extensions between them, of which those stay that time, repeat or colour pictures.
//!
//! Source: GIF89a, sections 17 to 27.

use super::{Unstrippable, take};

/// Signature and screen, before the table of its colours.
const SCREEN_BYTES: usize = 13;
/// Separator, place and flags of a picture, before the table of its colours.
const PICTURE_BYTES: usize = 10;

// How blocks begin.
const PICTURE: u8 = 0x2c;
const EXTENSION: u8 = 0x21;
const TRAILER: u8 = 0x3b;

// What extensions are. Of plain text (0x01) and comments (0xfe) none are kept.
const CONTROL: u8 = 0xf9;
const APPLICATION: u8 = 0xff;

/// The first two repeat the animation; the third is a colour profile.
const APPLICATIONS: [&[u8]; 3] = [b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"];

pub(super) fn strip(bytes: &[u8], kept: &mut Vec<u8>) -> Result<(), Unstrippable> {
    let mut rest = bytes;
    take_with_colors(&mut rest, SCREEN_BYTES, 10, kept)?;
    // An image may end between two blocks: many lack the trailer.
    while let Some(&first) = rest.first() {
        match first {
            PICTURE => {
                take_with_colors(&mut rest, PICTURE_BYTES, 9, kept)?;
                // The size of its codes.
                kept.extend(take(&mut rest, 1)?);
                kept.extend(sub_blocks(&mut rest)?);
            }
            EXTENSION => extension(&mut rest, kept)?,
            TRAILER => {
                kept.push(TRAILER);
                break;
            }
            _ => return Err(Unstrippable::Broken("it has a block that is unknown")),
        }
    }
    Ok(())
}

/// Copies a head, and the table of colours that it has if the flags at this place in it say so.
fn take_with_colors(rest: &mut &[u8], bytes: usize, flags: usize, kept: &mut Vec<u8>) -> Result<(), Unstrippable> {
    let head = take(rest, bytes)?;
    kept.extend(head);
    let flags = head[flags];
    if flags & 0x80 != 0 {
        kept.extend(take(rest, 3 << ((flags & 7) + 1))?);
    }
    Ok(())
}

/// A control stays even where a plain text that it is for is dropped: decoders apply it to the next picture.
fn extension(rest: &mut &[u8], kept: &mut Vec<u8>) -> Result<(), Unstrippable> {
    let head = take(rest, 2)?;
    let blocks = sub_blocks(rest)?;
    let is_kept = match head[1] {
        CONTROL => true,
        // The first sub-block is the name.
        APPLICATION => APPLICATIONS.iter().any(|name| blocks[0] == 11 && blocks[1..].starts_with(name)),
        _ => false,
    };
    if is_kept {
        kept.extend(head);
        kept.extend(blocks);
    }
    Ok(())
}

/// Sub-blocks, each behind its length, with the empty one that ends them.
fn sub_blocks<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Unstrippable> {
    let mut length = 0;
    loop {
        let &sub_block = rest.get(length).ok_or(Unstrippable::Cut)?;
        length += 1 + usize::from(sub_block);
        if sub_block == 0 {
            return take(rest, length);
        }
    }
}
