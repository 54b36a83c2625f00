//! All processes of a server: one, or those of a cluster by what they are.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::process::Process;

/// Processes count as idle when they take less than 1 % of a core for so long, beside what they take without any load: those of a cluster ask each other for their health.
const IDLE_WINDOW: Duration = Duration::from_secs(2);
const IDLE_SHARE: f64 = 0.01;
/// How long is waited for that.
const IDLE_WAIT: Duration = Duration::from_secs(30);
/// What is taken without any load is known so exactly.
const STANDING_ERROR: f64 = 1.25;
/// Connections and the first questions are behind the processes by then.
const SETTLED: Duration = Duration::from_secs(2);

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
pub(crate) struct Processes {
    parts: Vec<(Part, Process)>,
    /// The share of a core that they take without any load.
    standing: f64,
}

impl Processes {
    /// A server that is one process.
    pub(crate) fn one(pid: u32) -> Processes {
        Processes { parts: vec![(Part::Server, Process(pid))], standing: 0.0 }
    }

    /// Those of a cluster that has just come up. Blocks until it is known what they take without any load.
    pub(crate) fn of(parts: Vec<(Part, u32)>) -> Result<Processes> {
        let parts = parts.into_iter().map(|(part, pid)| (part, Process(pid))).collect();
        let processes = Processes { parts, standing: 0.0 };
        std::thread::sleep(SETTLED);
        let before = processes.cpu()?;
        std::thread::sleep(IDLE_WINDOW);
        let standing = processes.cpu()?.saturating_sub(before).div_duration_f64(IDLE_WINDOW);
        Ok(Processes { standing, ..processes })
    }

    /// The share of a core that they take without any load, if that was measured.
    pub(crate) fn standing(&self) -> Option<f64> {
        Some(self.standing).filter(|_| self.parts.len() > 1)
    }

    /// Processor time of all of them.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.parts.iter().map(|(part, process)| process.cpu_as(*part)).sum()
    }

    /// That of one part.
    pub(crate) fn cpu_of(&self, wanted: Part) -> Result<Duration> {
        self.parts.iter().filter(|(part, _)| *part == wanted).map(|(part, process)| process.cpu_as(*part)).sum()
    }

    /// Bytes of memory that are resident.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.parts.iter().map(|(part, process)| process.resident_as(*part)).sum()
    }

    /// Lets [`Processes::peak`] begin anew.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        self.parts.iter().try_for_each(|(_, process)| process.forget_peak())
    }

    /// The most bytes that were resident, each at its own moment.
    pub(crate) fn peak(&self) -> Result<u64> {
        self.parts.iter().map(|(_, process)| process.peak()).sum()
    }

    /// Waits until they are idle; `false` if they are not after 30 s.
    pub(crate) async fn idle(&self) -> Result<bool> {
        let share = IDLE_SHARE + self.standing * STANDING_ERROR;
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
