//! `tern history`: the messages of a conversation, as far back as they are kept.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;
use tern_client::{Client, QueryError};
use tern_proto::{ConversationId, v1};

use super::{Which, ask, json, print, utc};
use crate::cli::client_options::ClientArgs;
use crate::cli::line::{Line, in_words, line_of, printable, with_media};

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
An image is a line such as [image/jpeg 4000x3000, 2.70 MiB: 01a2…], whose last word `tern fetch` takes; with --json it is the field `media`.

The oldest comes first; each line has the message's number, its time and who sent it. Nothing is acknowledged or marked as read. A \
member of a group sees it from the message that added them.

With --json each line is an object as `tern watch --json` prints it, but without a version.

Exit codes: 0 printed; 1 it could not start, it is not the user's conversation, or there was no answer after 12 attempts; 64 the \
command line is wrong.

Example:
  tern history --as bob alice --limit 20";

/// Of what, how much of it, and how it is printed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The conversation, such as alice:bob or g/4128, or the other user
    #[arg(value_name = "CONVERSATION|USER")]
    conversation: Which,
    /// Only messages below this number
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    before: Option<u64>,
    /// The newest of them, at most this many, up to 10000
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

/// Prints the messages.
///
/// # Errors
/// The client cannot be opened or has to stop, there is no answer, or stdout fails.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    let conversation = args.conversation.of(&args.client.user)?;
    let query = async |client: &Client| newest(client, &conversation, args).await;
    let (messages, more) = ask(&args.client, "history", query).await?;
    let terminal = std::io::stdout().is_terminal();
    if args.json {
        print(&json(messages.iter().map(|message| Line::of_message(message, None)))?)?;
    } else {
        let lines: String = messages.iter().map(|message| plain(message) + "\n").collect();
        print(if terminal { printable(&lines) } else { lines }.as_bytes())?;
    }
    if let Some(first) = messages.front().filter(|_| more && terminal) {
        eprintln!("older ones: --before {}", first.seq);
    }
    Ok(ExitCode::SUCCESS)
}

/// The messages that were asked for, ascending, and whether there are older ones.
async fn newest(
    client: &Client,
    conversation: &ConversationId,
    args: &Args,
) -> Result<(VecDeque<v1::Message>, bool), QueryError> {
    let (mut messages, limit) = (VecDeque::new(), usize::from(args.limit));
    let mut before = args.before.unwrap_or(0);
    while before != 1 {
        let page = client.history(conversation, before, limit - messages.len()).await?;
        let Some(first) = page.messages.first() else { break };
        before = first.seq;
        page.messages.into_iter().rev().for_each(|message| messages.push_front(message));
        if !page.more || messages.len() >= limit {
            return Ok((messages, page.more));
        }
    }
    Ok((messages, false))
}

/// A message as a line for people.
pub(in crate::cli) fn plain(message: &v1::Message) -> String {
    let (seq, time, from) = (message.seq, utc::time(message.time_ms), &message.from);
    match &message.change {
        Some(change) => format!("{seq}  {time}  {}", in_words(from, seq, change)),
        None if message.text.is_empty() && message.media.is_none() => {
            format!("{seq}  {time}  the message is damaged and cannot be shown")
        }
        None => format!("{seq}  {time}  {from}: {}", with_media(line_of(&message.text), message.media.as_ref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_its_number_time_and_sender() {
        let text = v1::Message { from: "alice".into(), seq: 3, text: "hi".into(), ..Default::default() };
        assert_eq!(plain(&text), "3  1970-01-01T00:00:00Z  alice: hi");
        let change = v1::GroupChange { add: vec!["bob".into()], ..Default::default() };
        let changed = v1::Message { change: Some(change), text: String::new(), ..text.clone() };
        assert_eq!(plain(&changed), "3  1970-01-01T00:00:00Z  alice added bob");
        let damaged = v1::Message { text: String::new(), ..text };
        assert!(plain(&damaged).contains("damaged"));
    }
}
