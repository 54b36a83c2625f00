//! Child processes that end with their owner.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(20);
/// How long a child may take to obey SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);

/// Lines of its stderr that tell why a child has failed.
const LAST_ERRORS: usize = 20;

/// A child process; killed when dropped, so that a failed step leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    /// The child; its pipes may be taken.
    pub(crate) child: Child,
}

impl Process {
    /// Starts it.
    pub(crate) fn spawn(command: &mut Command) -> Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Process { name, child })
    }

    /// Waits for success.
    pub(crate) fn succeed(&mut self, limit: Duration) -> Result<()> {
        let status = self.end(limit)?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Waits for success, and shows what it prints meanwhile. If it fails, that is the cause in the error: the reason of a failure is then found at the end of a
    /// long task too.
    pub(crate) fn succeed_or_tell(command: &mut Command, limit: Duration) -> Result<()> {
        let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let output = process.child.stdout.take().context("stdout is piped")?;
        let errors = process.child.stderr.take().context("stderr is piped")?;
        let output = thread::spawn(move || pass_on(output, |line| println!("{line}")));
        let errors = thread::spawn(move || pass_on(errors, |line| eprintln!("{line}")));
        let ended = process.succeed(limit);
        // So that nothing holds the pipes open, whatever became of it.
        drop(process);
        let told = |thread: JoinHandle<Vec<String>>| thread.join().map_err(|_| anyhow!("reading what it printed"));
        let (output, errors) = (told(output)?, told(errors)?);
        let errors = &errors[errors.len().saturating_sub(LAST_ERRORS)..];
        ended.map_err(|error| Error::msg([&output, errors].concat().join("\n")).context(error))
    }

    /// Asks it to stop as an operator does, and expects a clean end.
    pub(crate) fn terminate(mut self) -> Result<()> {
        self.ask_to_stop()?;
        self.succeed(DRAIN)
    }

    fn ask_to_stop(&self) -> Result<()> {
        // The standard library has no SIGTERM; the shell has.
        let status = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status()?;
        ensure!(status.success(), "cannot signal {}", self.name);
        Ok(())
    }

    fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                // It may have children of its own: let it stop them.
                self.ask_to_stop()?;
                sleep(Duration::from_secs(5));
                bail!("{} did not end within {} s", self.name, limit.as_secs());
            }
            sleep(POLL);
        }
    }
}

/// Shows each line as it comes, and keeps all of them.
fn pass_on(from: impl Read, show: impl Fn(&str)) -> Vec<String> {
    BufReader::new(from).lines().map_while(Result::ok).inspect(|line| show(line)).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command in the root of the checkout, without stdin and without the caller's `TERN_` variables: a developer's settings are no
/// part of a test.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir(crate::root());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TERN_") {
            command.env_remove(name);
        }
    }
    command
}
