//! `tern chat`: a conversation in the terminal, with the state of each own message as a phone shows it.
//!
//! [`room::Room`] is what is known of the conversation; `screen` draws it on a terminal, `plain` prints its changes where
//! there is none. Both feed [`Chat::run`] with lines that the user typed.

mod plain;
mod room;
mod screen;
mod typed;
mod view;

use std::collections::VecDeque;
use std::future::pending;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tern_client::{Client, Event, Inbox, InboxEntry, MessageState, QueryError, Recipient, Status};
use tern_proto::{ConversationId, UserId, v1};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinError, JoinHandle};

use self::room::Room;
use self::view::View;
use super::ask::{history, members};
use super::client_options::{ClientArgs, stopped};
use super::send::lines::BadLine;
use super::send::{EXIT_BAD_LINE, EXIT_FAILED, EXIT_REFUSED};

/// Messages of other conversations that are left for a later chat; beyond them the oldest are let go on this device.
const LEFT_ALONE: usize = 1_000;
/// Own messages that are looked through at the start and after missed events.
const OWN: usize = room::LINES;
/// While so many messages are on their way, a stdin that is no terminal waits.
const WINDOW: usize = 512;

/// What can be typed behind a slash.
const COMMANDS: &str = "/resend, /resend N, /history, /history N, /members and /quit";
/// Messages that /history shows unless told how many.
const HISTORY: usize = 20;

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
Marks: ◷ sending, ✓ sent, ✓✓ delivered, ✓✓ in blue: read, ! in red: failed after 12 attempts, ✗ refused.
In a group ✓✓ stands for read by at least one, and behind it is by whom.
Lines that begin with / are commands: /resend tries all failed messages again, /resend N that one, /history shows the newest 20 messages, \
/history N as many, /members who is there and has read up to where, /quit ends; // begins a message with a slash. White space at the end of a line is left out, and so are empty lines. When a message fails, those that wait \
behind it fail with it.

Without a terminal it reads lines from stdin, prints what happens, and ends when stdin has ended and nothing is on its way.

Exit codes: 0 it was ended, and without a terminal every line was sent; 1 it could not start or go on; 64 the command line is \
wrong. Without a terminal also, as in `tern send`: 2 a line is too long or not UTF-8, named on stderr, and the lines before it are \
sent; 3 messages failed, now or before, and wait for /resend; 4 the server refused messages.

Example:
  tern chat --as alice --to bob
  tern chat --as alice --to g/4128";

/// Who talks to whom.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The user or the group to talk to
    #[arg(long, value_name = "USER|GROUP")]
    to: Recipient,
}

/// Chats until the user quits.
///
/// # Errors
/// The client cannot be opened or has to stop, or the terminal fails.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    args.client.check_recipient(&args.to)?;
    let options = args.client.options("chat")?;
    let (client, inbox) = Client::open(options).await?;
    let result = Chat::new(&client, inbox, args).run().await;
    client.close().await;
    result.map(ExitCode::from)
}

/// What the user did.
enum Input {
    /// A line was entered.
    Line(String),
    /// The line being typed has changed, or the terminal its size.
    Redraw,
    /// No more lines come: a bad one did.
    Bad(BadLine),
    /// No more lines come.
    End,
    /// End now.
    Quit,
}

/// The exit code of a chat whose input has ended.
fn code(bad_line: Option<BadLine>, status: &Status) -> u8 {
    match bad_line {
        Some(bad) => {
            eprintln!("tern chat: {bad}; the lines before it are taken");
            EXIT_BAD_LINE
        }
        None if status.failed > 0 => EXIT_FAILED,
        None if status.refused > 0 => EXIT_REFUSED,
        None => 0,
    }
}

/// What the server was asked.
enum Answer {
    /// What the group is called, at the start.
    Title(v1::MembersReply),
    Members(v1::MembersReply),
    History(v1::HistoryReply),
}

/// A question under way; it ends with its answer, at the latest when the client is closed.
type Query = JoinHandle<Result<Answer, QueryError>>;

/// The answer to the first question, if there is one. May be cancelled.
async fn first(queries: &mut VecDeque<Query>) -> Result<Result<Answer, QueryError>, JoinError> {
    match queries.front_mut() {
        Some(query) => query.await,
        None => pending().await,
    }
}

struct Chat<'a> {
    client: &'a Client,
    inbox: Inbox,
    me: UserId,
    to: Recipient,
    conversation: ConversationId,
    room: Room,
    left_alone: VecDeque<InboxEntry>,
    status: watch::Receiver<Status>,
    events: broadcast::Receiver<Event>,
    /// Questions without an answer, in the order in which they were asked; the client refuses too many.
    queries: VecDeque<Query>,
}

impl<'a> Chat<'a> {
    fn new(client: &'a Client, inbox: Inbox, args: &Args) -> Chat<'a> {
        let (me, to) = (args.client.user.clone(), args.to.clone());
        Chat {
            client,
            inbox,
            conversation: to.conversation(&me),
            room: Room::new(&me, &to),
            me,
            to,
            left_alone: VecDeque::new(),
            status: client.status(),
            events: client.events(),
            queries: VecDeque::new(),
        }
    }

    /// Inputs: the user, entries, events about own messages, answers, the connection.
    /// Gives the exit code.
    async fn run(mut self) -> Result<u8> {
        let (mut view, mut input) = View::open()?;
        self.load_own(true).await?;
        if self.conversation.is_group() {
            self.ask(|client, group| async move { client.members(&group).await.map(Answer::Title) });
        }
        let (mut ending, mut bad_line) = (false, None);
        loop {
            let status = self.status.borrow_and_update().clone();
            view.show(&mut self.room, &status)?;
            if let Some(stop) = status.stopped() {
                return Err(stopped(stop));
            }
            if ending && status.sending == 0 && self.queries.is_empty() {
                // The counts may be ahead of the events; the store is not.
                self.load_own(false).await?;
                view.show(&mut self.room, &status)?;
                return Ok(code(bad_line, &status));
            }
            let takes = !ending && (matches!(view, View::Screen(_)) || status.sending < WINDOW);
            tokio::select! {
                what = input.recv(), if takes => match what {
                    Some(Input::Line(line)) if line.trim() == "/quit" => return Ok(0),
                    Some(Input::Line(line)) => self.entered(line).await?,
                    Some(Input::Redraw) => {}
                    Some(Input::Bad(bad)) => (ending, bad_line) = (true, Some(bad)),
                    Some(Input::End) => ending = true,
                    Some(Input::Quit) | None => return Ok(0),
                },
                entry = self.inbox.next() => self.arrived(entry?).await?,
                event = self.events.recv() => self.happened(event).await?,
                answer = first(&mut self.queries) => {
                    self.queries.pop_front();
                    self.answered(answer.context("a query")?);
                }
                changed = self.status.changed() => changed.context("the client is gone")?,
            }
        }
    }

    async fn entered(&mut self, line: String) -> Result<()> {
        let line = line.trim_end();
        let (word, number) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" if line.is_empty() => {}
            "/resend" => return self.resend(number.trim()).await,
            "/history" => self.history(number.trim()),
            "/members" => {
                self.ask(|client, conversation| async move { client.members(&conversation).await.map(Answer::Members) })
            }
            _ if word.starts_with("//") => return self.send(&line[1..]).await,
            _ if word.starts_with('/') => {
                self.room.notice(format!("{line}: not a command; there are {COMMANDS}"));
            }
            _ => return self.send(line).await,
        }
        Ok(())
    }

    async fn send(&mut self, text: &str) -> Result<()> {
        match self.client.send(&self.to, text).await {
            Ok(id) => self.room.own(id, text.to_owned(), MessageState::Sending),
            Err(error) => self.room.notice(error.to_string()),
        }
        Ok(())
    }

    async fn resend(&mut self, number: &str) -> Result<()> {
        let resent = match number.parse::<u64>() {
            Ok(id) if self.room.has_failed(id) => self.client.resend(id).await?,
            Err(_) if number.is_empty() => !self.client.resend_all(&self.to).await?.is_empty(),
            _ => false,
        };
        if !resent {
            self.room.notice("no such failed message".to_owned());
        }
        Ok(())
    }

    fn history(&mut self, number: &str) {
        match if number.is_empty() { Ok(HISTORY) } else { number.parse() } {
            Ok(limit) => self.ask(move |client, conversation| async move {
                client.history(&conversation, 0, limit).await.map(Answer::History)
            }),
            Err(_) => self.room.notice(format!("{number}: not a number of messages")),
        }
    }

    /// Asks without waiting; the answer is an input.
    fn ask<F>(&mut self, query: impl FnOnce(Client, ConversationId) -> F)
    where
        F: Future<Output = Result<Answer, QueryError>> + Send + 'static,
    {
        self.queries.push_back(tokio::spawn(query(self.client.clone(), self.conversation.clone())));
    }

    fn answered(&mut self, answer: Result<Answer, QueryError>) {
        match answer {
            Ok(Answer::Title(reply)) => self.room.title = reply.title,
            Ok(Answer::Members(reply)) => {
                members::plain(&reply).lines().for_each(|row| self.room.notice(row.to_owned()))
            }
            Ok(Answer::History(reply)) => {
                reply.messages.iter().for_each(|message| self.room.notice(history::plain(message)));
                if reply.messages.is_empty() {
                    self.room.notice("no messages are kept".to_owned());
                }
            }
            Err(QueryError::Refused { code: v1::Code::NotAMember, .. }) => {
                self.room
                    .notice(format!("{} is not your conversation, or there is none of this name", self.conversation));
            }
            Err(error) => self.room.notice(error.to_string()),
        }
    }

    async fn arrived(&mut self, entry: Option<InboxEntry>) -> Result<()> {
        let Some(entry) = entry else {
            // The client has stopped; the status says why.
            return Ok(());
        };
        let other = entry.message().filter(|message| message.conversation != self.conversation.as_str());
        if let Some(message) = other {
            let told = |left: &InboxEntry| left.message().is_some_and(|m| m.conversation == message.conversation);
            if !self.left_alone.iter().any(told) {
                self.room.notice(format!("messages of {} wait for another chat", message.conversation));
            }
            self.left_alone.push_back(entry);
            if self.left_alone.len() > LEFT_ALONE
                && let Some(oldest) = self.left_alone.pop_front()
            {
                self.inbox.confirm(&[oldest]).await?;
            }
            return Ok(());
        }
        self.room.take(&entry);
        if let Some(message) = entry.message_to(&self.me) {
            self.client.mark_read(&self.conversation, message.seq).await?;
        }
        self.inbox.confirm(&[entry]).await?;
        Ok(())
    }

    async fn happened(&mut self, event: Result<Event, RecvError>) -> Result<()> {
        match event {
            Ok(Event::Message { id, state }) => self.room.state(id, state),
            Ok(Event::Receipt(receipt)) => self.room.receipt(&receipt),
            Ok(Event::Clip { .. }) => {}
            Err(_) => self.load_own(false).await?,
        }
        Ok(())
    }

    /// Takes the states of own messages from the store; at the start also the messages that are still open.
    async fn load_own(&mut self, start: bool) -> Result<()> {
        for message in self.client.outbox(OWN).await? {
            let open = matches!(message.state, MessageState::Sending | MessageState::Failed(_));
            if start && open && message.to == self.to.as_str() {
                self.room.own(message.id, message.text, message.state);
            } else {
                self.room.state(message.id, message.state);
            }
        }
        Ok(())
    }
}
