//! The segment log: the commit point of the store.
//!
//! Segments have one size, are filled with zeros before use (so that a sync writes data and no metadata) and stand in one address
//! space: the position of a record is `segment index * segment size + offset`. Positions only grow, which is why they
//! serve as versions. A segment begins with a header block; a frame never crosses into the next segment. Retention deletes segments
//! from the oldest on; the log begins at [`Log::first`].

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::counters::Meters;
use super::frame::{self, Found, Want, read_u64};

/// Bytes of a segment's header block; the first frame follows.
pub(super) const SEGMENT_HEADER: u64 = 4096;
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"TERNSEG1");
pub(super) const SEAL: u64 = u64::from_le_bytes(*b"TERNSEAL");
/// Where the seal stands in the header block.
pub(super) const SEAL_AT: u64 = 64;
/// Segments that are kept open for reading.
const OPEN_FILES: usize = 256;
/// The newest frames that are read again are kept in memory up to this size: what was just committed is about to be read.
const TAIL_BYTES: usize = 16 * 1024 * 1024;
/// What is read for a record that stands alone, and for one that stands not further from the one before it than [`NEAR`].
const SINGLE: u64 = 1024;
const WINDOW: u64 = 64 * 1024;
const NEAR: u64 = 4096;
/// The longest record that is believed; a longer length is damage.
const RECORD_BYTES: usize = 1024 * 1024;

/// The readable side of the log, shared by all.
pub(super) struct Log {
    dir: PathBuf,
    pub(super) salt: u64,
    pub(super) segment_bytes: u64,
    files: RwLock<BTreeMap<u64, Arc<File>>>,
    tail: RwLock<Tail>,
    /// Segments below this position were deleted by retention, or are about to be.
    first: AtomicU64,
    end: AtomicU64,
    pub(super) meters: Meters,
}

/// The newest frames with a record that is read again, oldest first.
#[derive(Default)]
struct Tail {
    frames: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

/// Reads records of the log for as long as one question takes. What it has read it keeps, so that records which stand close together cost one look at
/// the file: only positions are asked that were visible before the first look.
pub(super) struct Reader<'a> {
    pub(super) log: &'a Log,
    /// What was read last, and where it stands.
    start: u64,
    bytes: Bytes,
    /// The position asked last.
    last: Option<u64>,
}

impl Log {
    /// The log in `dir`, created if it is not there.
    pub(super) fn open(dir: &Path, salt: u64, segment_bytes: u64) -> io::Result<Log> {
        fs::create_dir_all(dir)?;
        // The entry of the new directory is part of what must survive.
        dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
        let log = Log {
            dir: dir.to_owned(),
            salt,
            segment_bytes,
            files: RwLock::default(),
            tail: RwLock::default(),
            first: AtomicU64::new(0),
            end: AtomicU64::new(0),
            meters: Meters::default(),
        };
        log.meters.segments.set(log.segments()?.len() as u64);
        Ok(log)
    }

    /// Where the log begins. What stood below is nobody's loss.
    pub(super) fn first(&self) -> u64 {
        self.first.load(Ordering::Acquire)
    }

    /// From now on nobody is to look below.
    pub(super) fn set_first(&self, position: u64) {
        self.first.fetch_max(position, Ordering::AcqRel);
    }

    /// Where the next frame goes, as soon as all before it is durable.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(super) fn set_end(&self, position: u64) {
        self.end.store(position, Ordering::Release);
    }

    /// Reads records, of which some may stand close together.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { log: self, start: 0, bytes: Bytes::new(), last: None }
    }

    fn tail_frame(&self, position: u64) -> Option<(u64, Bytes)> {
        let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
        let at = tail.frames.partition_point(|(start, _)| *start <= position).checked_sub(1)?;
        let (start, frame) = tail.frames.get(at)?;
        (position < start + frame.len() as u64).then(|| (*start, frame.clone()))
    }

    /// Keeps a frame that was just written for those who are about to read it.
    pub(super) fn remember(&self, position: u64, frame: Vec<u8>) {
        let mut tail = self.tail.write().unwrap_or_else(PoisonError::into_inner);
        tail.bytes += frame.len();
        tail.frames.push_back((position, frame.into()));
        while tail.bytes > TAIL_BYTES {
            match tail.frames.pop_front() {
                Some((_, oldest)) => tail.bytes -= oldest.len(),
                None => break,
            }
        }
    }

    pub(super) fn file(&self, segment: u64) -> io::Result<Arc<File>> {
        if let Some(file) = self.files.read().unwrap_or_else(PoisonError::into_inner).get(&segment) {
            return Ok(file.clone());
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.path(segment))?);
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= OPEN_FILES {
            files.clear();
        }
        // One that is being deleted must not be kept open: its room would not be given back.
        if segment >= self.first() / self.segment_bytes {
            files.insert(segment, file.clone());
        }
        Ok(file)
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.join(format!("{segment:016x}.seg"))
    }

    /// Lets the operating system forget what it holds of the segments beyond what is on disk.
    pub(super) fn distrust_memory(&self) -> io::Result<()> {
        for segment in self.segments()? {
            rustix::fs::fadvise(File::open(self.path(segment))?, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    /// The indices of the segment files, ascending.
    pub(super) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let index = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            found.extend(index.and_then(|index| u64::from_str_radix(index, 16).ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The header block of a segment.
    pub(super) fn read_header(&self, segment: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; SEGMENT_HEADER as usize];
        let got = read_up_to(&File::open(self.path(segment))?, &mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// A segment that is in use from now on.
    pub(super) fn adopt(&self, segment: u64, file: Arc<File>) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(segment, file);
    }

    /// All bytes of a segment.
    pub(super) fn read_segment(&self, segment: u64) -> io::Result<Vec<u8>> {
        fs::read(self.path(segment))
    }

    pub(super) fn remove_segment(&self, segment: u64) -> io::Result<()> {
        fs::remove_file(self.path(segment))?;
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&segment);
        self.meters.segments.sub(1);
        Ok(())
    }

    /// A new segment of zeros, on disk before this returns.
    pub(super) fn create_segment(&self, segment: u64) -> io::Result<Arc<File>> {
        let path = self.path(segment);
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let filled = self.fill(&file).and_then(|()| File::open(&self.dir)?.sync_all());
        if let Err(error) = filled {
            // The room that there was is needed elsewhere.
            if fs::remove_file(&path).is_ok() {
                self.meters.segments.sub(u64::from(!is_new));
            }
            return Err(error);
        }
        self.meters.segments.add(u64::from(is_new));
        Ok(Arc::new(file))
    }

    fn fill(&self, file: &File) -> io::Result<()> {
        let zeros = vec![0; 1024 * 1024];
        let mut offset = 0;
        while offset < self.segment_bytes {
            let length = (self.segment_bytes - offset).min(zeros.len() as u64);
            file.write_all_at(&zeros[..length as usize], offset)?;
            offset += length;
        }
        file.sync_all()
    }
}

impl Reader<'_> {
    /// The record at `position`; `None` if it was cleaned, is lost, or is damaged beyond its meta.
    ///
    /// # Errors
    /// The file cannot be read at all.
    pub(super) fn read(&mut self, position: u64, want: Want) -> io::Result<Option<Found>> {
        if position < self.log.first() {
            return Ok(None);
        }
        if self.record(position).is_none() && !self.fetch(position)? {
            return Ok(None);
        }
        self.last = Some(position);
        Ok(self.record(position).and_then(|bytes| frame::read_record(bytes, position, want)))
    }

    /// The bytes at a position, if all of its record is here.
    fn record(&self, position: u64) -> Option<&[u8]> {
        let bytes = self.bytes.get(usize::try_from(position.checked_sub(self.start)?).ok()?..)?;
        frame::record_length(bytes).filter(|&length| length <= bytes.len()).map(|_| bytes)
    }

    /// Gets the bytes at a position from memory or from the file; `false` if there is no such file, or not so much in it.
    fn fetch(&mut self, position: u64) -> io::Result<bool> {
        if let Some((start, frame)) = self.log.tail_frame(position) {
            (self.start, self.bytes) = (start, frame);
            return Ok(self.record(position).is_some());
        }
        let (segment, offset) = (position / self.log.segment_bytes, position % self.log.segment_bytes);
        let file = match self.log.file(segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let is_near = self.last.is_some_and(|last| last.abs_diff(position) <= NEAR);
        let (from, length) = match self.last {
            // Backwards: what comes next stands before it.
            Some(last) if is_near && position < last => {
                let from = (offset + SINGLE).saturating_sub(WINDOW);
                (from, offset + SINGLE - from)
            }
            _ if is_near => (offset, WINDOW),
            _ => (offset, SINGLE),
        };
        self.look(&file, position - offset, from, length)?;
        let begun = self.bytes.get((offset - from) as usize..).unwrap_or_default();
        let whole = frame::record_length(begun).unwrap_or(0);
        if whole > begun.len() && whole <= RECORD_BYTES {
            self.look(&file, position - offset, offset, whole as u64)?;
        }
        Ok(self.record(position).is_some())
    }

    fn look(&mut self, file: &File, segment_start: u64, from: u64, length: u64) -> io::Result<()> {
        let mut bytes = vec![0; length as usize];
        let got = read_up_to(file, &mut bytes, from)?;
        bytes.truncate(got);
        (self.start, self.bytes) = (segment_start + from, bytes.into());
        Ok(())
    }
}

/// What a segment's header block says: where the log ended in the segment before it.
pub(super) fn read_segment_header(bytes: &[u8], salt: u64, segment: u64) -> Option<u64> {
    let header = bytes.get(..40)?;
    let previous_end = read_u64(header, 24);
    (header == block(MAGIC, salt, segment, previous_end)).then_some(previous_end)
}

/// Whether the segment says that the next one has come into being.
pub(super) fn read_seal(bytes: &[u8], salt: u64, segment: u64) -> bool {
    let seal = bytes.get(SEAL_AT as usize..SEAL_AT as usize + 40);
    seal.is_some_and(|seal| seal == block(SEAL, salt, segment, 0))
}

/// A checked block of the header: the segment's own, or its seal.
pub(super) fn block(magic: u64, salt: u64, segment: u64, previous_end: u64) -> [u8; 40] {
    let mut block = [0; 40];
    for (at, value) in [(0, magic), (8, salt), (16, segment), (24, previous_end)] {
        block[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let crc = crc32fast::hash(&block[..32]);
    block[32..36].copy_from_slice(&crc.to_le_bytes());
    block
}

pub(super) fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
