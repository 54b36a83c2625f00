//! `tern bench idle`: links that said hello and then nothing, and their heartbeats.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::chat::{count, rate, seconds};
use crate::crowd::Crowd;
use crate::link::Hub;
use crate::measure::Moment;
use crate::report::Report;
use crate::server::Server;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IdleArgs {
    /// Links, each of a user of its own
    #[arg(long, default_value_t = 15_000, value_parser = count())]
    connections: usize,
    /// Then all of them together send so many heartbeats a second
    #[arg(long, value_name = "RATE", value_parser = rate)]
    heartbeats: Option<f64>,
    /// For so long
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

/// Runs it.
pub(crate) async fn run(args: &IdleArgs, server: &Server, report: &mut Report) -> Result<()> {
    let connections = args.connections;
    let mut crowd = Crowd::idle(&Hub::new(), &server.secret, connections);
    let standing = server.process.standing().await?;
    server.process.idle(standing).await?;
    let (resident, cpu, began) = (server.process.resident()?, server.process.cpu()?, Instant::now());
    crowd.connect_all(server.long_links()).await?;
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{connections} links after {seconds:.1} s");
    report.connect_s = Some(seconds);
    report.cost.standing_cpu_share = standing.share();
    report.server_idle = Some(server.process.idle(standing).await?);
    crowd.check()?;
    let now = server.process.resident()?;
    report.connections = Some(connections);
    report.server_cpu_us_per_connect = Some((server.process.cpu()? - cpu).as_secs_f64() * 1e6 / connections as f64);
    report.cost.server_rss_bytes = Some(now);
    report.rss_bytes_per_connection = Some((now as f64 - resident as f64) / connections as f64);
    if let Some(rate) = args.heartbeats {
        beat(rate, args.seconds, server, &mut crowd, report).await?;
    }
    crowd.disconnect().await
}

/// Lets everybody send heartbeats at a rate, for a time.
pub(crate) async fn beat(
    rate: f64,
    time: Duration,
    server: &Server,
    crowd: &mut Crowd,
    report: &mut Report,
) -> Result<()> {
    report.rate = Some(rate);
    let running = crowd.beat(rate)?;
    crowd.watch("warming up", Duration::from_secs(1)).await?;
    let began = Moment::now(server, crowd).await?;
    crowd.measure_from_now();
    crowd.watch("heartbeats", time).await?;
    let ended = Moment::now(server, crowd).await?;
    drop(running);
    crowd.settle().await?;
    let beats = ended.beats_since(&began) as f64;
    let seconds = ended.seconds_since(&began);
    report.seconds = Some(seconds);
    report.heartbeats_per_s = Some(beats / seconds);
    report.heartbeat_ms = crowd.receivers.tally_mut().beat.spread();
    report.server_cpu_s_per_million_heartbeats = Some(ended.server_cpu_since(&began) / beats * 1e6);
    report.cost.client_cpu_share = Some(ended.client_cpu_since(&began) / seconds);
    Ok(())
}
