//! What a process counts, for Prometheus, and whether it can serve: on a listener of its own, because the others are open to clients or to other services.
//!
//! Whoever counts has its counters as fields and hands clones of them to [`Metrics`], which are the same counters, when the process is put together.

mod process;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::metrics::info::Info;
pub use prometheus_client::registry::Registry as Metrics;
use tokio::net::TcpListener;

use crate::service::{self, About};
use crate::settings::Settings;
use crate::shutdown::Stop;

/// The text format of OpenMetrics, which Prometheus asks for by itself.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whoever has not said by then whether it is ready is not.
const READY: Duration = Duration::from_secs(10);

/// A family of metrics that differ in one label.
pub type By<M> = Family<[(&'static str, &'static str); 1], M>;

/// What is counted in every process.
pub(crate) fn of_process(about: About) -> Metrics {
    let mut metrics = Metrics::default();
    let build = Info::new([("service", about.name), ("version", about.version)]);
    metrics.register("tern_build", "Which service this is, and its release", build);
    metrics.register_collector(Box::new(process::Process));
    metrics
}

/// How long something took, in seconds: from half a millisecond to half a minute, each bucket twice the one before.
pub fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 17))
}

/// How many there were of something: from 1 to 4096, each bucket twice the one before.
pub fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 13))
}

/// Reads where to listen for whoever watches the process; nowhere, unless it is set.
pub(crate) fn listen(from: &mut Settings) -> Option<SocketAddr> {
    from.optional_addr("listen.metrics")
}

/// Answers whoever watches the process: `GET /metrics`, `GET /healthz` (the process answers) and `GET /readyz` (it can do its work: 503 with the reason until it has started, while it cannot, and from
/// the stop on). It does so from the start to the end of the runtime, since either may take long.
pub(crate) struct Listener {
    address: Option<SocketAddr>,
    started: Arc<OnceLock<Started>>,
}

/// What a process that has started answers with.
struct Started {
    metrics: Metrics,
    ready: Box<dyn Fn() -> Asked + Send + Sync>,
    stop: Stop,
}

type Asked = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl Listener {
    /// Listens, if it is to, and answers. Needs a Tokio runtime.
    ///
    /// # Errors
    /// Nothing can listen there, with what was to.
    pub(crate) async fn start(address: Option<SocketAddr>) -> anyhow::Result<Listener> {
        let mut listener = Listener { address: None, started: Arc::default() };
        if let Some(address) = address {
            let socket = service::bind("metrics", address).await?;
            listener.address = Some(socket.local_addr()?);
            tokio::spawn(serve(socket, listener.started.clone()));
        }
        Ok(listener)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The process has started.
    pub(crate) fn started(self, metrics: Metrics, ready: impl Ready + Clone, stop: Stop) {
        let ready = Box::new(move || -> Asked {
            let ready = ready.clone();
            Box::pin(async move { ready.ready().await })
        });
        // It starts once.
        let _ = self.started.set(Started { metrics, ready, stop });
    }
}

/// Whether the process can do its work now, or why not.
pub trait Ready: Send + Sync + 'static {
    /// Asks, for a bounded time.
    fn ready(&self) -> impl Future<Output = Result<(), String>> + Send;
}

/// It needs nothing but itself.
impl Ready for () {
    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<T: Ready> Ready for Arc<T> {
    fn ready(&self) -> impl Future<Output = Result<(), String>> + Send {
        T::ready(self)
    }
}

async fn serve(socket: TcpListener, started: Arc<OnceLock<Started>>) {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(readiness))
        .with_state(started);
    if let Err(error) = axum::serve(socket, router).await {
        tracing::error!(%error, "serving the metrics broke off");
    }
}

async fn scrape(State(started): State<Arc<OnceLock<Started>>>) -> impl IntoResponse {
    let mut text = String::new();
    let Some(Started { metrics, .. }) = started.get() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    match prometheus_client::encoding::text::encode(&mut text, metrics) {
        Ok(()) => ([(CONTENT_TYPE, FORMAT)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readiness(State(started): State<Arc<OnceLock<Started>>>) -> (StatusCode, String) {
    let ready = match started.get() {
        None => Err("starting".to_owned()),
        Some(started) if started.stop.is_stopped() => Err("stopping".to_owned()),
        Some(started) => {
            let asked = tokio::time::timeout(READY, (started.ready)()).await;
            asked.unwrap_or_else(|_| Err(format!("no answer within {READY:?}")))
        }
    };
    match ready {
        Ok(()) => (StatusCode::OK, "ready".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::shutdown;

    #[derive(Clone)]
    struct If(Result<(), String>);

    impl Ready for If {
        async fn ready(&self) -> Result<(), String> {
            self.0.clone()
        }
    }

    async fn get(from: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(from).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn served(metrics: Metrics, ready: If, stop: Stop) -> SocketAddr {
        let listener = Listener::start("127.0.0.1:0".parse().ok()).await.unwrap();
        let at = listener.address().unwrap();
        let told = get(at, "/readyz").await;
        assert!(told.starts_with("HTTP/1.1 503 ") && told.ends_with("starting"), "{told}");
        assert!(get(at, "/healthz").await.starts_with("HTTP/1.1 200 "), "a start may take long");
        listener.started(metrics, ready, stop);
        at
    }

    #[tokio::test]
    async fn what_is_counted_stands_under_its_name_with_its_type() {
        let (stopper, stop) = shutdown::channel();
        let mut metrics = of_process(About { name: "tern-test", version: "1.2.3", what: "" });
        let (counter, by, took) = (Counter::<u64>::default(), By::<Counter>::default(), seconds());
        metrics.register("tern_things", "Things", counter.clone());
        metrics.register("tern_others", "Others", by.clone());
        metrics.register("tern_took_seconds", "Times", took.clone());
        let at = served(metrics, If(Ok(())), stop).await;
        counter.inc_by(3);
        by.get_or_create(&[("kind", "odd")]).inc();
        took.observe(0.003);
        let answer = get(at, "/metrics").await;
        assert!(answer.contains(FORMAT), "{answer}");
        for line in [
            "# TYPE tern_things counter\ntern_things_total 3\n",
            "\ntern_others_total{kind=\"odd\"} 1\n",
            "\ntern_took_seconds_bucket{le=\"0.004\"} 1\n",
            "\ntern_took_seconds_bucket{le=\"0.002\"} 0\n",
            "\ntern_build_info{service=\"tern-test\",version=\"1.2.3\"} 1\n",
            "\n# TYPE process_resident_memory_bytes gauge\n",
            "# EOF",
        ] {
            assert!(answer.contains(line), "{line:?} in {answer}");
        }
        drop(stopper);
    }

    #[tokio::test]
    async fn it_is_ready_while_it_can_work_and_until_the_stop() {
        let (stopper, stop) = shutdown::channel();
        let well = served(Metrics::default(), If(Ok(())), stop.clone()).await;
        let ill = served(Metrics::default(), If(Err("the database is away".into())), stop).await;
        assert!(get(well, "/readyz").await.starts_with("HTTP/1.1 200 "));
        let told = get(ill, "/readyz").await;
        assert!(told.starts_with("HTTP/1.1 503 ") && told.ends_with("the database is away"), "{told}");
        stopper.stop();
        let told = get(well, "/readyz").await;
        assert!(told.starts_with("HTTP/1.1 503 ") && told.ends_with("stopping"), "{told}");
        assert!(get(ill, "/healthz").await.starts_with("HTTP/1.1 200 "), "the process is there");
    }
}
