//! After a failure: the store reads itself anew, as a start does, until that succeeds.
//!
//! Only a fresh read tells what is on disk after a failed write or sync. Until it has succeeded commits are refused, and readers go on with
//! what they had: all of it was durable when they first saw it.

use std::io;
use std::time::{Duration, Instant};

use super::Shared;
use super::clean::Survey;
use super::open::{Home, Loaded, OpenError};
use super::retain::Retention;

/// The wait before the first try; it doubles with each one that fails, up to the second.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A store that has held for so long since its last recovery starts over with the first wait.
const HELD: Duration = Duration::from_secs(60);

/// Sees a failed store through to the next good one; owned by the writer thread.
pub(super) struct Recovery {
    home: Home,
    wait: Duration,
    /// When the next try is due, if the store has failed.
    due: Option<Instant>,
    recovered: Option<Instant>,
    /// The index itself has failed and has to be opened anew.
    reopen_index: bool,
}

/// Why a try came to nothing.
#[derive(Debug, thiserror::Error)]
enum NotRecovered {
    #[error(transparent)]
    NotRead(#[from] OpenError),
    #[error("the log: {0}")]
    Log(#[from] io::Error),
    #[error("no checkpoint can be written: {0}")]
    NoCheckpoint(String),
}

impl Recovery {
    pub(super) fn new(home: Home) -> Recovery {
        Recovery { home, wait: FIRST_WAIT, due: None, recovered: None, reopen_index: false }
    }

    /// Tries if a try is due: the store as it is on disk, with its first checkpoint written, since a store that cannot write one would fail
    /// again soon. The caller has ended whatever wrote to the old one.
    pub(super) fn attempt(&mut self, failed: &Shared, retention: &Retention) -> Option<Loaded> {
        let now = Instant::now();
        let due = *self.due.get_or_insert_with(|| {
            if self.recovered.is_some_and(|recovered| recovered.elapsed() > HELD) {
                self.wait = FIRST_WAIT;
            }
            now + self.wait
        });
        // A pass that is under way finds the store failed and ends soon.
        let mut survey = if now < due { return None } else { retention.try_pause()? };
        let attempt = self.load(failed);
        self.wait = (2 * self.wait).min(LONGEST_WAIT);
        match attempt {
            Ok(loaded) => {
                tracing::info!("the store takes writes again");
                (self.due, self.recovered) = (None, Some(now));
                // What passes remember is about the store that failed.
                *survey = Survey::default();
                failed.log.counters.recoveries.inc();
                Some(loaded)
            }
            Err(error) => {
                tracing::error!(%error, again_in = ?self.wait, "the store cannot be read again");
                self.due = Some(Instant::now() + self.wait);
                None
            }
        }
    }

    fn load(&mut self, failed: &Shared) -> Result<Loaded, NotRecovered> {
        // What a write that failed has left in memory is not on disk, though it reads as if it were.
        failed.log.distrust_memory()?;
        let reopen = std::mem::replace(&mut self.reopen_index, true) || failed.index_failed();
        let index = if reopen {
            failed.index.close();
            None
        } else {
            Some(failed.index.clone())
        };
        let mut loaded = self.home.load(index, false)?;
        let Loaded { shared, appender, checkpoints, .. } = &mut loaded;
        checkpoints.finish(shared, appender);
        match shared.failed.get() {
            Some(failed) => Err(NotRecovered::NoCheckpoint(failed.reason.clone())),
            None => {
                self.reopen_index = false;
                Ok(loaded)
            }
        }
    }
}
