//! What is known of each device as a sender: the result of every id that was used, as long as results are kept.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::index::{Changes, Index};
use super::rows::SenderRow;
use super::tables::IndexError;
use crate::Device;

/// Senders kept before those that the index has whole are dropped. Between two checkpoints there may be
/// more; then the next look is taken when there are twice as many.
const KEPT: usize = 100_000;

/// The senders in memory.
pub(super) struct Senders {
    known: HashMap<Device, Sender>,
    /// With so many it is time to drop some.
    kept: usize,
    /// The newest time of any op: what the age of results is measured against.
    pub newest_ms: i64,
}

/// One device.
#[derive(Default)]
struct Sender {
    row: SenderRow,
    /// Results that the index does not have: id → position.
    recent: BTreeMap<u64, u64>,
    dirty: u64,
}

/// What is known of an id.
pub(super) enum Used {
    /// Its record stands here.
    At(u64),
    /// Whether it was used is forgotten.
    Forgotten,
    /// It was not used.
    No,
}

impl Senders {
    pub(super) fn new() -> Senders {
        Senders { known: HashMap::new(), kept: KEPT, newest_ms: 0 }
    }

    /// Whether the device has used an id.
    pub(super) fn used(&mut self, index: &Index, device: &Device, id: u64) -> Result<Used, IndexError> {
        let sender = self.get(index, device)?;
        if id > sender.row.highest {
            return Ok(Used::No);
        }
        let position = match sender.recent.get(&id) {
            Some(&position) => Some(position),
            None => index.result(device, id)?,
        };
        if let Some(position) = position {
            return Ok(Used::At(position));
        }
        // Asked behind the result: a checkpoint that is about to be completed may have forgotten it just now, and raised the floor with that.
        let floor = index.sender(device)?.map_or(0, |row| row.floor);
        Ok(if id <= floor.max(sender.row.floor) { Used::Forgotten } else { Used::No })
    }

    /// The record that answers this id stands at `position`.
    pub(super) fn note(
        &mut self,
        index: &Index,
        (device, id): (&Device, u64),
        position: u64,
        time_ms: i64,
        checkpoint: u64,
    ) -> Result<(), IndexError> {
        self.newest_ms = self.newest_ms.max(time_ms);
        let sender = self.get(index, device)?;
        sender.row.highest = sender.row.highest.max(id);
        sender.recent.insert(id, position);
        sender.dirty = checkpoint;
        Ok(())
    }

    /// The highest id seen from a device.
    pub(super) fn highest(&self, index: &Index, device: &Device) -> Result<u64, IndexError> {
        if let Some(sender) = self.known.get(device) {
            return Ok(sender.row.highest);
        }
        // Not kept: most devices that ask will only read.
        Ok(index.sender(device)?.map_or(0, |row| row.highest))
    }

    fn get(&mut self, index: &Index, device: &Device) -> Result<&mut Sender, IndexError> {
        if !self.known.contains_key(device) {
            if self.known.len() >= self.kept {
                self.known.retain(|_, sender| sender.dirty != 0);
                self.kept = KEPT.max(2 * self.known.len());
            }
            let row = index.sender(device)?.unwrap_or_default();
            self.known.insert(device.clone(), Sender { row, ..Sender::default() });
        }
        Ok(self.known.entry(device.clone()).or_default())
    }

    /// Adds what the index does not have to a checkpoint.
    pub(super) fn collect(&mut self, changes: &mut Changes, keep_ms: i64) {
        changes.now_ms = self.newest_ms;
        changes.forget_before_ms = self.newest_ms.saturating_sub(keep_ms);
        for (device, sender) in self.known.iter_mut().filter(|(_, sender)| sender.dirty != 0) {
            let above = (Bound::Excluded(sender.row.indexed), Bound::Unbounded);
            let block = sender.recent.range(above).map(|(&id, &at)| (id, at)).collect::<Vec<_>>();
            let late = sender.recent.range(..=sender.row.indexed);
            changes.late_results.extend(late.map(|(&id, &at)| (device.clone(), id, at)));
            if let Some(&(last, _)) = block.last() {
                sender.row.indexed = last;
                changes.results.push((device.clone(), block));
            }
            changes.senders.push((device.clone(), sender.row));
        }
    }

    /// The checkpoint with this number is written; it covers the log up to `applied` and raised these floors.
    pub(super) fn checkpointed(&mut self, checkpoint: u64, applied: u64, floors: Vec<(Device, u64)>) {
        for sender in self.known.values_mut().filter(|sender| sender.dirty != 0) {
            sender.recent.retain(|_, &mut position| position >= applied);
            if sender.dirty <= checkpoint {
                sender.dirty = 0;
            }
        }
        for (device, floor) in floors {
            if let Some(sender) = self.known.get_mut(&device) {
                sender.row.floor = sender.row.floor.max(floor);
            }
        }
    }

    /// A planted fault forgets what it was told.
    pub(super) fn forget(&mut self, device: &Device) {
        self.known.remove(device);
    }
}
