//! `tern watch`: prints what a user gets, each entry once and in order.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tern_client::{Client, EntryBody, Inbox, InboxEntry, Receive, Status};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::client_options::{ClientArgs, stopped};
use super::connection::Connection;
use super::line::{Line, printable};

/// Entries between two confirmations; as many come again if the process is killed just before one.
const BATCH: usize = 64;

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
An image is a line such as [image/jpeg 4000x3000, 2.70 MiB: 01a2…], whose last word `tern fetch` takes; with --json it is the field `media`.

A device that has never been here starts at the oldest message. Lines are written \
and then confirmed, 64 at a time at most: after kill -9 or a crash the last of them may be printed again, and none is missing. A \
version (--json) is never used twice for a user: by it the doubled lines are recognised. Without a connection it says so on \
stderr and tries again; --idle counts only while there is one. The text of an empty line that `tern send` sent is printed as an empty line.

Of a conversation of two the text alone is printed, of a group \"[g/4128] alice: the text\", and in brackets who joined or left, a \
message that the server cannot read any more, and how many are no longer kept.

With --json each line is an object with from, conversation, seq, version, server_msg_id, client_msg_id, text and time (Unix \
milliseconds); \"text\": \"\" is an empty line. What changed in a group has \"change\" instead of the text, with those of title, add and remove that \
changed. A record that the server cannot read any more has \"damaged\": true. Where messages are no longer kept stands an object with hole (\"window\": \
older than the server keeps them, \"cap\": too many), count (at most so many) and version. With --receipts \
also objects with receipt (\"delivered\" or \"read\"), member, conversation, seq, version and time.

Exit codes: 0 idle for the given time; 1 it could not start or go on; 64 the command line is wrong.

Example:
  tern watch --as bob --json --idle 5";

/// Whose entries, and how they are printed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// Print JSON, one object per line, instead of the text alone
    #[arg(long)]
    json: bool,
    /// End after this many seconds without an entry, once everything has come; without a connection it does not count
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle: Option<Duration>,
    /// Acknowledge and store nothing: the next watch gets the same entries again
    #[arg(long)]
    peek: bool,
    /// Print receipts too
    #[arg(long)]
    receipts: bool,
}

/// Prints entries until it is interrupted or idle.
///
/// # Errors
/// The client cannot be opened or has to stop, or stdout fails.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    let mut options = args.client.options("watch")?;
    if args.peek {
        options.receive = Receive::Peek;
    }
    let (client, mut inbox) = Client::open(options).await?;
    let result = print_all(&client, &mut inbox, args).await;
    client.close().await;
    result.map(|()| ExitCode::SUCCESS)
}

async fn print_all(client: &Client, inbox: &mut Inbox, args: &Args) -> Result<()> {
    let mut status = client.status();
    let printer = Printer { json: args.json, receipts: args.receipts, raw: !std::io::stdout().is_terminal() };
    let mut quiet_since = None;
    let mut connection = Connection::new("watch");
    loop {
        connection.tell(&status.borrow().link);
        quiet_since = quiet(&mut status, quiet_since);
        let idle = args.idle.zip(quiet_since).map(|(idle, since)| since + idle);
        let entry = tokio::select! {
            entry = inbox.next() => entry?,
            changed = status.changed() => {
                changed.context("the client is gone")?;
                continue;
            }
            () = async { sleep_until(idle.unwrap_or_else(Instant::now)).await }, if idle.is_some() => return Ok(()),
        };
        let Some(entry) = entry else {
            match status.borrow().stopped() {
                Some(stop) => return Err(stopped(stop)),
                None => bail!("the client is gone"),
            }
        };
        let mut batch = vec![entry];
        while batch.len() < BATCH
            && let Some(entry) = inbox.try_next().await?
        {
            batch.push(entry);
        }
        match printer.print(&batch) {
            // Whoever read the output has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).context("stdout"),
            Ok(true) => quiet_since = None,
            Ok(false) => {}
        }
        inbox.confirm(&batch).await?;
    }
}

/// Since when everything that was there has been printed; `None` if more may be coming.
fn quiet(status: &mut watch::Receiver<Status>, since: Option<Instant>) -> Option<Instant> {
    let status = status.borrow_and_update();
    let quiet = status.caught_up && status.unconfirmed == 0;
    quiet.then(|| since.unwrap_or_else(Instant::now))
}

struct Printer {
    json: bool,
    receipts: bool,
    /// Not a terminal: texts go out byte for byte.
    raw: bool,
}

impl Printer {
    /// Writes and flushes the lines; tells whether there were any.
    fn print(&self, batch: &[InboxEntry]) -> std::io::Result<bool> {
        let mut out = Vec::new();
        for entry in batch.iter().filter(|entry| self.receipts || !matches!(entry.body, EntryBody::Receipt(_))) {
            let line = Line::of_entry(entry);
            if self.json {
                serde_json::to_writer(&mut out, &line)?;
            } else if self.raw {
                out.extend(line.plain().bytes());
            } else {
                out.extend(printable(&line.plain()).bytes());
            }
            out.push(b'\n');
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&out)?;
        stdout.flush()?;
        Ok(!out.is_empty())
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
