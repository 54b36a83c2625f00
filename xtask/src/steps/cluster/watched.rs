//! What whoever watches a cluster is told: what it counts, and whether it is ready.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tern_cluster::{Cluster, Service};

/// An answer takes a little longer than the services wait for each other.
const ANSWER: Duration = Duration::from_secs(15);
/// So long it may take until the services have seen a change.
const CHANGE: Duration = Duration::from_secs(30);

/// What has to have happened somewhere once messages went from one gateway to another.
const COUNTED: [&str; 14] = [
    "tern_links_taken_total",
    "tern_packets_total{command=\"send\"}",
    "tern_request_seconds_count{command=\"send\"}",
    "tern_delivery_seconds_count",
    "tern_hints_heard_total{kind=\"news\"}",
    "tern_queue_batch_count{queue=\"sync_send\"}",
    "tern_queue_batch_count{queue=\"storage_commit\"}",
    "tern_messages_total{code=\"CODE_OK\"}",
    "tern_hints_sent_total",
    "tern_redis_seconds_count",
    "tern_resends_total",
    "tern_postgres_commit_seconds_count",
    "tern_queue_batch_count{queue=\"commit\"}",
    "process_resident_memory_bytes",
];

/// Every metric stands in the documentation, and those that must have moved have done so.
pub(super) fn metrics(cluster: &Cluster) -> Result<()> {
    let documented = std::fs::read_to_string(crate::root().join("docs/operations.md"))?;
    let mut all = String::new();
    for service in own(cluster) {
        let text = get(service, "/metrics")?;
        for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = family.split_once(' ').context("a type")?;
            let name = match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            };
            ensure!(documented.contains(&format!("`{name}`")), "{name} of {} is not in the docs", service.name());
        }
        all += &text;
    }
    for name in COUNTED {
        let value = |line: &str| line.strip_prefix(name)?.trim().parse::<f64>().ok();
        let sum: f64 = all.lines().filter_map(value).sum();
        ensure!(sum > 0.0, "{name} is {sum} in all services together");
    }
    Ok(())
}

/// Everything is ready without NATS and without Redis, and nothing that needs the database is without that.
pub(super) fn readiness(cluster: &mut Cluster) -> Result<()> {
    await_ready(cluster, true)?;
    let signal = |cluster: &Cluster, signal| {
        let others = cluster.services.iter().filter(|service| !service.kind.is_own());
        others.for_each(|service| service.signal(signal));
    };
    signal(cluster, Signal::STOP);
    let ready = is_ready(cluster);
    signal(cluster, Signal::CONT);
    ensure!(ready?.iter().all(|(_, ready)| *ready), "hints are no reason not to be ready");
    cluster.postgres().context("a database")?.stop("immediate")?;
    await_ready(cluster, false)?;
    cluster.start_postgres()?;
    await_ready(cluster, true)
}

/// Until everything that needs the database is ready, or is not.
fn await_ready(cluster: &Cluster, wanted: bool) -> Result<()> {
    let began = Instant::now();
    loop {
        let found = is_ready(cluster)?;
        if found.iter().all(|(_, ready)| *ready == wanted) {
            return Ok(());
        }
        if began.elapsed() > CHANGE {
            let found: Vec<_> = found.iter().map(|(service, ready)| (service.name(), ready)).collect();
            bail!("ready should be {wanted}, and is {found:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn is_ready(cluster: &Cluster) -> Result<Vec<(&Service, bool)>> {
    own(cluster).map(|service| Ok((service, get(service, "/readyz")?.starts_with("HTTP/1.1 200 ")))).collect()
}

fn own(cluster: &Cluster) -> impl Iterator<Item = &Service> {
    cluster.services.iter().filter(|service| service.kind.is_own())
}

/// The whole answer.
fn get(service: &Service, path: &str) -> Result<String> {
    let ask = || -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", service.metrics.context("a port for metrics")?))?;
        stream.set_read_timeout(Some(ANSWER))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: tern\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().with_context(|| format!("{path} of {}", service.name()))
}
