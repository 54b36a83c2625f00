//! `tern bench fanout`: one sender to a group whose members are all connected.

use anyhow::Result;
use tern_proto::limits::MEMBERS;

use crate::chat::Amount;
use crate::crowd::Crowd;
use crate::link::Hub;
use crate::load::Load;
use crate::measure::Plan;
use crate::report::Report;
use crate::server::Server;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FanoutArgs {
    /// Members of the group: the sender, and those to whom each message is delivered
    #[arg(long, default_value_t = MEMBERS as u16, value_parser = clap::value_parser!(u16).range(2..=MEMBERS as i64))]
    members: u16,
    /// The sender waits while so many messages are on the way to everybody
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    window: u16,
    #[command(flatten)]
    amount: Amount,
}

/// Runs it.
pub(crate) async fn run(args: &FanoutArgs, server: &Server, report: &mut Report) -> Result<()> {
    let Amount { bytes, seconds, warm } = args.amount;
    let plan = Plan { load: Load::OnTheWay(args.window.into()), warm, time: seconds };
    (report.members, report.window) = (Some(args.members.into()), Some(args.window.into()));
    (report.bytes, report.seconds) = (Some(bytes.into()), Some(seconds.as_secs_f64()));

    let mut crowd = Crowd::group(&Hub::new(), &server.secret, usize::from(args.members) - 1, bytes.into());
    crowd.connect_all(server.long_links()).await?;
    // Everybody has heard of the group.
    crowd.settle().await?;
    let (cost, idle) = plan.measure(server, &mut crowd).await?;
    report.judge(crowd.faults());
    crowd.disconnect().await?;
    (report.cost, report.server_idle) = (cost, Some(idle));
    Ok(())
}
