//! What the store counts since it was opened, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counts at one moment. All but [`Counters::segments`] only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times that the log was synced to disk.
    pub syncs: u64,
    /// Bytes appended to the log.
    pub bytes: u64,
    /// Checkpoints of the index.
    pub checkpoints: u64,
    /// Segments of the log that are on disk now.
    pub segments: u64,
    /// Segments that retention has deleted.
    pub cleaned_segments: u64,
    /// Entries that retention has taken out of timelines.
    pub dropped_entries: u64,
    /// Entries that retention has copied to the end of the log because they are still owed.
    pub moved_entries: u64,
    /// Times that the store has failed and opened itself again.
    pub recoveries: u64,
}

/// The same, while it is being counted.
#[derive(Debug, Default)]
pub(super) struct Meters {
    pub syncs: Meter,
    pub bytes: Meter,
    pub checkpoints: Meter,
    pub segments: Meter,
    pub cleaned_segments: Meter,
    pub dropped_entries: Meter,
    pub moved_entries: Meter,
    pub recoveries: Meter,
}

/// One count. It orders nothing.
#[derive(Debug, Default)]
pub(super) struct Meter(AtomicU64);

impl Meters {
    pub(super) fn read(&self) -> Counters {
        Counters {
            syncs: self.syncs.get(),
            bytes: self.bytes.get(),
            checkpoints: self.checkpoints.get(),
            segments: self.segments.get(),
            cleaned_segments: self.cleaned_segments.get(),
            dropped_entries: self.dropped_entries.get(),
            moved_entries: self.moved_entries.get(),
            recoveries: self.recoveries.get(),
        }
    }
}

impl Meter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    pub(super) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
