//! `tern token`: a token for tests and for a first try. An app issues its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tern_proto::UserId;
use tern_runtime::settings::parse_duration;

use crate::standalone::secret;

/// For whom and how long.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The user: 1 to 64 letters, digits and . _ - @ +
    user: UserId,
    /// For how long it is valid, such as 30s, 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = ttl)]
    ttl: Duration,
    /// The file with the secret that the server checks tokens with
    #[arg(long, value_name = "FILE", env = "TERN_SECRET_FILE", default_value = "tern-data/token-secret")]
    secret_file: PathBuf,
}

/// Prints the token.
///
/// # Errors
/// The secret cannot be read.
pub(crate) fn run(args: &Args) -> Result<()> {
    println!("{}", tern_gateway::mint(&secret::read(&args.secret_file)?, &args.user, args.ttl));
    Ok(())
}

fn ttl(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or("not a time such as 30s, 12h or 7d")
}
