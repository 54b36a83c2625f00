//! What a presented key is worth. Pure: the facts about the store come in, a judgement goes out.

use tern_proto::UserId;
use tern_proto::key::{CLASSES, Key, Version};
use tern_proto::v1::KeyOrder;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a key is worth to this user now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// A position in this user's timelines.
    Stands,
    /// It acknowledges nothing and gets nothing; the client replaces it.
    Replace(KeyOrder),
}

/// The epoch that the keys of `user` carry: that of the store mixed with the user, so that a key of another user is of another
/// epoch. Stable across releases; never 0.
pub(crate) fn user_epoch(store_epoch: u64, user: &UserId) -> u64 {
    xxh3_64_with_seed(user.as_str().as_bytes(), store_epoch).max(1)
}

/// Judges a key by the user's epoch and the user's heads.
pub(crate) fn judge(key: &Key, user_epoch: u64, heads: [Version; CLASSES]) -> Judgement {
    if key.epoch != user_epoch {
        return Judgement::Replace(KeyOrder::ReplaceEpoch);
    }
    let ahead = |(version, head): (&Option<Version>, Version)| version.is_some_and(|version| version > head);
    if key.versions.iter().zip(heads).any(ahead) {
        return Judgement::Replace(KeyOrder::ReplaceAhead);
    }
    Judgement::Stands
}

/// Whether something lies above the key, in the classes that it has.
pub(crate) fn is_behind(key: &Key, heads: [Version; CLASSES]) -> bool {
    key.versions.iter().zip(heads).any(|(version, head)| version.is_some_and(|version| version < head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        name.parse().unwrap()
    }

    #[test]
    fn each_user_and_each_store_has_an_epoch_of_its_own() {
        let alice = user_epoch(7, &user("alice"));
        assert_ne!(alice, 0);
        assert_ne!(alice, user_epoch(7, &user("bob")));
        assert_ne!(alice, user_epoch(8, &user("alice")));
        assert_eq!(alice, 6_611_960_923_144_009_647, "clients keep it: it may not change with a release");
    }

    #[test]
    fn a_key_stands_up_to_the_heads() {
        let heads = [10, 5];
        for versions in [[Some(0), Some(0)], [Some(10), Some(5)], [Some(10), None], [None, Some(5)], [None, None]] {
            assert_eq!(judge(&Key { epoch: 3, versions }, 3, heads), Judgement::Stands, "{versions:?}");
        }
        for versions in [[Some(11), Some(0)], [Some(0), Some(6)], [Some(u64::MAX), None]] {
            let judgement = judge(&Key { epoch: 3, versions }, 3, heads);
            assert_eq!(judgement, Judgement::Replace(KeyOrder::ReplaceAhead), "{versions:?}");
        }
    }

    #[test]
    fn another_epoch_is_named_first() {
        for epoch in [0, 2, 4] {
            let judgement = judge(&Key::at(epoch, [99, 99]), 3, [10, 5]);
            assert_eq!(judgement, Judgement::Replace(KeyOrder::ReplaceEpoch));
        }
    }

    #[test]
    fn only_classes_of_the_key_are_behind() {
        assert!(is_behind(&Key::at(1, [9, 5]), [10, 5]));
        assert!(!is_behind(&Key::at(1, [10, 5]), [10, 5]));
        assert!(!is_behind(&Key { epoch: 1, versions: [None, Some(5)] }, [10, 5]));
        assert!(is_behind(&Key { epoch: 1, versions: [None, Some(4)] }, [10, 5]));
    }
}
