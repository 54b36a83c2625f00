//! `tern cluster` as a person would use it, and `tern smoke` against it.

mod traced;
mod watched;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tern_cluster::Cluster;

use crate::build;
use crate::process::{Process, command};
use crate::step::Tally;

/// Far more than each takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Up, tried at every gateway, down, and up again on the same data; then up again what has died, and down twice.
pub(crate) fn run() -> Result<Tally> {
    let tern = build::tern()?;
    let home = tempfile::Builder::new().prefix("tern-test-").tempdir()?;
    // The database has a user of its own, who has to get at its directory.
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    let dir = home.path().join("cluster");
    let act = |action: &str| -> Result<()> {
        Process::spawn(command(&tern).args(["cluster", action, "--dir"]).arg(&dir))?.succeed(LIMIT)
    };
    let _down = Down(&dir);
    act("up")?;
    act("status")?;
    smoke(&tern, &dir)?;
    watched::metrics(&Cluster::open(&dir)?)?;
    act("down")?;
    act("up")?;
    smoke(&tern, &dir)?;
    let mut cluster = Cluster::open(&dir)?;
    let last = cluster.services.last_mut().context("a service")?;
    last.kill();
    ensure!(act("status").is_err(), "{} is dead, and the status says nothing of it", last.name());
    act("up")?;
    act("status")?;
    smoke(&tern, &dir)?;
    watched::readiness(&mut Cluster::open(&dir)?)?;
    act("down")?;
    act("down")?;
    traced::tree(&tern, &dir)?;
    Ok(Tally::passed(15))
}

/// Two users, at each pair of neighbouring gateways.
fn smoke(tern: &std::path::Path, dir: &std::path::Path) -> Result<()> {
    let cluster = Cluster::open(dir)?;
    let at = |port: Option<u16>| port.map(|port| format!("127.0.0.1:{port}")).context("a gateway has links");
    // Each gateway in turn, with one of the users at the next one.
    for (gateway, next) in cluster.gateways().zip(cluster.gateways().skip(1).chain(cluster.gateways())) {
        let mut smoke = command(tern);
        smoke.args(["smoke", "--long-link", &at(gateway.long_link)?, "--http", &at(gateway.http)?, "--secret-file"]);
        smoke.arg(cluster.secret_file()).args(["--second-long-link", &at(next.long_link)?]).stdout(Stdio::null());
        Process::spawn(&mut smoke)?.succeed(LIMIT).with_context(|| gateway.name())?;
    }
    Ok(())
}

/// Stops what a failed step leaves.
struct Down<'a>(&'a std::path::Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        if let Ok(mut cluster) = Cluster::open(self.0) {
            cluster.kill();
        }
    }
}
