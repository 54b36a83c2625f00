//! A server process with its data.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use tempfile::TempDir;
use tern_client::link::{LongLink, ShortLink};

use crate::process::{self, PATIENCE, Ready, tern};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A running server; killed when dropped.
pub(crate) struct Place {
    home: TempDir,
    settings: Vec<(&'static str, &'static str)>,
    child: Child,
    ready: Ready,
}

impl Place {
    /// A fresh server with these variables in its environment.
    pub(crate) fn start(settings: &[(&'static str, &'static str)]) -> Place {
        let (home, settings) = (tempfile::tempdir().unwrap(), settings.to_vec());
        let (child, ready) = launch(&home, &settings);
        Place { home, settings, child, ready }
    }

    /// Stops the server as an operator does.
    pub(crate) fn stop(&mut self) {
        process::stop(&mut self.child);
    }

    /// Starts it again with the same data.
    pub(crate) fn start_again(&mut self) {
        (self.child, self.ready) = launch(&self.home, &self.settings);
    }

    /// A connection that has said nothing yet.
    pub(crate) async fn connect(&self) -> LongLink {
        LongLink::connect(&self.ready.long_link).await.unwrap()
    }

    pub(crate) fn short_link(&self, user: &str, device: &str) -> ShortLink {
        ShortLink::new(&self.ready.http, &self.token(user), device)
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

fn launch(home: &TempDir, settings: &[(&str, &str)]) -> (Child, Ready) {
    let mut command = tern(&["standalone", "--long-link", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]);
    command.arg(home.path()).env("TERN_TOKEN__SECRET", SECRET).envs(settings.iter().copied());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let ready = Ready::of(&mut child);
    (child, ready)
}
