//! Users, devices, conversations and media. Each is a newtype that can only hold a valid name.

use std::fmt;
use std::sync::Arc;

/// Bytes of the longest user or device name.
pub const NAME_BYTES: usize = 64;

/// The name breaks the rule: 1 to 64 bytes of letters, digits and `.` `_` `-`, and for users also `@` and `+`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 64 bytes of letters, digits and . _ - (for users also @ and +)")]
pub struct BadName;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $also:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the name.
            ///
            /// # Errors
            /// [`BadName`] says the rule.
            pub fn new(name: &str) -> Result<$type, BadName> {
                let also: &[u8] = $also;
                let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || also.contains(&byte);
                let ok = (1..=NAME_BYTES).contains(&name.len()) && name.bytes().all(valid);
                if ok { Ok($type(name.into())) } else { Err(BadName) }
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $type {
            type Err = BadName;
            fn from_str(name: &str) -> Result<$type, BadName> {
                $type::new(name)
            }
        }
    };
}

name! {
    /// A user, as the token's `sub` names it.
    UserId, b"@+"
}
name! {
    /// One installation of a client. A reinstalled client is a new device.
    DeviceId, b""
}

/// A conversation. That of two users is named by both, the smaller first: `alice:bob`. A group is named by the message that made it: `g/4128`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(Arc<str>);

/// What the name of a group begins with; `/` stands in no user's name.
const GROUP: &str = "g/";

impl ConversationId {
    /// The conversation of two users, the same whoever comes first.
    pub fn of_two(a: &UserId, b: &UserId) -> ConversationId {
        ConversationId(ConversationId::name_of_two(a.as_str(), b.as_str()).into())
    }

    /// The name of the conversation of two users, of whose names it is known that they are valid.
    pub fn name_of_two(a: &str, b: &str) -> String {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let mut name = String::with_capacity(low.len() + 1 + high.len());
        name.push_str(low);
        name.push(':');
        name.push_str(high);
        name
    }

    /// The group that the message with this `server_msg_id` made.
    pub fn of_group(server_msg_id: u64) -> ConversationId {
        ConversationId(format!("{GROUP}{server_msg_id}").into())
    }

    /// Checks a name that came from outside.
    ///
    /// # Errors
    /// [`BadName`] if it is the canonical name neither of a conversation of two different users nor of a group.
    pub fn new(name: &str) -> Result<ConversationId, BadName> {
        let canonical = match name.strip_prefix(GROUP) {
            Some(number) => {
                let digits = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
                digits && number.parse::<u64>().is_ok()
            }
            None => {
                let (low, high) = name.split_once(':').ok_or(BadName)?;
                UserId::new(low)? < UserId::new(high)?
            }
        };
        if canonical { Ok(ConversationId(name.into())) } else { Err(BadName) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a group, and so has members that come and go.
    pub fn is_group(&self) -> bool {
        self.0.starts_with(GROUP)
    }

    /// Stands before every name: where a list by names begins. It is the name of nothing.
    pub fn least() -> ConversationId {
        ConversationId("".into())
    }

    /// The two users; `None` for a group.
    pub fn pair(&self) -> Option<[UserId; 2]> {
        let (low, high) = self.0.split_once(':')?;
        Some([UserId(low.into()), UserId(high.into())])
    }

    /// The other one of the two; `None` for a group, or if `user` is not one of them.
    pub fn other(&self, user: &UserId) -> Option<UserId> {
        let [low, high] = self.pair()?;
        if *user == low {
            Some(high)
        } else if *user == high {
            Some(low)
        } else {
            None
        }
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that was uploaded: 32 hexadecimal digits, of which the first 12 are the Unix milliseconds at which the upload began, so that of an id
/// that is not known it can be told whether it has expired or never was.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaId(u128);

/// Bits of a [`MediaId`] below the time.
const MEDIA_RANDOM_BITS: u32 = 80;

impl MediaId {
    /// The id of an upload that begins at `unix_ms`; what tells it from others of that time is taken from `random`.
    pub fn new(unix_ms: i64, random: u128) -> MediaId {
        let low = random & ((1 << MEDIA_RANDOM_BITS) - 1);
        MediaId((unix_ms.max(0) as u128) << MEDIA_RANDOM_BITS | low)
    }

    /// When the upload began, by the server's clock.
    pub fn began_ms(self) -> i64 {
        i64::try_from(self.0 >> MEDIA_RANDOM_BITS).unwrap_or(i64::MAX)
    }

    /// As a number, in whose order ids are ordered.
    pub fn as_u128(self) -> u128 {
        self.0
    }

    /// The id that is this number.
    pub fn from_u128(number: u128) -> MediaId {
        MediaId(number)
    }
}

impl std::str::FromStr for MediaId {
    type Err = BadMediaId;
    fn from_str(text: &str) -> Result<MediaId, BadMediaId> {
        let canonical = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Err(BadMediaId);
        }
        u128::from_str_radix(text, 16).map(MediaId).map_err(|_| BadMediaId)
    }
}

impl fmt::Display for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not the id of anything uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a media id is 32 hexadecimal digits in lower case")]
pub struct BadMediaId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "alice", "Bob.2", "a_b-c", "x@y.org", "a+b"] {
            assert!(UserId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a:b", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(UserId::new(bad).is_err(), "{bad}");
        }
        assert!(DeviceId::new("x@y").is_err());
    }

    #[test]
    fn a_conversation_of_two_has_one_name() {
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let conversation = ConversationId::of_two(&bob, &alice);
        assert_eq!(conversation.as_str(), "alice:bob");
        assert_eq!(conversation, ConversationId::of_two(&alice, &bob));
        assert_eq!(conversation.other(&alice), Some(bob));
        assert_eq!(conversation.other(&UserId::new("eve").unwrap()), None);
        assert!(ConversationId::new("bob:alice").is_err());
        assert!(ConversationId::new("alice:alice").is_err());
    }

    #[test]
    fn a_group_has_the_name_of_a_message() {
        let group = ConversationId::of_group(4128);
        assert_eq!(group.as_str(), "g/4128");
        assert_eq!(ConversationId::new("g/4128").unwrap(), group);
        assert!(group.is_group() && group.pair().is_none());
        assert_eq!(group.other(&UserId::new("g").unwrap()), None);
        for bad in ["g/", "g/0", "g/01", "g/+1", "g/x", "g/18446744073709551616", "g/1:b"] {
            assert!(ConversationId::new(bad).is_err(), "{bad}");
        }
        assert!(!ConversationId::new("bob:g").unwrap().is_group());
    }

    #[test]
    fn a_media_id_has_one_form_and_tells_its_time() {
        let id = MediaId::new(1_764_000_000_123, u128::MAX);
        assert_eq!(id.began_ms(), 1_764_000_000_123);
        assert_eq!(id.to_string().len(), 32);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(MediaId::new(1, u128::MAX) < MediaId::new(2, 0));
        for bad in ["", "0", &"F".repeat(32), &"0".repeat(31), &"0".repeat(33), &"+".repeat(32), &"é".repeat(16)] {
            assert_eq!(bad.parse::<MediaId>(), Err(BadMediaId), "{bad}");
        }
    }
}
