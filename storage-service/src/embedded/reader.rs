//! Reading records of the log.

use std::fs::File;
use std::io;

use bytes::Bytes;

use super::frame::{self, Found, Want};
use super::log::{Log, read_up_to};

/// What is read for a record that stands alone, and for one that stands not further from the one before it than [`NEAR`].
const SINGLE: u64 = 1024;
const WINDOW: u64 = 64 * 1024;
const NEAR: u64 = 4096;
/// The longest record that is believed; a longer length is damage.
const RECORD_BYTES: usize = 1024 * 1024;

/// Reads records for as long as one question takes. What it has read it keeps, so that records which stand close together, upwards or downwards,
/// cost one look at the file.
pub(super) struct Reader<'a> {
    pub(super) log: &'a Log,
    /// What was read last, and where it stands. Nothing of it lies beyond the end that the log had before the look, so it never gets old.
    start: u64,
    bytes: Bytes,
    /// The position asked last.
    last: Option<u64>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(log: &'a Log) -> Reader<'a> {
        Reader { log, start: 0, bytes: Bytes::new(), last: None }
    }

    /// The record at `position`; `None` if it was cleaned, is lost, or is damaged beyond its meta.
    ///
    /// # Errors
    /// The file cannot be read at all.
    pub(super) fn read(&mut self, position: u64, want: Want) -> io::Result<Option<Found>> {
        if position < self.log.first() {
            return Ok(None);
        }
        if !self.has_whole(position) {
            self.fetch(position)?;
        }
        self.last = Some(position);
        Ok(frame::read_record(self.from(position), position, want))
    }

    /// What is here from a position on.
    fn from(&self, position: u64) -> &[u8] {
        let offset = position.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| self.bytes.get(offset..)).unwrap_or_default()
    }

    fn has_whole(&self, position: u64) -> bool {
        let bytes = self.from(position);
        frame::record_length(bytes).is_some_and(|length| length <= bytes.len())
    }

    /// Gets the bytes at a position from memory or from the file; none if there is no such file.
    fn fetch(&mut self, position: u64) -> io::Result<()> {
        if let Some((start, frame)) = self.log.tail_frame(position) {
            (self.start, self.bytes) = (start, frame);
            return Ok(());
        }
        let file = match self.log.file(position / self.log.segment_bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.bytes = Bytes::new();
                return Ok(());
            }
            file => file?,
        };
        let segment_start = position - position % self.log.segment_bytes;
        let (from, to) = match self.last.filter(|last| last.abs_diff(position) <= NEAR) {
            // Downwards: what comes next stands before it, and it ends where the last one begins.
            Some(last) if position < last => (last.saturating_sub(WINDOW).max(segment_start).min(position), last),
            Some(_) => (position, position + WINDOW),
            None => (position, position + SINGLE),
        };
        self.look(&file, from, to)?;
        let begun = self.from(position);
        let whole = frame::record_length(begun).unwrap_or(0);
        if whole > begun.len() && whole <= RECORD_BYTES {
            self.look(&file, position, position + whole as u64)?;
        }
        Ok(())
    }

    fn look(&mut self, file: &File, from: u64, to: u64) -> io::Result<()> {
        // Read before the file is: what is being written just now is none of this.
        let to = to.min(self.log.end());
        let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
        let got = read_up_to(file, &mut bytes, from % self.log.segment_bytes)?;
        bytes.truncate(got);
        (self.start, self.bytes) = (from, bytes.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use tempfile::TempDir;

    use super::super::frame::{FrameBuilder, align};
    use super::super::log::SEGMENT_HEADER;
    use super::super::record::{Fact, Message, Meta};
    use super::*;

    const SALT: u64 = 7;
    const SEGMENT: u64 = 1024 * 1024;

    fn meta(seq: u64) -> Meta {
        Meta { fact: Some(Fact::Message(Message { from: "alice".into(), seq, ..Message::default() })) }
    }

    /// A log with a record of each length, in frames of their own, the last ones in a second segment; and where they stand.
    fn log(lengths: &[usize]) -> (TempDir, Log, Vec<u64>) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("log"), SALT, SEGMENT).unwrap();
        let mut positions = Vec::new();
        let mut end = SEGMENT_HEADER;
        let mut file = log.create_segment(0).unwrap();
        for (seq, length) in (0..).zip(lengths) {
            if end % SEGMENT + *length as u64 + 1024 > SEGMENT {
                end = (end / SEGMENT + 1) * SEGMENT + SEGMENT_HEADER;
                file = log.create_segment(end / SEGMENT).unwrap();
            }
            let mut frame = FrameBuilder::new(SALT, end);
            positions.push(frame.push(&meta(seq), &vec![b'x'; *length]));
            let (position, bytes) = frame.finish();
            file.write_all_at(&bytes, position % SEGMENT).unwrap();
            end = align(position + bytes.len() as u64);
        }
        log.set_end(end);
        (dir, log, positions)
    }

    fn assert_reads(log: &Log, order: impl Iterator<Item = (usize, u64)>, lengths: &[usize]) {
        let mut reader = Reader::new(log);
        for (at, position) in order {
            let found = reader.read(position, Want::All).unwrap().unwrap();
            assert_eq!((found.meta, found.body.unwrap().len()), (meta(at as u64), lengths[at]), "record {at}");
        }
    }

    #[test]
    fn records_read_the_same_upwards_downwards_and_in_leaps() {
        // Short ones, long ones that no window holds, and enough to cross windows and the end of the segment.
        let lengths: Vec<usize> = (0..2000).map(|i| if i % 97 == 0 { 70_000 } else { i % 3000 }).collect();
        let (_dir, log, positions) = log(&lengths);
        assert!(positions.last().unwrap() / SEGMENT > 1);
        let placed = || positions.iter().copied().enumerate();
        assert_reads(&log, placed(), &lengths);
        assert_reads(&log, placed().rev(), &lengths);
        assert_reads(&log, placed().step_by(7), &lengths);
        assert_reads(&log, placed().rev().step_by(3).chain(placed().step_by(5)), &lengths);
    }

    #[test]
    fn what_is_written_behind_the_end_is_seen_once_it_is_there() {
        let (_dir, log, positions) = log(&[10, 20, 30]);
        let end = log.end();
        log.set_end(positions[2] - frame::FRAME_HEADER as u64);
        let mut reader = Reader::new(&log);
        assert!(reader.read(positions[0], Want::All).unwrap().is_some());
        assert!(reader.read(positions[1], Want::All).unwrap().is_some(), "a window is read");
        assert!(reader.read(positions[2], Want::All).unwrap().is_none(), "it is being written");
        log.set_end(end);
        assert!(reader.read(positions[2], Want::All).unwrap().is_some());
    }

    #[test]
    fn of_a_record_whose_file_was_cut_short_the_meta_is_known() {
        let (_dir, log, positions) = log(&[10, 500]);
        log.file(0).unwrap().set_len(positions[1] + 100).unwrap();
        let found = Reader::new(&log).read(positions[1], Want::All).unwrap().unwrap();
        assert_eq!((found.meta, found.body), (meta(1), None));
        log.set_first(positions[1]);
        assert!(Reader::new(&log).read(positions[0], Want::All).unwrap().is_none(), "it was cleaned");
    }
}
