//! `tern bench`: what a server costs and how fast it is, measured from outside.
//!
//! The clients are in this process and the server in another, each on a core of its own. How a run flows:
//!
//! ```text
//!  server (start) ─▶ crowd (connect) ─▶ measure (load, drain, wait until idle) ─▶ report (one JSON object)
//!                     │ load: orders      │ what it cost
//!                     ▼                   ▼
//!  socket ◀─▶ link ◀─▶ phone ─▶ tally    process (/proc), http (the server's own counts)
//!             (I/O)   (protocol; outbox, order)
//! ```
//!
//! Every message is checked: each carries its sender, number and time (`stamp`), and each receiver holds what came against what was
//! sent (`order`).

mod audio;
mod chat;
mod cores;
mod crowd;
mod disk;
mod drain;
mod echo;
mod fanout;
mod fill;
mod hot;
mod http;
mod idle;
mod image;
mod link;
mod load;
mod measure;
mod order;
mod outbox;
mod pacer;
mod phone;
mod process;
mod processes;
mod raw;
mod report;
mod samples;
mod server;
mod stamp;
mod tally;
mod token;
mod upload;
mod wire;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use tern_runtime::shutdown;
use tokio::task::LocalSet;

use crate::cores::Cores;
pub use crate::echo::{EchoArgs, echo};
use crate::report::Report;
use crate::server::{Kind, Server, Target};

/// What to measure, and where.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
    #[command(flatten, next_help_heading = "Where")]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Memory of links that only said hello, and the cost of their heartbeats
    Idle(idle::IdleArgs),
    /// Pairs of users: rate, times and cost of their messages
    Chat(chat::ChatArgs),
    /// One sender to a group: rate, times and cost of the deliveries
    Fanout(fanout::FanoutArgs),
    /// One device fetches all that it is owed
    Sync(drain::SyncArgs),
    /// Many senders to one user, and what that does to everybody else
    Hot(hot::HotArgs),
    /// Images in parts: what they cost, how long they take, and what they do to texts
    Image(image::ImageArgs),
    /// Clips over the long link: what they cost, and how long they take
    Audio(audio::AudioArgs),
    /// The floor: the same packets through a bare echo, and append and sync on the same disk
    Raw(raw::RawArgs),
}

/// Measures, tells how it goes on stderr, and prints the report as the last line of stdout. `true` if no message was lost,
/// doubled or reordered.
///
/// # Errors
/// The server or a link failed, or a signal came.
pub fn run(args: &BenchArgs) -> Result<bool> {
    let cores = Cores::split();
    cores.pin_clients();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = LocalSet::new().block_on(&runtime, measure(args, cores))?;
    let figures = report.figures();
    for (name, figure) in &figures {
        eprintln!("{name:>36} {figure}");
    }
    println!("{}", serde_json::Value::from(figures));
    Ok(report.is_good())
}

/// Runs the bench between the start and the stop of the server; both happen whatever comes.
async fn measure(args: &BenchArgs, cores: Cores) -> Result<Report> {
    let stop = shutdown::on_signal().context("handling signals")?;
    let mut server = tokio::select! {
        server = Server::start(&args.target, args.bench.kind(), cores) => server?,
        () = stop.stopped() => bail!("interrupted"),
    };
    let measured = tokio::select! {
        report = args.bench.run(&mut server) => report,
        () = stop.stopped() => Err(anyhow::anyhow!("interrupted")),
    };
    if measured.is_err() && !stop.is_stopped() {
        server.tell_log();
    }
    let stopped = server.stop().await;
    let report = measured?;
    stopped.map(|()| report)
}

impl Bench {
    async fn run(&self, server: &mut Server) -> Result<Report> {
        let mut report = Report { bench: self.name(), ..Report::default() };
        match self {
            Bench::Idle(args) => idle::run(args, server, &mut report).await?,
            Bench::Chat(args) => chat::run(args, server, &mut report).await?,
            Bench::Fanout(args) => fanout::run(args, server, &mut report).await?,
            Bench::Sync(args) => drain::run(args, server, &mut report).await?,
            Bench::Hot(args) => hot::run(args, server, &mut report).await?,
            Bench::Image(args) => image::run(args, server, &mut report).await?,
            Bench::Audio(args) => audio::run(args, server, &mut report).await?,
            Bench::Raw(args) => raw::run(args, server, &mut report).await?,
        }
        Ok(report)
    }

    /// What the clients talk to.
    fn kind(&self) -> Kind {
        if matches!(self, Bench::Raw(_)) { Kind::Echo } else { Kind::Tern }
    }

    fn name(&self) -> &'static str {
        match self {
            Bench::Idle(_) => "idle",
            Bench::Chat(_) => "chat",
            Bench::Fanout(_) => "fanout",
            Bench::Sync(_) => "sync",
            Bench::Hot(_) => "hot",
            Bench::Image(_) => "image",
            Bench::Audio(_) => "audio",
            Bench::Raw(_) => "raw",
        }
    }
}
