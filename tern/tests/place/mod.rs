//! A server as a process, and the commands of `tern` as its clients.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use tempfile::TempDir;

#[path = "../process/mod.rs"]
mod process;

pub(crate) use process::PATIENCE;
use process::{Ready, tern};

/// A server with its data, and clients with theirs beside it.
pub(crate) struct Place {
    home: TempDir,
    server: Option<Child>,
    long_link: String,
    http: String,
}

impl Place {
    pub(crate) fn new() -> Place {
        let any = "127.0.0.1:0".to_owned();
        let mut place = Place { home: tempfile::tempdir().unwrap(), server: None, long_link: any.clone(), http: any };
        place.start();
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn secret(&self) -> PathBuf {
        self.path().join("server/token-secret")
    }

    /// Starts the server, after the first time at the same addresses.
    pub(crate) fn start(&mut self) {
        let mut command = self.tern(&["standalone", "--long-link", &self.long_link, "--http", &self.http, "--data"]);
        let mut server = command.arg(self.path().join("server")).stdout(Stdio::piped()).spawn().unwrap();
        let Ready { long_link, http } = Ready::of(&mut server);
        (self.server, self.long_link, self.http) = (Some(server), long_link, http);
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    pub(crate) fn tern(&self, args: &[&str]) -> Command {
        let mut command = tern(args);
        command.stderr(Stdio::piped()).env("XDG_DATA_HOME", self.path().join("share"));
        command
    }

    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = self.tern(args);
        command.args(["--long-link", &self.long_link, "--http", &self.http]).arg("--secret-file").arg(self.secret());
        command
    }

    pub(crate) fn send(&self, extra: &[&str], input: &[u8]) -> Output {
        self.send_to("bob", extra, input)
    }

    pub(crate) fn send_to(&self, to: &str, extra: &[&str], input: &[u8]) -> Output {
        let mut command = self.client(&["send", "--as", "alice", "--to", to]);
        let mut child = command.args(extra).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // The command may end before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    pub(crate) fn watch(&self, extra: &[&str]) -> String {
        let output = self.client(&["watch", "--as", "bob", "--idle", "0.2"]).args(extra).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client that goes on: what it prints, line by line, and its stdin.
pub(crate) struct Live {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Live {
    pub(crate) fn start(mut command: Command) -> Live {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Live { child, stdin, lines }
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn until(&self, wanted: &str) {
        self.until_some(wanted, |line| line == wanted);
    }

    pub(crate) fn until_some(&self, wanted: &str, is_wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if is_wanted(&line) {
                return;
            }
            seen.push(line);
        }
        panic!("never {wanted:?} after {seen:?}");
    }

    /// Ends stdin and waits; gives the exit code.
    pub(crate) fn finish(mut self) -> Option<i32> {
        self.stdin = None;
        self.child.wait().unwrap().code()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
