//! A voice clip that is whole: what it is, how long it lasts, about how loud it is over time. Pure, and light: nothing
//! is decoded.
//!
//! What others sent is judged to its last byte: what is no part of the clip is refused, also behind its end. (Comments in
//! Ogg and free boxes in MP4 are parts of it, whatever they say.) Two formats, AMR and SILK, need say neither how long they are nor
//! where they end: cut off between two frames they are a shorter clip, and more frames behind them are a longer one.

mod amr;
mod mp4;
mod ogg;
#[cfg(test)]
mod sample;
mod silk;

use crate::declared::Kind;

/// How long the longest clip lasts.
pub const MAX_MS: u32 = 10 * 60 * 1000;
/// Values of the longest waveform.
pub const PEAKS: usize = 64;
/// The highest value of a waveform.
pub const LOUDEST: u8 = 31;

/// What was heard of a clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Of the whole, to the nearest; at least 1, at most [`MAX_MS`].
    pub duration_ms: u32,
    /// At most [`PEAKS`] values, each the highest within an equal time, from 0 for the quietest to [`LOUDEST`] for the
    /// loudest; none where nothing tells the one from the other, as of AMR at most fixed rates.
    ///
    /// An estimate, to be drawn and not to be measured by: of AMR at 12.2 kbit/s from the gains that its frames tell,
    /// of all else from the sizes of the frames, since a coder spends more bytes where there is more to say.
    pub waveform: Vec<u8>,
}

/// Why bytes are no clip that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAudio {
    /// They are of another kind, or of none.
    #[error("the bytes are not of this kind of clip")]
    NotTaken,
    /// They are cut off, or break the rules of their kind.
    #[error("the clip is broken: {0}")]
    Broken(&'static str),
    /// It lasts longer than [`MAX_MS`].
    #[error("the clip is longer than {MAX_MS} ms")]
    TooLong,
}

/// The kind of clip that these bytes begin like.
///
/// Sources: RFC 4867 section 5.1, RFC 7845 section 5.1, ISO/IEC 14496-12 section 4.3; for SILK those that write it.
pub fn recognise(bytes: &[u8]) -> Option<Kind> {
    match bytes {
        _ if bytes.starts_with(amr::NARROW.magic) => Some(Kind::Amr),
        _ if bytes.starts_with(amr::WIDE.magic) => Some(Kind::AmrWb),
        _ if silk::blocks(bytes).is_some() => Some(Kind::Silk),
        _ if ogg::begins_opus(bytes) => Some(Kind::OggOpus),
        _ if mp4::begins_audio(bytes) => Some(Kind::M4a),
        _ => None,
    }
}

/// Hears a clip: every frame of it is looked at once.
///
/// # Errors
/// [`BadAudio`]; the same bytes are refused again.
pub fn hear(bytes: &[u8], kind: Kind) -> Result<Heard, BadAudio> {
    if recognise(bytes) != Some(kind) {
        return Err(BadAudio::NotTaken);
    }
    match kind {
        Kind::Amr => amr::hear(bytes, &amr::NARROW),
        Kind::AmrWb => amr::hear(bytes, &amr::WIDE),
        Kind::Silk => silk::hear(bytes),
        Kind::OggOpus => ogg::hear(bytes),
        Kind::M4a => mp4::hear(bytes),
        Kind::Jpeg | Kind::Png | Kind::Webp | Kind::Gif => Err(BadAudio::NotTaken),
    }
}

/// The frames of a clip, as far as they have been seen.
struct Frames {
    /// Ticks in a second, not 0.
    rate: u32,
    /// Of all frames together.
    ticks: u64,
    frames: Vec<Frame>,
}

#[derive(Clone, Copy)]
struct Frame {
    ticks: u32,
    /// On a scale that all frames of a clip share.
    loudness: u32,
}

impl Frames {
    /// What a clip carries may be somewhat longer than what is played of it.
    const MAX_SECONDS: u64 = 11 * 60;

    fn at(rate: u32) -> Frames {
        Frames { rate, ticks: 0, frames: Vec::new() }
    }

    /// Refuses what is too long before more is kept of it.
    fn push(&mut self, ticks: u32, loudness: u32) -> Result<(), BadAudio> {
        self.ticks += u64::from(ticks);
        self.frames.push(Frame { ticks, loudness });
        if self.ticks > Frames::MAX_SECONDS * u64::from(self.rate) { Err(BadAudio::TooLong) } else { Ok(()) }
    }

    /// What is heard where so many ticks are played of the frames.
    fn heard(&self, played: u64) -> Result<Heard, BadAudio> {
        Ok(Heard { duration_ms: duration_ms(played, self.rate)?, waveform: self.waveform() })
    }

    /// The peaks, from the lowest at 0 to the highest at [`LOUDEST`].
    fn waveform(&self) -> Vec<u8> {
        let peaks = self.peaks();
        let (least, most) = (peaks.iter().min().copied().unwrap_or(0), peaks.iter().max().copied().unwrap_or(0));
        // A coder that is held to a rate keeps its frames within a few bytes of each other, whatever they say.
        if u64::from(most) * 3 <= u64::from(least) * 4 {
            return Vec::new();
        }
        let scaled = |peak| u64::from(peak - least) * u64::from(LOUDEST) / u64::from(most - least);
        peaks.into_iter().map(|peak| scaled(peak) as u8).collect()
    }

    /// The loudest of the frames within each of equal times.
    fn peaks(&self) -> Vec<u32> {
        let mut peaks = vec![0; self.frames.len().min(PEAKS)];
        let count = peaks.len() as u64;
        let mut start = 0;
        for frame in self.frames.iter().filter(|frame| frame.ticks > 0) {
            let end = start + u64::from(frame.ticks);
            // Not 0, since this frame is a part of it.
            let place = |tick: u64| (tick * count / self.ticks) as usize;
            for peak in peaks.iter_mut().take(place(end - 1) + 1).skip(place(start)) {
                *peak = frame.loudness.max(*peak);
            }
            start = end;
        }
        peaks
    }
}

/// To the nearest millisecond, of which there is at least one.
fn duration_ms(ticks: u64, rate: u32) -> Result<u32, BadAudio> {
    if ticks == 0 || rate == 0 {
        return Err(BadAudio::Broken("it lasts no time"));
    }
    let (ticks, rate) = (u128::from(ticks), u128::from(rate));
    if ticks * 1000 > u128::from(MAX_MS) * rate {
        return Err(BadAudio::TooLong);
    }
    let ms = (ticks * 1000 + rate / 2) / rate;
    Ok(u32::try_from(ms).unwrap_or(MAX_MS).max(1))
}

#[cfg(test)]
mod tests;
