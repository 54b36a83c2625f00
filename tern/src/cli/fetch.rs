//! `tern fetch`: the bytes of media, as they were sent, to stdout.

use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tern_client::{UploadError, Uploads};
use tern_proto::{MediaId, v1};

use super::client_options::ClientArgs;

/// There is no such media for this user.
const EXIT_NONE: u8 = 4;

/// What `--help` says at its end.
pub(crate) const HELP: &str = "\
Who has uploaded it may fetch it, and who may see a message that is about it.

Exit codes:
  0   all of it is written
  1   the server could not be asked, or stdout refused it
  4   there is no such media for this user
  64  the command line is wrong

Example:
  tern fetch --as bob 01a219247f39c52b2e6dfac99d57c8fc > holiday.jpg";

/// Who, what.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The thumbnail, a JPEG, in place of what was sent
    #[arg(long)]
    thumbnail: bool,
    /// Its id, as `send-image`, `send-audio` and `watch` print it
    #[arg(value_name = "MEDIA_ID")]
    id: MediaId,
}

/// Writes the bytes to stdout.
///
/// # Errors
/// The server cannot be asked, or stdout refuses.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    let mut out = std::io::stdout();
    if out.is_terminal() {
        bail!("the bytes would go to the terminal: redirect stdout into a file");
    }
    let options = args.client.options("fetch")?;
    let uploads = Uploads::of(&options, "fetch");
    match uploads.fetch(&args.id.to_string(), args.thumbnail, |bytes| out.write_all(bytes)).await {
        Ok(()) => {
            out.flush().context("stdout")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(UploadError::Refused { code: v1::Code::NoSuchMedia | v1::Code::MediaExpired, message }) => {
            eprintln!("tern fetch: {message}");
            Ok(ExitCode::from(EXIT_NONE))
        }
        Err(error) => Err(error).with_context(|| format!("asking {}", options.http)),
    }
}
