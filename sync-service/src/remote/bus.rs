//! NATS, over which hints travel: at most once, and late when it is away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, HeaderValue, ServerAddr};
use futures_util::StreamExt as _;
use prost::bytes::Bytes;
use tern_runtime::metrics::{Counter, Metrics};
use tern_runtime::shutdown::Stop;
use tern_runtime::traces::{PLACES, TRACEPARENT, Traces};
use tokio::sync::Notify;

/// A server that answers no ping for about twice this time is left.
const PING: Duration = Duration::from_secs(3);
/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// The longest wait for room to publish; nobody waits for a hint.
const ROOM: Duration = Duration::from_millis(100);
/// Messages that may wait to be heard. More are lost, and that they are is known.
const UNHEARD: usize = 1024;

/// A connection to NATS that comes back by itself.
pub struct Bus {
    client: Client,
    /// Something may have been missed: a message was lost here, or the connection was.
    missed: Arc<Notify>,
    counted: Counted,
}

/// What is counted of NATS.
#[derive(Clone, Default)]
struct Counted {
    sent: Counter,
    dropped: Counter,
    slow: Counter,
    disconnects: Counter,
    errors: Counter,
}

/// Where NATS is: URLs as in `nats://user:password@host:4222`, or `tls://`, with commas between them.
#[derive(Clone)]
pub struct Servers {
    addresses: Vec<ServerAddr>,
    authority: Option<PathBuf>,
}

impl std::str::FromStr for Servers {
    type Err = String;

    fn from_str(urls: &str) -> Result<Servers, String> {
        let bad = |_| "is not a URL as in nats://user:password@host:4222, or tls://".to_owned();
        let addresses = urls.split(',').map(|url| url.trim().parse().map_err(bad)).collect::<Result<_, _>>()?;
        Ok(Servers { addresses, authority: None })
    }
}

impl Servers {
    /// The same, with certificates that one of the authorities in this file (PEM) has signed; they are those of TLS.
    #[must_use]
    pub fn trusting(self, authority: Option<PathBuf>) -> Servers {
        Servers { authority, ..self }
    }

    /// The client does not look for a user or a token in the URLs by itself. They are the same for all servers.
    fn options(&self) -> ConnectOptions {
        let first = self.addresses.first();
        let of_first = (first.and_then(ServerAddr::username), first.and_then(ServerAddr::password));
        let options = match of_first {
            (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.into(), password.into()),
            (Some(token), None) => ConnectOptions::with_token(token.into()),
            (None, _) => ConnectOptions::new(),
        };
        match &self.authority {
            Some(file) => options.add_root_certificates(file.clone()),
            None => options,
        }
    }
}

impl Bus {
    /// Connects, now or as soon as that is possible. `name` is what the server lists it as.
    ///
    /// # Errors
    /// The options contradict each other.
    pub async fn connect(servers: Servers, name: &str) -> Result<Bus, String> {
        let (missed, counted) = (Arc::new(Notify::new()), Counted::default());
        let heard = (missed.clone(), counted.clone());
        let options = servers.options();
        let options = options
            .name(name)
            .ping_interval(PING)
            .connection_timeout(CONNECT)
            .subscription_capacity(UNHEARD)
            .retry_on_initial_connect()
            // Not all at once after a restart.
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis(100 << attempts.min(4)).mul_f64(0.5 + fastrand::f64() / 2.0)
            })
            .event_callback(move |event| {
                let (missed, counted) = heard.clone();
                async move { on_event(&event, &missed, &counted) }
            });
        let client = options.connect(servers.addresses).await.map_err(|error| error.to_string())?;
        Ok(Bus { client, missed, counted })
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        let Counted { slow, disconnects, errors, .. } = self.counted.clone();
        metrics.register("tern_hints_slow", "Times that hints came faster than they were heard", slow);
        metrics.register("tern_nats_disconnects", "Times that the connection to NATS was lost", disconnects);
        metrics.register("tern_nats_errors", "What NATS or its client has complained about", errors);
    }

    /// Reports what is counted of messages that are published here.
    pub(super) fn report_sent_to(&self, metrics: &mut Metrics) {
        let Counted { sent, dropped, .. } = self.counted.clone();
        metrics.register("tern_hints_sent", "Messages with hints that were published", sent);
        let help = "Messages with hints that could not be published; the gateways look by themselves, later";
        metrics.register("tern_hints_dropped", help, dropped);
    }

    /// Publishes, or loses it. The traces are those of what the message is about.
    pub async fn publish(&self, subject: &str, traces: &Traces, message: Bytes) {
        let is_there = self.client.connection_state() == State::Connected;
        let published = async {
            let subject = subject.to_owned();
            let published = if traces.is_empty() {
                self.client.publish(subject, message).await
            } else {
                self.client.publish_with_headers(subject, headers(traces), message).await
            };
            published.is_ok()
        };
        if !is_there || tokio::time::timeout(ROOM, published).await != Ok(true) {
            let lost = self.counted.dropped.inc() + 1;
            if lost.is_power_of_two() {
                tracing::warn!(lost, "hints could not be published since the start");
            }
        } else {
            self.counted.sent.inc();
        }
    }

    /// Until the server has what was published.
    pub(super) async fn flush(&self) {
        if let Err(error) = self.client.flush().await {
            tracing::debug!(%error, "what was published last may be lost");
        }
    }

    /// Hears what is published there, until the stop, and whether something may have been missed.
    pub async fn hear(&self, subject: &str, hear: impl Fn(Bytes, Traces), missed: impl Fn(), stop: Stop) {
        let mut messages = match self.client.subscribe(subject.to_owned()).await {
            Ok(messages) => messages,
            Err(error) => return tracing::error!(%error, "no hints are heard"),
        };
        loop {
            tokio::select! {
                () = stop.stopped() => return,
                () = self.missed.notified() => missed(),
                message = messages.next() => match message {
                    Some(message) => hear(message.payload, traces_of(message.headers.as_ref())),
                    None => return tracing::error!("no more hints are heard"),
                }
            }
        }
    }
}

fn headers(traces: &Traces) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let (values, places) = traces.headers();
    values.for_each(|value| headers.append(TRACEPARENT, value));
    headers.insert(PLACES, places);
    headers
}

fn traces_of(headers: Option<&HeaderMap>) -> Traces {
    let Some(headers) = headers else { return Traces::default() };
    let places = headers.get(PLACES).map(HeaderValue::as_str).unwrap_or_default();
    Traces::of_headers(headers.get_all(TRACEPARENT).map(|value| Some(value.as_str())), places)
}

fn on_event(event: &Event, missed: &Notify, counted: &Counted) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            missed.notify_one();
        }
        Event::SlowConsumer(_) => {
            counted.slow.inc();
            tracing::warn!("hints came faster than they were heard, and some were lost");
            missed.notify_one();
        }
        Event::Disconnected => {
            counted.disconnects.inc();
            tracing::warn!("NATS is away: hints are lost until it is back");
        }
        Event::ServerError(_) | Event::ClientError(_) => {
            counted.errors.inc();
            tracing::debug!(%event, "NATS");
        }
        event => tracing::debug!(%event, "NATS"),
    }
}
