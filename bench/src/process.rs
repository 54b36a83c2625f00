//! What a process has cost so far, by /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::processes::Part;

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

    /// As the part counts it.
    pub(crate) fn cpu_as(self, part: Part) -> Result<Duration> {
        if part == Part::Postgres { self.cpu_of_family() } else { self.cpu() }
    }

    /// As the part counts it: what is shared is counted once.
    pub(crate) fn resident_as(self, part: Part) -> Result<u64> {
        if part != Part::Postgres {
            return self.resident();
        }
        self.children()
            .into_iter()
            .map(Process::proportional)
            .sum::<Result<u64>>()
            .map(|children| children + self.proportional().unwrap_or(0))
    }

    /// The same and that of its children, also of those that have ended.
    fn cpu_of_family(self) -> Result<Duration> {
        let ended = self.read("stat", family_ticks)?;
        let ended = Duration::from_secs(ended) / u32::try_from(rustix::param::clock_ticks_per_second())?;
        // One that ends just now is counted by its parent the next time.
        Ok(self.children().into_iter().filter_map(|child| child.cpu().ok()).sum::<Duration>() + ended)
    }

    /// Bytes that are its own, and its part of what is shared.
    fn proportional(self) -> Result<u64> {
        self.read("smaps_rollup", |text| kib(text, "Pss:")).map(|kib| kib * 1024)
    }

    fn children(self) -> Vec<Process> {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Process);
        all.filter(|process| process.read("stat", parent).is_ok_and(|parent| parent == u64::from(self.0))).collect()
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

/// The same and `cutime` and `cstime`.
fn family_ticks(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(") ")?;
    behind.split(' ').skip(11).take(4).map(|field| field.parse::<u64>().ok()).sum()
}

/// Field 4.
fn parent(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(") ")?;
    behind.split(' ').nth(1)?.parse().ok()
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
        assert_eq!((family_ticks(stat), parent(stat)), (Some(465), Some(1)));
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
