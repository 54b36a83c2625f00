//! `tern cluster` as a person would use it, and `tern smoke` against it.

mod traced;
mod watched;

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tern_cluster::{Cluster, Service};

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
    deliver(&tern, &dir)?;
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

/// Lines from one gateway's user to another's.
fn deliver(tern: &Path, dir: &Path) -> Result<()> {
    let cluster = Cluster::open(dir)?;
    let (first, last) = cluster.gateways().zip(cluster.gateways().skip(1)).next().context("two gateways")?;
    let client = |at: &Service, action: &str, user: &str| -> Result<_> {
        let mut client = command(tern);
        client.args([
            action,
            "--as",
            user,
            "--long-link",
            &at_loopback(at.long_link)?,
            "--http",
            &at_loopback(at.http)?,
        ]);
        client.arg("--secret-file").arg(cluster.secret_file()).arg("--data").arg(dir.join(user));
        Ok(client)
    };
    let seen = dir.join("seen");
    let mut watch = client(last, "watch", "deliver-bob")?;
    let mut watching = Process::spawn(watch.args(["--idle", "10"]).stdout(File::create(&seen)?))?;
    let file = dir.join("line");
    // The first one has him fetch it, and from then on he is told.
    for line in ["first", "across"] {
        std::fs::write(&file, format!("{line}\n"))?;
        let mut send = client(first, "send", "deliver-alice")?;
        send.args(["--to", "deliver-bob"]).stdin(File::open(&file)?).stdout(Stdio::null());
        Process::spawn(&mut send)?.succeed(LIMIT)?;
        let sent = Instant::now();
        while !std::fs::read_to_string(&seen)?.contains(line) {
            ensure!(sent.elapsed() < LIMIT, "bob has not seen {line:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    watching.succeed(LIMIT)
}

fn at_loopback(port: Option<u16>) -> Result<String> {
    port.map(|port| format!("127.0.0.1:{port}")).context("a gateway has links")
}

/// Two users, at each pair of neighbouring gateways.
fn smoke(tern: &Path, dir: &Path) -> Result<()> {
    let cluster = Cluster::open(dir)?;
    // Each gateway in turn, with one of the users at the next one.
    for (gateway, next) in cluster.gateways().zip(cluster.gateways().skip(1).chain(cluster.gateways())) {
        let mut smoke = command(tern);
        smoke.args([
            "smoke",
            "--long-link",
            &at_loopback(gateway.long_link)?,
            "--http",
            &at_loopback(gateway.http)?,
            "--secret-file",
        ]);
        smoke
            .arg(cluster.secret_file())
            .args(["--second-long-link", &at_loopback(next.long_link)?])
            .stdout(Stdio::null());
        Process::spawn(&mut smoke)?.succeed(LIMIT).with_context(|| gateway.name())?;
    }
    Ok(())
}

/// Stops what a failed step leaves.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        if let Ok(mut cluster) = Cluster::open(self.0) {
            cluster.kill();
        }
    }
}
