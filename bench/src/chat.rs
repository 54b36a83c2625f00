//! `tern bench chat`: pairs of users, one sends and the other receives.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::builder::RangedU64ValueParser;

use crate::crowd::Crowd;
use crate::disk::append_and_sync;
use crate::fill::Fill;
use crate::link::Hub;
use crate::load::Load;
use crate::measure::Plan;
use crate::order::Faults;
use crate::processes::Standing;
use crate::report::Report;
use crate::samples::Samples;
use crate::server::Server;
use crate::stamp;

/// Appends before and after the measurement, whose median is the disk's.
const APPENDS: usize = 200;

/// How long and how much.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Amount {
    /// Bytes of a text
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(stamp::BYTES as i64..=16_384))]
    pub(crate) bytes: u16,
    /// How long is measured
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// How long the load is on before
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub(crate) warm: Duration,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChatArgs {
    /// Senders, each with a receiver of its own
    #[arg(long, default_value_t = 500, value_parser = count())]
    pairs: usize,
    /// Each sender keeps so many messages unacknowledged [default: 1]
    #[arg(long, conflicts_with = "rate", value_parser = clap::value_parser!(u16).range(1..=256))]
    window: Option<u16>,
    /// All senders together send so many messages a second, evenly spread, whatever the answers do
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    #[command(flatten)]
    amount: Amount,
    /// Measures on the empty store, stores so many messages, restarts the server, and measures again
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..))]
    stored: Option<u64>,
    /// Pairs that the stored messages are of, in equal shares; the measured ones are the first of them
    #[arg(long, value_name = "PAIRS", requires = "stored", default_value_t = 20_000, value_parser = count())]
    stored_pairs: usize,
}

/// Runs it.
pub(crate) async fn run(args: &ChatArgs, server: &mut Server, report: &mut Report) -> Result<()> {
    let Amount { bytes, seconds, warm } = args.amount;
    let window = args.window.unwrap_or(1).into();
    let load = args.rate.map_or(Load::Window(window), Load::Rate);
    let plan = Plan { load, warm, time: seconds };
    if args.stored.is_some() {
        ensure!(server.is_own(), "--stored restarts the server, so it has to be the bench's own");
    }
    report.pairs = Some(args.pairs);
    report.window = args.rate.is_none().then_some(window);
    (report.rate, report.bytes, report.seconds) = (args.rate, Some(bytes.into()), Some(seconds.as_secs_f64()));

    let mut disk = Samples::default();
    append_and_sync(server.directory(), APPENDS, &mut disk)?;
    let mut crowd = Crowd::pairs(&Hub::new(), &server.secret, args.pairs, bytes.into());
    crowd.connect_all(server.long_links()).await?;
    let mut faults = Faults::default();
    if let Some(messages) = args.stored {
        eprintln!("on the empty store:");
        let (empty, _) = plan.measure(server, &mut crowd).await?;
        report.empty_store = Some(empty);
        let pairs = args.stored_pairs.max(args.pairs);
        faults += store(Fill { messages, pairs, bytes: bytes.into() }, server, &mut crowd, report).await?;
    }
    let (cost, idle) = plan.measure(server, &mut crowd).await?;
    append_and_sync(server.directory(), APPENDS, &mut disk)?;
    faults += crowd.faults();
    report.judge(faults);
    crowd.disconnect().await?;

    report.append_sync_ms = disk.spread();
    report.ack_to_sync_ratio = cost.ack_ms.zip(report.append_sync_ms).map(|(ack, sync)| ack.p50 / sync.p50);
    let empty = report.empty_store.as_ref().and_then(|empty| empty.server_cpu_s_per_million);
    report.cost_ratio = cost.server_cpu_s_per_million.zip(empty).map(|(full, empty)| full / empty);
    (report.cost, report.server_idle) = (cost, Some(idle));
    Ok(())
}

/// Stores messages and restarts the server on them.
async fn store(fill: Fill, server: &mut Server, crowd: &mut Crowd, report: &mut Report) -> Result<Faults> {
    eprintln!("storing {} messages:", fill.messages);
    let filled = fill.run(server, crowd).await?;
    crowd.disconnect().await?;
    let started_in = server.restart().await?;
    eprintln!("started on them in {started_in:?}");
    server.process.idle(Standing::default()).await?;
    crowd.connect_all(server.long_links()).await?;
    (report.stored, report.stored_pairs) = (Some(fill.messages), Some(fill.pairs));
    report.stored_per_s = Some(fill.messages as f64 / filled.took.as_secs_f64());
    report.start_s = Some(started_in.as_secs_f64());
    Ok(filled.faults)
}

/// A number of seconds, such as `5` or `0.5`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// A number a second, above 0.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.01..=1e6).contains(&rate) => Ok(rate),
        _ => Err(format!("{text:?} is not a rate from 0.01 to 1000000 a second")),
    }
}

/// A number of users or links, above 0.
pub(crate) fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1_000_000)
}
