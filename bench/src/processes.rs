//! All processes of a server: one, or those of a cluster by what they are.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::process::Process;

/// Processes count as idle when they take less than 1 % of a core for so long; those of a cluster ask each other for their health and take up to 5 %.
const IDLE_WINDOW: Duration = Duration::from_secs(2);
const IDLE_SHARE: f64 = 0.01;
const IDLE_SHARE_OF_CLUSTER: f64 = 0.05;
/// How long is waited for that.
const IDLE_WAIT: Duration = Duration::from_secs(30);

/// What a process is. The database's processes are the children of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Server,
    Gateway,
    Sync,
    Storage,
    Postgres,
}

impl Part {
    /// Those of a cluster.
    pub(crate) const OF_CLUSTER: [Part; 4] = [Part::Gateway, Part::Sync, Part::Storage, Part::Postgres];
}

/// The processes.
#[derive(Clone, Debug)]
pub(crate) struct Processes(Vec<(Part, Process)>);

impl Processes {
    /// A server that is one process.
    pub(crate) fn one(pid: u32) -> Processes {
        Processes(vec![(Part::Server, Process(pid))])
    }

    /// Those of a cluster.
    pub(crate) fn of(parts: Vec<(Part, u32)>) -> Processes {
        Processes(parts.into_iter().map(|(part, pid)| (part, Process(pid))).collect())
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.0.len() > 1
    }

    /// Processor time of all of them.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.0.iter().map(|(part, process)| process.cpu_as(*part)).sum()
    }

    /// That of one part.
    pub(crate) fn cpu_of(&self, wanted: Part) -> Result<Duration> {
        self.0.iter().filter(|(part, _)| *part == wanted).map(|(part, process)| process.cpu_as(*part)).sum()
    }

    /// Bytes of memory that are resident.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.0.iter().map(|(part, process)| process.resident_as(*part)).sum()
    }

    /// Lets [`Processes::peak`] begin anew.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        self.0.iter().try_for_each(|(_, process)| process.forget_peak())
    }

    /// The most bytes that were resident, each at its own moment.
    pub(crate) fn peak(&self) -> Result<u64> {
        self.0.iter().map(|(_, process)| process.peak()).sum()
    }

    /// Waits until they are idle; `false` if they are not after 30 s.
    pub(crate) async fn idle(&self) -> Result<bool> {
        let share = if self.is_cluster() { IDLE_SHARE_OF_CLUSTER } else { IDLE_SHARE };
        let end = Instant::now() + IDLE_WAIT;
        while Instant::now() < end {
            let before = self.cpu()?;
            sleep(IDLE_WINDOW).await;
            if self.cpu()?.saturating_sub(before) < IDLE_WINDOW.mul_f64(share) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
