//! `tern conversations`: what a user is in, and what is unread.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tern_proto::v1;

use super::{ask, json, print, table, utc};
use crate::cli::client_options::ClientArgs;

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
Unread are the messages above both what the user has read, on any device, and the newest that the user has sent there.

With --json each line is an object with conversation, title (of a group), members (how many), unread, seq and time (of the newest \
message; Unix milliseconds), read_seq (read up to here) and joined_seq (the first that the user may see).

Exit codes: 0 printed; 1 it could not start, or there was no answer after 12 attempts; 64 the command line is wrong.

Example:
  tern conversations --as bob";

/// Whose, and how they are printed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed<'a> {
    conversation: &'a str,
    title: &'a str,
    members: u32,
    unread: u64,
    seq: u64,
    time: i64,
    read_seq: u64,
    joined_seq: u64,
}

/// Prints the conversations, by name.
///
/// # Errors
/// The client cannot be opened or has to stop, there is no answer, or stdout fails.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    let all = ask(&args.client, "conversations", async |client| client.conversations().await).await?;
    print(&if args.json { json(all.iter().map(Listed::new))? } else { plain(&all).into_bytes() })?;
    Ok(ExitCode::SUCCESS)
}

impl Listed<'_> {
    fn new(found: &v1::Conversation) -> Listed<'_> {
        Listed {
            conversation: &found.name,
            title: &found.title,
            members: found.members,
            unread: found.unread,
            seq: found.seq,
            time: found.time_ms,
            read_seq: found.read_seq,
            joined_seq: found.joined_seq,
        }
    }
}

fn plain(all: &[v1::Conversation]) -> String {
    let row = |found: &v1::Conversation| {
        let (unread, members) = (found.unread.to_string(), found.members.to_string());
        [found.name.clone(), unread, members, utc::time(found.time_ms), found.title.clone()]
    };
    table::of(["CONVERSATION", "UNREAD", "MEMBERS", "LAST MESSAGE", "TITLE"], all.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_row_for_each() {
        let trip = v1::Conversation {
            name: "g/4128".into(),
            title: "Trip".into(),
            unread: 3,
            members: 12,
            ..Default::default()
        };
        let of_two = v1::Conversation { name: "alice:bob".into(), members: 2, ..Default::default() };
        assert_eq!(
            plain(&[of_two, trip]),
            "CONVERSATION  UNREAD  MEMBERS  LAST MESSAGE          TITLE\n\
             alice:bob     0       2        1970-01-01T00:00:00Z\n\
             g/4128        3       12       1970-01-01T00:00:00Z  Trip\n"
        );
    }
}
