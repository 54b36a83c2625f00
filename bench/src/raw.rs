//! `tern bench raw`: what the machine itself takes for the same packets and the same syncs.

use std::time::Duration;

use anyhow::Result;

use crate::chat::{count, rate, seconds};
use crate::crowd::Crowd;
use crate::disk::append_and_sync;
use crate::idle::beat;
use crate::link::Hub;
use crate::measure::Moment;
use crate::processes::Standing;
use crate::report::{Echo, Report};
use crate::samples::Samples;
use crate::server::Server;

/// Appends whose percentiles are told.
const APPENDS: usize = 1_000;
/// Packets on the way of each connection, as in the rows of `tern bench chat`.
const WINDOWS: [usize; 2] = [1, 32];

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RawArgs {
    /// Connections that send heartbeats
    #[arg(long, default_value_t = 15_000, value_parser = count())]
    connections: usize,
    /// Heartbeats a second of all of them
    #[arg(long, value_name = "RATE", default_value = "10000", value_parser = rate)]
    heartbeats: f64,
    /// Connections that send packets of the size of a chat message
    #[arg(long, default_value_t = 500, value_parser = count())]
    pairs: usize,
    /// Bytes of such a packet's body
    #[arg(long, default_value_t = 130, value_parser = clap::value_parser!(u16).range(..=16_384))]
    bytes: u16,
    /// How long each is measured
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
}

/// Runs it.
pub(crate) async fn run(args: &RawArgs, server: &Server, report: &mut Report) -> Result<()> {
    let hub = Hub::new();
    let resident = server.process.resident()?;
    let mut idle = Crowd::probes(&hub, args.connections);
    idle.connect_all(server.long_links()).await?;
    server.process.idle(Standing::default()).await?;
    report.connections = Some(args.connections);
    let grown = server.process.resident()? as f64 - resident as f64;
    report.rss_bytes_per_connection = Some(grown / args.connections as f64);
    beat(args.heartbeats, args.seconds, server, &mut idle, report).await?;
    idle.disconnect().await?;

    let mut echoes = Vec::new();
    for window in WINDOWS {
        let mut crowd = Crowd::probes(&hub, args.pairs);
        crowd.connect_all(server.long_links()).await?;
        echoes.push(echo(window, args, server, &mut crowd).await?);
        crowd.disconnect().await?;
    }
    (report.pairs, report.bytes, report.echo) = (Some(args.pairs), Some(args.bytes.into()), Some(echoes));

    let mut disk = Samples::default();
    append_and_sync(server.directory(), APPENDS, &mut disk)?;
    report.append_sync_ms = disk.spread();
    Ok(())
}

/// Each connection keeps so many packets on their way.
async fn echo(window: usize, args: &RawArgs, server: &Server, crowd: &mut Crowd) -> Result<Echo> {
    let running = crowd.echo(window, args.bytes.into());
    crowd.watch("warming up", Duration::from_secs(1)).await?;
    let began = Moment::now(server, crowd).await?;
    crowd.measure_from_now();
    crowd.watch("packets", args.seconds).await?;
    let ended = Moment::now(server, crowd).await?;
    drop(running);
    crowd.settle().await?;
    let packets = ended.beats_since(&began) as f64;
    Ok(Echo {
        window,
        packets_per_s: packets / ended.seconds_since(&began),
        answer_ms: crowd.receivers.tally_mut().beat.spread(),
        server_cpu_s_per_million: ended.server_cpu_since(&began) / packets * 1e6,
    })
}
