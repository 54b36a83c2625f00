//! What the engine counts, for whoever watches it.

use tern_runtime::metrics::{Counter, Metrics};

/// Counts since the start; clones are the same ones.
#[derive(Clone, Default)]
pub(super) struct Counted {
    pub database: tern_postgres::Counted,
    /// Messages whose result was known already.
    pub resends: Counter,
}

impl Counted {
    pub(super) fn report_to(&self, metrics: &mut Metrics) {
        self.database.report_to(metrics);
        metrics.register("tern_resends", "Messages that were sent again and only answered again", self.resends.clone());
    }
}
