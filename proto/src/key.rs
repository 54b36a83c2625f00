//! The SyncKey: an epoch and, per class, the last version applied.
//!
//! Source: S2 of the protocol notes (state is synchronised by version) and the WeChat captures in which the key is a
//! vector of (key, value) pairs that the client merges entry by entry.

use crate::v1;

/// A class of entries; each user has one timeline per class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Class {
    /// Messages and what changes them; every entry is kept.
    Messages = 0,
    /// Receipts; only the latest of each (conversation, member, kind) is kept.
    Receipts = 1,
}

impl Class {
    /// Every class, in the order of a page.
    pub const ALL: [Class; CLASSES] = [Class::Messages, Class::Receipts];

    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self as u32 + 1
    }

    /// The class with this number.
    pub fn from_number(number: u32) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.number() == number)
    }
}

/// How many classes there are.
pub const CLASSES: usize = 2;

/// A version: per user and class strictly increasing, not contiguous, never used again; 0 stands before the oldest.
pub type Version = u64;

/// A key in memory: per class the version, or `None` where the class is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Which run of versions, for one user.
    pub epoch: u64,
    /// By [`Class`].
    pub versions: [Option<Version>; CLASSES],
}

impl Key {
    /// The key before everything, for every class.
    pub fn oldest(epoch: u64) -> Key {
        Key { epoch, versions: [Some(0); CLASSES] }
    }

    /// A key with a position in every class.
    pub fn at(epoch: u64, versions: [Version; CLASSES]) -> Key {
        Key { epoch, versions: versions.map(Some) }
    }

    /// The version of one class; `None` if it is absent.
    pub fn version(&self, class: Class) -> Option<Version> {
        self.versions[class as usize]
    }

    /// Raises each class of `self` to that of `newer`; a class absent from `newer` stays as it is.
    ///
    /// This is how a client takes the key of a page: entry by entry and never back.
    pub fn merge(&mut self, newer: &Key) {
        for (mine, theirs) in self.versions.iter_mut().zip(newer.versions) {
            *mine = (*mine).max(theirs);
        }
    }
}

impl From<&v1::SyncKey> for Key {
    /// Classes that this version does not know are left out: they are neither served nor acknowledged. Of a class
    /// that stands twice the smaller version counts, so that nothing is skipped.
    fn from(wire: &v1::SyncKey) -> Key {
        let mut versions = [None; CLASSES];
        for position in &wire.classes {
            if let Some(class) = Class::from_number(position.class) {
                let slot: &mut Option<Version> = &mut versions[class as usize];
                *slot = Some(slot.map_or(position.version, |seen| seen.min(position.version)));
            }
        }
        Key { epoch: wire.epoch, versions }
    }
}

impl From<&Key> for v1::SyncKey {
    fn from(key: &Key) -> v1::SyncKey {
        let position = |class: Class| key.version(class).map(|version| v1::Position { class: class.number(), version });
        v1::SyncKey { epoch: key.epoch, classes: Class::ALL.into_iter().filter_map(position).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_never_goes_back() {
        let mut key = Key::at(1, [10, 20]);
        key.merge(&Key { epoch: 1, versions: [Some(5), Some(30)] });
        assert_eq!(key, Key::at(1, [10, 30]));
        key.merge(&Key { epoch: 1, versions: [None, None] });
        assert_eq!(key, Key::at(1, [10, 30]));
    }

    #[test]
    fn unknown_classes_are_left_out_and_of_a_double_the_smaller_counts() {
        let position = |class, version| v1::Position { class, version };
        let wire = v1::SyncKey { epoch: 3, classes: vec![position(1, 9), position(77, 1), position(1, 4)] };
        assert_eq!(Key::from(&wire), Key { epoch: 3, versions: [Some(4), None] });
    }
}
