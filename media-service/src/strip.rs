//! An image without what it says of its owner: where and when it was taken, by whom, with what. Pure.
//!
//! Pixels are copied as they are, never encoded again. What is kept is on a list for each kind, so that what nobody
//! has heard of is dropped. Of EXIF the orientation alone is kept, and only if it is not upright: without it the image
//! would be shown lying. What stands behind the end of an image is dropped: telephones put videos and previews there.

pub(crate) mod exif;
mod gif;
mod jpeg;
mod png;
mod webp;

use std::borrow::Cow;

use crate::declared::Kind;
use crate::jpeg::Malformed;

/// Why the metadata of an image cannot be told from its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unstrippable {
    /// The bytes are of another kind, or of none.
    #[error("the bytes are not {}", .0.media_type())]
    Kind(Kind),
    /// They end amid a part of the image.
    #[error("the image is cut off")]
    Cut,
    /// They break the rules of their kind.
    #[error("the image is broken: {0}")]
    Broken(&'static str),
}

impl From<Malformed> for Unstrippable {
    fn from(malformed: Malformed) -> Unstrippable {
        match malformed {
            Malformed::Cut => Unstrippable::Cut,
            Malformed::Broken(why) => Unstrippable::Broken(why),
        }
    }
}

/// The image without its metadata; borrowed, if it has none.
///
/// # Errors
/// [`Unstrippable`]: then nothing is known of what the bytes hold.
pub fn stripped(bytes: &[u8], kind: Kind) -> Result<Cow<'_, [u8]>, Unstrippable> {
    if Kind::of(bytes) != Some(kind) {
        return Err(Unstrippable::Kind(kind));
    }
    let mut kept = Vec::with_capacity(bytes.len());
    match kind {
        Kind::Jpeg => jpeg::strip(bytes, &mut kept)?,
        Kind::Png => png::strip(bytes, &mut kept)?,
        Kind::Webp => webp::strip(bytes, &mut kept)?,
        Kind::Gif => gif::strip(bytes, &mut kept)?,
        Kind::Amr | Kind::AmrWb | Kind::Silk | Kind::OggOpus | Kind::M4a => return Err(Unstrippable::Kind(kind)),
    }
    Ok(if kept == bytes { Cow::Borrowed(bytes) } else { Cow::Owned(kept) })
}

/// Takes so many bytes off the front.
fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], Unstrippable> {
    rest.split_off(..bytes).ok_or(Unstrippable::Cut)
}

/// Takes as many bytes off the front as are asked for.
fn take_array<const BYTES: usize>(rest: &mut &[u8]) -> Result<[u8; BYTES], Unstrippable> {
    let (front, behind) = rest.split_first_chunk().ok_or(Unstrippable::Cut)?;
    *rest = behind;
    Ok(*front)
}

#[cfg(test)]
mod tests;
