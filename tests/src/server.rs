//! The server under test: a process of its own, started, killed and started again on the same data.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tern_runtime::planted::Fault;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::inner_link::InnerLink;

/// A start takes well under a second; more means that something is wrong.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// A free port of the loopback; the server says which.
const ANY: &str = "127.0.0.1:0";
/// Before it has said so.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How to start the server.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// The binary.
    pub(crate) binary: PathBuf,
    /// The fault that is switched on.
    pub(crate) planted: Option<String>,
    /// Settings as environment variables.
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// A running server: one process, or a cluster.
pub(crate) enum Server {
    /// `tern standalone`.
    One(One),
    /// All services.
    Cluster(Cluster),
}

/// A server that is one process.
pub(crate) struct One {
    long: SocketAddr,
    http: SocketAddr,
    child: Child,
}

impl Server {
    /// Where long links go, and where short ones.
    pub(crate) fn addresses(&self) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        match self {
            Server::One(one) => (vec![one.long], vec![one.http]),
            Server::Cluster(cluster) => cluster.addresses(),
        }
    }

    /// What has ended by itself, and how.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub(crate) fn ended(&mut self) -> std::io::Result<Option<String>> {
        Ok(match self {
            Server::One(one) => {
                one.ended()?.map(|status| format!("the server ended by itself with {status}; see server.log"))
            }
            Server::Cluster(cluster) => {
                cluster.ended()?.map(|(name, status)| format!("{name} ended by itself with {status}; see its log"))
            }
        })
    }

    /// Kills it with SIGKILL and waits until it is gone; gives the links that are to be used again.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) async fn kill(self) -> anyhow::Result<Vec<InnerLink>> {
        match self {
            Server::One(one) => {
                one.kill().await?;
                Ok(Vec::new())
            }
            Server::Cluster(cluster) => cluster.kill().await,
        }
    }
}

impl One {
    /// Starts the server on a data directory and waits until it accepts. Its output is appended to `server.log` in the directory of the run.
    ///
    /// # Errors
    /// It ends, or does not accept within 20 s.
    pub(crate) async fn start(build: &Build, directory: &Path, data: &Path) -> anyhow::Result<One> {
        let path = directory.join("server.log");
        let log = std::fs::File::options().create(true).append(true).open(&path)?;
        let before = usize::try_from(log.metadata()?.len())?;
        let mut command = Command::new(&build.binary);
        command.arg("standalone").arg("--data").arg(data);
        command.args(["--long-link", ANY, "--http", ANY]);
        command.env_remove(Fault::VARIABLE).envs(build.planted.iter().map(|name| (Fault::VARIABLE, name)));
        command.envs(build.settings.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", build.binary.display()))?;
        let mut server = One { long: UNKNOWN, http: UNKNOWN, child };
        let deadline = Instant::now() + START;
        while server.long == UNKNOWN {
            if let Some((long, http)) = ready(std::fs::read(&path)?.get(before..).unwrap_or_default()) {
                (server.long, server.http) = (long, http);
            } else if let Some(status) = server.ended()? {
                let log = std::fs::read_to_string(&path)?;
                let last = log.lines().last().unwrap_or_default();
                bail!("the server ended at its start with {status}: {last}");
            } else if Instant::now() > deadline {
                bail!("the server does not get ready; see server.log");
            }
            sleep(POLL).await;
        }
        Ok(server)
    }

    /// Where long links go, and short ones.
    pub(crate) fn links(&self) -> (SocketAddr, SocketAddr) {
        (self.long, self.http)
    }

    /// How the server ended, if it did so by itself.
    ///
    /// # Errors
    /// The operating system does not tell.
    fn ended(&mut self) -> std::io::Result<Option<std::process::ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) async fn kill(mut self) -> std::io::Result<()> {
        self.child.kill().await
    }
}

/// The addresses in the line that says that the server accepts.
fn ready(log: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let log = String::from_utf8_lossy(log);
    let line = log.lines().find(|line| line.starts_with("tern ready:"))?;
    let after = |word: &str| line.split_whitespace().skip_while(|other| *other != word).nth(1)?.parse().ok();
    Some((after("long-link")?, after("http")?))
}

/// Reads the secret that the server made at its first start.
///
/// # Errors
/// There is none.
pub(crate) fn token_secret(data: &Path) -> anyhow::Result<Vec<u8>> {
    let secret = std::fs::read(data.join("token-secret")).context("no token secret in the data directory")?;
    Ok(secret.trim_ascii().to_vec())
}

/// A token for a user, good for a day.
///
/// # Errors
/// The secret cannot sign.
pub(crate) fn mint(secret: &[u8], user: &str) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct Claims<'a> {
        sub: &'a str,
        exp: i64,
    }
    let claims = Claims { sub: user, exp: tern_runtime::clock::unix_millis() / 1000 + 86_400 };
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    Ok(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)?)
}
