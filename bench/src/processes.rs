//! All processes of a server: one, or those of a cluster by what they are.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::process::Process;

/// Processes count as idle when they take less than 1 % of a core for so long, beside what they take without any load: those of a cluster ping each other.
const IDLE_WINDOW: Duration = Duration::from_secs(2);
const IDLE_SHARE: f64 = 0.01;
/// How long is waited for that.
const IDLE_WAIT: Duration = Duration::from_secs(30);
/// What is taken without any load is known so exactly.
const STANDING_ERROR: f64 = 1.25;
/// Connections and the first questions are behind the processes by then.
const SETTLED: Duration = Duration::from_secs(2);
/// How long is looked at what is taken without any load: it is little, and counted to 10 ms by process.
const STANDING_WINDOW: Duration = Duration::from_secs(3);

/// What a process is. The database's processes are the children of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Server,
    Gateway,
    Sync,
    Storage,
    Redis,
    Nats,
    Postgres,
}

/// So many parts a cluster has.
pub(crate) const PARTS: usize = Part::OF_CLUSTER.len();

impl Part {
    /// Those of a cluster.
    pub(crate) const OF_CLUSTER: [Part; 6] =
        [Part::Gateway, Part::Sync, Part::Storage, Part::Redis, Part::Nats, Part::Postgres];
}

/// The processes.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    parts: Vec<(Part, Process)>,
}

/// What processes take without any load: shares of a core, by [`Part::OF_CLUSTER`]. Of a server that is one process it is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing([f64; PARTS]);

impl Standing {
    /// Of all parts; `None` of one process.
    pub(crate) fn share(self) -> Option<f64> {
        Some(self.0.iter().sum()).filter(|share| *share > 0.0)
    }

    /// By part, the processor time of so long a time.
    pub(crate) fn cpu(self, time: Duration) -> [Duration; PARTS] {
        self.0.map(|share| time.mul_f64(share))
    }

    /// The less of both, by part.
    fn min(self, other: Standing) -> Standing {
        Standing(std::array::from_fn(|part| self.0[part].min(other.0[part])))
    }
}

impl Processes {
    /// A server that is one process.
    pub(crate) fn one(pid: u32) -> Processes {
        Processes { parts: vec![(Part::Server, Process(pid))] }
    }

    /// Those of a cluster.
    pub(crate) fn of(parts: Vec<(Part, u32)>) -> Processes {
        Processes { parts: parts.into_iter().map(|(part, pid)| (part, Process(pid))).collect() }
    }

    /// Finds out what they take now, when there is no load. Takes some seconds.
    pub(crate) async fn standing(&self) -> Result<Standing> {
        if self.parts.len() == 1 {
            return Ok(Standing::default());
        }
        sleep(SETTLED).await;
        // Something that is still under way is in one of them at most.
        Ok(self.share_now().await?.min(self.share_now().await?))
    }

    async fn share_now(&self) -> Result<Standing> {
        let before = self.cpu_of_parts()?;
        sleep(STANDING_WINDOW).await;
        let now = self.cpu_of_parts()?;
        let share = |part: usize| now[part].saturating_sub(before[part]).div_duration_f64(STANDING_WINDOW);
        Ok(Standing(std::array::from_fn(share)))
    }

    /// Processor time of all of them.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.parts.iter().map(|(part, process)| process.cpu_as(*part)).sum()
    }

    /// The same by [`Part::OF_CLUSTER`].
    pub(crate) fn cpu_of_parts(&self) -> Result<[Duration; PARTS]> {
        let of = |wanted| -> Result<Duration> {
            self.parts.iter().filter(|(part, _)| *part == wanted).map(|(part, process)| process.cpu_as(*part)).sum()
        };
        let mut cpu = [Duration::ZERO; PARTS];
        for (cpu, part) in cpu.iter_mut().zip(Part::OF_CLUSTER) {
            *cpu = of(part)?;
        }
        Ok(cpu)
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

    /// Waits until they take no more than that again; `false` if they do after 30 s.
    pub(crate) async fn idle(&self, standing: Standing) -> Result<bool> {
        let share = IDLE_SHARE + standing.share().unwrap_or_default() * STANDING_ERROR;
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
