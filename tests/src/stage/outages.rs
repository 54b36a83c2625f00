//! The part of a run in which the disk refuses.

use std::time::Duration;

use anyhow::{Context, bail};
use tern_proto::v1::Code;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Stage;
use crate::disk::{Disk, Trouble};
use crate::history::Outage;
use crate::run::Plan;

/// A disk that is to refuse does so when the log comes to new blocks; within this time it must.
const BITE: Duration = Duration::from_secs(20);
/// From the first refusal to the healing, and before and after that.
const OUTAGE: Duration = Duration::from_secs(3);
/// A server whose disk is healed takes messages again within this time: it tries again every 30 s at the latest.
const RECOVERY: Duration = Duration::from_secs(45);
/// How often a full disk is filled again.
const REFILL: Duration = Duration::from_millis(50);

impl Stage<'_> {
    /// Lets the disk refuse and heals it, again and again; the server is to go on by itself.
    pub(super) async fn break_disk(&mut self, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        let end = Instant::now() + self.plan.duration;
        let what = self.plan.scene.trouble().map_or("", Trouble::describe);
        while Instant::now() < end {
            self.watch_until(Instant::now() + OUTAGE, tasks).await?;
            self.log.act(format!("from here on {what}"));
            self.with_disk(Disk::break_down).await?;
            let (since, deadline) = (self.log.clock.now(), Instant::now() + BITE);
            let mut healing = deadline;
            while Instant::now() < healing {
                if healing == deadline && self.log.has_answered_since(since, Code::is_retryable) {
                    healing = Instant::now() + OUTAGE;
                }
                self.watch_until(Instant::now() + REFILL, tasks).await?;
                self.with_disk(Disk::keep_broken).await?;
            }
            self.with_disk(Disk::heal).await?;
            self.log.act("the disk is healed".into());
            let (healed, deadline) = (self.log.clock.now(), Instant::now() + RECOVERY);
            while Instant::now() < deadline && !self.log.has_answered_since(healed, |code| code == Code::Ok) {
                self.watch_until(Instant::now() + REFILL, tasks).await?;
            }
            self.watch_until(Instant::now() + OUTAGE, tasks).await?;
            self.log.outage(Outage { what: what.into(), since, healed, until: self.log.clock.now() });
        }
        Ok(())
    }

    /// Does something with the disk on a thread of its own.
    pub(super) async fn with_disk(&mut self, act: fn(&mut Disk) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut disk = self.disk.take().context("the scene has no disk of its own")?;
        let acted = tokio::task::spawn_blocking(move || {
            let result = act(&mut disk);
            (disk, result)
        });
        let (disk, result) = acted.await?;
        self.disk = Some(disk);
        result
    }
}

/// The disk of a scene that has one of its own.
pub(super) async fn make_disk(plan: &Plan) -> anyhow::Result<Option<Disk>> {
    let Some(trouble) = plan.scene.trouble() else { return Ok(None) };
    let Some(place) = &plan.disk else { bail!("the scene {} needs --disk", plan.scene.name()) };
    let home = place.join(plan.scene.name());
    Ok(Some(tokio::task::spawn_blocking(move || Disk::make(trouble, &home)).await??))
}
