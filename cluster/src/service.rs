//! One process of a service.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What may be lost: who is where. The machine's `redis-server`, which keeps nothing over a restart.
    Redis,
    /// Carries hints. The machine's `nats-server`.
    Nats,
    /// Timelines, over PostgreSQL.
    Storage,
    /// Decisions, over storage.
    Sync,
    /// Images and audio.
    Media,
    /// Links, in front of sync.
    Gateway,
}

impl Kind {
    /// In the order in which they are started: each finds the one it needs.
    pub const ALL: [Kind; 6] = [Kind::Redis, Kind::Nats, Kind::Storage, Kind::Sync, Kind::Media, Kind::Gateway];

    /// As in the name of its program.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Redis => "redis",
            Kind::Nats => "nats",
            Kind::Storage => "storage",
            Kind::Sync => "sync",
            Kind::Media => "media",
            Kind::Gateway => "gateway",
        }
    }

    /// Whether it is one of Tern's own.
    pub fn is_own(self) -> bool {
        !matches!(self, Kind::Redis | Kind::Nats)
    }

    /// What it says when it can be used.
    fn ready(self) -> &'static str {
        match self {
            Kind::Redis => "Ready to accept connections",
            Kind::Nats => "Server is ready",
            Kind::Storage | Kind::Sync | Kind::Media | Kind::Gateway => " ready:",
        }
    }
}

/// What is started.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<PathBuf>,
}

/// A process of a service, running or not.
#[derive(Debug, Serialize, Deserialize)]
pub struct Service {
    /// Which service.
    pub kind: Kind,
    /// The how many-th of its kind, from 1.
    pub number: usize,
    /// Where the other services call it. A gateway is called by none.
    pub port: Option<u16>,
    /// Of a gateway: where long links go.
    pub long_link: Option<u16>,
    /// Of a gateway: where short links go.
    pub http: Option<u16>,
    /// Of Tern's own: where whoever watches it asks.
    #[serde(default)]
    pub metrics: Option<u16>,
    /// If it was started.
    pub pid: Option<u32>,
    /// If this process has started it.
    #[serde(skip)]
    child: Option<Child>,
}

impl Service {
    pub(crate) fn new(kind: Kind, number: usize) -> Service {
        Service { kind, number, port: None, long_link: None, http: None, metrics: None, pid: None, child: None }
    }

    /// `gateway-1`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.kind.name(), self.number)
    }

    /// Starts it and waits until it says that it is ready. Its output is appended to its log.
    pub(crate) fn start(
        &mut self,
        program: &Program,
        settings: &[(String, String)],
        log: &Path,
        patience: Duration,
    ) -> io::Result<()> {
        let file = File::options().create(true).append(true).open(log)?;
        let before = file.metadata()?.len() as usize;
        let mut command = Command::new(&program.path);
        command.args(&program.arguments);
        // A group of its own: what interrupts this program in its terminal is not meant for the cluster.
        command.process_group(0).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let inherited = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TERN_"));
        for (name, _) in inherited {
            command.env_remove(name);
        }
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let child = command.spawn()?;
        (self.pid, self.child) = (Some(child.id()), Some(child));
        let began = Instant::now();
        let ready = self.kind.ready();
        loop {
            let told = std::fs::read(log)?;
            if String::from_utf8_lossy(told.get(before..).unwrap_or_default()).contains(ready) {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                return Err(unready(&format!("ended at its start with {status}"), log));
            }
            if began.elapsed() > patience {
                return Err(unready("is not ready", log));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How it ended, if this process has started it and it did so.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        match self.ended() {
            Ok(Some(_)) => false,
            // A child counts as running until it is told how it ended: its first thread may be gone while others still hold its ports.
            Ok(None) if self.child.is_some() => true,
            _ => self.pid.is_some_and(runs),
        }
    }

    /// Sends a signal; nothing if it is not there.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.process() {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10));
    }

    /// Waits until it has ended; whether it has.
    pub fn wait(&mut self, patience: Duration) -> bool {
        let began = Instant::now();
        while self.is_running() {
            if began.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        (self.pid, self.child) = (None, None);
        true
    }

    fn process(&self) -> Option<Pid> {
        self.pid.and_then(process)
    }
}

/// With what the service said last: its log may be gone by the time that somebody reads this.
fn unready(what: &str, log: &Path) -> io::Error {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    io::Error::other(format!("{what}; its log, {}, ends with: {last}", log.display()))
}

/// Whether there is such a process that has not ended.
pub(crate) fn runs(pid: u32) -> bool {
    process(pid).is_some_and(|pid| test_kill_process(pid).is_ok() && !is_zombie(pid))
}

pub(crate) fn process(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Whether it has ended, and nobody has asked how.
fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}
