//! A `tern standalone` of the tests: a fresh data directory, free ports, gone when dropped.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use crate::process::{Process, command};

/// The server must accept connections within this time, on a machine that is busy with other things.
const START: Duration = Duration::from_secs(20);

/// A running server.
pub(crate) struct Server {
    binary: PathBuf,
    home: TempDir,
    process: Process,
    long_link: String,
    http: String,
}

impl Server {
    /// Starts one on free ports of the loopback.
    pub(crate) fn start(binary: &Path) -> Result<Server> {
        let home = tempfile::Builder::new().prefix("tern-test-").tempdir()?;
        let any = "127.0.0.1:0";
        let (process, long_link, http) = launch(binary, home.path(), any, any)?;
        Ok(Server { binary: binary.into(), home, process, long_link, http })
    }

    /// Where the short link is.
    pub(crate) fn http(&self) -> &str {
        &self.http
    }

    /// Where the long link is.
    pub(crate) fn long_link(&self) -> &str {
        &self.long_link
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// A directory for the files of the test; removed with the server.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// A client command of the same binary that knows where this server is.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = command(&self.binary);
        self.point(&mut command).args(args);
        command
    }

    /// Tells any command where this server is, by environment.
    pub(crate) fn point<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("TERN_LONG_LINK", &self.long_link)
            .env("TERN_HTTP", &self.http)
            .env("TERN_SECRET_FILE", data(self.home.path()).join("token-secret"))
            .env("HOME", self.home.path())
    }

    /// Kills it with -9, waits, and starts it again on the same ports and data.
    pub(crate) fn outage(&mut self, away: Duration) -> Result<()> {
        self.process.child.kill()?;
        self.process.child.wait()?;
        thread::sleep(away);
        (self.process, self.long_link, self.http) =
            launch(&self.binary, self.home.path(), &self.long_link, &self.http)?;
        Ok(())
    }

    /// Stops it as an operator does; it must drain and end cleanly.
    pub(crate) fn stop(self) -> Result<()> {
        self.process.terminate()
    }
}

fn data(home: &Path) -> PathBuf {
    home.join("data")
}

/// Starts the process and waits for its line with the addresses.
fn launch(binary: &Path, home: &Path, long_link: &str, http: &str) -> Result<(Process, String, String)> {
    let mut command = command(binary);
    command.arg("standalone").arg("--data").arg(data(home));
    command.args(["--long-link", long_link, "--http", http]).stdout(Stdio::piped());
    let mut process = Process::spawn(&mut command)?;
    let output = process.child.stdout.take().context("stdout is piped")?;
    let ready = ready_line(output).recv_timeout(START).map_err(|_| anyhow!("the server did not get ready"))?;
    let after = |word: &str| ready.split_whitespace().skip_while(|w| *w != word).nth(1).map(str::to_owned);
    let addresses = after("long-link").zip(after("http"));
    let (long_link, http) = addresses.with_context(|| format!("no addresses in {ready:?}"))?;
    Ok((process, long_link, http))
}

/// Reads the output to its end, so that the server never waits for its reader, and hands out the line with `ready`.
fn ready_line(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (found, line) = mpsc::sync_channel(1);
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.contains("ready") {
                // Only the first is waited for.
                let _ = found.try_send(line);
            }
        }
    });
    line
}
