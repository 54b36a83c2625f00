//! What the engine counts, for whoever watches it.

use tern_runtime::metrics::{By, Counter, Histogram, Metrics, seconds};
use tern_runtime::queue::Meters;

use super::failure::Failure;

/// Counts since the start; clones are the same ones.
#[derive(Clone)]
pub(super) struct Counted {
    pub queues: Meters,
    /// Attempts at a transaction that have succeeded.
    pub commits: Histogram,
    pub reads: Histogram,
    failures: By<Counter>,
    /// Messages whose result was known already.
    pub resends: Counter,
}

impl Default for Counted {
    fn default() -> Counted {
        let failures = By::default();
        Failure::KINDS.iter().for_each(|kind| drop(failures.get_or_create(&[("kind", *kind)])));
        let (commits, reads) = (seconds(), seconds());
        Counted { queues: Meters::default(), commits, reads, failures, resends: Counter::default() }
    }
}

impl Counted {
    pub(super) fn failed(&self, failure: &Failure) {
        self.failures.get_or_create(&[("kind", failure.kind())]).inc();
    }

    pub(super) fn report_to(&self, metrics: &mut Metrics) {
        self.queues.report_to(metrics);
        metrics.register("tern_resends", "Messages that were sent again and only answered again", self.resends.clone());
        let help = "A transaction that writes, from its begin to its commit";
        metrics.register("tern_postgres_commit_seconds", help, self.commits.clone());
        metrics.register("tern_postgres_read_seconds", "A look at the database", self.reads.clone());
        let help = "Attempts at a transaction or a look that have failed; raced ones are made again at once";
        metrics.register("tern_postgres_failures", help, self.failures.clone());
    }
}
