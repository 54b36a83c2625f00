//! `tern token`: a token for tests and for a first try. An app issues its own.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tern_proto::UserId;
use tern_runtime::settings::parse_duration;

use tern_gateway::setup::secret;

/// For whom and how long.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The user: 1 to 64 letters, digits and . _ - @ +
    user: UserId,
    /// For how long it is valid, such as 30s, 12h or 7d; at most 3650d. The server grants 60 s more, since clocks differ
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

/// A token has an end in whole seconds; one that outlives its users was meant otherwise.
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_650 * 24 * 3_600);

fn ttl(text: &str) -> Result<Duration, &'static str> {
    let ttl = parse_duration(text).ok_or("not a time such as 30s, 12h or 7d")?;
    if TTL.contains(&ttl) { Ok(ttl) } else { Err("not from 1s to 3650d") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_a_second_to_ten_years() {
        for good in ["1s", "30d", "3650d"] {
            assert!(ttl(good).is_ok(), "{good}");
        }
        for bad in ["0s", "999ms", "3651d", "99999999d", "10", "for ever"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }
}
