//! The tables of a track: how long its samples last, how large they are, where they stand.

use std::ops::Range;

use super::boxes::{Fields, Part, only};
use crate::audio::BadAudio::{self, Broken};
use crate::audio::Frames;

const MISSING: BadAudio = Broken("its tables tell of different numbers of samples");

/// The samples of the track with their sizes, and how long they last; of samples that are all of one size, no frames.
pub(super) fn frames(tables: &[Part], data: &[Range<u64>], rate: u32) -> Result<(Frames, u64), BadAudio> {
    let sizes = Sizes::of(only(tables, b"stsz")?)?;
    let lasting: &[[u8; 8]] = Fields::of_full(only(tables, b"stts")?)?.rows()?;
    let mut frames = Frames::at(rate);
    let (mut lasts, mut count) = (0_u64, 0_u64);
    let mut each = sizes.rows.iter();
    for row in lasting {
        let (samples, ticks) = pair(row);
        // Less than 2^64, and what overflows the sum is too long whatever its rate.
        lasts = lasts.checked_add(u64::from(samples) * u64::from(ticks)).ok_or(BadAudio::TooLong)?;
        count += u64::from(samples);
        for size in each.by_ref().take(samples as usize) {
            frames.push(ticks, u32::from_be_bytes(*size))?;
        }
    }
    if count != u64::from(sizes.count) {
        return Err(MISSING);
    }
    check_places(tables, &sizes, data)?;
    Ok((frames, lasts))
}

/// Two numbers of a row.
fn pair(row: &[u8; 8]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *row;
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// How large samples are.
struct Sizes<'a> {
    count: u32,
    /// Of every sample, or 0 where each has a row.
    all: u32,
    rows: &'a [[u8; 4]],
}

impl<'a> Sizes<'a> {
    fn of(stsz: &'a [u8]) -> Result<Sizes<'a>, BadAudio> {
        let (all, fields) = Fields::of_full(stsz)?.u32()?;
        let (count, behind) = fields.u32()?;
        match (all, behind.rest()) {
            (0, _) => Ok(Sizes { count, all, rows: fields.rows()? }),
            (_, []) => Ok(Sizes { count, all, rows: &[] }),
            _ => Err(Broken("a table has not as many rows as it says")),
        }
    }

    /// Takes the sizes of the next samples, all together.
    fn next(&mut self, samples: u32) -> Result<u64, BadAudio> {
        self.count = self.count.checked_sub(samples).ok_or(MISSING)?;
        if self.all > 0 {
            return Ok(u64::from(self.all) * u64::from(samples));
        }
        let (next, rows) = self.rows.split_at_checked(samples as usize).ok_or(MISSING)?;
        self.rows = rows;
        Ok(next.iter().map(|size| u64::from(u32::from_be_bytes(*size))).sum())
    }
}

/// Checks that the chunks, in which the samples are, stand within the data, behind one another.
fn check_places(tables: &[Part], sizes: &Sizes, data: &[Range<u64>]) -> Result<(), BadAudio> {
    let mut sizes = Sizes { ..*sizes };
    let mut runs = Fields::of_full(only(tables, b"stsc")?)?.rows::<12>()?.iter().map(run).peekable();
    let (mut per_chunk, mut end) = (None, 0);
    for (chunk, start) in (1..).zip(chunks(tables)?) {
        if let Some((_, samples)) = runs.next_if(|(first, _)| *first == chunk) {
            per_chunk = Some(samples);
        }
        let bytes = sizes.next(per_chunk.ok_or(Broken("a chunk does not tell its samples"))?)?;
        let stop = start.checked_add(bytes).ok_or(Broken("a chunk has no end"))?;
        if start < end || !data.iter().any(|data| data.start <= start && stop <= data.end) {
            return Err(Broken("a chunk is not of the data, or of what another has"));
        }
        end = stop;
    }
    if sizes.count == 0 && runs.next().is_none() { Ok(()) } else { Err(MISSING) }
}

/// The chunk from which on there are so many samples in each. What else it tells, which entry of `stsd` they are of, is
/// not asked, as there is one.
fn run(row: &[u8; 12]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h, ..] = *row;
    pair(&[a, b, c, d, e, f, g, h])
}

/// Where each chunk begins, in four bytes or in eight.
fn chunks(tables: &[Part]) -> Result<Vec<u64>, BadAudio> {
    if tables.iter().any(|table| table.name == *b"co64") {
        let rows = Fields::of_full(only(tables, b"co64")?)?.rows()?;
        return Ok(rows.iter().map(|row| u64::from_be_bytes(*row)).collect());
    }
    let rows = Fields::of_full(only(tables, b"stco")?)?.rows()?;
    Ok(rows.iter().map(|row| u64::from(u32::from_be_bytes(*row))).collect())
}
