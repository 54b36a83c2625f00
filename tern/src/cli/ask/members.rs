//! `tern members`: who is in a conversation, and who has read up to where.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tern_proto::v1;

use super::{Which, ask, json, print, table};
use crate::cli::client_options::ClientArgs;

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
READ and DELIVERED are positions: up to that message. SINCE is the first message that the member may see.

With --json each line is an object with conversation, title (of a group), seq (of its newest message), user, owner (true or false), \
read_seq, delivered_seq and joined_seq.

Exit codes: 0 printed; 1 it could not start, it is not the user's conversation, or there was no answer after 12 attempts; 64 the \
command line is wrong.

Example:
  tern members --as bob g/4128";

/// Of what, and how they are printed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The conversation, such as alice:bob or g/4128, or the other user
    #[arg(value_name = "CONVERSATION|USER")]
    conversation: Which,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed<'a> {
    conversation: &'a str,
    title: &'a str,
    seq: u64,
    user: &'a str,
    owner: bool,
    read_seq: u64,
    delivered_seq: u64,
    joined_seq: u64,
}

/// Prints the members, in the order in which they joined.
///
/// # Errors
/// The client cannot be opened or has to stop, there is no answer, or stdout fails.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    let conversation = args.conversation.of(&args.client.user)?;
    let reply = ask(&args.client, "members", async |client| client.members(&conversation).await).await?;
    let listed = |member| Listed::new(conversation.as_str(), &reply, member);
    print(&if args.json { json(reply.members.iter().map(listed))? } else { plain(&reply).into_bytes() })?;
    Ok(ExitCode::SUCCESS)
}

impl<'a> Listed<'a> {
    fn new(conversation: &'a str, reply: &'a v1::MembersReply, member: &'a v1::Member) -> Listed<'a> {
        Listed {
            conversation,
            title: &reply.title,
            seq: reply.seq,
            user: &member.user,
            owner: member.user == reply.owner,
            read_seq: member.read_seq,
            delivered_seq: member.delivered_seq,
            joined_seq: member.joined_seq,
        }
    }
}

/// A table of the members.
pub(in crate::cli) fn plain(reply: &v1::MembersReply) -> String {
    let row = |member: &v1::Member| {
        let [read, delivered, since] =
            [member.read_seq, member.delivered_seq, member.joined_seq].map(|seq| seq.to_string());
        let owner = if member.user == reply.owner { "owner" } else { "" };
        [member.user.clone(), read, delivered, since, owner.to_owned()]
    };
    table::of(["USER", "READ", "DELIVERED", "SINCE", ""], reply.members.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_a_row() {
        let member =
            |user: &str, seq| v1::Member { user: user.into(), joined_seq: 1, delivered_seq: seq + 1, read_seq: seq };
        let members = vec![member("alice", 11), member("bob", 3)];
        let reply = v1::MembersReply { owner: "alice".into(), members, ..Default::default() };
        assert_eq!(
            plain(&reply),
            "USER   READ  DELIVERED  SINCE\n\
             alice  11    12         1      owner\n\
             bob    3     4          1\n"
        );
    }
}
