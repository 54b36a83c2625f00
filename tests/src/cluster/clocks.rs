//! The clocks of the services, each of which may be off: by libfaketime, which reads from a file of each process how much.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use tern_cluster::{Cluster, Kind, Service};

/// What each service has to be told at its start, by its name. All clocks are right again.
///
/// # Errors
/// The library is not installed, or a file cannot be written.
pub(super) fn settings(cluster: &Cluster) -> anyhow::Result<Vec<(String, String, String)>> {
    let library = tern_cluster::faketime().context("libfaketime is missing; `cargo xtask test tools` installs it")?;
    let mut settings = Vec::new();
    // See `Cluster::clocked`.
    for (index, service) in cluster.services.iter().enumerate().filter(|(_, service)| service.kind != Kind::Nats) {
        set(cluster, index, 0)?;
        let told = [
            ("LD_PRELOAD", library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", file(cluster, service).display().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // It looks again after so many seconds.
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ];
        settings.extend(told.map(|(name, value)| (service.name(), name.to_owned(), value)));
    }
    Ok(settings)
}

/// From about a second on the clock of this service is off by so many seconds.
///
/// # Errors
/// The file cannot be written.
pub(super) fn set(cluster: &Cluster, index: usize, seconds: i64) -> anyhow::Result<()> {
    let service = cluster.services.get(index).context("no such service")?;
    let path = file(cluster, service);
    // In one step: it may be read at any time.
    let new = path.with_extension("new");
    fs::write(&new, format!("{seconds:+}\n")).and_then(|()| fs::rename(&new, &path)).context("setting a clock")
}

fn file(cluster: &Cluster, service: &Service) -> PathBuf {
    cluster.dir().join(format!("{}.clock", service.name()))
}
