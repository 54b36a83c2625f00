//! `tern`: the server in one process, and the clients that a person or a script runs.
//!
//! Without a command it is `tern standalone`. Exit codes: 0 done, 1 failed, 64 the command line or the settings are wrong.

mod cli;
mod standalone;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tern_runtime::logs;
use tern_runtime::settings::{BadSetting, BadSettings, EXIT_BAD_SETTINGS};

use cli::{chat, send, smoke, token, watch};

/// Short-lived buffers on many threads are what this process allocates most; mimalloc gives them back to each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A chat back-end: every message arrives once, in order, however bad the network.
///
/// Without a command: `tern standalone`, the server.
#[derive(Debug, Parser)]
#[command(name = "tern", version, subcommand_help_heading = "Commands", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// What is logged to stderr: error, warn, info, debug, trace, off, or by target as in warn,tern_client=debug
    #[arg(long, global = true, value_name = "LEVEL", env = "TERN_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server: all services in this process, data in one directory
    ///
    /// Stops cleanly on SIGTERM and SIGINT. Every setting can also be given in a file and in the environment:
    /// docs/operations.md has the table.
    #[command(after_long_help = "Example:\n  tern standalone --data /var/lib/tern --long-link 0.0.0.0:7180")]
    Standalone(standalone::Args),
    /// Chats in the terminal and shows the state of each message
    #[command(after_long_help = chat::HELP)]
    Chat(chat::Args),
    /// Sends each line of stdin as a message
    ///
    /// Ends with 0 only when every line is acknowledged. Rides out outages of a minute.
    #[command(after_long_help = send::HELP)]
    Send(send::Args),
    /// Prints what a user gets, each entry once and in order
    #[command(after_long_help = watch::HELP)]
    Watch(watch::Args),
    /// Prints a token for a user
    ///
    /// For tests and a first try: an app issues its own tokens, signed with the same secret.
    #[command(after_long_help = "Example:\n  tern token alice --ttl 12h")]
    Token(token::Args),
    /// Tries the main flows against a running server
    ///
    /// Two new users, text both ways, a resend after a lost acknowledgement, pages and keys, refusals, receipts, on both
    /// links. Prints each check. Ends with 0 if all of them hold, else with 1.
    #[command(after_long_help = "Example:\n  tern smoke --long-link 127.0.0.1:7180 --http 127.0.0.1:7181")]
    Smoke(smoke::Args),
    /// Runs a server and clients of its own, injects faults, and holds what the clients saw against a model
    ///
    /// Prints a seed first. Ends with 0 if every invariant held, and otherwise with 1 and the smallest history that shows
    /// what broke. docs/checker.md says what is checked.
    #[command(after_long_help = "Example:\n  tern check --minutes 5 --kills 50")]
    Check(tern_check::CheckArgs),
    /// A client of `tern check`, which starts it
    #[command(hide = true)]
    CheckClient(tern_check::ClientArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_BAD_SETTINGS) } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tern: {error:#}");
            let bad = error.is::<BadSettings>();
            if bad { ExitCode::from(EXIT_BAD_SETTINGS) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let command = cli.command.unwrap_or_else(|| Command::Standalone(standalone::Args::default()));
    if !matches!(command, Command::Standalone(_)) {
        start_client_log(cli.log.as_deref(), &command)?;
    }
    let ended = match command {
        Command::Standalone(args) => runtime.block_on(standalone::run(args, cli.log)).map(|()| ExitCode::SUCCESS),
        Command::Chat(args) => runtime.block_on(chat::run(&args)),
        Command::Send(args) => runtime.block_on(send::run(&args)),
        Command::Watch(args) => runtime.block_on(watch::run(&args)),
        Command::Token(args) => token::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Smoke(args) => runtime.block_on(smoke::run(&args)).map(code),
        Command::Check(args) => runtime.block_on(tern_check::run(args)).map(|verdict| code(verdict.passed)),
        Command::CheckClient(args) => runtime.block_on(tern_check::client_main(args)).map(|()| ExitCode::SUCCESS),
    };
    // A thread that still waits for stdin must not hold up the end.
    runtime.shutdown_background();
    ended
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Clients are quiet unless asked, and a chat draws on the terminal that the log would go to. The server's log has settings.
fn start_client_log(level: Option<&str>, command: &Command) -> Result<(), BadSettings> {
    let quiet = if matches!(command, Command::Chat(_)) { "off" } else { "warn" };
    let bad = |error: logs::ParseError| BadSetting::Value {
        name: "log.level".into(),
        reason: error.to_string(),
        origin: "--log".into(),
    };
    let filter = logs::filter(level.unwrap_or(quiet)).map_err(|error| BadSettings(vec![bad(error)]))?;
    logs::start(filter, logs::Format::Text);
    Ok(())
}
