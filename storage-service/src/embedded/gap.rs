//! What a user's class 1 timeline has lost to retention: always its oldest entries.

use tern_proto::DeviceId;
use tern_proto::key::{Class, Version};
use tern_proto::v1;
use tern_runtime::planted::{self, Fault};

use super::record::Dropped;
use super::user::User;

/// The lost beginning of a timeline.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gap {
    /// The version of the last entry that was dropped; 0 if none was.
    pub up_to: Version,
    /// How many were dropped in all.
    pub count: u64,
    /// Why: [`v1::HoleReason`] as a number; the cap if any of them went for that.
    pub reason: i32,
    /// The index may not know yet.
    fresh: bool,
}

impl Gap {
    pub(super) fn new(up_to: Version, count: u64, reason: i32) -> Gap {
        Gap { up_to, count, reason, fresh: false }
    }

    /// Where it ends, if the index may not know yet.
    pub(super) fn fresh(&self) -> Option<Version> {
        self.fresh.then_some(self.up_to)
    }

    /// The index has it.
    pub(super) fn checkpointed(&mut self) {
        self.fresh = false;
    }

    /// What a key sees that lies in it. A key of 0 means the oldest kept, and misses nothing.
    pub(super) fn hole(&self, above: Version) -> Option<v1::Entry> {
        let misses = above > 0 && above < self.up_to && !planted::active(Fault::RetentionIgnoresDevices);
        misses.then(|| {
            let hole = v1::Hole { reason: self.reason, count: self.count };
            let body = Some(v1::entry::Body::Hole(hole));
            v1::Entry { class: Class::Messages.number(), version: self.up_to, body }
        })
    }
}

impl User {
    /// Entries above this are owed to a device that was heard since then. What is acknowledged but not yet derived counts as owed: else its
    /// delivered receipts would be lost.
    pub(super) fn owed_above(&self, heard_since_ms: i64) -> Version {
        if planted::active(Fault::RetentionIgnoresDevices) {
            return Version::MAX;
        }
        let live = self.devices.iter().filter(|device| device.heard_ms >= heard_since_ms);
        let settled = live.map(|device| device.acked[Class::Messages as usize].min(device.derived));
        settled.min().unwrap_or(Version::MAX)
    }

    /// At most `limit` of the versions that the index does not have, above a version.
    pub(super) fn recent_above(&self, above: Version, limit: usize) -> Vec<Version> {
        let from = self.recent.partition_point(|&version| version <= above);
        self.recent[from..].iter().take(limit).copied().collect()
    }

    /// Drops the oldest entries; doing so again changes nothing. Gives the devices that nothing is to be derived for any more.
    pub(super) fn drop_oldest(&mut self, dropped: &Dropped) -> Vec<DeviceId> {
        if dropped.up_to <= self.gap.up_to {
            return Vec::new();
        }
        let count = self.gap.count + dropped.count;
        // What went for its age was acknowledged; what went for the cap may be missed, so that is what a hole tells.
        let by_cap = self.gap.reason == i32::from(v1::HoleReason::Cap);
        let reason = if by_cap { self.gap.reason } else { dropped.reason };
        self.gap = Gap { up_to: dropped.up_to, count, reason, fresh: true };
        self.recent.drain(..self.recent.partition_point(|&version| version <= dropped.up_to));
        let is_empty = dropped.up_to >= self.heads[Class::Messages as usize];
        self.entries = if is_empty { 0 } else { self.entries.saturating_sub(dropped.count) };
        self.bytes = if is_empty { 0 } else { self.bytes.saturating_sub(dropped.bytes) };
        let mut derived = Vec::new();
        for device in &mut self.devices {
            let was_behind = device.is_behind();
            device.derived = device.derived.max(dropped.up_to);
            derived.extend((was_behind && !device.is_behind()).then(|| device.id.clone()));
        }
        derived
    }
}
