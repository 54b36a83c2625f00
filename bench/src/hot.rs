//! `tern bench hot`: whether many senders to one user slow down everybody else.
//!
//! The same pairs are measured three times: alone, beside as many senders to as many users, and beside the senders to one. The second
//! tells what the load itself does; only what the third is above it is the hot timeline's.

use std::time::Duration;

use anyhow::Result;

use crate::chat::{Amount, count, rate};
use crate::crowd::Crowd;
use crate::link::Hub;
use crate::load::Load;
use crate::measure::Plan;
use crate::report::Report;
use crate::samples::Spread;
use crate::server::Server;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HotArgs {
    /// Senders to one user
    #[arg(long, default_value_t = 500, value_parser = count())]
    senders: usize,
    /// Messages a second of all of them [default: 2500]
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Instead of a rate: each keeps so many messages unacknowledged
    #[arg(long, conflicts_with = "rate", value_parser = clap::value_parser!(u16).range(1..=256))]
    window: Option<u16>,
    /// The other pairs, who are measured
    #[arg(long, default_value_t = 100, value_parser = count())]
    pairs: usize,
    /// Messages a second of all of them
    #[arg(long, value_name = "RATE", default_value = "500", value_parser = rate)]
    pairs_rate: f64,
    #[command(flatten)]
    amount: Amount,
}

/// Runs it.
pub(crate) async fn run(args: &HotArgs, server: &Server, report: &mut Report) -> Result<()> {
    let Amount { bytes, seconds, warm } = args.amount;
    let plan = Plan { load: Load::Rate(args.pairs_rate), warm, time: seconds };
    let rate = args.rate.unwrap_or(2_500.0);
    let load = args.window.map_or(Load::Rate(rate), |window| Load::Window(window.into()));
    report.rate = args.window.is_none().then_some(rate);
    (report.senders, report.pairs, report.window) = (Some(args.senders), Some(args.pairs), args.window.map(Into::into));
    (report.bytes, report.seconds) = (Some(bytes.into()), Some(seconds.as_secs_f64()));

    let (hub, secret) = (Hub::new(), &server.secret);
    let mut pairs = Crowd::pairs(&hub, secret, args.pairs, bytes.into());
    pairs.connect_all(server.long_links()).await?;
    eprintln!("alone:");
    plan.run(server, &mut pairs).await?;
    let quiet = ack_times(&pairs);

    eprintln!("beside senders to many users:");
    let mut many = Crowd::pairs(&hub, secret, args.senders, bytes.into());
    beside(plan, load, server, &mut pairs, &mut many).await?;
    report.spread_ack_ms = ack_times(&pairs);

    eprintln!("beside senders to one user:");
    let mut hot = Crowd::all_to_one(&hub, secret, args.senders, bytes.into());
    report.hot_acked_per_s = Some(beside(plan, load, server, &mut pairs, &mut hot).await?);
    let loaded = ack_times(&pairs);

    let mut faults = pairs.faults();
    faults += many.faults();
    faults += hot.faults();
    report.judge(faults);
    report.hot_to_quiet_p99 = loaded.zip(quiet).map(|(loaded, quiet)| loaded.p99 / quiet.p99);
    (report.quiet_ack_ms, report.hot_ack_ms) = (quiet, loaded);
    pairs.disconnect().await
}

/// Measures the pairs while others are under a load; what the others had acknowledged each second.
async fn beside(plan: Plan, load: Load, server: &Server, pairs: &mut Crowd, others: &mut Crowd) -> Result<f64> {
    others.connect_all(server.long_links()).await?;
    let running = others.load(load)?;
    let before = others.counts().acked;
    plan.run(server, pairs).await?;
    let acked = others.counts().acked - before;
    drop(running);
    others.settle().await?;
    others.disconnect().await?;
    let time: Duration = plan.warm + plan.time;
    Ok(acked as f64 / time.as_secs_f64())
}

fn ack_times(pairs: &Crowd) -> Option<Spread> {
    pairs.senders.tally_mut().ack.spread()
}
