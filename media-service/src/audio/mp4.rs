//! AAC in MPEG-4: boxes within boxes, of which only those on the way to the tables of the one track are entered.
//!
//! ```text
//! ftyp | moov { mvhd | trak { mdia { mdhd | hdlr | minf { stbl { stsd | stts | stsc | stsz | stco } } } } } | mdat
//! ```
//! How long it is, is the sum of what its samples last; the silence that a coder puts before the first is a part of it.
//! That sum is held against what the track says of itself, and the bytes of all samples against what there is of data,
//! in the order of the file and none of it twice, so that a long clip costs its bytes. What is told in pieces along
//! the file (fragments) is refused. Source: ISO/IEC 14496-12, sections 4.2, 6.2 and 8.

mod boxes;
mod table;

use std::ops::Range;

use super::BadAudio::Broken;
use super::{BadAudio, Heard};
use boxes::{Fields, Part, boxes, only};

/// What the first box may say of the file; those that write fragments alone are not among it.
const BRANDS: [&[u8; 4]; 6] = [b"M4A ", b"M4B ", b"mp41", b"mp42", b"isom", b"iso2"];
/// The part of a second by which a track may be mistaken about its length.
const TOLERANCE: u64 = 10;

/// Whether the first box names a brand of sound, or one of which it may be.
pub(super) fn begins_audio(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(b"ftyp") && BRANDS.iter().any(|brand| bytes.get(8..12) == Some(*brand))
}

/// Hears the whole.
pub(super) fn hear(bytes: &[u8]) -> Result<Heard, BadAudio> {
    let file = boxes(bytes)?;
    if file.iter().any(|part| part.name == *b"moof") {
        return Err(Broken("it is in fragments"));
    }
    let movie = boxes(only(&file, b"moov")?)?;
    Clock::of(only(&movie, b"mvhd")?)?;
    let media = boxes(only(&boxes(only(&movie, b"trak")?)?, b"mdia")?)?;
    check_handler(only(&media, b"hdlr")?)?;
    let clock = Clock::of(only(&media, b"mdhd")?)?;
    let tables = boxes(only(&boxes(only(&media, b"minf")?)?, b"stbl")?)?;
    check_coder(only(&tables, b"stsd")?)?;
    let (frames, lasts) = table::frames(&tables, &data(&file), clock.rate)?;
    if lasts.abs_diff(clock.lasts) > u64::from(clock.rate) / TOLERANCE {
        return Err(Broken("the track lasts longer or shorter than its samples"));
    }
    frames.heard(lasts)
}

/// Where in the file samples may be.
fn data(file: &[Part]) -> Vec<Range<u64>> {
    let data = file.iter().filter(|part| part.name == *b"mdat");
    data.map(|part| part.start as u64..part.start as u64 + part.payload.len() as u64).collect()
}

/// The track is one of sound, not of pictures.
fn check_handler(hdlr: &[u8]) -> Result<(), BadAudio> {
    match hdlr.get(8..12) {
        Some(b"soun") => Ok(()),
        _ => Err(Broken("its track is not of sound")),
    }
}

/// Its samples are of one kind, which is AAC.
fn check_coder(stsd: &[u8]) -> Result<(), BadAudio> {
    let (count, entries) = Fields::of_full(stsd)?.u32()?;
    match (count, boxes(entries.rest())?.as_slice()) {
        (1, [Part { name: [b'm', b'p', b'4', b'a'], .. }]) => Ok(()),
        _ => Err(Broken("its samples are not of AAC")),
    }
}

/// How a movie or a track counts time.
struct Clock {
    /// Ticks in a second, not 0.
    rate: u32,
    lasts: u64,
}

impl Clock {
    /// Of `mvhd` or `mdhd`, which begin alike: made, changed, rate, lasts.
    fn of(head: &[u8]) -> Result<Clock, BadAudio> {
        let fields = Fields::of_full(head)?;
        let (rate, lasts) = match head.first() {
            Some(0) => {
                let (rate, fields) = fields.skip(8)?.u32()?;
                (rate, u64::from(fields.u32()?.0))
            }
            Some(1) => {
                let (rate, fields) = fields.skip(16)?.u32()?;
                (rate, fields.u64()?.0)
            }
            _ => return Err(Broken("a clock is of an unknown version")),
        };
        if rate == 0 { Err(Broken("a clock stands still")) } else { Ok(Clock { rate, lasts }) }
    }
}
