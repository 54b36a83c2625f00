//! A client in a process of its own, which can be killed between apply and ack.
//!
//! The parent writes an [`Errand`] as the first line of the child's input; the child writes each event as a line of its
//! output before it goes on. What was written before a kill is kept, and the next child starts from it.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::actor::{Actor, Manner};
use crate::device::State;
use crate::event::What;
use crate::history::{Clock, Log};
use crate::wire::{Identity, Wire};

/// How long a child stands still after an apply, so that a kill finds it there.
const WINDOW: Duration = Duration::from_millis(2);
/// One apply in this many is the last that its child does.
const KILL_ONE_IN: u32 = 40;

/// The options of the client process: it has none, all comes by its input.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClientArgs {}

/// What a client process is to do.
#[derive(Serialize, Deserialize)]
struct Errand {
    /// Microseconds that the run was old when this was written.
    age: u64,
    identity: Identity,
    state: State,
    manner: Manner,
}

/// A line of the child's output.
#[derive(Serialize, Deserialize)]
struct Line<W> {
    at: u64,
    what: W,
}

/// The client process: acts until its input ends.
///
/// # Errors
/// The input is not an errand.
pub async fn client_main(_args: ClientArgs) -> anyhow::Result<()> {
    let mut first = String::new();
    std::io::stdin().lock().read_line(&mut first)?;
    let errand: Errand = serde_json::from_str(&first).context("the input is not an errand")?;
    let clock = Clock::at(errand.age);
    let (stop, stopped) = watch::channel(false);
    std::thread::spawn(move || {
        // Anything that comes now, the end above all, means: stop.
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        stop.send_replace(true);
    });
    let sink = Box::new(move |what: &What| tell(clock, what));
    let wire = Wire::new(errand.identity, errand.state, sink);
    Box::pin(Actor::new(wire, errand.manner).run(stopped)).await;
    Ok(())
}

/// Writes an event. A parent that is gone ends the process.
fn tell(clock: Clock, what: &What) {
    let mut out = std::io::stdout().lock();
    let line = serde_json::to_string(&Line { at: clock.now(), what }).unwrap_or_default();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
    if matches!(what, What::Applied { .. }) {
        std::thread::sleep(WINDOW);
    }
}

/// Keeps a client process running for a device until it is told to stop, and kills it now and then right after an apply.
///
/// # Errors
/// The process cannot be started, or ends by itself.
pub(crate) async fn keep_running(
    program: &Path,
    log: Log,
    device: usize,
    identity: Identity,
    mut manner: Manner,
    mut stop: watch::Receiver<bool>,
    kills: &AtomicU64,
) -> anyhow::Result<()> {
    let mut rng = fastrand::Rng::with_seed(manner.seed);
    while !*stop.borrow() {
        manner.seed = rng.u64(..);
        let errand = Errand {
            age: log.clock.now(),
            identity: identity.clone(),
            state: log.state_of(device),
            manner: manner.clone(),
        };
        let mut child = start(program, &errand).await?;
        let killed = relay(&mut child, &log, device, &mut rng, &mut stop).await?;
        let status = child.wait().await?;
        if killed {
            kills.fetch_add(1, Ordering::Relaxed);
        } else if !status.success() || !*stop.borrow() {
            bail!("a client process ended by itself with {status}");
        }
    }
    Ok(())
}

async fn start(program: &Path, errand: &Errand) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command.arg("check-client").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let line = serde_json::to_string(errand)? + "\n";
    child.stdin.as_mut().context("no pipe")?.write_all(line.as_bytes()).await?;
    Ok(child)
}

/// Records what the child writes, to its end; true if it was killed.
async fn relay(
    child: &mut Child,
    log: &Log,
    device: usize,
    rng: &mut fastrand::Rng,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<bool> {
    let mut lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
    let mut killed = false;
    if *stop.borrow() {
        drop(child.stdin.take());
    }
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            changed = stop.changed(), if child.stdin.is_some() => {
                changed?;
                drop(child.stdin.take());
                continue;
            }
        };
        let Some(line) = line else { return Ok(killed) };
        let Line { at, what } = match serde_json::from_str::<Line<What>>(&line) {
            Ok(line) => line,
            // The kill met it in mid-line: what the line tells did not happen yet.
            Err(_) if killed => return Ok(true),
            Err(error) => return Err(error).context("a client process wrote something else than events"),
        };
        let applied = matches!(what, What::Applied { .. });
        log.relay(device, at, what);
        if applied && !killed && rng.u32(0..KILL_ONE_IN) == 0 {
            child.start_kill()?;
            killed = true;
        }
    }
}
