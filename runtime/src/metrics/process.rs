//! What the operating system knows about the process, under the names that Prometheus's own clients give it.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Looked at when it is asked for. What the system does not tell is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), fmt::Error> {
        if let Some(bytes) = resident() {
            let help = "Memory of the process that is resident";
            tell(&mut to, "process_resident_memory_bytes", help, &ConstGauge::new(bytes))?;
        }
        if let Some(seconds) = cpu() {
            let help = "Time that the process has used the processors, for itself and in the system";
            tell(&mut to, "process_cpu_seconds", help, &ConstCounter::new(seconds))?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            let open = u32::try_from(open.count()).unwrap_or(u32::MAX);
            tell(&mut to, "process_open_fds", "Descriptors that are open", &ConstGauge::new(open))?;
        }
        Ok(())
    }
}

fn tell(to: &mut DescriptorEncoder, name: &str, help: &str, metric: &impl EncodeMetric) -> Result<(), fmt::Error> {
    metric.encode(to.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn resident() -> Option<i64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    i64::try_from(pages * rustix::param::page_size() as u64).ok()
}

fn cpu() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the process stands in parentheses and may hold anything.
    let after = stat.rsplit_once(')')?.1;
    let ticks =
        after.split_ascii_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
