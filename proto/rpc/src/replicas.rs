//! Every replica of a service behind a name, and which of them are well.
//!
//! The name is resolved again and again; each address tells of its health over the connection that carries its calls, and that is pinged while it is silent. So a
//! replica that is dead, stopped or behind a cut link is left within 2 s, and comes back once it answers. A call goes to the less busy of two well ones at random, or to one that it keeps to, and
//! if that fails to another one: every call here may be made twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tern_runtime::metrics::{Counter, Metrics};
use tern_runtime::traces::Traces;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::Target;
use crate::traced::put_traces;

/// Between two looks at the name: a new replica is asked for its health as soon as it is seen.
const RESOLVE: Duration = Duration::from_secs(3);
/// Between two questions for the health of a replica that is not well.
const PROBE: Duration = Duration::from_millis(400);
/// A replica that has not answered it for so long is not well.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// A connection over which nothing comes back is closed after twice this time, and the calls on it fail.
const PING: Duration = Duration::from_millis(900);
/// A connection that is not there by then is not there.
const CONNECT: Duration = Duration::from_millis(500);
/// How often a call is made at most.
const ATTEMPTS: usize = 5;
/// The longest wait between two attempts; a random part of it is taken.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The replicas of one service.
pub struct Replicas {
    shared: Arc<Shared>,
    /// Where calls go while that one is well.
    home: Option<usize>,
}

struct Shared {
    /// For messages about it.
    service: &'static str,
    target: Target,
    replicas: Mutex<BTreeMap<SocketAddr, Arc<Replica>>>,
    /// Told when one becomes well.
    well: Arc<Notify>,
    /// Attempts at a call that have failed.
    failed: Counter,
}

/// One replica.
pub struct Replica {
    /// Of which service, for messages about it.
    service: &'static str,
    address: SocketAddr,
    channel: Channel,
    is_well: AtomicBool,
    in_flight: AtomicUsize,
    well: Arc<Notify>,
    /// Told when it is not well any more, or nobody needs it.
    ill: Arc<Notify>,
}

/// A call that has failed on every attempt.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// No replica was well, so nothing was begun.
    #[error("no replica of the {0} service answers")]
    Nobody(&'static str),
    /// It may have been carried out all the same.
    #[error("the {service} service has not answered: {status}")]
    Unanswered {
        /// Which.
        service: &'static str,
        /// What the last attempt ended with.
        status: Box<Status>,
    },
}

/// A call under way.
struct Flight<'a>(&'a Replica);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Replicas {
    /// Begins to look for the replicas of a service. Needs a Tokio runtime. Ends when it is dropped.
    pub fn of(service: &'static str, target: Target) -> Replicas {
        let replicas = Mutex::default();
        let (well, failed) = (Arc::new(Notify::new()), Counter::default());
        let shared = Arc::new(Shared { service, target, replicas, well, failed });
        tokio::spawn(look(Arc::downgrade(&shared)));
        Replicas { shared, home: None }
    }

    /// The same ones, for calls that go to one of them as long as the same ones are well: to the same from every process that sees them so. That saves work where a
    /// replica remembers what it has just done; nothing may rest on it.
    pub fn at_home(&self, home: usize) -> Replicas {
        Replicas { shared: self.shared.clone(), home: Some(home) }
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        let help = "Attempts at a call of another service that have failed";
        metrics.register("tern_call_attempts_failed", help, self.shared.failed.clone());
    }

    /// All of them, well or not.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.shared.replicas().values().cloned().collect()
    }

    /// Makes a call that may be made twice, on one replica after the other until one answers, for at most `patience`. Each attempt gets the time that is left,
    /// and the server is told of it, and of the traces of what travels together in the message.
    ///
    /// # Errors
    /// [`Failed`] says whether anything may have come of it.
    pub async fn call<M, R>(
        &self,
        patience: Duration,
        message: M,
        traces: &Traces,
        call: impl AsyncFn(Channel, Request<M>) -> Result<R, Status>,
    ) -> Result<R, Failed>
    where
        M: prost::Message + Default,
    {
        let service = self.shared.service;
        let until = Instant::now() + patience;
        // Bytes for another attempt: they cost less than a copy of a message with many parts.
        let saved = message.encode_to_vec();
        let mut message = Some(message);
        let mut tried = Vec::new();
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            let Some(replica) = self.pick(&tried, until).await else { break };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // No replica answers in no time, and each that is tried would be taken for ill.
                break;
            }
            let message = message.take().or_else(|| M::decode(&saved[..]).ok()).unwrap_or_default();
            let mut request = Request::new(message);
            request.set_timeout(left);
            put_traces(request.metadata_mut(), traces);
            let flight = replica.fly();
            let answer = timeout(left, call(replica.channel.clone(), request)).await;
            drop(flight);
            let status = match answer {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            tracing::debug!(service, address = %replica.address, %status, "a call has failed");
            self.shared.failed.inc();
            replica.falls_ill();
            tried.push(replica.address);
            last = Some(status);
            let longest = BACK_OFF.mul_f64(fastrand::f64()) * attempt as u32;
            sleep(longest.min(until.saturating_duration_since(Instant::now()))).await;
        }
        Err(match last {
            None => Failed::Nobody(service),
            Some(status) => Failed::Unanswered { service, status: Box::new(status) },
        })
    }

    /// The one at home, or the less busy of two well ones; if possible of those that were not tried yet. Waits until there is one.
    async fn pick(&self, tried: &[SocketAddr], until: Instant) -> Option<Arc<Replica>> {
        loop {
            let becomes_well = self.shared.well.notified();
            if let Some(replica) = self.choose(tried).or_else(|| self.choose(&[])) {
                return Some(replica);
            }
            timeout_at(until, becomes_well).await.ok()?;
        }
    }

    fn choose(&self, tried: &[SocketAddr]) -> Option<Arc<Replica>> {
        let replicas = self.shared.replicas();
        let well: Vec<&Arc<Replica>> =
            replicas.values().filter(|replica| replica.is_well() && !tried.contains(&replica.address)).collect();
        if let Some(home) = self.home {
            return well.get(home.checked_rem(well.len())?).map(|replica| (*replica).clone());
        }
        let first = fastrand::choice(&well)?;
        let second = fastrand::choice(&well)?;
        Some(if second.busyness() < first.busyness() { (*second).clone() } else { (*first).clone() })
    }
}

impl Shared {
    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn replicas(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Arc<Replica>>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn refresh(&self) {
        // Without an answer the old ones stay.
        let Some(addresses) = self.target.resolve().await else { return };
        let mut replicas = self.replicas();
        replicas.retain(|address, _| addresses.contains(address));
        for address in addresses {
            replicas.entry(address).or_insert_with(|| {
                let replica = Arc::new(Replica::new(self.service, address, self.well.clone()));
                tokio::spawn(follow(Arc::downgrade(&replica)));
                replica
            });
        }
    }
}

impl Replica {
    fn new(service: &'static str, address: SocketAddr, well: Arc<Notify>) -> Replica {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap_or_else(|_| {
            // An address always makes a URI; if not, nothing ever answers there.
            Endpoint::from_static("http://127.0.0.1:1")
        });
        let channel = endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .connect_lazy();
        let (is_well, in_flight, ill) = (AtomicBool::new(false), AtomicUsize::new(0), Arc::default());
        Replica { service, address, channel, is_well, in_flight, well, ill }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The way to it.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whether it has answered lately.
    pub fn is_well(&self) -> bool {
        self.is_well.load(Ordering::Relaxed)
    }

    fn busyness(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn fly(&self) -> Flight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Flight(self)
    }

    fn falls_ill(&self) {
        self.turns(false);
        self.ill.notify_waiters();
    }

    fn turns(&self, is_well: bool) {
        if self.is_well.swap(is_well, Ordering::Relaxed) != is_well {
            tracing::info!(service = self.service, address = %self.address, is_well, "a replica has changed");
        }
        if is_well {
            self.well.notify_waiters();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.ill.notify_waiters();
    }
}

/// Looks at the name until nobody needs it.
async fn look(shared: Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        shared.refresh().await;
        drop(shared);
        sleep(RESOLVE).await;
    }
}

/// Follows the health of a replica until it is left for good. Whatever happens to one that is well, it is asked anew.
async fn follow(replica: Weak<Replica>) {
    loop {
        let Some(known) = replica.upgrade() else { return };
        let Ok(Ok((mut changes, true))) = timeout(PROBE_WAIT, health(known.channel.clone())).await else {
            known.turns(false);
            drop(known);
            sleep(PROBE).await;
            continue;
        };
        let ill = known.ill.clone();
        // Heard from here on: what comes before this replica is well makes no difference.
        let mut ill = pin!(ill.notified());
        ill.as_mut().enable();
        known.turns(true);
        drop(known);
        tokio::select! {
            () = ill => {}
            // Another health, or the end of the connection.
            _ = changes.message() => {}
        }
    }
}

/// Whether the server as a whole is well, and from where its changes come. They are not kept of one that is leaving: it waits for those who listen.
async fn health(channel: Channel) -> Result<(Streaming<HealthCheckResponse>, bool), Status> {
    let request = HealthCheckRequest { service: String::new() };
    let mut changes = HealthClient::new(channel).watch(request).await?.into_inner();
    let now = changes.message().await?;
    Ok((changes, now.is_some_and(|now| now.status() == ServingStatus::Serving)))
}
