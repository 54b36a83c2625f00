//! AMR in its storage format: a magic, then frames of 20 ms, each with a byte before it that tells its size.
//!
//! ```text
//! | 0 | type: 4 bits | quality: 1 bit | 0 | 0 | speech: 0 to 60 bytes |
//! ```
//! Sources: RFC 4867 section 5; for the types of frames and their sizes 3GPP TS 26.101 and TS 26.201.

mod gain;

use super::BadAudio::Broken;
use super::{BadAudio, Frames, Heard};
use gain::Gains;
#[cfg(test)]
pub(super) use gain::set as set_gain;

const FRAMES_A_SECOND: u32 = 50;
/// Bits of a frame's first byte that are always 0.
const PADDING: u8 = 0b1000_0011;
/// Frames that are whole have it; others are as if they were not there.
const GOOD: u8 = 0b0000_0100;
/// Of what is sent of a pause, which is quiet at every rate.
const PAUSE_BYTES: usize = 5;

/// What differs between the bands.
pub(super) struct Band {
    pub(super) magic: &'static [u8],
    /// Of the frames of each rate, and of a pause; types beyond are reserved, or of other coders.
    speech_bytes: &'static [u8],
    /// The type that tells of a frame that was lost.
    lost: Option<u8>,
    /// The type whose gains are known.
    with_gains: Option<u8>,
}

/// The eight rates from 4.75 to 12.2 kbit/s.
pub(super) const NARROW: Band =
    Band { magic: b"#!AMR\n", speech_bytes: &[12, 13, 15, 17, 19, 20, 26, 31, 5], lost: None, with_gains: Some(7) };
/// The nine rates from 6.6 to 23.85 kbit/s.
pub(super) const WIDE: Band = Band {
    magic: b"#!AMR-WB\n",
    speech_bytes: &[17, 23, 32, 36, 40, 46, 50, 58, 60, 5],
    lost: Some(14),
    with_gains: None,
};
/// The type of a frame of which nothing was sent.
const NO_DATA: u8 = 15;

impl Band {
    /// Of a frame of this type, or none if there are no such frames.
    pub(super) fn speech_bytes(&self, kind: u8) -> Option<usize> {
        match kind {
            NO_DATA => Some(0),
            _ if self.lost == Some(kind) => Some(0),
            _ => self.speech_bytes.get(usize::from(kind)).copied().map(usize::from),
        }
    }
}

/// Hears the whole: by the gains where all that is said tells them, else by the sizes of the frames, which differ only
/// where there are pauses or the rate was changed.
pub(super) fn hear(bytes: &[u8], band: &Band) -> Result<Heard, BadAudio> {
    let mut rest = bytes.strip_prefix(band.magic).ok_or(BadAudio::NotTaken)?;
    let (mut by_size, mut by_gain) = (Frames::at(FRAMES_A_SECOND), Frames::at(FRAMES_A_SECOND));
    let mut gains = Gains::new();
    let mut all_tell = true;
    while let Some((&head, behind)) = rest.split_first() {
        let (speech, behind) = split(head, behind, band)?;
        rest = behind;
        let speech = if head & GOOD == 0 { &[] } else { speech };
        let told = if Some(kind(head)) == band.with_gains { gains.loudness(speech) } else { None };
        all_tell &= told.is_some() || speech.len() <= PAUSE_BYTES;
        by_gain.push(1, told.unwrap_or(0))?;
        by_size.push(1, if speech.len() > PAUSE_BYTES { speech.len() as u32 } else { 0 })?;
    }
    if all_tell { by_gain.heard(by_gain.ticks) } else { by_size.heard(by_size.ticks) }
}

fn kind(head: u8) -> u8 {
    head >> 3 & 0xf
}

/// The speech of a frame, and what stands behind it.
fn split<'a>(head: u8, behind: &'a [u8], band: &Band) -> Result<(&'a [u8], &'a [u8]), BadAudio> {
    if head & PADDING != 0 {
        return Err(Broken("a frame does not begin like one"));
    }
    let bytes = band.speech_bytes(kind(head)).ok_or(Broken("a frame is of a reserved type"))?;
    behind.split_at_checked(bytes).ok_or(Broken("a frame is cut off"))
}
