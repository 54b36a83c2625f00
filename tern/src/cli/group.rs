//! `tern group`: makes a group and changes it. Each change is a message that goes through this device's outbox.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use tern_client::{Client, MessageState, Receive, StoreError};
use tern_proto::{ConversationId, UserId, v1};
use tern_runtime::settings::{BadSetting, BadSettings};

use super::client_options::{ClientArgs, stopped};
use super::connection::Connection;
use super::send::{EXIT_FAILED, EXIT_REFUSED};

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
Any member may add and give a title, the owner may remove anybody, everybody may leave. If the owner leaves, the member who joined first owns \
the group. A member sees it from the message that added them. A text goes to a group by `tern send --to GROUP` and `tern chat --to GROUP`.

A change goes through an outbox on disk: after an interruption the next `tern group` of this user sends first what is left in it.

Exit codes: 0 the server has it; 1 it could not start, or the server or the local store refused to go on; 3 no answer after 12 attempts: it \
stays in the outbox; 4 the server refused it for good; 64 the command line is wrong.

Example:
  group=$(tern group create --as alice --title Trip bob carol)
  tern group add --as bob \"$group\" dave";

/// What to do.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Makes a group of the user and others, and prints its name
    #[command(after_long_help = "Example:\n  tern group create --as alice --title Trip bob carol")]
    Create {
        #[command(flatten)]
        client: ClientArgs,
        /// At most 128 bytes
        #[arg(long)]
        title: Option<String>,
        /// Who joins, beside the user
        #[arg(value_name = "USER")]
        users: Vec<UserId>,
    },
    /// Adds users
    #[command(after_long_help = "Example:\n  tern group add --as alice g/4128 dave erin")]
    Add(Members),
    /// Removes members; only the owner may
    #[command(after_long_help = "Example:\n  tern group remove --as alice g/4128 dave")]
    Remove(Members),
    /// Leaves
    #[command(after_long_help = "Example:\n  tern group leave --as bob g/4128")]
    Leave(Group),
    /// Gives a title, or takes it away
    #[command(after_long_help = "Example:\n  tern group title --as bob g/4128 'Trip to the sea'")]
    Title {
        #[command(flatten)]
        group: Group,
        /// At most 128 bytes; empty for none
        title: String,
    },
}

#[derive(clap::Args, Debug)]
struct Group {
    #[command(flatten)]
    client: ClientArgs,
    /// The name that the group got when it was made, such as g/4128
    #[arg(value_name = "GROUP", value_parser = group)]
    name: ConversationId,
}

#[derive(clap::Args, Debug)]
struct Members {
    #[command(flatten)]
    group: Group,
    /// Whom
    #[arg(value_name = "USER", required = true)]
    users: Vec<UserId>,
}

/// Makes the change and waits until the server has it.
///
/// # Errors
/// The client cannot be opened or has to stop.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    let mut options = args.what.client().options("group")?;
    (options.receive, options.start) = (Receive::Nothing, v1::Start::Heads);
    options.resend_failed = true;
    let (client, _inbox) = Client::open(options).await?;
    let ended = args.what.carry_out(&client).await;
    client.close().await;
    ended
}

impl What {
    fn client(&self) -> &ClientArgs {
        match self {
            What::Create { client, .. } => client,
            What::Add(Members { group, .. }) | What::Remove(Members { group, .. }) => &group.client,
            What::Leave(group) | What::Title { group, .. } => &group.client,
        }
    }

    async fn carry_out(&self, client: &Client) -> Result<ExitCode> {
        let left = client.status().borrow().sending;
        if left > 0 {
            eprintln!("tern group: sending first {left} changes that an earlier run left");
        }
        let id = self.enqueue(client).await.map_err(|error| match error {
            StoreError::BadChange(bad) => wrong(bad.to_string()).into(),
            error => anyhow::Error::from(error).context("the outbox"),
        })?;
        let settled = Connection::new("group").during(client, client.settled(id)).await;
        match settled.context("the outbox")? {
            Some(MessageState::Sent(sent) | MessageState::Delivered(sent) | MessageState::Read(sent)) => {
                if let What::Create { .. } = self {
                    println!("{}", sent.conversation);
                }
                Ok(ExitCode::SUCCESS)
            }
            Some(MessageState::Refused(code)) => {
                eprintln!("tern group: the server refused it: {}", because(code));
                Ok(ExitCode::from(EXIT_REFUSED))
            }
            Some(MessageState::Failed(reason)) => {
                eprintln!("tern group: no answer: {reason}; it stays in the outbox, and the next run sends it first");
                Ok(ExitCode::from(EXIT_FAILED))
            }
            Some(MessageState::Sending) | None => match client.status().borrow().stopped() {
                Some(stop) => Err(stopped(stop).context("the change stays in the outbox")),
                None => Err(anyhow!("the client is gone")),
            },
        }
    }

    async fn enqueue(&self, client: &Client) -> Result<u64, StoreError> {
        match self {
            What::Create { title, users, .. } => client.create_group(title.as_deref(), users).await,
            What::Add(Members { group, users }) => client.add(&group.name, users).await,
            What::Remove(Members { group, users }) => client.remove(&group.name, users).await,
            What::Leave(group) => client.leave(&group.name).await,
            What::Title { group, title } => {
                let change = v1::GroupChange { title: Some(title.clone()), ..Default::default() };
                client.change(&group.name, change).await
            }
        }
    }
}

fn wrong(reason: String) -> BadSettings {
    BadSettings(vec![BadSetting::Value { name: "the change".into(), reason, origin: "the command line".into() }])
}

/// A refusal, for a person.
pub(super) fn because(code: v1::Code) -> &'static str {
    match code {
        v1::Code::NotAMember => "not your group, or there is none of this name",
        v1::Code::NotAllowed => "only the owner removes others",
        v1::Code::GroupFull => "a group has at most 200 members",
        v1::Code::NoSuchMedia => "there is no such media, or it is not yours to send",
        v1::Code::BadMedia => "it is not whole, or of another type than its first bytes say, or lasts over ten minutes",
        v1::Code::MediaQuota => "it is too large, or you have too much stored there",
        code => code.as_str_name(),
    }
}

fn group(name: &str) -> Result<ConversationId, &'static str> {
    let group = ConversationId::new(name).ok().filter(ConversationId::is_group);
    group.ok_or("not a group, whose name is like g/4128")
}
