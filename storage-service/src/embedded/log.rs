//! The segment log: the commit point of the store.
//!
//! Segments have one size, are filled with zeros before use (so that a sync writes data and no metadata) and stand in one address
//! space: the position of a record is `segment index * segment size + offset`. Positions only grow, which is why they
//! serve as versions. A segment begins with a header block; a frame never crosses into the next segment.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::Failure;
use super::frame::{self, Found, align, read_u32, read_u64};
use super::scan::Scan;

/// Bytes of a segment's header block; the first frame follows.
pub(super) const SEGMENT_HEADER: u64 = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"TERNSEG1");
const SEAL: u64 = u64::from_le_bytes(*b"TERNSEAL");
/// Where the seal stands in the header block.
const SEAL_AT: u64 = 64;
/// Segments that are kept open for reading.
const OPEN_FILES: usize = 256;
/// The newest frames are kept in memory up to this size: what was just committed is about to be read.
const TAIL_BYTES: usize = 16 * 1024 * 1024;
/// The longest record that is believed; a longer length is damage.
const RECORD_BYTES: usize = 1024 * 1024;

/// How a written frame is made durable; replaced in tests that let it fail.
pub(super) type SyncFn = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// The readable side of the log, shared by all.
pub(super) struct Log {
    dir: PathBuf,
    pub(super) salt: u64,
    pub(super) segment_bytes: u64,
    files: RwLock<BTreeMap<u64, Arc<File>>>,
    tail: RwLock<Tail>,
}

/// The newest frames, oldest first, without gaps in what they hold.
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
        Ok(Log { dir: dir.to_owned(), salt, segment_bytes, files: RwLock::default(), tail: RwLock::default() })
    }

    /// The record at `position`; `None` if it is lost, or damaged beyond its meta.
    ///
    /// # Errors
    /// The file cannot be read at all.
    pub(super) fn read(&self, position: u64) -> io::Result<Option<Found>> {
        if let Some((start, frame)) = self.tail_frame(position) {
            return Ok(frame.get((position - start) as usize..).and_then(|bytes| frame::read_record(bytes, position)));
        }
        let (segment, offset) = (position / self.segment_bytes, position % self.segment_bytes);
        let file = match self.file(segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = vec![0; 1024];
        let mut got = read_up_to(&file, &mut bytes, offset)?;
        let length = frame::record_length(&bytes[..got]).unwrap_or(0);
        if length > bytes.len() && length <= RECORD_BYTES {
            bytes.resize(length, 0);
            got = read_up_to(&file, &mut bytes, offset)?;
        }
        Ok(frame::read_record(&bytes[..got], position))
    }

    fn tail_frame(&self, position: u64) -> Option<(u64, Bytes)> {
        let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
        let at = tail.frames.partition_point(|(start, _)| *start <= position).checked_sub(1)?;
        let (start, frame) = tail.frames.get(at)?;
        (position < start + frame.len() as u64).then(|| (*start, frame.clone()))
    }

    fn remember(&self, position: u64, frame: Vec<u8>) {
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

    fn file(&self, segment: u64) -> io::Result<Arc<File>> {
        if let Some(file) = self.files.read().unwrap_or_else(PoisonError::into_inner).get(&segment) {
            return Ok(file.clone());
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.path(segment))?);
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= OPEN_FILES {
            files.clear();
        }
        files.insert(segment, file.clone());
        Ok(file)
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.join(format!("{segment:016x}.seg"))
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

    /// All bytes of a segment.
    pub(super) fn read_segment(&self, segment: u64) -> io::Result<Vec<u8>> {
        fs::read(self.path(segment))
    }

    pub(super) fn remove_segment(&self, segment: u64) -> io::Result<()> {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&segment);
        fs::remove_file(self.path(segment))
    }

    /// A new segment of zeros, on disk before this returns.
    fn create_segment(&self, segment: u64) -> io::Result<Arc<File>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.path(segment))?;
        let zeros = vec![0; 1024 * 1024];
        let mut offset = 0;
        while offset < self.segment_bytes {
            let length = (self.segment_bytes - offset).min(zeros.len() as u64);
            file.write_all_at(&zeros[..length as usize], offset)?;
            offset += length;
        }
        file.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        Ok(Arc::new(file))
    }
}

/// What a segment's header block says: where the log ended in the segment before it.
pub(super) fn read_segment_header(bytes: &[u8], salt: u64, segment: u64) -> Option<u64> {
    let header = bytes.get(..40)?;
    let ours = read_u64(header, 0) == MAGIC && read_u64(header, 8) == salt && read_u64(header, 16) == segment;
    (ours && read_u32(header, 32) == crc32fast::hash(&header[..32])).then(|| read_u64(header, 24))
}

/// Whether the segment says that the next one has come into being.
pub(super) fn read_seal(bytes: &[u8], salt: u64, segment: u64) -> bool {
    let seal = bytes.get(SEAL_AT as usize..SEAL_AT as usize + 40);
    seal.is_some_and(|seal| seal == block(SEAL, salt, segment, 0))
}

/// A checked block of the header: the segment's own, or its seal.
fn block(magic: u64, salt: u64, segment: u64, previous_end: u64) -> [u8; 40] {
    let mut block = [0; 40];
    for (at, value) in [(0, magic), (8, salt), (16, segment), (24, previous_end)] {
        block[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let crc = crc32fast::hash(&block[..32]);
    block[32..36].copy_from_slice(&crc.to_le_bytes());
    block
}

fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
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

/// The writing side, owned by the writer thread.
pub(super) struct Appender {
    log: Arc<Log>,
    sync: SyncFn,
    file: Arc<File>,
    end: u64,
    /// The next segment while it is being filled with zeros, so that rolling over does not wait for it.
    spare: Mutex<Option<JoinHandle<io::Result<Arc<File>>>>>,
}

impl Appender {
    /// Goes on where recovery says. What lies behind it in its segment is set to zero; segments behind are
    /// removed. The frame at `last`, if any, is written again: after a failed sync the operating system may hold it without it being on disk.
    pub(super) fn resume(log: Arc<Log>, sync: SyncFn, scan: &mut Scan) -> io::Result<Appender> {
        let (end, last) = (scan.end, scan.last.take());
        let segment = end / log.segment_bytes;
        for behind in log.segments()?.into_iter().filter(|&index| index > segment) {
            log.remove_segment(behind)?;
        }
        let fresh = end.is_multiple_of(log.segment_bytes);
        let mut appender = if fresh {
            let file = log.create_segment(segment)?;
            Appender { log, sync, file, end, spare: Mutex::default() }
        } else {
            let file = log.file(segment)?;
            zero_behind(&file, end % log.segment_bytes, log.segment_bytes)?;
            Appender { log, sync, file, end, spare: Mutex::default() }
        };
        if fresh {
            appender.activate(segment, scan.read_to)?;
        }
        let here = |position: &u64| position / appender.log.segment_bytes == segment;
        if let Some((position, frame)) = last.filter(|(position, _)| here(position)) {
            appender.file.write_all_at(&frame, position % appender.log.segment_bytes)?;
        }
        appender.file.sync_data()?;
        Ok(appender)
    }

    /// Where the next frame will stand if it has up to `room` bytes; rolls over to a new segment if it must.
    ///
    /// # Errors
    /// [`Failure::NoSegment`] if there is no room for a new segment now: nothing has changed, and later there may be.
    pub(super) fn position_for(&mut self, room: usize) -> Result<u64, Failure> {
        let segment = self.end / self.log.segment_bytes;
        let left = (segment + 1) * self.log.segment_bytes - self.end;
        if left < room as u64 {
            self.roll(segment + 1)?;
        } else if left < self.log.segment_bytes / 2 {
            self.prepare(segment + 1);
        }
        Ok(self.end)
    }

    /// Writes a frame at the position that [`Appender::position_for`] gave and makes it durable.
    pub(super) fn append(&mut self, position: u64, frame: Vec<u8>) -> io::Result<()> {
        self.file.write_all_at(&frame, position % self.log.segment_bytes)?;
        (self.sync)(&self.file)?;
        self.end = align(position + frame.len() as u64);
        self.log.remember(position, frame);
        Ok(())
    }

    pub(super) fn salt(&self) -> u64 {
        self.log.salt
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Puts everything written so far on disk, whatever the durability.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn prepare(&self, segment: u64) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_none() {
            let log = self.log.clone();
            let fill = move || log.create_segment(segment);
            *spare = std::thread::Builder::new().name("tern-log-spare".into()).spawn(fill).ok();
        }
    }

    /// Goes over to the next segment: it must be there before the seal of this one says so, so that a missing one is noticed.
    fn roll(&mut self, segment: u64) -> Result<(), Failure> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let prepared = spare.and_then(|thread| thread.join().ok()?.ok());
        let next = match prepared {
            Some(file) => file,
            None => self.log.create_segment(segment).map_err(Failure::NoSegment)?,
        };
        self.file.write_all_at(&block(SEAL, self.log.salt, segment - 1, 0), SEAL_AT)?;
        self.file.sync_data()?;
        self.file = next;
        Ok(self.activate(segment, self.end)?)
    }

    fn activate(&mut self, segment: u64, previous_end: u64) -> io::Result<()> {
        self.file.write_all_at(&block(MAGIC, self.log.salt, segment, previous_end), 0)?;
        self.file.sync_data()?;
        self.log.files.write().unwrap_or_else(PoisonError::into_inner).insert(segment, self.file.clone());
        self.end = segment * self.log.segment_bytes + SEGMENT_HEADER;
        Ok(())
    }
}

/// Sets to zero whatever a torn write left behind `offset`, so that it can never be taken for a frame.
fn zero_behind(file: &File, offset: u64, segment_bytes: u64) -> io::Result<()> {
    let mut rest = vec![0; (segment_bytes - offset) as usize];
    read_up_to(file, &mut rest, offset)?;
    if let Some(last) = rest.iter().rposition(|&byte| byte != 0) {
        rest[..=last].fill(0);
        file.write_all_at(&rest[..=last], offset)?;
    }
    Ok(())
}
