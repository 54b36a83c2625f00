//! The writing side of the log: where the next frame goes, and how it gets to disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tern_runtime::planted::{self, Fault};

use super::Failure;
use super::frame::align;
use super::log::{Log, MAGIC, SEAL, SEAL_AT, SEGMENT_HEADER, block, read_up_to};
use super::scan::Scan;

/// How a written frame is made durable; replaced in tests that let it fail.
pub(super) type SyncFn = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// When there was no room for a segment, the next try is so much later: each writes until the disk is full.
const NO_ROOM: Duration = Duration::from_secs(1);

/// The writing side, owned by the writer thread.
pub(super) struct Appender {
    log: Arc<Log>,
    sync: SyncFn,
    file: Arc<File>,
    end: u64,
    /// The next segment while it is being filled with zeros, so that rolling over does not wait for it.
    spare: Mutex<Option<JoinHandle<io::Result<Arc<File>>>>>,
    /// When there was no room for a segment.
    no_room: Option<Instant>,
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
        let file = if fresh { log.create_segment(segment)? } else { log.file(segment)? };
        let mut appender = Appender { log, sync, file, end, spare: Mutex::default(), no_room: None };
        if fresh {
            appender.activate(segment, scan.read_to)?;
        } else {
            let segment_bytes = appender.log.segment_bytes;
            zero_behind(&appender.file, end % segment_bytes, segment_bytes)?;
        }
        let here = |position: &u64| position / appender.log.segment_bytes == segment;
        if let Some((position, frame)) = last.filter(|(position, _)| here(position)) {
            appender.file.write_all_at(&frame, position % appender.log.segment_bytes)?;
        }
        appender.sync_all()?;
        appender.log.set_end(appender.end);
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
    pub(super) fn append(&mut self, position: u64, frame: &[u8]) -> io::Result<()> {
        self.file.write_all_at(frame, position % self.log.segment_bytes)?;
        let synced = (self.sync)(&self.file);
        if !planted::active(Fault::FailedSyncIgnored) {
            synced?;
        }
        self.log.counters.bytes.inc_by(frame.len() as u64);
        self.end = align(position + frame.len() as u64);
        self.log.set_end(self.end);
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
        self.log.counters.syncs.inc();
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

    /// Waits until nothing of it writes any more.
    pub(super) fn settle(&self) {
        self.prepared();
    }

    /// Waits for the segment that is being prepared; one that could not be is none.
    fn prepared(&self) -> Option<Arc<File>> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        spare.and_then(|thread| thread.join().ok()?.ok())
    }

    fn next_segment(&mut self, segment: u64) -> io::Result<Arc<File>> {
        if self.no_room.is_some_and(|since| since.elapsed() < NO_ROOM) {
            return Err(io::Error::other("there was none a moment ago"));
        }
        let created = self.log.create_segment(segment);
        if let Err(error) = &created {
            tracing::error!(%error, "no room for the next segment of the log; sends are refused until there is");
        }
        self.no_room = created.is_err().then(Instant::now);
        created
    }

    /// Goes over to the next segment: it must be there before the seal of this one says so, so that a missing one is noticed.
    fn roll(&mut self, segment: u64) -> Result<(), Failure> {
        let next = match self.prepared() {
            Some(file) => file,
            None => self.next_segment(segment).map_err(Failure::NoSegment)?,
        };
        self.file.write_all_at(&block(SEAL, self.log.salt, segment - 1, 0), SEAL_AT)?;
        self.sync_all()?;
        self.file = next;
        Ok(self.activate(segment, self.end)?)
    }

    fn activate(&mut self, segment: u64, previous_end: u64) -> io::Result<()> {
        self.file.write_all_at(&block(MAGIC, self.log.salt, segment, previous_end), 0)?;
        self.file.sync_data()?;
        self.log.adopt(segment, self.file.clone());
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
