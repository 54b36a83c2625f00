//! The part of a run in which the processes of a cluster, its database and the links between them break.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Stage;
use crate::cluster::Deed;
use crate::server::Server;

/// Between two deeds, at random up to this: so that some fall together with what is left of the one before.
const REST: Duration = Duration::from_secs(3);

impl Stage<'_> {
    /// Does one thing after the other to the cluster until the time is over.
    pub(super) async fn do_deeds(&mut self, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        let end = Instant::now() + self.plan.duration;
        // In a cluster that is barely up nothing has happened yet that could be lost.
        self.watch_until(Instant::now() + REST, tasks).await?;
        while Instant::now() < end {
            let Some(Server::Cluster(mut cluster)) = self.server.take() else { anyhow::bail!("there is no cluster") };
            let deed = Deed::draw(&mut self.rng, cluster.services(), cluster.links());
            let what = cluster.describe(deed);
            eprintln!("{what}");
            self.log.act(what.clone());
            self.server_kills += 1;
            let back_in = Duration::from_millis(self.rng.u64(0..1_500));
            let suffered = cluster.suffer(deed, back_in).await;
            self.server = Some(Server::Cluster(cluster));
            suffered.with_context(|| format!("after this: {what}"))?;
            self.log.act("and that is over".into());
            let rest = REST.mul_f64(self.rng.f64());
            self.watch_until(Instant::now() + rest, tasks).await?;
        }
        Ok(())
    }
}
