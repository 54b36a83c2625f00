//! A JPEG as its segments: what is known of one before anything decodes it.
//!
//! Source: ITU-T T.81, annex B; the markers by its table B.1.

/// The last of those that mean nothing here, from TEM on.
const RES: u8 = 0xbf;
const RST0: u8 = 0xd0;
const RST7: u8 = 0xd7;
/// Frames, and some tables of codes.
pub(crate) const SOF0: u8 = 0xc0;
pub(crate) const SOF15: u8 = 0xcf;
pub(crate) const SOI: u8 = 0xd8;
pub(crate) const EOI: u8 = 0xd9;
pub(crate) const SOS: u8 = 0xda;
pub(crate) const APP1: u8 = 0xe1;

/// Why bytes are no segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// They end amid one.
    #[error("it is cut off")]
    Cut,
    /// They break the rules.
    #[error("{0}")]
    Broken(&'static str),
}

/// Markers and what belongs to each, to the first end of an image.
///
/// Padding before a marker is passed over, and so are bytes that should not be there: decoders do the same.
pub(crate) struct Segments<'a> {
    rest: &'a [u8],
    is_over: bool,
}

pub(crate) struct Segment<'a> {
    pub(crate) marker: u8,
    pub(crate) payload: &'a [u8],
    /// The data of a scan.
    pub(crate) data: &'a [u8],
}

impl<'a> Iterator for Segments<'a> {
    type Item = Result<Segment<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let segment = self.segment();
        self.is_over = match &segment {
            Ok(segment) => segment.marker == EOI,
            Err(_) => true,
        };
        Some(segment)
    }
}

impl<'a> Segments<'a> {
    /// Those behind the marker of the start.
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Segments<'a>, Malformed> {
        Ok(Segments { rest: bytes.get(2..).ok_or(Malformed::Cut)?, is_over: false })
    }

    fn segment(&mut self) -> Result<Segment<'a>, Malformed> {
        let marker = self.marker()?;
        match marker {
            EOI => return Ok(Segment { marker, payload: &[], data: &[] }),
            // Decoders do not agree where what follows begins.
            0..=RES | RST0..=RST7 | SOI => return Err(Malformed::Broken("it has a marker out of place")),
            _ => {}
        }
        let (length, rest) = self.rest.split_first_chunk().ok_or(Malformed::Cut)?;
        self.rest = rest;
        // It counts itself.
        let payload = u16::from_be_bytes(*length).checked_sub(2);
        let payload = self.take(payload.ok_or(Malformed::Broken("a segment is shorter than its length"))?.into())?;
        let data = if marker == SOS { self.data()? } else { &[] };
        Ok(Segment { marker, payload, data })
    }

    fn marker(&mut self) -> Result<u8, Malformed> {
        let at = self.ones_before(|behind| !matches!(behind, 0 | 0xff)).ok_or(Malformed::Cut)?;
        let [.., marker] = self.take(at + 2)? else { return Err(Malformed::Cut) };
        Ok(*marker)
    }

    /// To the next marker that is not of the data itself.
    ///
    /// A marker without meaning is of the data: there a bit has flipped, and what decoders make of it is theirs.
    fn data(&mut self) -> Result<&'a [u8], Malformed> {
        let is_marker = |behind| !matches!(behind, 0..=RES | RST0..=RST7 | 0xff);
        let bytes = self.ones_before(is_marker).ok_or(Malformed::Cut)?;
        self.take(bytes)
    }

    /// Where the first byte of all ones is with such a byte behind it.
    fn ones_before(&self, is_behind: impl Fn(u8) -> bool) -> Option<usize> {
        memchr::memchr_iter(0xff, self.rest).find(|at| self.rest.get(at + 1).is_some_and(|&behind| is_behind(behind)))
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        self.rest.split_off(..bytes).ok_or(Malformed::Cut)
    }
}
