//! Cleaning: the oldest segments of the log are given back, and a crash at any moment leaves either the old log or the new one.
//!
//! The order is: what is dropped and moved is committed, a checkpoint brings it into the index, the index is dumped, the index records
//! where the log begins, the files are deleted. What an interrupted pass has left is deleted or repeated by the next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::dump;
use super::frame::Found;
use super::queue::Work;
use super::record::Fact;
use super::retain::{Pass, Retention, Step, USERS};
use super::rows::UserRow;
use super::scan::scan_segment;
use super::upkeep;
use super::{Failure, Shared};

/// Segments that one pass gives back, if the dump is not so large that more are worth it.
const SEGMENTS: u64 = 4;
/// The dump is written when at least a quarter of its size is given back by it.
const DUMP_SHARE: u64 = 4;
/// The longest wait for a checkpoint.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(120);
/// Between two looks whether it is written.
const CHECKPOINT_POLL: Duration = Duration::from_millis(20);

/// What one pass is about to give back: the log between two positions.
#[derive(Clone, Copy)]
pub(super) struct Cleaning {
    pub first: u64,
    /// The log is to begin here.
    pub boundary: u64,
    /// Between these versions lie all whose copies stand there.
    pub copies: Option<(u64, u64)>,
}

/// What is known of a full segment.
#[derive(Clone, Copy)]
struct Surveyed {
    /// The newest time of what is kept for its time.
    newest_ms: i64,
    /// The lowest and the highest version of the copies in it.
    copies: Option<(u64, u64)>,
}

/// What passes remember for the next ones.
#[derive(Default)]
pub(super) struct Survey {
    /// By segment: those that wait to be cleaned and one more.
    surveyed: BTreeMap<u64, Surveyed>,
    /// Every user who has too much is known.
    users_found: bool,
    /// The dump can be read, or none is needed.
    dump_checked: bool,
}

impl Survey {
    /// Once after a start: caps may have been lowered since users were last active.
    pub(super) fn find_users_over(&mut self, pass: &Pass<'_>) -> Result<(), Failure> {
        let Shared { users, index, .. } = pass.shared;
        let mut next = Some(String::new()).filter(|_| !self.users_found);
        while let Some(from) = next {
            let is_over = |row: &UserRow| pass.rules.is_over(row.entries, row.bytes);
            let (over, behind) = index.users_where(&from, USERS, is_over)?;
            users.add_over(over);
            next = behind;
        }
        self.users_found = true;
        Ok(())
    }

    /// Gives back what can be, and says how many bytes.
    pub(super) fn clean(&mut self, pass: &mut Pass<'_>, retention: &Retention) -> Result<u64, Failure> {
        let Shared { log, index, .. } = pass.shared;
        let first = log.first();
        self.check_dump(pass, retention)?;
        let mut freed = delete(pass.shared, first, retention)?;
        let Some(cleaning) = self.cleaning(pass, retention)? else { return Ok(freed) };
        let boundary = cleaning.boundary;
        // Whoever has entries below the boundary is found in the index.
        checkpoint(pass.shared, retention, boundary)?;
        let mut next = Some(String::new());
        while let Some(from) = next {
            let (users, behind) = index.users_below(&from, boundary, USERS)?;
            users.iter().try_for_each(|user| pass.settle(user, cleaning))?;
            next = behind;
        }
        pass.batch.flush()?;
        retention.step(Step::Committed);
        checkpoint(pass.shared, retention, log.end())?;
        index.forget_below(boundary)?;
        retention.step(Step::Checkpointed);
        dump::write(retention.dump(), index, boundary)?;
        retention.step(Step::Dumped);
        index.record_first(boundary)?;
        log.set_first(boundary);
        retention.step(Step::Recorded);
        freed += delete(pass.shared, boundary, retention)?;
        self.surveyed.retain(|segment, _| (segment + 1) * log.segment_bytes > boundary);
        tracing::info!(
            dropped = pass.batch.dropped,
            moved = pass.batch.moved,
            freed,
            "old segments of the log are given back"
        );
        Ok(freed)
    }

    /// The oldest segments that are full and hold nothing young, if they are worth a dump.
    fn cleaning(&mut self, pass: &Pass<'_>, retention: &Retention) -> Result<Option<Cleaning>, Failure> {
        let log = &pass.shared.log;
        let dump_bytes = retention.dump().metadata().map_or(0, |dump| dump.len());
        let worth = (dump_bytes / DUMP_SHARE).div_ceil(log.segment_bytes).max(1);
        let old = pass.now_ms.saturating_sub(pass.rules.window_ms);
        let first = log.first();
        let mut cleaning = Cleaning { first, boundary: first, copies: None };
        let mut count = 0;
        for segment in log.segments()?.into_iter().filter(|segment| segment * log.segment_bytes >= first) {
            let end = (segment + 1) * log.segment_bytes;
            if count >= worth.max(SEGMENTS) || end > log.end() {
                break;
            }
            let Surveyed { newest_ms, copies } = self.survey(pass.shared, segment)?;
            if newest_ms > old {
                break;
            }
            cleaning = Cleaning { boundary: end, copies: both(cleaning.copies, copies), ..cleaning };
            count += 1;
        }
        Ok((count >= worth).then_some(cleaning))
    }

    fn survey(&mut self, shared: &Shared, segment: u64) -> Result<Surveyed, Failure> {
        if let Some(&surveyed) = self.surveyed.get(&segment) {
            return Ok(surveyed);
        }
        let mut surveyed = Surveyed { newest_ms: i64::MIN, copies: None };
        scan_segment(&shared.log, segment, |frame| {
            for (_, Found { meta, .. }) in frame.records {
                surveyed.newest_ms = surveyed.newest_ms.max(meta.kept_from_ms().unwrap_or(i64::MIN));
                if let Some(Fact::Moved(moved)) = &meta.fact {
                    surveyed.copies = both(surveyed.copies, Some((moved.version, moved.version)));
                }
            }
        })?;
        self.surveyed.insert(segment, surveyed);
        Ok(surveyed)
    }

    /// Once after a start: without a good dump the index could not be made anew.
    fn check_dump(&mut self, pass: &Pass<'_>, retention: &Retention) -> Result<(), Failure> {
        let first = pass.shared.log.first();
        if self.dump_checked || first == 0 {
            return Ok(());
        }
        match dump::check(retention.dump()) {
            Ok(head) if head.first >= first => {}
            Ok(_) | Err(_) => {
                tracing::warn!("the dump of the index is missing or damaged; it is written anew");
                dump::write(retention.dump(), &pass.shared.index, first)?;
            }
        }
        self.dump_checked = true;
        Ok(())
    }
}

/// The range that covers both.
fn both(one: Option<(u64, u64)>, other: Option<(u64, u64)>) -> Option<(u64, u64)> {
    match (one, other) {
        (Some((low, high)), Some((lower, higher))) => Some((low.min(lower), high.max(higher))),
        (one, other) => one.or(other),
    }
}

/// Waits until the log up to `wanted` is in the index.
fn checkpoint(shared: &Shared, retention: &Retention, wanted: u64) -> Result<(), Failure> {
    shared.want_checkpoint(wanted);
    // Only to wake the writer.
    upkeep::commit(retention.queue(), Work::Upkeep(Vec::new()))?;
    let since = Instant::now();
    while shared.index.applied()?.0 < wanted {
        if shared.has_failed() || retention.queue().is_closed() || since.elapsed() > CHECKPOINT_WAIT {
            return Err(Failure::Interrupted);
        }
        std::thread::sleep(CHECKPOINT_POLL);
    }
    Ok(())
}

/// Deletes the segments below `boundary`; says how many bytes they had.
fn delete(shared: &Shared, boundary: u64, retention: &Retention) -> Result<u64, Failure> {
    let log = &shared.log;
    let mut freed = 0;
    for segment in log.segments()?.into_iter().take_while(|segment| (segment + 1) * log.segment_bytes <= boundary) {
        log.remove_segment(segment)?;
        log.counters.cleaned_segments.inc();
        freed += log.segment_bytes;
        retention.step(Step::Deleted);
    }
    Ok(freed)
}
