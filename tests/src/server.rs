//! The server under test: a process of its own, started, killed and started again on the same data.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tern_runtime::planted::Fault;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// A start takes well under a second; more means that something is wrong.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// How to start the server.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// The binary.
    pub(crate) binary: PathBuf,
    /// The fault that is switched on.
    pub(crate) planted: Option<String>,
}

/// A running server.
pub(crate) struct Server {
    /// Where long links go.
    pub(crate) long: SocketAddr,
    /// Where short links go.
    pub(crate) http: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts the server on a data directory and waits until it accepts on both ports. Its output is appended to `server.log` beside the data.
    ///
    /// # Errors
    /// It ends, or does not accept within 20 s.
    pub(crate) async fn start(build: &Build, directory: &Path) -> anyhow::Result<Server> {
        let (long, http) = (free_port()?, free_port()?);
        let log = std::fs::File::options().create(true).append(true).open(directory.join("server.log"))?;
        let mut command = Command::new(&build.binary);
        command.arg("standalone").arg("--data").arg(directory.join("data"));
        command.args(["--long-link", &long.to_string(), "--http", &http.to_string()]);
        command.env_remove(Fault::VARIABLE).envs(build.planted.iter().map(|name| (Fault::VARIABLE, name)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", build.binary.display()))?;
        let mut server = Server { long, http, child };
        let deadline = Instant::now() + START;
        for address in [long, http] {
            while TcpStream::connect(address).await.is_err() {
                if let Some(status) = server.ended()? {
                    bail!("the server ended at its start with {status}; see server.log");
                }
                if Instant::now() > deadline {
                    bail!("the server does not accept on {address}; see server.log");
                }
                sleep(POLL).await;
            }
        }
        Ok(server)
    }

    /// How the server ended, if it did so by itself.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub(crate) fn ended(&mut self) -> std::io::Result<Option<std::process::ExitStatus>> {
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

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Reads the secret that the server made at its first start.
///
/// # Errors
/// There is none.
pub(crate) fn token_secret(directory: &Path) -> anyhow::Result<Vec<u8>> {
    let secret =
        std::fs::read(directory.join("data").join("token-secret")).context("no token secret in the data directory")?;
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
