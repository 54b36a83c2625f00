//! `tern send-image`: each file is uploaded, and a message is about it.
//!
//! An upload needs nothing to be kept for it: to begin again is to go on. What was put into the outbox is noted there, in the same transaction, so that an interrupted
//! run sends no image twice.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tern_client::{Client, MessageState, Receive, Recipient, Sent, Status, StoreError, UploadError};
use tern_media::declared::Kind;
use tern_proto::v1;

use super::client_options::{ClientArgs, stopped};
use super::send::{EXIT_BAD_LINE, EXIT_FAILED, EXIT_REFUSED};

/// Bytes of an image beyond which no server can be set.
const LARGEST: u64 = 256 * 1024 * 1024;

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
A FILE may be a directory: then all images in it are sent, by name; what else is in it, directories too, is left out. What a file is, is seen by its content. Interrupted, the same command goes on: what the server has \
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

/// From whom, to whom, what.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The user or the group that gets the images
    #[arg(long, value_name = "USER|GROUP")]
    to: Recipient,
    /// A text beside each image
    #[arg(long, value_name = "TEXT", default_value = "")]
    text: String,
    /// Print a line of JSON for each image that is acknowledged
    #[arg(long)]
    json: bool,
    /// JPEG, PNG, WebP or GIF, or directories of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Sends the images.
///
/// # Errors
/// A file cannot be read, or the client cannot be opened or has to stop.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    args.client.check_recipient(&args.to)?;
    let files = images(&args.files)?;
    let mut options = args.client.options("send-image")?;
    options.receive = Receive::Nothing;
    options.start = v1::Start::Heads;
    options.resend_failed = true;
    let (client, _inbox) = Client::open(options).await?;
    let code = send_all(&client, args, &files).await;
    client.close().await;
    code
}

/// The files, and those in the directories.
fn images(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
        let mut within = Vec::new();
        for entry in entries {
            let path = entry?.path();
            // What else is in a directory is not what was meant.
            if path.is_file() && kind_of(&path)?.is_some() {
                within.push(path);
            }
        }
        if within.is_empty() {
            bail!("there is no image in {}", path.display());
        }
        within.sort();
        files.extend(within);
    }
    Ok(files)
}

fn kind_of(path: &Path) -> Result<Option<Kind>> {
    use std::io::Read as _;
    let mut head = Vec::new();
    let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.take(16).read_to_end(&mut head).with_context(|| format!("reading {}", path.display()))?;
    Ok(Kind::of(&head))
}

async fn send_all(client: &Client, args: &Args, files: &[PathBuf]) -> Result<ExitCode> {
    // Of an interrupted run: what it has put into the outbox. A file that stands there twice was sent twice.
    let mut noted = client.notes().await?;
    let (mut bad, mut place) = (0, noted.len());
    for path in files {
        let uploaded = match upload(client, path).await? {
            Ok(uploaded) => uploaded,
            Err(why) => {
                eprintln!("tern send-image: {}: {why}", path.display());
                bad += 1;
                continue;
            }
        };
        let note = format!("{} {} {}", args.to, uploaded.id, args.text);
        if let Some(at) = noted.iter().position(|noted| *noted == note) {
            noted.swap_remove(at);
            eprintln!("tern send-image: {}: sent by the run before", path.display());
            continue;
        }
        let id = match client.send_media_noted(&args.to, &uploaded.id, &args.text, place, note).await {
            Ok(id) => id,
            // The outbox is told of below.
            Err(StoreError::BehindFailed) => break,
            Err(error) => return Err(error).context("the outbox"),
        };
        place += 1;
        match client.settled(id).await? {
            Some(MessageState::Sent(sent) | MessageState::Delivered(sent) | MessageState::Read(sent)) => {
                tell(args, path, &uploaded, &sent)?;
            }
            Some(MessageState::Refused(why)) => {
                let why = super::group::because(why);
                eprintln!("tern send-image: {}: refused by the server: {why}", path.display());
            }
            Some(MessageState::Failed(_) | MessageState::Sending) | None => break,
        }
    }
    let status = all_settled(client).await?;
    if status.failed > 0 {
        eprintln!("tern send-image: {} messages failed after all attempts; run again to send them", status.failed);
        return Ok(ExitCode::from(EXIT_FAILED));
    }
    client.clear_notes().await?;
    Ok(match (status.refused, bad) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(EXIT_BAD_LINE),
        _ => ExitCode::from(EXIT_REFUSED),
    })
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

/// The image on the server; or why it is none, in words.
async fn upload(client: &Client, path: &Path) -> Result<Result<v1::Media, String>> {
    let Some(kind) = kind_of(path)? else { return Ok(Err("is no JPEG, PNG, WebP or GIF".into())) };
    let length = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
    if length > LARGEST {
        return Ok(Err(format!("has {length} bytes, more than any server takes")));
    }
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let bar = bar(path, length);
    let show = |there: u32, parts: u32| {
        if let Some(bar) = &bar {
            bar.set_position(length * u64::from(there) / u64::from(parts.max(1)));
        }
    };
    let uploaded = client.uploads().upload(kind.media_type(), bytes.into(), show).await;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    match uploaded {
        Ok(upload) => Ok(Ok(upload.media.context("the server has not told what it has made of the image")?)),
        Err(UploadError::Refused { code: v1::Code::BadMedia | v1::Code::MediaQuota, message }) => Ok(Err(message)),
        Err(error) => Err(error).with_context(|| format!("uploading {}", path.display())),
    }
}

/// On a terminal alone.
fn bar(path: &Path, length: u64) -> Option<ProgressBar> {
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    bar.set_message(name);
    Some(bar)
}

/// What is printed of an image.
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
    if args.json {
        let told =
            Told { file, media, conversation: &sent.conversation, seq: sent.seq, server_msg_id: sent.server_msg_id };
        println!("{}", serde_json::to_string(&told)?);
    } else {
        println!("{}  {}x{}  {file}", media.id, media.width, media.height);
    }
    Ok(())
}
