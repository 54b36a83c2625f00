//! What the server counts, for Prometheus: on a listener of its own, because the other two are open to clients.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tern_gateway::{Ending, Gateway};
use tern_runtime::shutdown::Stop;
use tern_storage::embedded::{self, Embedded};
use tokio::net::TcpListener;

/// The text format of Prometheus.
const FORMAT: &str = "text/plain; version=0.0.4";

/// Whose counts are told.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) store: Arc<Embedded>,
}

/// What Prometheus does with the numbers.
#[derive(Clone, Copy)]
enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Metrics {
    /// Serves `GET /metrics` until the stop.
    pub(crate) async fn serve(self, listener: TcpListener, stop: Stop) {
        let router = Router::new().route("/metrics", get(answer)).with_state(self);
        let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.stopped().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "serving the metrics broke off");
        }
    }
}

async fn answer(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(CONTENT_TYPE, FORMAT)], text(metrics.gateway.counters(), metrics.store.counters()))
}

fn text(links: &tern_gateway::Counters, store: embedded::Counters) -> String {
    use Kind::{Counter, Gauge};
    let numbers = [
        ("tern_links", Gauge, "Long links that are open.", links.links()),
        ("tern_links_taken_total", Counter, "Long links that were taken.", links.taken()),
        ("tern_log_syncs_total", Counter, "Times that the log was synced to disk.", store.syncs),
        ("tern_log_bytes_total", Counter, "Bytes appended to the log.", store.bytes),
        ("tern_log_segments", Gauge, "Segments of the log on disk.", store.segments),
        ("tern_checkpoints_total", Counter, "Checkpoints of the index.", store.checkpoints),
        ("tern_retention_segments_total", Counter, "Segments that retention has deleted.", store.cleaned_segments),
        ("tern_retention_dropped_total", Counter, "Entries that retention has dropped.", store.dropped_entries),
        ("tern_retention_moved_total", Counter, "Entries that retention has moved on.", store.moved_entries),
        ("tern_store_recoveries_total", Counter, "Times that the store failed and opened again.", store.recoveries),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in numbers {
        head(&mut text, name, kind, help);
        let _ = writeln!(text, "{name} {value}");
    }
    let ended = "tern_links_ended_total";
    head(&mut text, ended, Counter, "Long links that ended or were turned away, by reason.");
    for (ending, reason) in Ending::ALL {
        let _ = writeln!(text, "{ended}{{reason=\"{reason}\"}} {}", links.ended(ending));
    }
    text
}

fn head(text: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_stands_under_its_name_with_its_type() {
        let store = embedded::Counters { syncs: 3, bytes: 4, ..Default::default() };
        let text = text(&tern_gateway::Counters::default(), store);
        assert!(text.contains("# TYPE tern_log_syncs_total counter\ntern_log_syncs_total 3\n"), "{text}");
        assert!(text.contains("\ntern_log_bytes_total 4\n"), "{text}");
        assert!(text.contains("# TYPE tern_links gauge\ntern_links 0\n"), "{text}");
        assert!(text.contains("\ntern_links_ended_total{reason=\"too_many\"} 0\n"), "{text}");
        let mut names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "a name twice");
    }
}
