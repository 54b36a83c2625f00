//! Opening a data directory: lock, format, index, then the log behind the last checkpoint.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use tern_proto::UserId;
use tern_runtime::planted::{self, Fault};

use super::append::{Appender, SyncFn};
use super::checkpoint::{self, Checkpoints};
use super::decide::Decider;
use super::frame::{FRAME_HEADER, FrameBuilder};
use super::index::{Index, IndexError};
use super::log::Log;
use super::record::{self, Fact, Meta};
use super::scan::{self, Frame, Scan};
use super::users::Users;
use super::writer::Writer;
use super::{Embedded, Failure, QUEUE, Shared};
use crate::Durability;

const LOCK: &str = "lock";
const FORMAT: &str = "format";
const INDEX: &str = "index.redb";
const INDEX_DAMAGED: &str = "index.damaged";
const LOG: &str = "log";
const FORMAT_VERSION: u32 = 1;
/// Segments that a restored store skips: with the default size 32 TiB, more than one store writes between a backup and its loss.
const RESTORE_SEGMENTS: u64 = 1 << 20;
/// Places of damage that one epoch answers for by name.
const LOST_REMEMBERED: usize = 4096;

/// How to open a store.
pub struct Options {
    /// Its directory; created if it is not there.
    pub dir: PathBuf,
    /// When a commit is answered.
    pub durability: Durability,
    /// For how long results of sends are kept; a day more than is published.
    pub keep_results: Duration,
    /// Bytes of a log segment, for a new store: a multiple of 4096, at least 1 MiB.
    pub segment_bytes: u64,
    /// A checkpoint is written when the log has grown by this much: it bounds what a start has to read.
    pub checkpoint_bytes: u64,
    /// The directory is a copy from an earlier time: a new epoch, and versions go on far above all that the lost store can have used.
    pub restored: bool,
    /// Replaces the sync of a written frame, so that a test can let it fail.
    pub sync: Option<SyncFn>,
}

impl Options {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        Options {
            dir: dir.into(),
            durability: Durability::Disk,
            keep_results: tern_proto::limits::DEDUP + Duration::from_secs(24 * 3600),
            segment_bytes: 32 * 1024 * 1024,
            checkpoint_bytes: 32 * 1024 * 1024,
            restored: false,
            sync: None,
        }
    }
}

/// What a start found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The store's epoch.
    pub epoch: u64,
    /// Whether the epoch is new because something was lost that cannot be named.
    pub new_epoch: bool,
    /// Messages whose text is damaged; they are handed out as `damaged`.
    pub damaged: u64,
    /// Places in the log where something was lost.
    pub lost: Vec<u64>,
    /// Records read from the log.
    pub replayed: u64,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another process; stop that one or choose another --data directory")]
    Locked(PathBuf),
    /// It was written by another version of Tern.
    #[error(
        "{path} has format {found}, this version of Tern reads format {FORMAT_VERSION}; use the version that wrote it"
    )]
    Format {
        /// The format file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The format file does not check out, and without it nothing in the log can be trusted.
    #[error("{0} is damaged; restore it from a backup of the same data directory")]
    DamagedFormat(PathBuf),
    /// The file system refuses.
    #[error("{path}: {error}")]
    Io {
        /// What was opened.
        path: PathBuf,
        /// Why it could not be.
        error: io::Error,
    },
    /// The index fails even though it was made anew.
    #[error("{0}: {1}")]
    Index(PathBuf, String),
}

impl Embedded {
    /// Opens the store, reads what is behind the last checkpoint and starts the writer. Blocks; progress of a long read goes to the log.
    ///
    /// # Errors
    /// See [`OpenError`]; each says what to do.
    pub fn open(options: Options) -> Result<Embedded, OpenError> {
        let dir = options.dir.clone();
        let io_error = |error| OpenError::Io { path: dir.clone(), error };
        // Texts of messages stand in it: nobody but the owner reads them.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io_error)?;
        let lock = lock(&dir)?;
        let format = Format::load_or_create(&dir, options.segment_bytes)?;
        let log = Arc::new(Log::open(&dir.join(LOG), format.salt, format.segment_bytes).map_err(io_error)?);
        let index = open_index(&dir)?;
        let index_error = |error: IndexError| OpenError::Index(dir.join(INDEX), error.to_string());
        let (applied, epoch) = index.applied().map_err(index_error)?;

        let keep_ms = i64::try_from(options.keep_results.as_millis()).unwrap_or(i64::MAX);
        let users = Users::new(index.underived().map_err(index_error)?);
        let mut replay = Replay {
            users: &users,
            index: &index,
            decider: Decider::new(),
            epoch,
            answered_for: HashSet::new(),
            dirty: HashSet::new(),
            checkpoint: 0,
            applied,
            every_bytes: format.segment_bytes,
            keep_ms,
            count: 0,
            error: None,
        };
        let mut scan = scan::scan(&log, applied, |frame| replay.apply(&frame)).map_err(io_error)?;
        let Replay { decider, epoch, answered_for, dirty, checkpoint, applied, count, error, .. } = replay;
        error.map_or(Ok(()), |error| Err(index_error(error)))?;
        scan.lost.retain(|position| !answered_for.contains(position));

        let sync = options.sync.unwrap_or_else(|| sync_for(options.durability));
        if options.restored {
            scan.skip_to(&log, scan.end / log.segment_bytes + RESTORE_SEGMENTS);
        }
        let mut appender = Appender::resume(log.clone(), sync, &mut scan).map_err(io_error)?;
        let new_epoch = !scan.lost.is_empty();
        let epoch = if new_epoch || epoch == 0 {
            write_epoch(&mut appender, &scan.lost).map_err(|failure| io_error(io::Error::other(failure.to_string())))?
        } else {
            epoch
        };
        let recovered = report(&dir, &scan, options.restored, epoch, new_epoch, count);

        let index_damaged = dir.join(INDEX_DAMAGED);
        let decider = Mutex::new(decider);
        let shared = Arc::new(Shared { epoch, log, index, users, decider, failed: OnceLock::new(), index_damaged });
        let mut checkpoints = Checkpoints::new(keep_ms, options.checkpoint_bytes, checkpoint, applied);
        checkpoints.dirty(dirty);
        let (jobs, receiver) = mpsc::sync_channel(QUEUE);
        let writer = Writer::new(shared.clone(), appender, checkpoints);
        let writer = std::thread::Builder::new()
            .name("tern-writer".into())
            .spawn(move || writer.run(&receiver))
            .map_err(io_error)?;
        Ok(Embedded {
            shared,
            durability: options.durability,
            recovered,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(writer)),
            lock: Mutex::new(Some(lock)),
        })
    }
}

/// Applies what the log says behind the last checkpoint.
struct Replay<'a> {
    users: &'a Users,
    index: &'a Index,
    decider: Decider,
    epoch: u64,
    /// Damage that an earlier start has answered with a new epoch.
    answered_for: HashSet<u64>,
    dirty: HashSet<UserId>,
    /// The number of the last checkpoint, and what it covers.
    checkpoint: u64,
    applied: u64,
    every_bytes: u64,
    keep_ms: i64,
    count: u64,
    error: Option<IndexError>,
}

impl Replay<'_> {
    fn apply(&mut self, frame: &Frame<'_>) {
        let applied = frame.records.iter().try_for_each(|(position, found)| self.record(*position, &found.meta));
        let result = applied.and_then(|()| self.look_after(frame));
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }

    fn record(&mut self, position: u64, meta: &Meta) -> Result<(), IndexError> {
        self.count += 1;
        if self.count.is_multiple_of(1_000_000) {
            tracing::info!(records = self.count, "reading the log");
        }
        if let Some(Fact::Epoch(epoch)) = &meta.fact {
            self.epoch = epoch.epoch;
            self.answered_for.extend(&epoch.lost);
        }
        if planted::active(Fault::KeyBackAtRestart) && matches!(meta.fact, Some(Fact::Ack(_))) {
            return Ok(());
        }
        let forgotten = matches!(meta.fact, Some(Fact::Message(_)))
            && (planted::active(Fault::DedupForgottenAtRestart) || planted::active(Fault::SequenceBackAtRestart));
        if !forgotten {
            self.decider.note(self.index, position, meta, self.checkpoint + 1)?;
        }
        self.dirty.extend(self.users.apply(self.index, position, meta, self.checkpoint + 1)?);
        Ok(())
    }

    /// A long log is not kept in memory as a whole: checkpoints are written on the way, as long as nothing is found lost. What is,
    /// must be found again if this start is interrupted before the new epoch.
    fn look_after(&mut self, frame: &Frame<'_>) -> Result<(), IndexError> {
        if !frame.sound || frame.end < self.applied + self.every_bytes {
            return Ok(());
        }
        let dirty: Vec<UserId> = self.dirty.drain().collect();
        let covered = (frame.end, self.epoch);
        let changes = checkpoint::gather(self.users, &mut self.decider, &dirty, covered, self.keep_ms);
        let floors = self.index.write(&changes)?;
        self.checkpoint += 1;
        self.applied = frame.end;
        self.users.checkpointed(&dirty, self.checkpoint, frame.end);
        self.decider.checkpointed(self.checkpoint, frame.end, floors);
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|error| OpenError::Io { path: path.clone(), error })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::Io { path, error }),
    }
}

/// An index that cannot be opened, or was found damaged, is made anew: everything in it is in the log.
fn open_index(dir: &Path) -> Result<Index, OpenError> {
    let (path, marker) = (dir.join(INDEX), dir.join(INDEX_DAMAGED));
    let io_error = |error| OpenError::Io { path: path.clone(), error };
    if marker.exists() {
        tracing::warn!("the index was found damaged; it is rebuilt from the log");
        remove(&path).and_then(|()| remove(&marker)).map_err(io_error)?;
    }
    let error = match Index::open(&path) {
        Ok(index) => return Ok(index),
        Err(error) => error,
    };
    tracing::warn!(%error, "the index cannot be opened; it is rebuilt from the log");
    remove(&path).map_err(io_error)?;
    Index::open(&path).map_err(|error| OpenError::Index(path, error.to_string()))
}

/// Removes a file; one that is not there is as good as removed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_for(durability: Durability) -> SyncFn {
    match durability {
        Durability::Disk => Arc::new(File::sync_data),
        Durability::Os => Arc::new(|_| Ok(())),
    }
}

/// A new epoch, on disk. It answers for what is lost at these places, of which the first are remembered.
fn write_epoch(appender: &mut Appender, lost: &[u64]) -> Result<u64, Failure> {
    let epoch = fastrand::u64(1..);
    let lost = lost.iter().take(LOST_REMEMBERED).copied().collect();
    let meta = Meta { fact: Some(Fact::Epoch(record::Epoch { epoch, lost })) };
    let position = appender.position_for(prost::Message::encoded_len(&meta) + 2 * FRAME_HEADER)?;
    let mut frame = FrameBuilder::new(appender.salt(), position);
    frame.push(&meta, &[]);
    let (position, bytes) = frame.finish();
    appender.append(position, bytes)?;
    appender.sync_all()?;
    Ok(epoch)
}

fn report(dir: &Path, scan: &Scan, restored: bool, epoch: u64, new_epoch: bool, replayed: u64) -> Recovered {
    let dir = dir.display();
    if restored {
        tracing::info!(%dir, "a restored copy; a new epoch makes every client replace its key");
    } else if new_epoch {
        tracing::error!(%dir, lost = ?scan.lost, "the log is damaged and something in it is lost; a new epoch makes every client fetch again. Check the disk");
    }
    if scan.damaged > 0 {
        tracing::error!(%dir, messages = scan.damaged, "texts in the log are damaged; they are handed out as damaged. Check the disk");
    }
    tracing::info!(%dir, replayed, "the store is open");
    Recovered { epoch, new_epoch, damaged: scan.damaged, lost: scan.lost.clone(), replayed }
}

/// What the format file says; without it nothing in the log can be told from noise.
struct Format {
    salt: u64,
    segment_bytes: u64,
}

impl Format {
    fn load_or_create(dir: &Path, segment_bytes: u64) -> Result<Format, OpenError> {
        let path = dir.join(FORMAT);
        match fs::read_to_string(&path) {
            Ok(text) => Format::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.join(LOG).exists() => {
                let format = Format { salt: fastrand::u64(1..), segment_bytes };
                format.save(&path).map_err(|error| OpenError::Io { path, error })?;
                Ok(format)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::DamagedFormat(path)),
            Err(error) => Err(OpenError::Io { path, error }),
        }
    }

    fn render(&self) -> String {
        let text = format!("tern-store {FORMAT_VERSION}\nsalt {:016x}\nsegment {}\n", self.salt, self.segment_bytes);
        let crc = crc32fast::hash(text.as_bytes());
        format!("{text}crc {crc:08x}\n")
    }

    fn parse(text: &str, path: PathBuf) -> Result<Format, OpenError> {
        let mut words = text.split_whitespace();
        if words.next() != Some("tern-store") {
            return Err(OpenError::DamagedFormat(path));
        }
        let found = words.next().unwrap_or_default();
        if found != FORMAT_VERSION.to_string() {
            return Err(OpenError::Format { path, found: found.to_owned() });
        }
        let mut value = |name| if words.next() == Some(name) { words.next() } else { None };
        let salt = value("salt").and_then(|word| u64::from_str_radix(word, 16).ok());
        let segment_bytes = value("segment").and_then(|word| word.parse().ok());
        match (salt, segment_bytes) {
            (Some(salt), Some(segment_bytes)) if (Format { salt, segment_bytes }).render() == text => {
                Ok(Format { salt, segment_bytes })
            }
            _ => Err(OpenError::DamagedFormat(path)),
        }
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(self.render().as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}
