//! A server process with its data.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tern_client::link::{LongLink, ShortLink};

/// No test waits longer for a process, however busy the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A running server; killed when dropped.
pub(crate) struct Place {
    home: TempDir,
    settings: Vec<(&'static str, &'static str)>,
    child: Child,
    long_link: String,
    http: String,
}

impl Place {
    /// A fresh server with these variables in its environment.
    pub(crate) fn start(settings: &[(&'static str, &'static str)]) -> Place {
        let (home, settings) = (tempfile::tempdir().unwrap(), settings.to_vec());
        let (child, long_link, http) = launch(&home, &settings);
        Place { home, settings, child, long_link, http }
    }

    /// Stops the server as an operator does.
    pub(crate) fn stop(&mut self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the server does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again with the same data.
    pub(crate) fn start_again(&mut self) {
        (self.child, self.long_link, self.http) = launch(&self.home, &self.settings);
    }

    /// A connection that has said nothing yet.
    pub(crate) async fn connect(&self) -> LongLink {
        LongLink::connect(&self.long_link).await.unwrap()
    }

    pub(crate) fn short_link(&self, user: &str, device: &str) -> ShortLink {
        ShortLink::new(&self.http, &self.token(user), device)
    }

    pub(crate) fn token(&self, user: &str) -> String {
        tern_gateway::mint(SECRET.as_bytes(), &user.parse().unwrap(), PATIENCE)
    }

    /// The files of its log.
    pub(crate) fn log(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.home.path().join("log")).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    /// Its open sockets.
    pub(crate) fn sockets(&self) -> usize {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        // One that is closed meanwhile has no target.
        let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.unwrap().path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    /// Its memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(home: &TempDir, settings: &[(&str, &str)]) -> (Child, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tern"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TERN_") {
            command.env_remove(name);
        }
    }
    command.args(["standalone", "--long-link", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]).arg(home.path());
    command.env("TERN_TOKEN__SECRET", SECRET).envs(settings.iter().copied());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let after = |word| ready.split_whitespace().skip_while(|w| *w != word).nth(1).expect("an address").to_owned();
    (child, after("long-link"), after("http"))
}
