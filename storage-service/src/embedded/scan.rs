//! Reading the log back: what is whole, what is damaged, where it ends.
//!
//! Only an invalid end of the newest segment with nothing valid behind it is a torn tail: the write that a crash
//! interrupted, which nobody was told about. Anything else that does not check out is damage.

use std::io;

use super::frame::{self, ALIGN, FRAME_HEADER, Found, FrameHeader, Want, align};
use super::log::{Log, SEGMENT_HEADER, read_seal, read_segment_header};

/// What a scan found besides the records.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Where the next frame goes: behind what was read, or at the start of a segment.
    pub end: u64,
    /// Where what was read ends.
    pub read_to: u64,
    /// The last whole frame and its bytes.
    pub last: Option<(u64, Vec<u8>)>,
    /// Records whose text is damaged; their place in the timelines is known.
    pub damaged: u64,
    /// Places where something that nobody can name any more was lost.
    pub lost: Vec<u64>,
}

/// The records of one frame, with their positions.
pub(super) struct Frame<'a> {
    pub records: &'a [(u64, Found)],
    /// Where the next frame stands.
    pub end: u64,
    /// Nothing was lost up to here.
    pub sound: bool,
}

/// Reads the log from position `from`, which a frame, the end or a segment begins at (0: all of it), and gives every frame to `each`. The index
/// knows of the log up to `known`.
///
/// # Errors
/// The files cannot be read.
pub(super) fn scan(log: &Log, from: u64, known: u64, mut each: impl FnMut(Frame<'_>)) -> io::Result<Scan> {
    let mut result = Scan::default();
    let segments = load(log, from / log.segment_bytes)?;
    let newest = segments.iter().rposition(|segment| segment.in_use);
    let mut expected = from / log.segment_bytes;
    for (index, segment) in segments.iter().enumerate().take(newest.map_or(0, |newest| newest + 1)) {
        let base = segment.index * log.segment_bytes;
        if segment.index != expected || segment.previous_end.is_none() {
            result.lost.push(expected * log.segment_bytes);
        }
        expected = segment.index + 1;
        let bytes = log.read_segment(segment.index)?;
        let bound = segments.get(index + 1).filter(|next| next.in_use).and_then(|next| next.previous_end);
        let scan = SegmentScan { log, bytes: &bytes, base, bound, is_newest: Some(index) == newest };
        scan.run(from.max(base + SEGMENT_HEADER), &mut result, &mut each);
    }
    result.read_to = result.end;
    if let Some(sealed) = newest.filter(|&newest| segments[newest].sealed) {
        let next = segments[sealed].index + 1;
        // Sealed, so the next one was there. If it is in use no more than prepared, the log goes on in it; else it is lost,
        // and with it positions that somebody may have seen.
        let is_there = segments.get(sealed + 1).is_some_and(|prepared| prepared.index == next);
        if !is_there {
            result.lost.push(next * log.segment_bytes);
        }
        result.end = (next + u64::from(!is_there)) * log.segment_bytes;
    }
    if result.end < known {
        // The index knows of positions that the log no longer has: go on above them, in a segment of its own.
        result.lost.push(result.read_to);
        result.skip_to(log, known / log.segment_bytes + 1);
    }
    Ok(result)
}

/// Gives the records of one segment that is not the newest to `each`, as far as they can be read.
///
/// # Errors
/// The file cannot be read.
pub(super) fn scan_segment(log: &Log, segment: u64, mut each: impl FnMut(Frame<'_>)) -> io::Result<()> {
    let base = segment * log.segment_bytes;
    let bytes = log.read_segment(segment)?;
    let next = log.read_header(segment + 1).ok();
    let bound = next.and_then(|header| read_segment_header(&header, log.salt, segment + 1));
    let scan = SegmentScan { log, bytes: &bytes, base, bound, is_newest: false };
    scan.run(base + SEGMENT_HEADER, &mut Scan::default(), &mut each);
    Ok(())
}

impl Scan {
    /// Goes on in this segment, although those before it are not there.
    pub(super) fn skip_to(&mut self, log: &Log, segment: u64) {
        let next = self.end.div_ceil(log.segment_bytes);
        if next < segment {
            // A later scan will miss it, too; and it is answered for now.
            self.lost.push(next * log.segment_bytes);
        }
        self.end = segment * log.segment_bytes;
    }
}

struct Segment {
    index: u64,
    /// What its header says, if that is readable.
    previous_end: Option<u64>,
    /// Whether anything valid stands in it; a prepared or torn-off segment is not in use.
    in_use: bool,
    sealed: bool,
}

fn load(log: &Log, first: u64) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for index in log.segments()?.into_iter().filter(|&index| index >= first) {
        let header = log.read_header(index)?;
        let previous_end = read_segment_header(&header, log.salt, index);
        let holds_frame = || {
            let bytes = log.read_segment(index)?;
            Ok::<_, io::Error>(
                next_frame(&bytes, log.salt, index * log.segment_bytes, SEGMENT_HEADER as usize).is_some(),
            )
        };
        let in_use = previous_end.is_some() || holds_frame()?;
        segments.push(Segment { index, previous_end, in_use, sealed: read_seal(&header, log.salt, index) });
    }
    Ok(segments)
}

/// The offset of the first valid frame header at or behind `from`.
fn next_frame(bytes: &[u8], salt: u64, base: u64, from: usize) -> Option<usize> {
    let salt_bytes = salt.to_le_bytes();
    let candidates = (from..bytes.len().saturating_sub(FRAME_HEADER)).step_by(ALIGN as usize);
    candidates
        .filter(|&offset| bytes[offset..offset + 8] == salt_bytes)
        .find(|&offset| FrameHeader::read(&bytes[offset..], salt, base + offset as u64).is_some())
}

struct SegmentScan<'a> {
    log: &'a Log,
    bytes: &'a [u8],
    base: u64,
    /// Where the log ended in this segment, if a later segment says so.
    bound: Option<u64>,
    is_newest: bool,
}

impl SegmentScan<'_> {
    fn run(&self, start: u64, result: &mut Scan, each: &mut impl FnMut(Frame<'_>)) {
        let mut offset = (start - self.base) as usize;
        result.end = start;
        while self.bound.is_none_or(|bound| self.base + (offset as u64) < bound) {
            let behind = match self.header(offset) {
                Some(header) => {
                    let records = self.records(offset, header);
                    let behind = offset + align(header.length as u64) as usize;
                    if !records.whole && self.is_torn_tail(behind) {
                        return;
                    }
                    self.accept(offset, header, records, result, each);
                    behind
                }
                // What stands here is no whole frame, even if its header is one: the search goes on behind it.
                None if self.is_torn_tail(offset + ALIGN as usize) => return,
                None => {
                    result.lost.push(self.base + offset as u64);
                    match next_frame(self.bytes, self.log.salt, self.base, offset + ALIGN as usize) {
                        Some(next) => next,
                        None => return,
                    }
                }
            };
            offset = behind;
            result.end = self.base + offset as u64;
        }
    }

    fn header(&self, offset: usize) -> Option<FrameHeader> {
        let header = FrameHeader::read(self.bytes.get(offset..)?, self.log.salt, self.base + offset as u64)?;
        (offset + header.length <= self.bytes.len()).then_some(header)
    }

    fn is_torn_tail(&self, behind: usize) -> bool {
        self.is_newest && next_frame(self.bytes, self.log.salt, self.base, behind).is_none()
    }

    /// The records of a frame; where one cannot be read the next readable one is looked for.
    fn records(&self, offset: usize, header: FrameHeader) -> Records {
        let end = offset + header.length;
        let mut at = offset + FRAME_HEADER;
        let mut records = Records { found: Vec::new(), whole: true, lost: None };
        while at < end {
            let position = self.base + at as u64;
            match frame::read_record(&self.bytes[at..end], position, Want::All) {
                Some(found) => {
                    records.whole &= found.body.is_some();
                    at += found.length;
                    records.found.push((position, found));
                }
                None => {
                    records.lost.get_or_insert(position);
                    at += ALIGN as usize;
                }
            }
        }
        if records.found.len() as u32 != header.count {
            records.lost.get_or_insert(self.base + offset as u64);
        }
        records.whole &= records.lost.is_none();
        records
    }

    fn accept(
        &self,
        offset: usize,
        header: FrameHeader,
        records: Records,
        result: &mut Scan,
        each: &mut impl FnMut(Frame<'_>),
    ) {
        result.lost.extend(records.lost);
        result.damaged += records.found.iter().filter(|(_, found)| found.body.is_none()).count() as u64;
        let end = self.base + align((offset + header.length) as u64);
        each(Frame { records: &records.found, end, sound: result.lost.is_empty() });
        let frame = self.bytes[offset..offset + header.length].to_vec();
        result.last = records.whole.then_some((self.base + offset as u64, frame));
    }
}

struct Records {
    found: Vec<(u64, Found)>,
    /// Every record is there and its body checks out.
    whole: bool,
    lost: Option<u64>,
}
