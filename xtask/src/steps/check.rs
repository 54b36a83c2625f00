//! `tern check`: faults, recorded by clients and held against the model.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::build;
use crate::process::{Process, command};
use crate::step::Tally;

/// For a run of a minute or so, with what surrounds it.
const SHORT: Duration = Duration::from_secs(300);
/// For a run of five minutes, with what surrounds it.
const LONG: Duration = Duration::from_secs(900);

/// A minute with ten kills of the server.
pub(crate) fn short() -> Result<Tally> {
    check(&build::tern()?, &["--kills", "10"], SHORT)
}

/// Five minutes with fifty kills.
pub(crate) fn long() -> Result<Tally> {
    check(&build::tern()?, &["--minutes", "5", "--kills", "50"], LONG)
}

/// Images and clips for half a minute, with a kill of the server each second.
pub(crate) fn media() -> Result<Tally> {
    check(&build::tern()?, &["--scene", "media", "--seconds", "30", "--kills", "30"], SHORT)
}

/// The same in a cluster, for 45 seconds.
pub(crate) fn media_cluster() -> Result<Tally> {
    check(&build::tern()?, &["--scene", "media-cluster", "--seconds", "45", "--kills", "30"], SHORT)
}

/// A minute in a cluster.
pub(crate) fn short_cluster() -> Result<Tally> {
    check(&build::tern()?, &["--scene", "cluster"], SHORT)
}

/// Three minutes in a cluster.
pub(crate) fn long_cluster() -> Result<Tally> {
    check(&build::tern()?, &["--scene", "cluster", "--minutes", "3"], LONG)
}

/// Every rule that can be broken on purpose in a cluster is seen to be broken there.
pub(crate) fn planted_cluster() -> Result<Tally> {
    let planted = build::planted()?;
    let args = ["--scene", "cluster", "--planted", "all", "--binary", &planted.to_string_lossy()];
    check(&build::tern()?, &args, LONG)
}

/// Every rule that can be broken on purpose is seen to be broken.
pub(crate) fn planted() -> Result<Tally> {
    let planted = build::planted()?;
    check(&build::tern()?, &["--planted", "all", "--binary", &planted.to_string_lossy()], LONG)
}

fn check(binary: &Path, args: &[&str], limit: Duration) -> Result<Tally> {
    Process::succeed_or_tell(command(binary).arg("check").args(args), limit)?;
    Ok(Tally::passed(1))
}
