//! Retention: which entries leave the timelines.
//!
//! A pass has two parts. Users who have too much lose their oldest entries, which leaves a hole. Then, if the oldest segments
//! of the log hold nothing young ([`super::clean`] finds that out), what every live device has acknowledged of them is dropped, what is still owed is copied to the
//! end of the log, and the segments are deleted. All of it goes on while messages are taken, and a pass that breaks off is repeated by the next.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use tern_proto::key::Version;
use tern_proto::{UserId, v1};

use super::clean::{Cleaning, Survey};
use super::frame::Want;
use super::open::{Options, millis};
use super::queue::Queue;
use super::reader::Reader;
use super::record::{Dropped, Fact, Moved};
use super::tables::IndexError;
use super::upkeep::{Batch, Upkeep};
use super::{Failure, Shared};
use crate::Retained;

/// Versions that are looked at in one go.
const CHUNK: usize = 1024;
/// Users that are looked for in one go.
pub(super) const USERS: usize = 512;
/// Where a user who had too much is left: a little below the cap, so that not every message drops one.
const KEPT_PERCENT: u64 = 95;

/// Runs after each step of a pass.
pub(super) type StepFn = Arc<dyn Fn(Step) + Send + Sync>;

/// A step of a pass that gives segments back. A crash behind any of them leaves a store that opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What is dropped and what is moved is in the log.
    Committed,
    /// And in the index.
    Checkpointed,
    /// The dump is written.
    Dumped,
    /// The index says where the log begins.
    Recorded,
    /// One of the segments is gone.
    Deleted,
}

/// What is kept for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// What is younger than this stays, in milliseconds.
    pub window_ms: i64,
    /// A device silent for longer holds nothing back.
    pub silence_ms: i64,
    pub max_entries: u64,
    pub max_bytes: u64,
}

impl Rules {
    pub(super) fn of(options: &Options) -> Rules {
        Rules {
            // One record serves timelines and results.
            window_ms: millis(options.history.max(options.keep_results)),
            silence_ms: millis(options.device_silence),
            max_entries: options.max_entries,
            max_bytes: options.max_bytes,
        }
    }

    /// How many entries and bytes a user with so many has too much.
    fn excess(&self, entries: u64, bytes: u64) -> Option<(u64, u64)> {
        let over = self.is_over(entries, bytes);
        let share = |max: u64| max / 100 * KEPT_PERCENT + max % 100 * KEPT_PERCENT / 100;
        let too_many = if entries > self.max_entries { entries - share(self.max_entries) } else { 0 };
        let too_long = if bytes > self.max_bytes { bytes - share(self.max_bytes) } else { 0 };
        over.then_some((too_many, too_long))
    }

    pub(super) fn is_over(&self, entries: u64, bytes: u64) -> bool {
        entries > self.max_entries || bytes > self.max_bytes
    }
}

/// Runs the passes, one at a time.
pub(super) struct Retention {
    rules: Rules,
    queue: Arc<Queue>,
    dump: PathBuf,
    at_step: Option<StepFn>,
    survey: Mutex<Survey>,
}

impl Retention {
    pub(super) fn new(rules: Rules, queue: Arc<Queue>, dump: PathBuf, at_step: Option<StepFn>) -> Retention {
        Retention { rules, queue, dump, at_step, survey: Mutex::default() }
    }

    /// One pass as of `now_ms`; nothing if one is under way. Blocks.
    ///
    /// # Errors
    /// The disk or the index refuses, or the store takes nothing now. The next pass goes on.
    pub(super) fn run(&self, shared: &Shared, now_ms: i64) -> Result<Retained, Failure> {
        let Some(mut survey) = self.try_pause() else { return Ok(Retained::default()) };
        if self.queue.is_closed() || shared.has_failed() {
            return Err(Failure::Interrupted);
        }
        let mut pass = Pass { shared, rules: self.rules, now_ms, batch: Batch::new(self.queue.clone()) };
        let result = pass.run(self, &mut survey);
        let counters = &shared.log.counters;
        counters.dropped_entries.inc_by(pass.batch.dropped);
        counters.moved_entries.inc_by(pass.batch.moved);
        let freed = result?;
        Ok(Retained { dropped: pass.batch.dropped, freed })
    }

    /// Waits until no pass is under way, and keeps the next ones away.
    pub(super) fn pause(&self) -> MutexGuard<'_, Survey> {
        self.survey.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps passes away, if none is under way.
    pub(super) fn try_pause(&self) -> Option<MutexGuard<'_, Survey>> {
        match self.survey.try_lock() {
            Ok(survey) => Some(survey),
            Err(TryLockError::Poisoned(survey)) => Some(survey.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(super) fn dump(&self) -> &PathBuf {
        &self.dump
    }

    pub(super) fn step(&self, step: Step) {
        if let Some(at_step) = &self.at_step {
            at_step(step);
        }
    }
}

/// One pass.
pub(super) struct Pass<'a> {
    pub shared: &'a Shared,
    pub rules: Rules,
    pub now_ms: i64,
    pub batch: Batch,
}

impl Pass<'_> {
    fn run(&mut self, retention: &Retention, survey: &mut Survey) -> Result<u64, Failure> {
        survey.find_users_over(self)?;
        for user in self.shared.users.over() {
            self.cap(&user)?;
        }
        self.batch.flush()?;
        survey.clean(self, retention)
    }

    /// Drops the oldest entries of a user who has too much, whoever is owed them.
    fn cap(&mut self, user: &UserId) -> Result<(), Failure> {
        let Shared { users, index, .. } = self.shared;
        let (entries, bytes, mut above) = users.look(index, user, |user| (user.entries, user.bytes, user.gap.up_to))?;
        let Some((too_many, too_long)) = self.rules.excess(entries, bytes) else {
            users.no_more_over(user);
            return Ok(());
        };
        let mut dropped = Self::dropped(user, v1::HoleReason::Cap);
        while dropped.count < too_many || dropped.bytes < too_long {
            let versions = self.versions(user, above, Version::MAX)?;
            let Some(&last) = versions.last() else { break };
            for version in versions {
                if dropped.count >= too_many && dropped.bytes >= too_long {
                    break;
                }
                self.drop_too(&mut dropped, version)?;
            }
            above = last;
        }
        self.drop(dropped, None)
    }

    /// Of one user's entries below the boundary, which are all old: drops what no live device is owed, and moves the rest if it stands in what is to be deleted.
    pub(super) fn settle(&mut self, user: &UserId, cleaning: Cleaning) -> Result<(), Failure> {
        let since = self.now_ms.saturating_sub(self.rules.silence_ms);
        let Shared { users, index, .. } = self.shared;
        let (gone, owed_above) = users.look(index, user, |user| (user.gap.up_to, user.owed_above(since)))?;
        let mut dropped = Self::dropped(user, v1::HoleReason::Window);
        let last = cleaning.boundary - 1;
        self.each_version(user, gone, owed_above.min(last), |pass, version| pass.drop_too(&mut dropped, version))?;
        for (lowest, highest) in cleaning.copies.into_iter().chain([(cleaning.first, last)]) {
            let above = lowest.saturating_sub(1).max(owed_above).max(gone);
            self.each_version(user, above, highest.min(last), |pass, version| pass.keep(version, cleaning.boundary))?;
        }
        self.drop(dropped, Some(since))
    }

    /// The versions of a user with `above < version <= up_to`, ascending.
    fn each_version(
        &mut self,
        user: &UserId,
        mut above: Version,
        up_to: Version,
        mut each: impl FnMut(&mut Self, Version) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while above < up_to {
            let versions = self.versions(user, above, up_to)?;
            let Some(&last) = versions.last() else { break };
            versions.into_iter().try_for_each(|version| each(self, version))?;
            above = last;
        }
        Ok(())
    }

    fn drop(&mut self, dropped: Dropped, heard_since_ms: Option<i64>) -> Result<(), Failure> {
        if dropped.count == 0 { Ok(()) } else { self.batch.push(Upkeep::Drop { dropped, heard_since_ms }) }
    }

    fn dropped(user: &UserId, reason: v1::HoleReason) -> Dropped {
        let (user, reason) = (user.to_string(), reason.into());
        Dropped { user, up_to: 0, count: 0, bytes: 0, reason }
    }

    fn drop_too(&self, dropped: &mut Dropped, version: Version) -> Result<(), Failure> {
        let Shared { log, index, moved, .. } = self.shared;
        dropped.count += 1;
        dropped.bytes +=
            moved.read(&mut Reader::new(log), index, version, Want::Meta)?.map_or(0, |found| found.length as u64);
        dropped.up_to = version;
        Ok(())
    }

    /// Copies an entry to the end of the log, once for all who are owed it. One that cannot be read any more is handed out as damaged as it is.
    fn keep(&mut self, version: Version, boundary: Version) -> Result<(), Failure> {
        let Shared { log, index, moved, .. } = self.shared;
        let is_safe = moved.position(index, version)?.is_some_and(|position| position >= boundary);
        if is_safe || self.batch.is_moving(version) {
            return Ok(());
        }
        let Some(found) = moved.read(&mut Reader::new(log), index, version, Want::All)? else { return Ok(()) };
        let Some(Fact::Message(message)) = found.meta.fact else { return Ok(()) };
        let text = found.body.and_then(|body| String::from_utf8(body).ok());
        let copy = Moved { version, time_ms: self.now_ms, message: Some(message), damaged: text.is_none() };
        self.batch.push(Upkeep::Move(copy, text.unwrap_or_default()))
    }

    /// The next versions of a user with `above < version <= up_to`, ascending.
    fn versions(&self, user: &UserId, above: Version, up_to: Version) -> Result<Vec<Version>, IndexError> {
        let Shared { users, index, .. } = self.shared;
        let (indexed, recent) = users.look(index, user, |user| (user.indexed[0], user.recent_above(above, CHUNK)))?;
        let mut versions =
            if above < indexed { index.versions(user, above, indexed.min(up_to), CHUNK)? } else { Vec::new() };
        let room = CHUNK - versions.len();
        versions.extend(recent.into_iter().take_while(|&version| version <= up_to).take(room));
        Ok(versions)
    }
}
