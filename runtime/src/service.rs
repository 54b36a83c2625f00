//! What the mains of the services have in common: arguments, a runtime, exit codes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Arg, Command, value_parser};
use tokio::net::TcpListener;

use crate::descriptors;
use crate::settings::{BadSettings, EXIT_BAD_SETTINGS, Flag, Sources};

/// Tasks that run before the network is looked at again, unless nothing is ready. The more, the more messages share a commit and a call, and under full
/// load each of those makes threads take turns; at some microseconds for a task this is a few milliseconds at most.
const EVENT_INTERVAL: u32 = 256;

/// Which service it is.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The binary.
    pub name: &'static str,
    /// Its release.
    pub version: &'static str,
    /// What it does, in a line.
    pub what: &'static str,
}

/// Runs a service until SIGTERM or SIGINT. Exit codes: 0 stopped, 1 failed, 64 the command line or the settings are wrong.
pub fn main(about: About, run: impl AsyncFnOnce(Sources) -> Result<()>) -> ExitCode {
    let sources = match arguments(about) {
        Ok(sources) => sources,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_BAD_SETTINGS) } else { ExitCode::SUCCESS };
        }
    };
    let ended = start(async move || run(sources).await);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error:#}", about.name);
            let bad = error.is::<BadSettings>();
            if bad { ExitCode::from(EXIT_BAD_SETTINGS) } else { ExitCode::FAILURE }
        }
    }
}

fn arguments(about: About) -> Result<Sources, clap::Error> {
    let file = Arg::new("config").long("config").value_name("FILE").env("TERN_CONFIG");
    let file = file.value_parser(value_parser!(PathBuf)).help("A TOML file with settings");
    let log = Arg::new("log").long("log").value_name("LEVEL").env("TERN_LOG");
    let log = log.help(
        "What is logged to stderr: error, warn, info, debug, trace, off, or by target as in warn,tern_sync=debug",
    );
    let command = Command::new(about.name).version(about.version).about(about.what).arg(file).arg(log);
    let more = "Every setting can stand in the file, as a name in a table, and in the environment, as \
        TERN_SECTION__NAME. docs/operations.md has the table of all of them.";
    let mut matches = command.after_help(more).max_term_width(100).try_get_matches()?;
    let log = matches.remove_one::<String>("log").map(|value| Flag { flag: "--log", name: "log.level", value });
    let file = matches.remove_one::<PathBuf>("config").filter(|file| !file.as_os_str().is_empty());
    Ok(Sources::of_process(file, log.into_iter().collect()))
}

/// The runtime of every Tern process that serves.
pub fn runtime() -> tokio::runtime::Builder {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // As many workers as cores: a second one on a core only makes the two wake each other.
    builder.worker_threads(threads).event_interval(EVENT_INTERVAL).enable_all();
    builder
}

fn start(run: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    descriptors::raise_limit();
    let runtime = runtime().build().context("starting the runtime")?;
    let ended = runtime.block_on(run());
    // A thread that still waits for something must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// Says on stdout that the service serves, and where: for whoever started it.
pub fn say_ready(about: About, places: &[(&str, SocketAddr)], metrics: Option<SocketAddr>) {
    use std::io::Write as _;
    let metrics = metrics.map(|address| ("metrics", address));
    let places: String = places.iter().chain(&metrics).map(|(name, address)| format!(" {name} {address}")).collect();
    let mut stdout = std::io::stdout().lock();
    // Whoever started the service may not listen; that is no reason to stop serving.
    let _ = writeln!(stdout, "{} ready:{places}", about.name).and_then(|()| stdout.flush());
}

/// Listens.
///
/// # Errors
/// Nothing can listen there, with what was to.
pub async fn bind(name: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{name} cannot listen on {address}"))
}
