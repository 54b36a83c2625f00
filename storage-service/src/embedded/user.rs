//! One user: where its timelines and its devices stand.

use std::collections::BTreeMap;

use tern_proto::DeviceId;
use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::limits::DEVICES;
use tern_runtime::planted::{self, Fault};

use super::gap::Gap;
use super::rows::{DeviceRow, ReceiptKey, ReceiptRow, UserRow};
use crate::DeviceState;

/// One user.
#[derive(Debug, Default)]
pub(super) struct User {
    /// The last version by class.
    pub heads: [Version; CLASSES],
    /// The last version by class that the index has; below it the index is asked.
    pub indexed: [Version; CLASSES],
    /// Class 1 above `indexed`, ascending.
    pub recent: Vec<Version>,
    /// Class 2 above `indexed`.
    pub receipts: BTreeMap<ReceiptKey, ReceiptRow>,
    /// At most [`DEVICES`].
    pub devices: Vec<Known>,
    /// The newest entry of class 1 that others sent: of nothing above it is anything to be derived.
    pub foreign: Version,
    /// Entries of class 1 that are kept, and the bytes of their records.
    pub entries: u64,
    pub bytes: u64,
    /// What class 1 has lost.
    pub gap: Gap,
    /// The number of the checkpoint that will hold the last change.
    pub dirty: u64,
}

/// A device that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub id: DeviceId,
    pub acked: [Version; CLASSES],
    pub derived: Version,
    pub heard_ms: i64,
}

impl User {
    pub(super) fn from_row(row: UserRow) -> User {
        let heads = by_class(&row.heads);
        let known = |row: DeviceRow| {
            let id = DeviceId::new(&row.id).ok()?;
            Some(Known { id, acked: by_class(&row.acked), derived: row.derived, heard_ms: row.heard_ms })
        };
        let devices = row.devices.into_iter().filter_map(known).collect();
        let gap = Gap::new(row.dropped_up_to, row.dropped_count, row.dropped_reason);
        let (entries, bytes, foreign) = (row.entries, row.bytes, row.foreign);
        let mut user = User { heads, indexed: heads, devices, foreign, entries, bytes, gap, ..User::default() };
        if planted::active(Fault::KeyBackAtRestart) {
            user.devices.iter_mut().for_each(|device| device.acked = [0; CLASSES]);
        }
        user
    }

    pub(super) fn to_row(&self) -> UserRow {
        let row = |device: &Known| DeviceRow {
            id: device.id.to_string(),
            acked: device.acked.to_vec(),
            derived: device.derived,
            heard_ms: device.heard_ms,
        };
        UserRow {
            heads: self.heads.to_vec(),
            devices: self.devices.iter().map(row).collect(),
            entries: self.entries,
            bytes: self.bytes,
            dropped_up_to: self.gap.up_to,
            dropped_count: self.gap.count,
            dropped_reason: self.gap.reason,
            foreign: self.foreign,
        }
    }

    /// Puts a version at the end of class 1.
    pub(super) fn append(&mut self, version: Version, bytes: u64) {
        let head = &mut self.heads[Class::Messages as usize];
        if version > *head {
            *head = version;
            self.recent.push(version);
            self.entries += 1;
            self.bytes += bytes;
        }
    }

    /// The device, remembered from now on; the longest silent one yields to it if there are too many.
    pub(super) fn device(&mut self, id: &DeviceId, heard_ms: i64) -> (&mut Known, Option<DeviceId>) {
        let mut yielded = None;
        let at = self.devices.iter().position(|known| known.id == *id).unwrap_or_else(|| {
            if self.devices.len() >= DEVICES {
                let silent = (0..self.devices.len()).min_by_key(|&at| self.devices[at].heard_ms);
                yielded = Some(self.devices.remove(silent.unwrap_or(0)).id);
            }
            // Most users have one or two: four places at once would cost every user memory.
            self.devices.reserve_exact(1);
            self.devices.push(Known { id: id.clone(), acked: [0; CLASSES], derived: 0, heard_ms });
            self.devices.len() - 1
        });
        let known = &mut self.devices[at];
        known.heard_ms = known.heard_ms.max(heard_ms);
        (known, yielded)
    }

    /// Where a device stands, in a store of this epoch.
    pub(super) fn state(&self, id: &DeviceId, epoch: u64) -> DeviceState {
        let known = self.devices.iter().find(|known| known.id == *id);
        DeviceState {
            epoch,
            heads: self.heads,
            known: known.is_some(),
            acked: known.map(|known| known.acked).unwrap_or_default(),
            derived: known.map_or(0, |known| known.derived),
            foreign: self.foreign,
            heard_ms: known.map_or(0, |known| known.heard_ms),
        }
    }
}

impl Known {
    pub(super) fn is_behind(&self) -> bool {
        self.acked[Class::Messages as usize] > self.derived
    }
}

pub(super) fn raise(acked: &mut [Version; CLASSES], to: &[Version; CLASSES]) {
    for (mine, theirs) in acked.iter_mut().zip(to) {
        *mine = (*mine).max(*theirs);
    }
}

pub(super) fn by_class(versions: &[Version]) -> [Version; CLASSES] {
    std::array::from_fn(|class| versions.get(class).copied().unwrap_or(0))
}
