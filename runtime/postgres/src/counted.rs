//! What is counted of a database, for whoever watches the service.

use tern_runtime::metrics::{By, Counter, Histogram, Metrics, seconds};
use tern_runtime::queue::Meters;

use crate::failure::Failure;

/// Counts since the start; clones are the same ones.
#[derive(Clone)]
pub struct Counted {
    /// Of the lanes.
    pub queues: Meters,
    /// Attempts at a transaction that have succeeded.
    pub commits: Histogram,
    /// Looks that have succeeded.
    pub reads: Histogram,
    failures: By<Counter>,
}

impl Default for Counted {
    fn default() -> Counted {
        let failures = By::default();
        Failure::KINDS.iter().for_each(|kind| drop(failures.get_or_create(&[("kind", *kind)])));
        Counted { queues: Meters::default(), commits: seconds(), reads: seconds(), failures }
    }
}

impl Counted {
    /// Counts an attempt that has failed.
    pub fn failed(&self, failure: &Failure) {
        self.failures.get_or_create(&[("kind", failure.kind())]).inc();
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.queues.report_to(metrics);
        let help = "A transaction that writes, from its begin to its commit";
        metrics.register("tern_postgres_commit_seconds", help, self.commits.clone());
        metrics.register("tern_postgres_read_seconds", "A look at the database", self.reads.clone());
        let help = "Attempts at a transaction or a look that have failed; raced ones are made again at once";
        metrics.register("tern_postgres_failures", help, self.failures.clone());
    }
}
