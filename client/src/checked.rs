//! What may enter the outbox: the server would refuse anything else for good.

use std::collections::HashSet;

use tern_proto::{ConversationId, UserId, limits, v1};

/// Whether a text may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// No text.
    #[error("the text is empty")]
    Empty,
    /// More than 16,384 bytes.
    #[error("the text has {0} bytes, more than {max}", max = limits::TEXT_BYTES)]
    TooLong(usize),
}

/// Whether a group may be made or changed so. Who may do it is for the server to judge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChange {
    /// Conversations of two cannot be changed.
    #[error("{0} is not a group")]
    NotAGroup(String),
    /// It changes nothing, or makes a group of one without a title.
    #[error("neither a user nor a title is given")]
    Nothing,
    /// More than 128 bytes.
    #[error("the title has {0} bytes, more than {max}", max = limits::TITLE_BYTES)]
    TitleTooLong(usize),
    /// More users than a group can have.
    #[error("{0} users are named, more than the {max} of a group", max = limits::MEMBERS)]
    TooMany(usize),
    /// Not a name of a user.
    #[error("{0:?} is not a user: 1 to 64 letters, digits and . _ - @ +")]
    BadUser(String),
    /// A user is named more than once.
    #[error("{0} is named twice")]
    Twice(String),
}

/// Checks a text.
pub(crate) fn check_text(text: &str) -> Result<(), BadText> {
    match text.len() {
        0 => Err(BadText::Empty),
        bytes if bytes > limits::TEXT_BYTES => Err(BadText::TooLong(bytes)),
        _ => Ok(()),
    }
}

/// Checks a change of the group `to`; an empty name makes one.
pub(crate) fn check_change(to: &str, change: &v1::GroupChange) -> Result<(), BadChange> {
    if !to.is_empty() && !ConversationId::new(to).is_ok_and(|to| to.is_group()) {
        return Err(BadChange::NotAGroup(to.to_owned()));
    }
    let title = change.title.as_ref().map_or(0, String::len);
    if title > limits::TITLE_BYTES {
        return Err(BadChange::TitleTooLong(title));
    }
    let named = change.add.len() + change.remove.len();
    if named > limits::MEMBERS {
        return Err(BadChange::TooMany(named));
    }
    if named == 0 && change.title.is_none() {
        return Err(BadChange::Nothing);
    }
    let mut seen = HashSet::new();
    for user in change.add.iter().chain(&change.remove) {
        if UserId::new(user).is_err() {
            return Err(BadChange::BadUser(user.clone()));
        }
        if !seen.insert(user) {
            return Err(BadChange::Twice(user.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(to: &str, title: Option<&str>, add: &[&str], remove: &[&str]) -> Result<(), BadChange> {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let change = v1::GroupChange { title: title.map(str::to_owned), add: names(add), remove: names(remove) };
        check_change(to, &change)
    }

    #[test]
    fn a_change_that_the_server_would_refuse_for_good_is_refused_here() {
        assert_eq!(check("", Some("notes"), &[], &[]), Ok(()), "a group of one");
        assert_eq!(check("", None, &[], &[]), Err(BadChange::Nothing));
        assert_eq!(check("g/1", Some(""), &[], &[]), Ok(()), "no title any more");
        assert_eq!(check("g/1", Some(&"x".repeat(128)), &["bob"], &["carol"]), Ok(()));
        assert_eq!(check("g/1", None, &[], &[]), Err(BadChange::Nothing));
        for name in ["bob", "alice:bob", "g/x"] {
            assert_eq!(check(name, None, &["carol"], &[]), Err(BadChange::NotAGroup(name.into())));
        }
        assert_eq!(check("g/1", Some(&"x".repeat(129)), &[], &[]), Err(BadChange::TitleTooLong(129)));
        assert_eq!(check("g/1", None, &["a b"], &[]), Err(BadChange::BadUser("a b".into())));
        assert_eq!(check("g/1", None, &["bob"], &["bob"]), Err(BadChange::Twice("bob".into())));
        assert_eq!(check("g/1", None, &["bob"; 201], &[]), Err(BadChange::TooMany(201)));
    }
}
