//! Traces: which way a request takes through the services, and where it spends its time, told to a collector over OTLP (Jaeger takes it).
//!
//! The service that a request reaches first decides whether it is traced; the others follow. A [`Trace`] travels as the `traceparent` of W3C Trace Context, level 1: in gRPC metadata and NATS headers. Where
//! requests travel together, [`Traces`] says which of them are traced. What is not traced costs a look at a constant.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::service::About;
use crate::settings;

/// The name under which a trace travels.
pub const TRACEPARENT: &str = "traceparent";
/// Which of the requests that travel together are traced: their places, in the order of the values of [`TRACEPARENT`].
pub const PLACES: &str = "tern-traced";

/// The target of every span that is traced.
pub(crate) const TARGET: &str = "tern_trace";
/// How many of the requests are traced, unless the operator says otherwise.
const RATIO: f64 = 0.01;
/// Messages that may stand in a span: all of a batch.
const EVENTS: u32 = 1_024;
/// How often spans are sent.
const PACE: Duration = Duration::from_secs(1);
/// Of the requests that travel in one call so many are traced on; the traces of the others end there. The headers of a call have a limit, for gRPC 16 KiB.
const TOGETHER: usize = 64;
/// Spans that wait to be sent. More are lost.
const WAITING: usize = 8 * 1024;
/// The longest wait for the collector.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many requests are traced, if traces are told at all.
static ON: OnceLock<f64> = OnceLock::new();

/// Where traces are told, and of how many requests.
#[derive(Clone, Debug)]
pub struct Settings {
    url: String,
    ratio: f64,
}

/// Tells the traces; nothing, if there is nobody to be told.
#[derive(Default)]
pub struct Tracer(Option<SdkTracerProvider>);

/// Where a request is in its trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace(SpanContext);

/// The traces of requests that travel together, each with the place of its request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traces(Vec<(usize, Trace)>);

/// It is no traceparent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent as in 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct BadTrace;

/// Reads the settings of the section `trace`. `None` if traces are told to nobody.
pub fn read(from: &mut settings::Settings) -> Option<Settings> {
    let url = from.parsed("trace.otlp_url", |url| match url.strip_prefix("http://") {
        Some(host) if !host.is_empty() => Ok(url.to_owned()),
        _ => Err("is not as in http://127.0.0.1:4317".into()),
    });
    let ratio = from.parsed("trace.ratio", |text| match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("{text:?} is not a number from 0 to 1")),
    });
    Some(Settings { url: url?, ratio: ratio.unwrap_or(RATIO) })
}

impl Tracer {
    /// Begins to tell. Needs a Tokio runtime.
    ///
    /// # Errors
    /// The URL is none.
    pub(crate) fn start(about: About, settings: Option<Settings>) -> anyhow::Result<Tracer> {
        let Some(Settings { url, ratio }) = settings else { return Ok(Tracer::default()) };
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(url).with_timeout(PATIENCE).build();
        let exporter = exporter.context("trace.otlp_url")?;
        let pace = BatchConfigBuilder::default().with_scheduled_delay(PACE).with_max_queue_size(WAITING).build();
        let who = [KeyValue::new("service.name", about.name), KeyValue::new("service.version", about.version)];
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(pace).build())
            // Only spans of traced requests come into being.
            .with_sampler(Sampler::AlwaysOn)
            // One for each message that travels with others.
            .with_max_events_per_span(EVENTS)
            .with_resource(Resource::builder_empty().with_attributes(who).build())
            .build();
        // Only the first counts: a process tells its traces in one way.
        let _ = ON.set(ratio);
        Ok(Tracer(Some(provider)))
    }

    /// Hears of the spans.
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> Option<impl Layer<S> + use<S>> {
        let tracer = self.0.as_ref()?.tracer("tern");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        let layer = layer.with_location(false).with_threads(false).with_level(false).with_target(false);
        Some(layer.with_tracked_inactivity(false).with_filter(Targets::new().with_target(TARGET, tracing::Level::INFO)))
    }

    /// Tells what has not been told yet, for a bounded time.
    pub async fn finish(self) {
        let Some(provider) = self.0 else { return };
        // It waits for an answer that needs the workers of the runtime.
        let told = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(PATIENCE)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::debug!("the last spans were not told");
        }
    }
}

/// The first span of a request. It is traced by chance, as often as the operator wants, whatever the client says: then in the client's own trace, if it has one.
pub fn root(name: &'static str, of_client: Option<&Trace>) -> Span {
    match ON.get() {
        Some(ratio) if fastrand::f64() < *ratio => match of_client {
            Some(trace) => trace.span(name, "server"),
            None => begun(name, "server", None),
        },
        _ => Span::none(),
    }
}

/// `kind` is one of OpenTelemetry's.
fn begun(name: &'static str, kind: &'static str, parent: Option<&Trace>) -> Span {
    let span = tracing::info_span!(target: TARGET, "request", otel.name = name, otel.kind = kind, trace = tracing::field::Empty);
    if let Some(Trace(parent)) = parent {
        // It fails only where nobody is told of it.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent.clone()));
    }
    if let Some(Trace(own)) = Trace::of(&span) {
        // For the lines of the log that are written meanwhile.
        span.record("trace", tracing::field::display(own.trace_id()));
    }
    span
}

impl Trace {
    /// That of the request which is being carried out, if it is traced.
    pub fn current() -> Option<Trace> {
        ON.get()?;
        Trace::of(&Span::current())
    }

    /// That of a span, if it is traced.
    pub fn of(span: &Span) -> Option<Trace> {
        if span.is_none() {
            return None;
        }
        let context = span.context().span().span_context().clone();
        context.is_valid().then_some(Trace(context))
    }

    /// A span that follows.
    pub fn span(&self, name: &'static str, kind: &'static str) -> Span {
        if ON.get().is_some() { begun(name, kind, Some(self)) } else { Span::none() }
    }
}

/// Notes in a traced span which messages it was about: the first as its attribute, the others as events of it, all by the name `tern.message`.
pub fn note_messages(span: &Span, mut ids: impl Iterator<Item = u64>) {
    if span.is_none() {
        return;
    }
    if let Some(first) = ids.next() {
        span.set_attribute("tern.message", first.to_string());
    }
    ids.for_each(|id| span.add_event("message", vec![KeyValue::new("tern.message", id.to_string())]));
}

/// Notes in a traced span how many travel together.
pub fn note_batch(span: &Span, size: usize) {
    if !span.is_none() {
        span.set_attribute("tern.batch", size as i64);
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-01", self.0.trace_id(), self.0.span_id())
    }
}

impl FromStr for Trace {
    type Err = BadTrace;

    /// Of versions to come the first four parts are read, as the standard wants.
    fn from_str(text: &str) -> Result<Trace, BadTrace> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(part)
        };
        let parts = (part(2), part(32), part(16), part(2));
        let (Some(version), Some(trace), Some(span), Some(_)) = parts else { return Err(BadTrace) };
        let (trace, span) = (TraceId::from_hex(trace), SpanId::from_hex(span));
        let (Ok(trace), Ok(span)) = (trace, span) else { return Err(BadTrace) };
        let context = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE);
        let is_known = version != "ff" && (version != "00" || text.len() == 55);
        if is_known && context.is_valid() { Ok(Trace(context)) } else { Err(BadTrace) }
    }
}

impl Traces {
    /// Of requests in their order, and of no more than a header holds.
    pub fn of(all: impl IntoIterator<Item = Option<Trace>>) -> Traces {
        let mut traces = Traces::default();
        let traced = all.into_iter().enumerate().filter_map(|(place, trace)| Some((place, trace?)));
        traced.for_each(|(place, trace)| traces.add(place, trace));
        traces
    }

    /// One more, at a place behind the others, unless there are as many as a header holds.
    pub fn add(&mut self, place: usize, trace: Trace) {
        if self.0.len() < TOGETHER {
            self.0.push((place, trace));
        }
    }

    /// Whether none of them is traced.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// That of the request at a place.
    pub fn at(&self, place: usize) -> Option<&Trace> {
        self.0.iter().find(|(at, _)| *at == place).map(|(_, trace)| trace)
    }

    /// A span for each of them, for what is done for all of them at once.
    pub fn spans(&self, name: &'static str) -> Vec<Span> {
        self.0.iter().map(|(_, trace)| trace.span(name, "server")).collect()
    }

    /// The span of the request at a place.
    pub fn span(&self, place: usize, name: &'static str) -> Span {
        self.at(place).map_or_else(Span::none, |trace| trace.span(name, "server"))
    }

    /// As headers: values of [`TRACEPARENT`], and the value of [`PLACES`].
    pub fn headers(&self) -> (impl Iterator<Item = String>, String) {
        let places: Vec<String> = self.0.iter().map(|(place, _)| place.to_string()).collect();
        (self.0.iter().map(|(_, trace)| trace.to_string()), places.join(","))
    }

    /// From such headers, `None` for one that is no text. What makes no sense is left out: a trace is no reason to fail.
    pub fn of_headers<'a>(traceparents: impl Iterator<Item = Option<&'a str>>, places: &str) -> Traces {
        let pairs = places.split(',').zip(traceparents);
        Traces(pairs.filter_map(|(place, trace)| Some((place.parse().ok()?, trace?.parse().ok()?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_as_the_standard_wants() {
        let trace: Trace = GIVEN.parse().unwrap();
        assert_eq!(trace.to_string(), GIVEN);
        assert_eq!(GIVEN.replace("-01", "-00").parse(), Ok(trace.clone()), "who decides is not the client");
        assert_eq!(format!("{}-more", GIVEN.replace("00-4", "01-4")).parse(), Ok(trace), "a version to come");
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-011",
        ] {
            assert_eq!(bad.parse::<Trace>(), Err(BadTrace), "{bad}");
        }
    }

    #[test]
    fn the_traces_of_a_batch_come_through_headers() {
        let trace: Trace = GIVEN.parse().unwrap();
        let traces = Traces::of([None, Some(trace.clone()), None, Some(trace.clone())]);
        let (values, places) = traces.headers();
        let values: Vec<String> = values.collect();
        assert_eq!((values.len(), places.as_str()), (2, "1,3"));
        let read = Traces::of_headers(values.iter().map(|value| Some(value.as_str())), &places);
        assert_eq!(read, traces);
        assert_eq!((read.at(1), read.at(2)), (Some(&trace), None));
        assert_eq!(Traces::of(std::iter::repeat_n(Some(trace), 1000)).0.len(), TOGETHER);
        assert!(Traces::of_headers([Some("what"), None].into_iter(), "0,1").is_empty());
        assert!(Traces::of_headers(std::iter::empty(), "").is_empty());
    }

    #[test]
    fn nothing_is_traced_where_nobody_is_told() {
        assert!(root("send", None).is_none());
        assert_eq!(Trace::current(), None);
        assert!(GIVEN.parse::<Trace>().unwrap().span("send", "server").is_none());
    }
}
