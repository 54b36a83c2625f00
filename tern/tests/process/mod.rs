//! `tern` as a process: how it is started, where it listens, how it is stopped.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// No test waits longer for a process, however busy the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A command of `tern` without the settings of this environment.
pub(crate) fn tern(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tern"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TERN_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Where a server listens.
pub(crate) struct Ready {
    pub(crate) long_link: String,
    pub(crate) http: String,
}

impl Ready {
    /// Waits until a server, whose stdout is piped, says so.
    pub(crate) fn of(server: &mut Child) -> Ready {
        let lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).find(|line| line.contains("ready")).expect("a line with ready");
        let after = |word| ready.split_whitespace().skip_while(|w| *w != word).nth(1).expect("an address").to_owned();
        Ready { long_link: after("long-link"), http: after("http") }
    }
}

/// Stops a server as an operator does.
pub(crate) fn stop(server: &mut Child) -> ExitStatus {
    assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = server.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "the server does not stop");
        std::thread::sleep(Duration::from_millis(10));
    }
}
