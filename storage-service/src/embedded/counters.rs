//! What the store counts since it was opened, for whoever watches it.

use tern_runtime::metrics::{Counter, Gauge, Metrics};

/// The counts; clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Times that the log was synced to disk.
    pub syncs: Counter,
    /// Bytes appended to the log.
    pub bytes: Counter,
    /// Checkpoints of the index.
    pub checkpoints: Counter,
    /// Segments of the log that are on disk now.
    pub segments: Gauge,
    /// Segments that retention has deleted.
    pub cleaned_segments: Counter,
    /// Entries that retention has taken out of timelines.
    pub dropped_entries: Counter,
    /// Entries that retention has copied to the end of the log because they are still owed.
    pub moved_entries: Counter,
    /// Times that the store has failed and opened itself again.
    pub recoveries: Counter,
    /// Messages that were sent again and only answered again.
    pub resends: Counter,
}

impl Counters {
    /// Reports them.
    pub fn report_to(&self, metrics: &mut Metrics) {
        metrics.register("tern_log_syncs", "Times that the log was synced to disk", self.syncs.clone());
        metrics.register("tern_log_bytes", "Bytes appended to the log", self.bytes.clone());
        metrics.register("tern_log_segments", "Segments of the log on disk", self.segments.clone());
        metrics.register("tern_checkpoints", "Checkpoints of the index", self.checkpoints.clone());
        let help = "Segments that retention has deleted";
        metrics.register("tern_retention_segments", help, self.cleaned_segments.clone());
        metrics.register("tern_retention_dropped", "Entries that retention has dropped", self.dropped_entries.clone());
        metrics.register("tern_retention_moved", "Entries that retention has moved on", self.moved_entries.clone());
        let help = "Times that the store failed and opened again";
        metrics.register("tern_store_recoveries", help, self.recoveries.clone());
        let help = "Messages that were sent again and only answered again";
        metrics.register("tern_resends", help, self.resends.clone());
    }
}
