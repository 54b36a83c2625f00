//! `tern bench sync`: one device that was away fetches all that it is owed.

use anyhow::Result;
use tokio::time::Instant;

use crate::crowd::Crowd;
use crate::link::Hub;
use crate::report::Report;
use crate::server::Server;
use crate::stamp;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SyncArgs {
    /// Messages that the device is owed
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    entries: u64,
    /// Users who sent them
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    senders: u16,
    /// Bytes of a text
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(stamp::BYTES as i64..=16_384))]
    bytes: u16,
}

/// Runs it.
pub(crate) async fn run(args: &SyncArgs, server: &mut Server, report: &mut Report) -> Result<()> {
    let mut crowd = Crowd::all_to_one(&Hub::new(), &server.secret, args.senders.into(), args.bytes.into());
    let (senders, receiver) = (crowd.senders.lines.clone(), crowd.receivers.lines.clone());
    let standing = server.process.standing().await?;
    crowd.connect(server.long_links(), &senders).await?;
    crowd.store(args.entries).await?;
    crowd.disconnect().await?;
    if server.is_own() {
        // What the filling left in its memory would hide what the device costs.
        report.start_s = Some(server.restart().await?.as_secs_f64());
    }
    report.cost.standing_cpu_share = standing.share();
    report.server_idle = Some(server.process.idle(standing).await?);

    let resident = server.process.resident()?;
    server.process.forget_peak()?;
    let (cpu, began) = (server.process.cpu()?, Instant::now());
    crowd.connect(server.long_links(), &receiver).await?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = (server.process.cpu()? - cpu).as_secs_f64();
    report.rss_above_idle_bytes = Some(server.process.peak()?.saturating_sub(resident));
    crowd.settle().await?;
    report.judge(crowd.faults());
    crowd.disconnect().await?;

    (report.senders, report.bytes, report.entries) =
        (Some(args.senders.into()), Some(args.bytes.into()), Some(args.entries));
    report.entries_per_s = Some(args.entries as f64 / seconds);
    report.seconds = Some(seconds);
    report.cost.server_cpu_s_per_million = Some(cpu / args.entries as f64 * 1e6);
    report.cost.server_rss_bytes = Some(server.process.resident()?);
    Ok(())
}
