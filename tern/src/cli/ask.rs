//! The commands that ask the server about conversations and print the answer. They change nothing, here or there.

pub(crate) mod conversations;
pub(crate) mod history;
pub(crate) mod members;
mod table;
mod utc;

use std::io::Write;
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow};
use tern_client::{Client, QueryError, Receive, Recipient, Stop};
use tern_proto::{ConversationId, UserId, v1};

use super::client_options::{ClientArgs, stopped};
use super::connection::Connection;

/// A conversation as the command line names it: by its own name, or by the other user.
#[derive(Clone, Debug)]
pub(super) enum Which {
    Named(ConversationId),
    With(UserId),
}

impl Which {
    /// The conversation that `me` means.
    ///
    /// # Errors
    /// `me` names itself as the other user.
    fn of(&self, me: &UserId) -> Result<ConversationId> {
        match self {
            Which::Named(conversation) => Ok(conversation.clone()),
            Which::With(other) if other == me => Err(anyhow!("a conversation with oneself does not exist")),
            Which::With(other) => Ok(Recipient::from(other).conversation(me)),
        }
    }
}

impl FromStr for Which {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Which, &'static str> {
        match (ConversationId::new(name), UserId::new(name)) {
            (Ok(conversation), _) => Ok(Which::Named(conversation)),
            (_, Ok(user)) => Ok(Which::With(user)),
            _ => Err("neither a conversation, such as alice:bob or g/4128, nor a user"),
        }
    }
}

/// Asks as a device that takes nothing: the server does not even remember it.
async fn ask<T>(
    args: &ClientArgs,
    command: &'static str,
    query: impl AsyncFnOnce(&Client) -> Result<T, QueryError>,
) -> Result<T> {
    let mut options = args.options(command)?;
    (options.receive, options.start) = (Receive::Nothing, v1::Start::Heads);
    let (client, _inbox) = Client::open(options).await?;
    let answer = Connection::new(command).during(&client, query(&client)).await;
    client.close().await;
    answer.map_err(unanswered)
}

/// Why there is no answer, and what the user can do about it.
fn unanswered(error: QueryError) -> Error {
    match error {
        QueryError::Stopped(Stop::Closed) => anyhow!("interrupted"),
        QueryError::Stopped(stop) => stopped(&stop),
        QueryError::Refused { code: v1::Code::NotAMember, .. } => {
            anyhow!("not your conversation, or there is none of this name")
        }
        error => error.into(),
    }
}

/// Writes to stdout. Whoever reads it may have seen enough.
pub(super) fn print(text: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("stdout"),
        _ => Ok(()),
    }
}

/// Objects, one per line.
fn json(objects: impl IntoIterator<Item = impl serde::Serialize>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for object in objects {
        serde_json::to_writer(&mut out, &object)?;
        out.push(b'\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_named_by_itself_or_by_the_other_user() {
        let me = UserId::new("bob").unwrap();
        let meant = |name: &str| name.parse::<Which>().unwrap().of(&me).map(|found| found.to_string());
        for (name, conversation) in [("alice", "alice:bob"), ("alice:bob", "alice:bob"), ("g/7", "g/7"), ("g", "bob:g")]
        {
            assert_eq!(meant(name).unwrap(), conversation);
        }
        assert!(meant("bob").is_err());
        for bad in ["", "bob:alice", "g/", "a b"] {
            assert!(bad.parse::<Which>().is_err(), "{bad}");
        }
    }
}
