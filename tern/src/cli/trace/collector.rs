//! Takes spans over OTLP and prints each trace once nothing more comes of it.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use tern_rpc::tonic::{Request, Response, Status, async_trait};
use tern_runtime::shutdown::Stop;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::tree::{Span, Tree};

/// The services send their spans every second; a trace of which nothing has come for so long is taken to be whole.
const QUIET: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(500);
/// Traces that wait to be whole. More are not taken.
const TRACES: usize = 1_000;
/// Spans of one trace.
const SPANS: usize = 1_000;

/// Takes traces and prints them.
pub(super) struct Collector {
    /// The only one that is wanted, if one is.
    message: Option<String>,
    waiting: Mutex<HashMap<Vec<u8>, Waiting>>,
    found: Notify,
}

struct Waiting {
    spans: Vec<Span>,
    last: Instant,
}

impl Collector {
    /// Of all traces, or the one with this message.
    pub(super) fn new(message: Option<u64>) -> Collector {
        let message = message.map(|message| format!("tern.message={message}"));
        Collector { message, waiting: Mutex::default(), found: Notify::new() }
    }

    /// Until the stop, or until the one message was found.
    ///
    /// # Errors
    /// Serving breaks off, or nobody reads what is printed.
    pub(super) async fn serve(self, listener: TcpListener, stop: Stop) -> Result<()> {
        let collector = Arc::new(self);
        let service = TraceServiceServer::new(Taker(collector.clone()));
        let server = tern_rpc::tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(tern_rpc::tonic::transport::server::TcpIncoming::from(listener));
        tokio::select! {
            served = server => Ok(served?),
            printed = collector.print() => printed,
            () = collector.found.notified() => Ok(()),
            () = stop.stopped() => Ok(()),
        }
    }

    async fn print(&self) -> Result<()> {
        loop {
            tokio::time::sleep(LOOK).await;
            let is_whole = |_: &Vec<u8>, waiting: &mut Waiting| waiting.last.elapsed() >= QUIET;
            let mut whole: Vec<_> = self.waiting().extract_if(is_whole).collect();
            whole.sort_by_key(|(_, waiting)| waiting.spans.iter().map(|span| span.start).min());
            let mut stdout = std::io::stdout().lock();
            for (id, Waiting { spans, .. }) in whole {
                let notes = || spans.iter().flat_map(|span| &span.notes);
                if self.message.as_ref().is_some_and(|message| !notes().any(|note| note == message)) {
                    continue;
                }
                let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(stdout, "trace {id}\n{}", Tree(&spans))?;
                if self.message.is_some() {
                    self.found.notify_one();
                }
            }
            stdout.flush()?;
        }
    }

    fn take(&self, service: &str, span: otlp::Span) {
        let mut waiting = self.waiting();
        if waiting.len() >= TRACES && !waiting.contains_key(&span.trace_id) {
            return;
        }
        let of_trace = waiting.entry(span.trace_id.clone());
        let of_trace = of_trace.or_insert_with(|| Waiting { spans: Vec::new(), last: Instant::now() });
        of_trace.last = Instant::now();
        if of_trace.spans.len() < SPANS {
            of_trace.spans.push(shown(service, span));
        }
    }

    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn waiting(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The collector as it is called.
struct Taker(Arc<Collector>);

#[async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let attributes = of_resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.iter().find(|attribute| attribute.key == "service.name");
            let service = service.map(value).unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.for_each(|span| self.0.take(&service, span));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn shown(service: &str, span: otlp::Span) -> Span {
    let of_events = span.events.iter().flat_map(|event| &event.attributes);
    let noted = span.attributes.iter().chain(of_events).filter(|attribute| attribute.key.starts_with("tern."));
    Span {
        id: span.span_id,
        parent: span.parent_span_id,
        service: service.to_owned(),
        name: span.name,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        notes: noted.map(|attribute| format!("{}={}", attribute.key, value(attribute))).collect(),
    }
}

fn value(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}
