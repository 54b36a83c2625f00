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

use super::counters::Counters;
use super::frame::read_u64;

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
    pub(super) counters: Counters,
}

/// The newest frames with a record that is read again, oldest first.
#[derive(Default)]
struct Tail {
    frames: VecDeque<(u64, Bytes)>,
    bytes: usize,
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
            counters: Counters::default(),
        };
        log.counters.segments.set(log.segments()?.len() as i64);
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

    /// The frame with this position, and where it stands, if it is in memory.
    pub(super) fn tail_frame(&self, position: u64) -> Option<(u64, Bytes)> {
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
        self.counters.segments.dec();
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
                self.counters.segments.dec_by(i64::from(!is_new));
            }
            return Err(error);
        }
        self.counters.segments.inc_by(i64::from(is_new));
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
