//! `tern`: the server in one process, and the clients that a person or a script runs.
//!
//! Without a command it is `tern standalone`. Exit codes: 0 done, 1 failed, 64 the command line or the settings are wrong.

mod cli;
mod standalone;

use std::io;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use tern_runtime::settings::{BadSetting, BadSettings, EXIT_BAD_SETTINGS};
use tern_runtime::traces::Tracer;
use tern_runtime::{descriptors, logs, service};
use tern_storage::embedded::OpenError;

use cli::ask::{conversations, history, members};
use cli::send_media::What;
use cli::{chat, cluster, fetch, group, restored, send, send_media, smoke, token, trace, watch};

/// Short-lived buffers on many threads are what this process allocates most; mimalloc gives them back to each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A chat back-end: every message arrives once, in order, however bad the network.
///
/// Without a command: `tern standalone`, the server, with its options.
#[derive(Debug, Parser)]
#[command(name = "tern", version, subcommand_help_heading = "Commands", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// What is logged to stderr: error, warn, info, debug, trace, off, or by target as in warn,tern_client=debug
    #[arg(long, global = true, value_name = "LEVEL", env = "TERN_LOG")]
    log: Option<String>,
    #[command(flatten, next_help_heading = "Options of the server, without a command")]
    server: Option<standalone::Args>,
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
    /// Uploads images, and sends a message about each
    ///
    /// They go up in small parts by several connections. Ends with 0 only when every image is acknowledged.
    #[command(after_long_help = send_media::HELP_IMAGE)]
    SendImage(send_media::Args),
    /// Sends audio, each clip together with a message about it
    ///
    /// It goes over the long link in chunks. Ends with 0 only when every clip is acknowledged.
    #[command(after_long_help = send_media::HELP_AUDIO)]
    SendAudio(send_media::Args),
    /// Writes an image or audio that was sent, or the thumbnail of an image, to stdout
    #[command(after_long_help = fetch::HELP)]
    Fetch(fetch::Args),
    /// Prints what a user gets, each entry once and in order
    #[command(after_long_help = watch::HELP)]
    Watch(watch::Args),
    /// Makes a group and changes it: who is in it, and its title
    #[command(after_long_help = group::HELP)]
    Group(group::Args),
    /// Lists what a user is in, and what is unread
    #[command(after_long_help = conversations::HELP)]
    Conversations(conversations::Args),
    /// Prints messages of a conversation from the server, as far back as it keeps them
    #[command(after_long_help = history::HELP)]
    History(history::Args),
    /// Lists who is in a conversation, and who has read up to where
    #[command(after_long_help = members::HELP)]
    Members(members::Args),
    /// Prints a token for a user
    ///
    /// For tests and a first try: an app issues its own tokens, signed with the same secret.
    #[command(after_long_help = "Example:\n  tern token alice --ttl 12h")]
    Token(token::Args),
    /// Tells the store that its directory is a backup which was put back
    ///
    /// To be run once, after an older copy of the data directory was put back and before the server is started on it. Otherwise
    /// clients would take new messages for ones that they got from the lost store. It starts a new epoch, which orders every
    /// client to replace its key, and versions go on far above all that the lost store used.
    #[command(after_long_help = "Example:\n  tern restored --data /var/lib/tern")]
    Restored(restored::Args),
    /// Runs a whole cluster on this machine: gateways, sync, storage and media services, with a PostgreSQL, a Redis and a NATS of its own
    ///
    /// Needs the services' programs beside this one (cargo build --release --workspace) and PostgreSQL 15 or later, Redis and NATS from the machine's packages. Ends with 0 if
    /// everything is as it was asked to be, else with 1.
    #[command(after_long_help = cluster::HELP)]
    Cluster(cluster::Args),
    /// Says where the way of a message through the services can be seen, or shows it
    ///
    /// The services tell their traces to Jaeger, or whoever else takes OTLP, if `trace.otlp_url` is set: docs/operations.md.
    #[command(after_long_help = trace::HELP)]
    Trace(trace::Args),
    /// Tries the main flows against a running server
    ///
    /// Two new users, text both ways, a resend after a lost acknowledgement, pages and keys, refusals, receipts, a group, on
    /// both links. Prints each check. Ends with 0 if all of them hold, else with 1.
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
    /// Measures what a server costs and how fast it is
    ///
    /// Starts a server of its own on a temporary directory, unless told where one runs. Prints how it goes to stderr, and
    /// one line of JSON to stdout. Ends with 0 if no message was lost, doubled or reordered. docs/performance.md has the
    /// commands and what they found.
    #[command(after_long_help = "Example:\n  tern bench chat --pairs 500 --window 32")]
    Bench(tern_bench::BenchArgs),
    /// The bare echo that `tern bench raw` starts
    #[command(hide = true)]
    BenchEcho(tern_bench::EchoArgs),
}

fn main() -> ExitCode {
    let (command, log) = match Cli::try_parse().and_then(Cli::command) {
        Ok(given) => given,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_BAD_SETTINGS) } else { ExitCode::SUCCESS };
        }
    };
    match run(command, log) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tern: {}", reasons(&error));
            let bad = error.is::<BadSettings>();
            if bad { ExitCode::from(EXIT_BAD_SETTINGS) } else { ExitCode::FAILURE }
        }
    }
}

impl Cli {
    /// What to run, and what to log.
    fn command(self) -> Result<(Command, Option<String>), clap::Error> {
        match (self.command, self.server) {
            (Some(_), Some(_)) => {
                let told = "options of the server stand behind its command: tern standalone --data DIR";
                Err(<Cli as CommandFactory>::command().error(ErrorKind::ArgumentConflict, told))
            }
            (Some(command), None) => Ok((command, self.log)),
            (None, server) => Ok((Command::Standalone(server.unwrap_or_default()), self.log)),
        }
    }
}

fn run(command: Command, log: Option<String>) -> Result<ExitCode> {
    // Servers and benches have very many connections.
    descriptors::raise_limit();
    let runtime = service::runtime().max_blocking_threads(8).build()?;
    if !matches!(command, Command::Standalone(_)) {
        start_client_log(log.as_deref(), &command)?;
    }
    let ended = match command {
        Command::Standalone(args) => {
            runtime.block_on(standalone::run(args, log)).map(|()| ExitCode::SUCCESS).map_err(no_directory)
        }
        Command::Chat(args) => runtime.block_on(chat::run(&args)),
        Command::Send(args) => runtime.block_on(send::run(&args)),
        Command::SendImage(args) => runtime.block_on(send_media::run(What::Images, &args)),
        Command::SendAudio(args) => runtime.block_on(send_media::run(What::Audio, &args)),
        Command::Fetch(args) => runtime.block_on(fetch::run(&args)),
        Command::Watch(args) => runtime.block_on(watch::run(&args)),
        Command::Group(args) => runtime.block_on(group::run(&args)),
        Command::Conversations(args) => runtime.block_on(conversations::run(&args)),
        Command::History(args) => runtime.block_on(history::run(&args)),
        Command::Members(args) => runtime.block_on(members::run(&args)),
        Command::Token(args) => token::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Restored(args) => restored::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Cluster(args) => cluster::run(&args).map(code),
        Command::Trace(args) => runtime.block_on(trace::run(&args)).map(|()| ExitCode::SUCCESS),
        Command::Smoke(args) => runtime.block_on(smoke::run(&args)).map(code),
        Command::Check(args) => runtime.block_on(tern_check::run(args)).map(|verdict| code(verdict.passed)),
        Command::Bench(args) => tern_bench::run(&args).map(code),
        Command::BenchEcho(args) => tern_bench::echo(&args).map(|()| ExitCode::SUCCESS),
        Command::CheckClient(args) => runtime.block_on(tern_check::client_main(args)).map(|()| ExitCode::SUCCESS),
    };
    // A thread that still waits for stdin must not hold up the end.
    runtime.shutdown_background();
    ended
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The error and its causes. An error that shows its cause itself is not followed by it.
fn reasons(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, reason| match told.as_str() {
        "" => reason,
        _ if told.ends_with(&reason) => told,
        _ => format!("{told}: {reason}"),
    })
}

/// Of a file in the place of the data directory the system says only that it exists.
fn no_directory(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<OpenError>() {
        Some(OpenError::Io { path, error }) if error.kind() == io::ErrorKind::AlreadyExists => {
            anyhow!("{} is not a directory; the data needs one (--data, storage.dir)", path.display())
        }
        _ => error,
    }
}

/// Clients are quiet unless asked, and a chat draws on the terminal that the log would go to. The server's log has settings.
fn start_client_log(level: Option<&str>, command: &Command) -> Result<(), BadSettings> {
    // A restored store is reported by its command; the store itself takes the gap after a backup for damage.
    let quiet = if matches!(command, Command::Chat(_) | Command::Restored(_)) { "off" } else { "warn" };
    let bad = |error: logs::BadFilter| BadSetting::Value {
        name: "log.level".into(),
        reason: error.to_string(),
        origin: "--log or TERN_LOG".into(),
    };
    let filter = logs::filter(level.unwrap_or(quiet)).map_err(|error| BadSettings(vec![bad(error)]))?;
    logs::start(filter, logs::Format::Text, &Tracer::default());
    Ok(())
}
