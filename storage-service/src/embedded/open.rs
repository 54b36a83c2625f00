//! Opening a data directory: lock, format, index, then the log behind the last checkpoint.
//!
//! [`Home::load`] is the part that a failure repeats: everything that the store holds in memory is read from disk again.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::append::{Appender, SyncFn};
use super::checkpoint::Checkpoints;
use super::current::Current;
use super::decide::Decider;
use super::format::{FORMAT_VERSION, Format};
use super::frame::{FRAME_HEADER, FrameBuilder};
use super::index::Index;
use super::index_file::{CheckFn, DUMP, INDEX, INDEX_DAMAGED, open_index};
use super::log::Log;
use super::moved::Moved;
use super::queue::Queue;
use super::record::{self, Fact, Meta};
use super::recover::Recovery;
use super::references::References;
use super::replay::Replay;
use super::retain::{Retention, Rules, StepFn};
use super::scan::{self, Scan};
use super::tables::IndexError;
use super::users::Users;
use super::writer::Writer;
use super::{Embedded, Failure, Shared};
use crate::Durability;

const LOCK: &str = "lock";
pub(super) const LOG: &str = "log";
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
    /// Entries that every live device has acknowledged are kept for so long; results of sends, and what they answer from, for [`Options::keep_results`] all the same.
    pub history: Duration,
    /// A device of which nothing was heard for so long holds no entries back.
    pub device_silence: Duration,
    /// Entries that one user may have; beyond them the oldest go.
    pub max_entries: u64,
    /// Bytes of log that the entries of one user may have; beyond them the oldest go.
    pub max_bytes: u64,
    /// Replaces the sync of a written frame, so that a test can let it fail.
    pub sync: Option<SyncFn>,
    /// Runs before a checkpoint is written, so that a test can let it fail.
    pub before_checkpoint: Option<CheckFn>,
    /// Runs after each step of retention, so that a test can look at the disk as a crash would leave it.
    pub at_step: Option<StepFn>,
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
            history: Duration::from_secs(30 * 24 * 3600),
            device_silence: Duration::from_secs(60 * 24 * 3600),
            max_entries: 1_000_000,
            max_bytes: 1 << 30,
            sync: None,
            before_checkpoint: None,
            at_step: None,
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
        let (durability, rules) = (options.durability, Rules::of(&options));
        let (at_step, restored) = (options.at_step.clone(), options.restored);
        let home = Home { dir: dir.clone(), log, options };
        let Loaded { shared, appender, checkpoints, recovered } = home.load(None, restored)?;

        let current = Arc::new(Current::new(shared));
        let (queue, jobs) = Queue::new();
        let retention = Arc::new(Retention::new(rules, queue.clone(), dir.join(DUMP), at_step));
        let writer = Writer::new(current.clone(), appender, checkpoints, Recovery::new(home), retention.clone());
        let writer = std::thread::Builder::new()
            .name("tern-writer".into())
            .spawn(move || writer.run(&jobs))
            .map_err(io_error)?;
        Ok(Embedded {
            current,
            durability,
            recovered,
            queue,
            retention,
            writer: Mutex::new(Some(writer)),
            lock: Mutex::new(Some(lock)),
        })
    }
}

/// What stays the same whenever the store is read from disk: at a start, and again after a failure.
pub(super) struct Home {
    dir: PathBuf,
    log: Arc<Log>,
    options: Options,
}

/// A store as it was read.
pub(super) struct Loaded {
    pub shared: Arc<Shared>,
    pub appender: Appender,
    pub checkpoints: Checkpoints,
    pub recovered: Recovered,
}

impl Home {
    /// Reads the store: the index, then the log behind it. What is torn is cut off, and the last frame is written and synced anew. `index` is
    /// given if it is open.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing that was acknowledged has changed; it may be tried again.
    pub(super) fn load(&self, index: Option<Arc<Index>>, restored: bool) -> Result<Loaded, OpenError> {
        let (dir, log, options) = (&self.dir, &self.log, &self.options);
        let io_error = |error| OpenError::Io { path: dir.clone(), error };
        let index_error = |error: IndexError| OpenError::Index(dir.join(INDEX), error.to_string());
        let (index, rebuilt) = match index {
            Some(index) => (index, false),
            None => {
                open_index(dir, options.before_checkpoint.clone()).map(|(index, rebuilt)| (Arc::new(index), rebuilt))?
            }
        };
        let (applied, epoch) = index.applied().map_err(index_error)?;
        let first = index.first().map_err(index_error)?;
        log.set_first(first);

        let keep_ms = millis(options.keep_results);
        let users = Users::new(index.underived().map_err(index_error)?, Rules::of(options));
        let (moved, references) = (Moved::default(), References::default());
        let mut replay = Replay {
            users: &users,
            index: &index,
            moved: &moved,
            references: &references,
            decider: Decider::new(),
            epoch,
            answered_for: HashSet::new(),
            dirty: HashSet::new(),
            checkpoint: 0,
            applied,
            every_bytes: log.segment_bytes,
            keep_ms,
            count: 0,
            error: None,
        };
        // An index made anew is the occasion to look at all that is kept.
        let from = if rebuilt { first } else { applied };
        let mut scan = scan::scan(log, from, applied, |frame| replay.apply(&frame)).map_err(io_error)?;
        let Replay { decider, epoch, answered_for, dirty, checkpoint, applied, count, error, .. } = replay;
        error.map_or(Ok(()), |error| Err(index_error(error)))?;
        scan.lost.retain(|position| !answered_for.contains(position));
        if restored {
            scan.skip_to(log, scan.end / log.segment_bytes + RESTORE_SEGMENTS);
        }
        let mut appender = Appender::resume(log.clone(), self.sync(), &mut scan).map_err(io_error)?;
        let new_epoch = !scan.lost.is_empty();
        let epoch = if new_epoch || epoch == 0 {
            write_epoch(&mut appender, &scan.lost).map_err(|failure| io_error(io::Error::other(failure.to_string())))?
        } else {
            epoch
        };
        let recovered = report(dir, &scan, restored, epoch, new_epoch, count);

        let mut checkpoints = Checkpoints::new(keep_ms, options.checkpoint_bytes, checkpoint, applied);
        checkpoints.dirty(dirty);
        let shared = Arc::new(Shared {
            epoch,
            log: log.clone(),
            index,
            users,
            moved,
            references,
            decider: Mutex::new(decider),
            visible: watch::Sender::new(appender.end()),
            failed: OnceLock::new(),
            checkpoint_wanted: AtomicU64::new(0),
            index_damaged: dir.join(INDEX_DAMAGED),
        });
        Ok(Loaded { shared, appender, checkpoints, recovered })
    }

    fn sync(&self) -> SyncFn {
        let log = self.log.clone();
        match (&self.options.sync, self.options.durability) {
            (Some(sync), _) => sync.clone(),
            (None, Durability::Os) => Arc::new(|_| Ok(())),
            (None, Durability::Disk) => Arc::new(move |file| {
                log.counters.syncs.inc();
                file.sync_data()
            }),
        }
    }
}

/// As the records of the log tell times.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
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

/// A new epoch, on disk. It answers for what is lost at these places, of which the first are remembered.
fn write_epoch(appender: &mut Appender, lost: &[u64]) -> Result<u64, Failure> {
    let epoch = fastrand::u64(1..);
    let lost = lost.iter().take(LOST_REMEMBERED).copied().collect();
    let meta = Meta { fact: Some(Fact::Epoch(record::Epoch { epoch, lost })) };
    let position = appender.position_for(prost::Message::encoded_len(&meta) + 2 * FRAME_HEADER)?;
    let mut frame = FrameBuilder::new(appender.salt(), position);
    frame.push(&meta, &[]);
    let (position, bytes) = frame.finish();
    appender.append(position, &bytes)?;
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
