//! The server that is measured: one of its own on a temporary directory, or one that runs already.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tern_cluster::{Cluster, Layout};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::cores::Cores;
use crate::http::{get, metric};
use crate::processes::{Part, Processes};

/// A start reads the log behind the last checkpoint, no more; a minute means that something is wrong.
const START: Duration = Duration::from_secs(60);
/// What the server logs.
const LOG: &str = "server.log";
/// Of that, what is told when something goes wrong.
const LOG_LINES: usize = 5;
/// The type of a file system in memory.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;
/// A stop writes a checkpoint.
const STOP: Duration = Duration::from_secs(60);

/// Where the server is. Without any address the bench starts one of its own.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    /// Measure the server that runs here, instead of one that is started for it: its long link
    #[arg(long, global = true, value_name = "ADDR", requires_all = ["http", "pid", "secret"])]
    long_link: Option<SocketAddr>,
    /// Its short link
    #[arg(long, global = true, value_name = "ADDR", requires = "long_link")]
    http: Option<SocketAddr>,
    /// Its process
    #[arg(long, global = true, requires = "long_link")]
    pid: Option<u32>,
    /// The file with its secret
    #[arg(long, global = true, value_name = "FILE", requires = "long_link")]
    secret: Option<PathBuf>,
    /// Its metrics, if it serves them (listen.metrics)
    #[arg(long, global = true, value_name = "ADDR", requires = "long_link")]
    metrics: Option<SocketAddr>,
    /// Measure a whole cluster that is started for it: its services, and its PostgreSQL from the machine's packages
    #[arg(long, global = true, conflicts_with = "long_link")]
    cluster: bool,
    /// Gateways of that cluster, and sync replicas; it has two storage replicas
    #[arg(long, global = true, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    replicas: u8,
    /// Where the temporary data directory is made [default: the system's directory for temporary files]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Storage replicas of a cluster, however many others it has.
const STORAGES: usize = 2;

/// A running server.
pub(crate) struct Server {
    pub(crate) process: Processes,
    pub(crate) secret: Vec<u8>,
    at: Addresses,
    /// There unless the server ran already, or is a cluster.
    own: Option<Own>,
    /// There if it is one.
    cluster: Option<Cluster>,
    /// Temporary; on the disk of the data, if the server is its own.
    home: TempDir,
}

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `tern standalone`.
    Tern,
    /// `tern bench-echo`.
    Echo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Addresses {
    /// Of each gateway.
    long_links: Vec<SocketAddr>,
    http: SocketAddr,
    metrics: Option<SocketAddr>,
}

struct Own {
    child: Child,
    kind: Kind,
    cores: Cores,
    started_in: Duration,
}

/// What the store has done so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreCounts {
    pub(crate) syncs: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
    pub(crate) moved: u64,
    pub(crate) segments_freed: u64,
}

impl Server {
    /// Starts the server, or looks at the one that runs.
    pub(crate) async fn start(target: &Target, kind: Kind, cores: Cores) -> Result<Server> {
        let home = match &target.dir {
            Some(dir) => TempDir::with_prefix_in("tern-bench-", dir),
            None => TempDir::with_prefix("tern-bench-"),
        };
        let home = home.context("making the temporary directory")?;
        if rustix::fs::statfs(home.path())?.f_type == TMPFS {
            eprintln!(
                "bench: {} is in memory: syncs cost nothing there; --dir DIR names a disk",
                home.path().display()
            );
        }
        if kind == Kind::Echo {
            return Server::start_echo(home, cores).await;
        }
        if target.cluster {
            return Server::start_cluster(home, cores, target.replicas.into());
        }
        let Target { long_link: Some(long_link), http: Some(http), pid: Some(pid), .. } = *target else {
            return Server::start_own(home, cores).await;
        };
        let at = Addresses { long_links: vec![long_link], http, metrics: target.metrics };
        get(http, "/readyz").await?;
        let secret = read_secret(target.secret.as_deref().unwrap_or(Path::new("")))?;
        Ok(Server { process: Processes::one(pid), secret, at, own: None, cluster: None, home })
    }

    async fn start_own(home: TempDir, cores: Cores) -> Result<Server> {
        let (own, at) = Own::start(home.path(), Kind::Tern, cores).await?;
        let secret = read_secret(&home.path().join("data/token-secret"))?;
        Ok(Server { process: own.process()?, secret, at, own: Some(own), cluster: None, home })
    }

    async fn start_echo(home: TempDir, cores: Cores) -> Result<Server> {
        let (own, at) = Own::start(home.path(), Kind::Echo, cores).await?;
        Ok(Server { process: own.process()?, secret: Vec::new(), at, own: Some(own), cluster: None, home })
    }

    /// Starts everything on the server's core. Blocks until it is up.
    fn start_cluster(home: TempDir, cores: Cores, replicas: usize) -> Result<Server> {
        // The database has a user of its own, who has to get at its directory.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711))?;
        let programs = std::env::current_exe()?.parent().context("this program has no directory")?.to_owned();
        let layout = Layout { gateways: replicas, syncs: replicas, storages: STORAGES, medias: 0 };
        let mut cluster = Cluster::plan(&home.path().join("cluster"), &programs, layout)?;
        cores.on_server_core(|| cluster.up())?;
        let database = cluster.postgres().context("a database")?;
        let asked = "SELECT string_agg(name || ' = ' || setting, ', ') FROM pg_settings \
            WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')";
        eprintln!("bench: PostgreSQL runs with {}", database.sql("postgres", asked)?);
        let mut parts = vec![(Part::Postgres, database.pid().context("the database's process")?)];
        for service in &cluster.services {
            let part = match service.kind {
                tern_cluster::Kind::Gateway => Part::Gateway,
                tern_cluster::Kind::Sync => Part::Sync,
                tern_cluster::Kind::Storage => Part::Storage,
                tern_cluster::Kind::Redis => Part::Redis,
                tern_cluster::Kind::Nats => Part::Nats,
                tern_cluster::Kind::Media => continue,
            };
            parts.push((part, service.pid.context("a service's process")?));
        }
        let at = |port: Option<u16>| port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let long_links = cluster.gateways().filter_map(|gateway| at(gateway.long_link)).collect();
        let http = cluster.gateways().find_map(|gateway| at(gateway.http)).context("a gateway")?;
        let secret = read_secret(&cluster.secret_file())?;
        let at = Addresses { long_links, http, metrics: None };
        Ok(Server { process: Processes::of(parts), secret, at, own: None, cluster: Some(cluster), home })
    }

    /// Where long links go: to each gateway in turn.
    pub(crate) fn long_links(&self) -> &[SocketAddr] {
        &self.at.long_links
    }

    /// Where the short link is; of a cluster the first one's.
    pub(crate) fn http(&self) -> SocketAddr {
        self.at.http
    }

    /// Whether the bench started it.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// A directory on the disk of the data, as far as the bench knows that.
    pub(crate) fn directory(&self) -> &Path {
        self.home.path()
    }

    /// What the store has done so far, if the server tells.
    pub(crate) async fn store_counts(&self) -> Result<Option<StoreCounts>> {
        let Some(metrics) = self.at.metrics else { return Ok(None) };
        let text = get(metrics, "/metrics").await?;
        let counts = || {
            Some(StoreCounts {
                syncs: metric(&text, "tern_log_syncs_total")?,
                bytes: metric(&text, "tern_log_bytes_total")?,
                dropped: metric(&text, "tern_retention_dropped_total")?,
                moved: metric(&text, "tern_retention_moved_total")?,
                segments_freed: metric(&text, "tern_retention_segments_total")?,
            })
        };
        Ok(counts())
    }

    /// Stops the server and starts it again on the same data; how long the start took.
    ///
    /// # Errors
    /// It is not the bench's own.
    pub(crate) async fn restart(&mut self) -> Result<Duration> {
        let own = self.own.take().context("a server that runs already is not restarted")?;
        let (kind, cores) = (own.kind, own.cores);
        own.stop().await?;
        let (own, at) = Own::start(self.home.path(), kind, cores).await?;
        let started_in = own.started_in;
        self.process = own.process()?;
        (self.own, self.at) = (Some(own), at);
        Ok(started_in)
    }

    /// Tells on stderr what the server logged last.
    pub(crate) fn tell_log(&self) {
        let log = last_lines(self.home.path());
        if !log.is_empty() {
            eprintln!("the server logged last:\n{log}");
        }
    }

    /// Stops the server, if it is the bench's own, and removes the temporary directory.
    pub(crate) async fn stop(self) -> Result<()> {
        let stopped = match self.own {
            Some(own) => own.stop().await,
            None if self.cluster.is_some_and(|mut cluster| !cluster.down()) => {
                Err(anyhow!("not every service stopped by itself"))
            }
            None => Ok(()),
        };
        self.home.close().context("removing the temporary directory")?;
        stopped
    }
}

impl Own {
    async fn start(home: &Path, kind: Kind, cores: Cores) -> Result<(Own, Addresses)> {
        let log = fs::File::options().create(true).append(true).open(home.join(LOG))?;
        let mut command = Command::new(std::env::current_exe()?);
        match kind {
            Kind::Tern => {
                command.args(["standalone", "--long-link", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]);
                command.arg(home.join("data")).env("TERN_LISTEN__METRICS", "127.0.0.1:0");
            }
            Kind::Echo => {
                command.arg("bench-echo");
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let began = Instant::now();
        let mut child = cores.on_server_core(|| command.spawn()).context("starting the server")?;
        let mut lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        let ready = timeout(START, lines.next_line()).await.context("the server does not get ready")??;
        let Some(at) = ready.as_deref().and_then(Addresses::of) else {
            bail!("the server does not get ready; it logged last:\n{}", last_lines(home));
        };
        Ok((Own { child, kind, cores, started_in: began.elapsed() }, at))
    }

    fn process(&self) -> Result<Processes> {
        Ok(Processes::one(self.child.id().context("the server ended at once")?))
    }

    async fn stop(mut self) -> Result<()> {
        if self.kind == Kind::Echo {
            return Ok(self.child.kill().await?);
        }
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).context("stopping the server")?;
        }
        match timeout(STOP, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(status.success(), "the server ended with {status}");
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!("the server did not stop within {STOP:?} and was killed");
            }
        }
    }
}

impl Addresses {
    /// Out of the line that the server prints when it is ready.
    fn of(line: &str) -> Option<Addresses> {
        let words = line.split_once("ready: ")?.1;
        let after = |name: &str| words.split(' ').skip_while(|word| *word != name).nth(1)?.parse().ok();
        Some(Addresses { long_links: vec![after("long-link")?], http: after("http")?, metrics: after("metrics") })
    }
}

fn last_lines(home: &Path) -> String {
    let log = fs::read_to_string(home.join(LOG)).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

fn read_secret(file: &Path) -> Result<Vec<u8>> {
    let secret = fs::read_to_string(file).with_context(|| format!("reading the secret {}", file.display()))?;
    Ok(secret.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_read_off_the_ready_line() {
        let line = "tern ready: long-link 127.0.0.1:1 http [::1]:2 metrics 127.0.0.1:3 data /x http 9";
        let address = |text: &str| text.parse().unwrap();
        let (long_link, http) = (address("127.0.0.1:1"), address("[::1]:2"));
        assert_eq!(
            Addresses::of(line),
            Some(Addresses { long_links: vec![long_link], http, metrics: Some(address("127.0.0.1:3")) })
        );
        let without = "tern ready: long-link 127.0.0.1:1 http [::1]:2 data /x";
        assert_eq!(Addresses::of(without), Some(Addresses { long_links: vec![long_link], http, metrics: None }));
        assert_eq!(Addresses::of("Try it"), None);
    }
}
