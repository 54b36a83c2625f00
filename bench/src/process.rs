//! What a process has cost so far, by /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

/// A process counts as idle when it takes less than 1 % of a core for so long.
const IDLE_WINDOW: Duration = Duration::from_secs(2);
const IDLE_SHARE: f64 = 0.01;
/// How long is waited for that.
const IDLE_WAIT: Duration = Duration::from_secs(30);

/// A process of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    pub(crate) fn own() -> Process {
        Process(std::process::id())
    }

    /// User and system time of all its threads, also of those that have ended; to 10 ms.
    pub(crate) fn cpu(self) -> Result<Duration> {
        let ticks = self.read("stat", cpu_ticks)?;
        Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }

    /// Bytes of memory that are resident. From the page tables: `status` lags behind by up to some 100 KiB.
    pub(crate) fn resident(self) -> Result<u64> {
        self.read("smaps_rollup", |text| kib(text, "Rss:")).map(|kib| kib * 1024)
    }

    /// Lets [`peak`](Process::peak) begin anew.
    pub(crate) fn forget_peak(self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.0);
        fs::write(&path, "5").with_context(|| format!("writing {path}"))
    }

    /// The most bytes of memory that were resident.
    pub(crate) fn peak(self) -> Result<u64> {
        self.read("status", |text| kib(text, "VmHWM:")).map(|kib| kib * 1024)
    }

    /// Waits until the process is idle; `false` if it is not after 30 s.
    pub(crate) async fn idle(self) -> Result<bool> {
        let end = Instant::now() + IDLE_WAIT;
        while Instant::now() < end {
            let before = self.cpu()?;
            sleep(IDLE_WINDOW).await;
            if self.cpu()?.saturating_sub(before) < IDLE_WINDOW.mul_f64(IDLE_SHARE) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read(self, file: &str, parse: fn(&str) -> Option<u64>) -> Result<u64> {
        let path = format!("/proc/{}/{file}", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        parse(&text).with_context(|| format!("{path} is not understood"))
    }
}

/// `utime` and `stime`, fields 14 and 15. The name in field 2 may hold anything, so the fields are counted behind it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(") ")?;
    let mut fields = behind.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()? + ticks()?)
}

/// The number of the line that begins with the name.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 77 88 20 0 4 0 999 1 2";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn memory_is_found_by_the_name_of_its_line() {
        let text = "VmPeak:\t  999 kB\nVmHWM:\t  123 kB\nRss:                 456 kB\n";
        assert_eq!((kib(text, "VmHWM:"), kib(text, "Rss:"), kib(text, "VmRSS:")), (Some(123), Some(456), None));
    }

    #[test]
    fn this_process_can_be_read() {
        let own = Process::own();
        let spun = own.cpu().unwrap();
        while own.cpu().unwrap() == spun {
            std::hint::spin_loop();
        }
        assert!(own.resident().unwrap() > 100 * 1024);
        assert!(own.peak().unwrap() > 100 * 1024);
        assert!(Process(u32::MAX).cpu().is_err());
    }
}
