//! `tern smoke` against a fresh server.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;

use crate::build;
use crate::process::Process;
use crate::server::Server;
use crate::step::Tally;

/// Far more than it takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs it twice, since its users must be fresh each time, and stops the server cleanly.
pub(crate) fn run() -> Result<Tally> {
    let server = Server::start(&build::tern()?)?;
    Process::spawn(&mut server.client(&["smoke"]))?.succeed(LIMIT)?;
    Process::spawn(server.client(&["smoke"]).stdout(Stdio::null()))?.succeed(LIMIT)?;
    server.stop()?;
    Ok(Tally::passed(3))
}
