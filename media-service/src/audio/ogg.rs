//! Opus in Ogg: pages, each with a checksum, and on them the packets of one stream.
//!
//! The last page tells when the sound ends, and may end it before its packets do. It is believed if the end lies within
//! what that page carries, which is held against the durations that the packets themselves tell; the like of every page
//! before it. So a stream that was cut out of a longer one and kept its times is refused, as is one with others beside
//! or behind it. Sources: RFC 3533, RFC 7845.

mod packet;
mod page;

use super::BadAudio::Broken;
use super::{BadAudio, Frames, Heard};
use page::Page;
#[cfg(test)]
pub(super) use page::crc;
pub(super) use page::flags;

/// Of what granules count, whatever the sound was made from.
const SAMPLES_A_SECOND: u32 = 48_000;
/// To which the sizes of packets are related.
const SAMPLES_IN_20_MS: u64 = 960;

/// Whether the first page carries the head of an Opus stream; of an Ogg file with other sound it does not.
pub(super) fn begins_opus(bytes: &[u8]) -> bool {
    bytes.starts_with(page::MAGIC)
        && bytes.get(page::HEAD_BYTES + 1..).is_some_and(|body| body.starts_with(b"OpusHead"))
}

/// Hears the whole.
pub(super) fn hear(bytes: &[u8]) -> Result<Heard, BadAudio> {
    let (first, mut rest) = page::split(bytes)?;
    if first.flags != flags::FIRST || first.lacing.len() != 1 {
        return Err(Broken("the first page does not carry the head alone"));
    }
    let skipped = skipped(first.body)?;
    let mut stream = Stream::behind(&first);
    while !rest.is_empty() {
        let (page, behind) = page::split(rest)?;
        stream.take(&page)?;
        rest = behind;
    }
    if !stream.ended {
        return Err(Broken("its last page is missing"));
    }
    // A stream of which no more is played than is skipped lasts no time.
    stream.frames.heard(stream.told.saturating_sub(skipped))
}

/// Samples that are not played at the start, as the head tells.
///
/// `| OpusHead | version | channels | skipped: 2 | rate: 4 | gain: 2 | mapping |`
fn skipped(head: &[u8]) -> Result<u64, BadAudio> {
    let told = head.strip_prefix(b"OpusHead").ok_or(Broken("the head is not of Opus"))?;
    let &[version, channels, low, high, _, _, _, _, _, _, mapping] = told else {
        return Err(Broken("the head is not as long as one of a voice"));
    };
    match (version, channels, mapping) {
        (0..16, 1 | 2, 0) => Ok(u64::from(u16::from_le_bytes([low, high]))),
        (0..16, ..) => Err(Broken("it has neither one channel nor two")),
        _ => Err(Broken("its version is too new")),
    }
}

/// The stream, as far as its pages have been seen.
struct Stream {
    serial: u32,
    /// Of the page that comes next.
    sequence: u32,
    /// What is there of the packet that goes on with the next page, if one does.
    packet: Vec<u8>,
    open: bool,
    /// Whether the comments, which stand before the sound, were seen.
    commented: bool,
    frames: Frames,
    /// Where the sound ends, as the latest page told.
    told: u64,
    ended: bool,
}

impl Stream {
    fn behind(first: &Page) -> Stream {
        Stream {
            serial: first.serial,
            sequence: first.sequence.wrapping_add(1),
            packet: Vec::new(),
            open: false,
            commented: false,
            frames: Frames::at(SAMPLES_A_SECOND),
            told: 0,
            ended: false,
        }
    }

    fn take(&mut self, page: &Page) -> Result<(), BadAudio> {
        self.check_order(page)?;
        let (commented, before) = (self.commented, self.frames.ticks);
        let mut body = page.body;
        for &lace in page.lacing {
            let (piece, behind) = body.split_at_checked(usize::from(lace)).ok_or(Broken("a page is cut off"))?;
            body = behind;
            if self.commented && !commented {
                return Err(Broken("the comments do not end with their page"));
            }
            self.packet.extend_from_slice(piece);
            self.open = lace == u8::MAX;
            if !self.open {
                self.close_packet()?;
            }
        }
        self.ended = page.flags & flags::LAST != 0;
        if self.open && self.ended {
            return Err(Broken("its last packet is cut off"));
        }
        self.check_end(page, before)
    }

    fn check_order(&mut self, page: &Page) -> Result<(), BadAudio> {
        if self.ended || page.serial != self.serial || page.flags & flags::FIRST != 0 {
            return Err(Broken("it has more than one stream"));
        }
        if page.sequence != self.sequence {
            return Err(Broken("a page is missing"));
        }
        if (page.flags & flags::CONTINUED != 0) != self.open {
            return Err(Broken("a packet does not go on where it stopped"));
        }
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    fn close_packet(&mut self) -> Result<(), BadAudio> {
        if !self.commented {
            self.commented = self.packet.starts_with(b"OpusTags");
            self.packet.clear();
            return if self.commented { Ok(()) } else { Err(Broken("there are no comments behind the head")) };
        }
        let samples = packet::samples(&self.packet).ok_or(Broken("a packet is malformed"))?;
        let bytes_in_20_ms = self.packet.len() as u64 * SAMPLES_IN_20_MS / u64::from(samples.max(1));
        self.packet.clear();
        self.frames.push(samples, u32::try_from(bytes_in_20_ms).unwrap_or(u32::MAX))
    }

    /// Checks what a page tells of when the sound ends, which was `before` where it begins.
    fn check_end(&mut self, page: &Page, before: u64) -> Result<(), BadAudio> {
        if self.frames.ticks == before {
            // It ends no packet that has sound.
            return match page.granule {
                None => Ok(()),
                Some(told) if told == self.told => Ok(()),
                Some(_) => Err(Broken("a page without sound tells of some")),
            };
        }
        self.told = page.granule.ok_or(Broken("a page does not tell when its sound ends"))?;
        if before < self.told && self.told <= self.frames.ticks {
            Ok(())
        } else {
            Err(Broken("a page tells of other sound than it carries"))
        }
    }
}
