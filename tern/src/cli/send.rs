//! `tern send`: each line of stdin is a message.
//!
//! A line is sent without its line feed. An empty line is sent as the text "\n", because a message must not be empty; no
//! other line can be that text, so `tern watch` turns it back.
//!
//! The lines go through the device's outbox, at most [`WINDOW`] unacknowledged at a time, so an interrupted run loses none.
//! With them their count and checksum are noted: the same input again is then recognised and goes on where the outbox ended.

pub(super) mod lines;
mod progress;
mod resume;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tern_client::{Client, MessageState, Receive, Recipient, Status, StoreError};
use tern_proto::v1;
use tokio::sync::watch;

use self::lines::{BadLine, Lines};
use self::progress::Progress;
use self::resume::Resume;
use super::client_options::{ClientArgs, stopped};

/// Unacknowledged messages at a time.
const WINDOW: usize = 1_024;
/// Messages that the outbox remembers.
pub(super) const REMEMBERED: usize = 10_000;

/// A line cannot be sent.
pub(super) const EXIT_BAD_LINE: u8 = 2;
/// Messages failed after all attempts.
pub(super) const EXIT_FAILED: u8 = 3;
/// The server refused messages for good.
pub(super) const EXIT_REFUSED: u8 = 4;

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
Each line is one message, without its line feed; an empty line is sent as the text \"\\n\", which `tern watch` prints as an \
empty line again. Lines go through an outbox on disk: after an interruption the next run sends first what is left in it, and \
the same input given again goes on where it stopped.

Exit codes:
  0   every line is acknowledged by the server
  1   it could not start, or the server or the local store refused to go on
  2   a line is longer than 16384 bytes or not UTF-8: named on stderr; the lines before it are acknowledged, unless it is 4
  3   messages failed after 12 attempts, all that waited together; they stay in the outbox, and the next run sends them first
  4   the server refused messages for good
  64  the command line is wrong

Example:
  printf 'one\\ntwo\\n' | tern send --as alice --to bob";

/// From whom, to whom.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The user or the group that gets the messages
    #[arg(long, value_name = "USER|GROUP")]
    to: Recipient,
    /// Take the input as new even if it begins like that of an interrupted run
    #[arg(long)]
    fresh: bool,
}

/// Sends stdin.
///
/// # Errors
/// The client cannot be opened or has to stop.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    args.client.check_recipient(&args.to)?;
    let mut options = args.client.options("send")?;
    options.receive = Receive::Nothing;
    options.start = v1::Start::Heads;
    options.resend_failed = true;
    let (client, _inbox) = Client::open(options).await?;
    let code = Sending::start(&client, args).await?.run(args).await;
    client.close().await;
    code
}

/// One run over one input.
struct Sending<'a> {
    client: &'a Client,
    status: watch::Receiver<Status>,
    resume: Resume,
    /// The latest messages to the same recipient, newest first, if an earlier run was interrupted: whether each was refused.
    earlier: Vec<bool>,
    progress: Progress,
}

impl Sending<'_> {
    /// Takes up what an earlier run left.
    async fn start<'a>(client: &'a Client, args: &Args) -> Result<Sending<'a>> {
        // What is typed is never that of an earlier run again.
        let is_new = args.fresh || std::io::stdin().is_terminal();
        let notes = if is_new { Vec::new() } else { client.notes().await? };
        let remembered = client.outbox(if notes.is_empty() { 0 } else { REMEMBERED }).await?;
        let to_same = remembered.iter().rev().filter(|message| message.to == args.to.as_str());
        let earlier = to_same.map(|message| matches!(message.state, MessageState::Refused(_))).collect();
        let resume = Resume::new(&args.to, notes);
        let status = client.status();
        let left = status.borrow().sending;
        if left > 0 {
            eprintln!("tern send: sending first {left} messages that an earlier run left");
        }
        Ok(Sending { client, status, resume, earlier, progress: Progress::new() })
    }

    async fn run(mut self, args: &Args) -> Result<ExitCode> {
        let bad_line = self.take_input(&args.to).await?;
        self.until(|status| status.sending == 0).await?;
        let status = self.status.borrow().clone();
        self.progress.finish();
        if status.failed > 0 {
            eprintln!("tern send: {} messages failed after all attempts; run again to send them", status.failed);
            return Ok(ExitCode::from(EXIT_FAILED));
        }
        match &bad_line {
            Some(bad) => eprintln!("tern send: {bad}; no line behind it is sent"),
            None => self.client.clear_notes().await?,
        }
        // Also those of the lines that an earlier run has sent.
        let earlier = self.earlier.iter().take(self.resume.skipped()).filter(|refused| **refused).count() as u64;
        let refused = status.refused + earlier;
        if refused > 0 {
            let last = self.refusal().await?;
            eprintln!("tern send: refused by the server: {refused} of the messages, the last one: {last}");
            return Ok(ExitCode::from(EXIT_REFUSED));
        }
        Ok(if bad_line.is_some() { ExitCode::from(EXIT_BAD_LINE) } else { ExitCode::SUCCESS })
    }

    /// Puts the lines into the outbox; ends with the input, with a line that cannot be sent, or with a failed message.
    async fn take_input(&mut self, to: &Recipient) -> Result<Option<BadLine>> {
        let mut lines = Lines::of_stdin()?;
        loop {
            tokio::select! {
                batch = lines.next() => match batch {
                    Some(Ok(batch)) => {
                        let new = self.resume.skip_known(batch);
                        self.enqueue(to, new).await?;
                    }
                    Some(Err(bad)) => {
                        self.end_of_input(to).await?;
                        return Ok(Some(bad));
                    }
                    None => break,
                },
                // Shown, and a reason to end, while nothing comes as well.
                _ = self.status.changed() => self.until(|_| true).await?,
            }
            if self.status.borrow().failed > 0 {
                return Ok(None);
            }
        }
        self.end_of_input(to).await?;
        Ok(None)
    }

    /// Lines that were held to be compared turn out to be new.
    async fn end_of_input(&mut self, to: &Recipient) -> Result<()> {
        let rest = self.resume.end();
        self.enqueue(to, rest).await
    }

    async fn enqueue(&mut self, to: &Recipient, lines: Vec<String>) -> Result<()> {
        let mut lines = lines.into_iter().peekable();
        while lines.peek().is_some() {
            self.until(|status| status.sending < WINDOW).await?;
            if self.status.borrow().failed > 0 {
                return Ok(());
            }
            let room = WINDOW.saturating_sub(self.status.borrow().sending);
            let batch: Vec<String> = lines.by_ref().take(room.min(resume::BATCH)).collect();
            let (place, note) = self.resume.note(&batch);
            let texts = batch.into_iter().map(|line| if line.is_empty() { "\n".to_owned() } else { line }).collect();
            match self.client.send_noted(to, texts, place, note).await {
                Ok(ids) => self.progress.taken(ids.len()),
                // They failed just now. These lines stay in the input, as those behind them do.
                Err(StoreError::BehindFailed) => return Ok(()),
                Err(error) => return Err(error).context("the outbox"),
            }
        }
        Ok(())
    }

    /// Waits for the outbox, or for a message to fail.
    async fn until(&mut self, done: impl Fn(&Status) -> bool) -> Result<()> {
        loop {
            let status = self.status.borrow_and_update().clone();
            self.progress.show(&status);
            if let Some(stop) = status.stopped() {
                let left = status.sending + status.failed;
                return Err(stopped(stop).context(format!("{left} messages stay in the outbox")));
            }
            if done(&status) || status.failed > 0 {
                return Ok(());
            }
            self.status.changed().await.context("the client is gone")?;
        }
    }

    /// Why, at the latest refusal.
    async fn refusal(&self) -> Result<&'static str> {
        let latest = self.client.outbox(REMEMBERED).await?;
        let code = latest.iter().rev().find_map(|message| match message.state {
            MessageState::Refused(code) => Some(super::group::because(code)),
            _ => None,
        });
        Ok(code.unwrap_or("unknown"))
    }
}
