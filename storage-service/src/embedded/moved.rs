//! Entries whose record was copied to the end of the log before its segment was deleted.
//!
//! The version stays what it was; [`Moved`] tells where its record stands by now. What the last checkpoint does not have is in memory, the
//! rest in the index.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Failure;
use super::frame::{Found, Want, record_bytes};
use super::index::{Changes, Index};
use super::reader::Reader;
use super::record::{Fact, Meta};
use super::tables::IndexError;

/// Where the records of old versions stand.
#[derive(Default)]
pub(super) struct Moved {
    /// Version → position of the copy.
    recent: Mutex<HashMap<u64, u64>>,
}

impl Moved {
    /// Takes note of a durable fact that stands at `position`.
    pub(super) fn note(&self, position: u64, meta: &Meta) {
        if let Some(Fact::Moved(moved)) = &meta.fact {
            self.lock().insert(moved.version, position);
        }
    }

    /// Where the copy of a version stands, if it was moved.
    pub(super) fn position(&self, index: &Index, version: u64) -> Result<Option<u64>, IndexError> {
        let recent = self.lock().get(&version).copied();
        recent.map_or_else(|| index.moved(version), |position| Ok(Some(position)))
    }

    /// What stands at a version, wherever its record is by now; `None` if that cannot be read any more.
    pub(super) fn read(
        &self,
        reader: &mut Reader<'_>,
        index: &Index,
        version: u64,
        want: Want,
    ) -> Result<Option<Found>, Failure> {
        let log = reader.log;
        loop {
            let first = log.first();
            let position = if version >= first { Some(version) } else { self.position(index, version)? };
            let Some(position) = position else { return Ok(None) };
            match reader.read(position, want)? {
                Some(found) if position == version => return Ok(Some(found)),
                Some(found) => return Ok(original(version, found)),
                // Deleted between the two looks: it has been moved on, or was dropped.
                None if position < log.first() && log.first() != first => {}
                None => return Ok(None),
            }
        }
    }

    /// Adds what the index does not have to a checkpoint.
    pub(super) fn collect(&self, changes: &mut Changes) {
        changes.moved.extend(self.lock().iter().map(|(&version, &position)| (version, position)));
    }

    /// A checkpoint that covers the log up to `applied` is written.
    pub(super) fn checkpointed(&self, applied: u64) {
        let mut recent = self.lock();
        recent.retain(|_, &mut position| position >= applied);
        recent.shrink_to_fit();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record as it stood at its version.
fn original(version: u64, copy: Found) -> Option<Found> {
    let Some(Fact::Moved(moved)) = copy.meta.fact else { return None };
    let (meta, body) = (Meta { fact: moved.message.map(Fact::Message) }, copy.body.filter(|_| !moved.damaged));
    let body_length = copy.body_length;
    let length = record_bytes(&meta, body_length) as usize;
    (moved.version == version).then_some(Found { meta, body, body_length, length })
}
