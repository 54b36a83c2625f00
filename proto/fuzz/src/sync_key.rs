//! A SyncKey from outside: what it means, and that merging is a least upper bound.

use prost::Message;
use tern_proto::key::{CLASSES, Class, Key, Version};
use tern_proto::v1;

/// Takes the input as the body of a delta, for it carries two keys; and as plain positions, in which a fuzzer gets further.
///
/// # Panics
/// If a rule is broken.
pub fn holds(input: &[u8]) {
    if let Ok(delta) = v1::Delta::decode(input) {
        two_keys(&delta.before.unwrap_or_default(), &delta.after.unwrap_or_default());
    }
    let [one, other] = positions(input);
    two_keys(&one, &other);
}

/// Nine bytes for each position: one says which key and which class, known or not, and eight are the version.
fn positions(input: &[u8]) -> [v1::SyncKey; 2] {
    let mut keys = [1, 2].map(|epoch| v1::SyncKey { epoch, classes: Vec::new() });
    let (chunks, _) = input.as_chunks::<9>();
    for [what, version @ ..] in chunks {
        let position = v1::Position { class: u32::from(what >> 1) % 4, version: Version::from_le_bytes(*version) };
        keys[usize::from(what & 1)].classes.push(position);
    }
    keys
}

fn two_keys(one: &v1::SyncKey, other: &v1::SyncKey) {
    means_what_it_says(one);
    means_what_it_says(other);
    merging_is_a_least_upper_bound(one.into(), other.into());
}

/// Of a class that stands twice the smaller version counts; unknown classes and the order mean nothing.
fn means_what_it_says(wire: &v1::SyncKey) {
    let key = Key::from(wire);
    assert_eq!(key.epoch, wire.epoch);
    for class in Class::ALL {
        assert_eq!(key.version(class), smallest(wire, class.number()), "{class:?}");
    }
    let mut other = wire.clone();
    other.classes.reverse();
    assert_eq!(Key::from(&other), key, "the order counts");
    other.classes.retain(|position| Class::from_number(position.class).is_some());
    assert_eq!(Key::from(&other), key, "unknown classes count");

    let again = v1::SyncKey::from(&key);
    assert_eq!(Key::from(&again), key);
    assert!(again.classes.is_sorted_by_key(|position| position.class) && again.classes.len() <= CLASSES);
}

fn smallest(wire: &v1::SyncKey, class: u32) -> Option<Version> {
    wire.classes.iter().filter(|position| position.class == class).map(|position| position.version).min()
}

fn merging_is_a_least_upper_bound(one: Key, other: Key) {
    assert_eq!(merged(one, other).epoch, one.epoch, "merging never changes the epoch");
    assert_eq!(merged(one, one), one);
    // Keys of two epochs are not merged but replaced; from here on they are of one.
    let other = Key { epoch: one.epoch, ..other };
    let both = merged(one, other);
    assert_eq!(both, merged(other, one));
    for key in [one, other] {
        assert_eq!(merged(both, key), both);
        assert_eq!(merged(key, both), both);
    }
    for class in Class::ALL {
        let [one, other, both] = [one, other, both].map(|key| key.version(class));
        // A class that is absent is below every version.
        assert!(both >= one && both >= other && (both == one || both == other), "{class:?}");
    }
}

fn merged(mut key: Key, newer: Key) -> Key {
    key.merge(&newer);
    key
}
