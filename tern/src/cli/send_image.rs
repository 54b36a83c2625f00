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
use tern_client::{Client, MessageState, Receive, Recipient, Sent, UploadError};
use tern_media::declared::Kind;
use tern_proto::v1;

use super::client_options::{ClientArgs, stopped};
use super::send::{EXIT_BAD_LINE, EXIT_FAILED, EXIT_REFUSED};

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
A FILE may be a directory: then all images in it are sent, by name. What a file is, is seen by its content. Interrupted, the same command goes on: what the server has already of an image is not \
sent again, and no image is sent twice.

Exit codes:
  0   every image is acknowledged by the server
  1   it could not start, or the server or the local store refused to go on
  2   a file is no image that the server takes: named on stderr; the others are sent
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
    let noted = client.notes().await?;
    let (mut code, mut place) = (ExitCode::SUCCESS, noted.len());
    for path in files {
        let uploaded = match upload(client, path).await? {
            Ok(uploaded) => uploaded,
            Err(why) => {
                eprintln!("tern send-image: {}: {why}", path.display());
                code = ExitCode::from(EXIT_BAD_LINE);
                continue;
            }
        };
        let note = format!("{} {} {}", args.to, uploaded.id, args.text);
        if noted.contains(&note) {
            eprintln!("tern send-image: {}: sent by the run before", path.display());
            continue;
        }
        let id = client.send_media_noted(&args.to, &uploaded.id, &args.text, place, note).await?;
        place += 1;
        match client.settled(id).await? {
            Some(MessageState::Sent(sent) | MessageState::Delivered(sent) | MessageState::Read(sent)) => {
                tell(args, path, &uploaded, &sent)?;
            }
            Some(MessageState::Failed(why)) => {
                eprintln!("tern send-image: {}: {why}; run again to send it", path.display());
                return Ok(ExitCode::from(EXIT_FAILED));
            }
            Some(MessageState::Refused(why)) => {
                let why = super::group::because(why);
                eprintln!("tern send-image: {}: refused by the server: {why}", path.display());
                code = ExitCode::from(EXIT_REFUSED);
            }
            Some(MessageState::Sending) | None => {
                let status = client.status().borrow().clone();
                let Some(stop) = status.stopped() else { bail!("the client is gone") };
                return Err(stopped(stop).context("the image stays in the outbox"));
            }
        }
    }
    client.clear_notes().await?;
    Ok(code)
}

/// The image on the server; or why it is none, in words.
async fn upload(client: &Client, path: &Path) -> Result<Result<v1::Media, String>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let Some(kind) = Kind::of(&bytes) else { return Ok(Err("is no JPEG, PNG, WebP or GIF".into())) };
    let bar = bar(path, bytes.len());
    let length = bytes.len() as u64;
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
fn bar(path: &Path, length: usize) -> Option<ProgressBar> {
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::with_draw_target(Some(length as u64), ProgressDrawTarget::stderr());
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
