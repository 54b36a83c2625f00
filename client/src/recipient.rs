//! Where a message goes.

use std::fmt;
use std::str::FromStr;

use tern_proto::{ConversationId, UserId};

/// Where a message goes: to a user by name, or to a group by the name that the server gave it. Parses from either.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// Another user.
    User(UserId),
    /// A group that this user is in; [`ConversationId::is_group`] holds.
    Group(ConversationId),
}

/// The text names neither a user nor a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a user (1 to 64 letters, digits and . _ - @ +) nor a group such as g/4128")]
pub struct BadRecipient;

impl Recipient {
    /// The name, as the wire has it.
    pub fn as_str(&self) -> &str {
        match self {
            Recipient::User(user) => user.as_str(),
            Recipient::Group(group) => group.as_str(),
        }
    }

    /// The conversation that a message of `me` to this recipient belongs to.
    pub fn conversation(&self, me: &UserId) -> ConversationId {
        match self {
            Recipient::User(user) => ConversationId::of_two(me, user),
            Recipient::Group(group) => group.clone(),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Recipient {
    type Err = BadRecipient;

    fn from_str(name: &str) -> Result<Recipient, BadRecipient> {
        match (UserId::new(name), ConversationId::new(name)) {
            (Ok(user), _) => Ok(Recipient::User(user)),
            (_, Ok(conversation)) if conversation.is_group() => Ok(Recipient::Group(conversation)),
            _ => Err(BadRecipient),
        }
    }
}

impl From<UserId> for Recipient {
    fn from(user: UserId) -> Recipient {
        Recipient::User(user)
    }
}

impl From<&UserId> for Recipient {
    fn from(user: &UserId) -> Recipient {
        Recipient::User(user.clone())
    }
}

impl From<&Recipient> for Recipient {
    fn from(recipient: &Recipient) -> Recipient {
        recipient.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_is_a_user_or_a_group() {
        let alice = UserId::new("alice").unwrap();
        for (name, conversation) in [("bob", "alice:bob"), ("g", "alice:g"), ("g/4128", "g/4128")] {
            let recipient: Recipient = name.parse().unwrap();
            assert_eq!(recipient.to_string(), name);
            assert_eq!(recipient.conversation(&alice).as_str(), conversation);
        }
        for bad in ["", "g/", "g/x", "alice:bob", "a b"] {
            assert_eq!(bad.parse::<Recipient>(), Err(BadRecipient), "{bad}");
        }
    }
}
