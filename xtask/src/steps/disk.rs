//! `tern check --disk`: a disk that is full for a while, and one that fails at sync. Needs root, since it mounts file systems of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::build;
use crate::process::{Process, command};
use crate::step::Tally;

/// For a run of a minute, with what surrounds it.
const LIMIT: Duration = Duration::from_secs(600);

/// The server of this checkout goes on after each; one that ignores a failed sync is seen to lose what it acknowledged. What the
/// machine lacks is named, and is a failure.
pub(crate) fn run() -> Result<Tally> {
    let planted = build::planted()?;
    let tern = build::tern()?;
    let place = tempfile::Builder::new().prefix("tern-disk-").tempdir()?;
    check(&tern, place.path(), &[])?;
    check(&tern, place.path(), &["--planted", "all", "--binary", &planted.to_string_lossy()])?;
    Ok(Tally::passed(2))
}

fn check(binary: &Path, place: &Path, args: &[&str]) -> Result<()> {
    let mut check = command(binary);
    check.args(["check", "--disk"]).arg(place).args(args);
    // A check that is stopped for taking too long unmounts what it has mounted.
    Process::spawn(&mut check)?.succeed(LIMIT)
}
