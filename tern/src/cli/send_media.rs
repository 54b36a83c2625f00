//! `tern send-image` and `tern send-audio`: a message about each file.
//!
//! An upload needs nothing to be kept for it: to begin again is to go on; and a clip is in the outbox. What was put there is noted, in the same transaction, so that an interrupted
//! run sends nothing twice.

mod bar;
mod files;
mod what;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use tern_client::{Client, MessageState, Outgoing, Receive, Recipient, Sent, Status, StoreError};
use tern_proto::v1;

use super::client_options::{ClientArgs, stopped};
use super::connection::Connection;
use super::send::{EXIT_BAD_LINE, EXIT_FAILED, EXIT_REFUSED, REMEMBERED};
use what::Begun;
pub(crate) use what::What;

/// What `--help` of `send-image` says at its end.
pub(crate) const HELP_IMAGE: &str = "\
A FILE may be a directory: then all images in it are sent, by name; what else is in it, directories too, is left out. What a file is, is seen by its content: JPEG, PNG, WebP or GIF, of 32 MiB and 40 million pixels at most. It is sent as it is, with what it tells of where it was taken, unless the server is set to drop that. Interrupted, the same command goes on: what the server has \
already of an image is not sent again, and no image is sent twice. A run that has come to its end, with whatever exit code but 1 and 3, is forgotten: the same command then sends its images again.

Exit codes:
  0   every image is acknowledged by the server
  1   it could not start, or the server or the local store refused to go on
  2   a file is no image that the server takes, or the user has too much there: named on stderr; the others are sent
  3   messages failed after 12 attempts; the next run sends them first
  4   the server refused messages for good
  64  the command line is wrong

Example:
  tern send-image --as alice --to bob holiday.jpg pictures/";

/// What `--help` of `send-audio` says at its end.
pub(crate) const HELP_AUDIO: &str = "\
A FILE may be a directory: then all clips in it are sent, by name; what else is in it, directories too, is left out. What a file is, is seen by its content: AMR, AMR-WB, SILK version 3, Opus in Ogg, or AAC in MP4 (M4A), of ten minutes and 32 MiB at most. \
Interrupted, the same command goes on from where a clip has come, and no clip is sent twice. A run that has come to its end, with whatever exit code but 1 and 3, is forgotten: the same command then sends its clips again.

Exit codes:
  0   every clip is acknowledged by the server
  1   it could not start, or the server or the local store refused to go on
  2   a file is no audio of a kind that the server takes: named on stderr; the others are sent
  3   messages failed after 12 attempts; the next run sends them first
  4   the server refused messages for good, as it does with a clip that is not whole
  64  the command line is wrong

Example:
  tern send-audio --as alice --to bob hello.amr";

/// From whom, to whom, what.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The user or the group that gets them
    #[arg(long, value_name = "USER|GROUP")]
    to: Recipient,
    /// A text beside each
    #[arg(long, value_name = "TEXT", default_value = "")]
    text: String,
    /// Print a line of JSON for each that is acknowledged, unless the server cannot be asked what it has made of a clip
    #[arg(long)]
    json: bool,
    /// The files, or directories of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Sends the files.
///
/// # Errors
/// A file cannot be read, or the client cannot be opened or has to stop.
pub(crate) async fn run(what: What, args: &Args) -> Result<ExitCode> {
    args.client.check_recipient(&args.to)?;
    let files = files::all(what, &args.files)?;
    let mut options = args.client.options(what.command())?;
    options.receive = Receive::Nothing;
    options.start = v1::Start::Heads;
    options.resend_failed = true;
    let (client, _inbox) = Client::open(options).await?;
    let sending = Box::pin(send_all(what, &client, args, &files));
    let code = Box::pin(Connection::new(what.command()).during(&client, sending)).await;
    client.close().await;
    code
}

async fn send_all(what: What, client: &Client, args: &Args, files: &[PathBuf]) -> Result<ExitCode> {
    let command = what.command();
    // Of an interrupted run: what it has put into the outbox. A file that stands there twice was sent twice.
    let mut noted = client.notes().await?;
    let mut earlier = client.outbox(if noted.is_empty() { 0 } else { REMEMBERED }).await?;
    let (mut bad, mut refused, mut place) = (0, false, noted.len());
    for path in files {
        let begun = match what.begin(client, path).await? {
            Ok(begun) => begun,
            Err(why) => {
                eprintln!("tern {command}: {}: {why}", path.display());
                bad += 1;
                continue;
            }
        };
        let note = format!("{} {} {}", args.to, begun.name(), args.text);
        let id = if let Some(at) = noted.iter().position(|noted| *noted == note) {
            noted.swap_remove(at);
            eprintln!("tern {command}: {}: put into the outbox by an earlier run", path.display());
            // Where it is forgotten there is nothing to tell of it.
            let Some(id) = take_earlier(&mut earlier, args, &begun.name()) else { continue };
            id
        } else {
            // The outbox is told of below.
            let Some(id) = put(client, args, &begun, (place, note)).await? else { break };
            place += 1;
            id
        };
        match shown(client, path, &begun, id).await? {
            Some(MessageState::Sent(sent) | MessageState::Delivered(sent) | MessageState::Read(sent)) => {
                // It is sent, whatever comes of the question.
                match begun.media(client, &sent).await {
                    Ok(media) => tell(args, path, &media, &sent)?,
                    Err(error) => eprintln!("tern {command}: {}: sent, but {error:#}", path.display()),
                }
            }
            Some(MessageState::Refused(why)) => {
                refused = true;
                let why = super::group::because(why);
                eprintln!("tern {command}: {}: refused by the server: {why}", path.display());
            }
            Some(MessageState::Failed(_) | MessageState::Sending) => break,
            // Forgotten among many others, so it has been settled.
            None => {}
        }
    }
    let status = all_settled(client).await?;
    if status.failed > 0 {
        eprintln!("tern {command}: {} messages failed after all attempts; run again to send them", status.failed);
        return Ok(ExitCode::from(EXIT_FAILED));
    }
    client.clear_notes().await?;
    // The count is of this run alone.
    Ok(match (refused || status.refused > 0, bad) {
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(EXIT_BAD_LINE),
        _ => ExitCode::from(EXIT_REFUSED),
    })
}

/// The id of the message of an earlier run about this, the latest first.
fn take_earlier(earlier: &mut Vec<Outgoing>, args: &Args, about: &str) -> Option<u64> {
    let is_it = |sent: &Outgoing| sent.about == about && sent.to == args.to.as_str() && sent.text == args.text;
    earlier.iter().rposition(is_it).map(|at| earlier.remove(at).id)
}

/// Puts the message into the outbox and gives its id; `None` if others failed before it.
async fn put(client: &Client, args: &Args, begun: &Begun, (place, note): (usize, String)) -> Result<Option<u64>> {
    let put = match begun {
        Begun::Uploaded(media) => client.send_media_noted(&args.to, &media.id, &args.text, place, note).await,
        Begun::Clip(clip) => client.speak_noted(&args.to, clip.clone(), &args.text, place, note).await,
    };
    match put {
        Err(StoreError::BehindFailed) => Ok(None),
        put => put.map(Some).context("the outbox"),
    }
}

/// What becomes of the message, with a bar for its clip meanwhile.
async fn shown(client: &Client, path: &Path, begun: &Begun, id: u64) -> Result<Option<MessageState>> {
    let mut events = client.events();
    let showing = bar::show_chunks(path, begun.bytes(), id, &mut events);
    tokio::select! {
        state = client.settled(id) => Ok(state?),
        never = showing => match never {},
    }
}

/// Waits until the outbox has nothing that goes on by itself, what earlier runs have left in it included.
async fn all_settled(client: &Client) -> Result<Status> {
    let mut changes = client.status();
    loop {
        let status = changes.borrow_and_update().clone();
        if let Some(stop) = status.stopped() {
            let left = status.sending + status.failed;
            return Err(stopped(stop).context(format!("{left} messages stay in the outbox")));
        }
        if status.sending == 0 || status.failed > 0 {
            return Ok(status);
        }
        changes.changed().await.context("the client is gone")?;
    }
}

/// What is printed of a file.
#[derive(Serialize)]
struct Told<'a> {
    file: String,
    media: &'a v1::Media,
    conversation: &'a str,
    seq: u64,
    server_msg_id: u64,
}

fn tell(args: &Args, path: &Path, media: &v1::Media, sent: &Sent) -> Result<()> {
    let file = path.display().to_string();
    let line = if args.json {
        let told =
            Told { file, media, conversation: &sent.conversation, seq: sent.seq, server_msg_id: sent.server_msg_id };
        serde_json::to_string(&told)?
    } else {
        format!("{}  {}  {file}", media.id, super::line::extent(media))
    };
    super::ask::print(format!("{line}\n").as_bytes())
}
