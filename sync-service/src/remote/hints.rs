//! Hints to the gateways that hold a link of whoever is owed something, over NATS. They may be lost: a gateway looks again by itself, though not at once.
//!
//! What comes together travels together: while the routes of some users are looked up, what is owed meanwhile is the next batch, and a batch is one message to each gateway.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prost::Message as _;
use prost::bytes::Bytes;
use tern_proto::key::{Class, Version};
use tern_proto::v1::entry::Body;
use tern_proto::{DeviceId, UserId};
use tern_rpc::v1::{self as rpc};
use tern_runtime::metrics::{Counter, Metrics};
use tern_runtime::queue::let_others_run;
use tern_runtime::shutdown::Stop;
use tern_runtime::traces::{Trace, Traces};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

use super::bus::Bus;
use super::client::{named, routed};
use super::server;
use crate::{Away, Device, GatewayId, Hints, News, Placed, Recent, Risen, Route, Routes};

/// Users that may wait to be told. More are not, and count as lost.
const WAITING: usize = 64 * 1024;
/// Places of news that may wait. More is told without what it is about.
const PLACES: usize = 16 * 1024;
/// Bytes of news in a message to a gateway, about: NATS takes 1 MiB.
const MESSAGE: usize = 256 * 1024;
/// Bytes of a hint without news or of a displaced link, at most.
const ROUTED: usize = 160;
/// A gateway that was found for nobody for so long while the routes were there is not told when they are away.
const FORGET: Duration = Duration::from_secs(120);
/// At a stop, the longest wait until what is left is told.
const FINISH: Duration = Duration::from_secs(1);
/// How often it is looked whether anybody still hints.
const LOOK: Duration = Duration::from_millis(500);

/// Tells the gateways.
pub struct Fanout {
    shared: Arc<Shared>,
}

struct Shared {
    bus: Arc<Bus>,
    routes: Arc<dyn Routes>,
    recent: Arc<dyn Recent>,
    waiting: Mutex<Waiting>,
    more: Notify,
    /// Hints for which there was no room.
    unheld: Counter,
}

/// What has not been told yet.
#[derive(Default)]
struct Waiting {
    /// By user the device that needs no hint, if there is but one such.
    owed: HashMap<UserId, Option<DeviceId>>,
    /// In their order.
    news: Vec<Encoded>,
    /// Of the news.
    places: usize,
    displaced: Vec<(Device, Route)>,
    /// For how many there was no room.
    unheld: u64,
    /// Heads that are higher now, by whose and which they are.
    risen: BTreeMap<(UserId, u64, Class), Version>,
}

/// News for whom, and what is told.
struct Encoded {
    users: Vec<UserId>,
    bytes: Bytes,
    /// The traced span of its way to NATS, which ends when it is published.
    span: Span,
}

/// What one gateway is told.
#[derive(Default)]
struct Told {
    hints: rpc::Hints,
    bytes: usize,
    /// Of its news.
    traces: Traces,
}

impl Fanout {
    /// Tells over `bus` the gateways that `routes` name, and `recent` which heads have risen. Needs a Tokio runtime.
    pub fn new(bus: Arc<Bus>, routes: Arc<dyn Routes>, recent: Arc<dyn Recent>) -> Fanout {
        let (waiting, more, unheld) = (Mutex::default(), Notify::new(), Counter::default());
        let shared = Arc::new(Shared { bus, routes, recent, waiting, more, unheld });
        tokio::spawn(tell(Arc::downgrade(&shared)));
        Fanout { shared }
    }

    /// Reports what is counted, of NATS too.
    pub fn report_to(&self, metrics: &mut Metrics) {
        let help = "Hints for which there was no room; who should have had them looks by himself, later";
        metrics.register("tern_hints_unheld", help, self.shared.unheld.clone());
        self.shared.bus.report_to(metrics);
        self.shared.bus.report_sent_to(metrics);
    }

    /// Tells what waits, and returns once NATS has it or the patience is over: before a stop.
    pub async fn finish(&self) {
        let waiting = std::mem::take(&mut *self.shared.waiting());
        let told = async {
            self.shared.tell(waiting, &mut HashMap::new()).await;
            self.shared.bus.flush().await;
        };
        // What is lost comes later.
        let _ = tokio::time::timeout(FINISH, told).await;
    }

    fn add(&self, add: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.shared.waiting();
        let was_empty = waiting.is_empty();
        add(&mut waiting);
        if was_empty {
            self.shared.more.notify_one();
        }
    }
}

impl Hints for Fanout {
    fn owed(&self, user: &UserId, except: Option<&Device>) {
        self.add(|waiting| waiting.owed(user, except));
    }

    fn news(&self, news: News) {
        let bytes = encode(&news);
        self.add(|waiting| waiting.news(&news, bytes));
    }

    fn displaced(&self, device: &Device, route: Route) {
        self.add(|waiting| {
            if waiting.displaced.len() < WAITING {
                waiting.displaced.push((device.clone(), route));
            } else {
                waiting.unheld += 1;
            }
        });
    }
}

impl Shared {
    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gateways that hold a link of each user. On the way the heads are raised.
    async fn found(
        &self,
        users: &[UserId],
        risen: &BTreeMap<(UserId, u64, Class), Version>,
    ) -> Result<Vec<Vec<GatewayId>>, Away> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let risen = risen.iter().map(|((user, epoch, class), version)| Risen {
            user: user.clone(),
            epoch: *epoch,
            class: *class,
            version: *version,
        });
        let risen: Vec<Risen> = risen.collect();
        let (raised, found) = tokio::join!(self.recent.raise(&risen), self.routes.gateways(users));
        if let Err(away) = raised {
            tracing::debug!(%away, "heads are not raised: checks may be late");
        }
        found
    }

    /// Tells what waits. `known` are the gateways that were found lately.
    async fn tell(&self, waiting: Waiting, known: &mut HashMap<GatewayId, Instant>) {
        self.unheld.inc_by(waiting.unheld);
        let users: Vec<UserId> = waiting.users().into_iter().cloned().collect();
        let found = self.found(&users, &waiting.risen).await;
        // They end when everything is published.
        let traced = waiting.news.iter().map(|news| &news.span).filter(|span| !span.is_none());
        let spans: Vec<Span> = traced.cloned().collect();
        let told = match found {
            Ok(found) => {
                let now = Instant::now();
                known.retain(|_, last| now.duration_since(*last) < FORGET);
                known.extend(found.iter().flatten().map(|gateway| (*gateway, now)));
                let by_user: HashMap<&UserId, Vec<GatewayId>> = users.iter().zip(found).collect();
                waiting.by_gateway(|user| by_user.get(user).map_or(&[], Vec::as_slice))
            }
            // Late for some is better than late for all.
            Err(_) => {
                let all: Vec<GatewayId> = known.keys().copied().collect();
                waiting.by_gateway(|_| &all)
            }
        };
        for (gateway, told) in told {
            self.bus.publish(&subject(gateway), &told.traces, told.hints.encode_to_vec().into()).await;
        }
        drop(spans);
    }
}

/// Tells, until nobody hints any more.
async fn tell(shared: Weak<Shared>) {
    let mut known = HashMap::new();
    while let Some(shared) = shared.upgrade() {
        if tokio::time::timeout(LOOK, shared.more.notified()).await.is_err() {
            continue;
        }
        let_others_run().await;
        let waiting = std::mem::take(&mut *shared.waiting());
        shared.tell(waiting, &mut known).await;
    }
}

impl Waiting {
    fn owed(&mut self, user: &UserId, except: Option<&Device>) {
        let except = except.filter(|device| device.user == *user).map(|device| &device.id);
        let is_full = self.owed.len() >= WAITING;
        match self.owed.get_mut(user) {
            Some(known) if known.as_ref() == except => {}
            // Two causes: nobody is left out.
            Some(known) => *known = None,
            None if is_full => self.unheld += 1,
            None => {
                self.owed.insert(user.clone(), except.cloned());
            }
        }
    }

    fn rise(&mut self, Risen { user, epoch, class, version }: Risen) {
        // As many as are told of something.
        if self.risen.len() < WAITING {
            let head = self.risen.entry((user, epoch, class)).or_default();
            *head = version.max(*head);
        }
    }

    fn news(&mut self, news: &News, bytes: Bytes) {
        news.places.iter().for_each(|placed| self.rise(placed.risen(news.class())));
        // What has to be looked for anyway takes no room from what has not, unless it is traced.
        let is_wanted = news.body.is_some() || news.trace.is_some();
        if is_wanted && self.places + news.places.len() <= PLACES {
            self.places += news.places.len();
            let users = news.places.iter().map(|placed| placed.user.clone()).collect();
            let span = news.trace.as_ref().map_or_else(Span::none, |trace| trace.span("hint", "producer"));
            return self.news.push(Encoded { users, bytes, span });
        }
        for placed in &news.places {
            self.owed(&placed.user, Some(&news.by));
        }
    }

    fn is_empty(&self) -> bool {
        self.owed.is_empty() && self.news.is_empty() && self.displaced.is_empty()
    }

    /// Whose gateways have to be known.
    fn users(&self) -> BTreeSet<&UserId> {
        self.owed.keys().chain(self.news.iter().flat_map(|news| &news.users)).collect()
    }

    /// What each gateway is told, in messages that are not too large.
    fn by_gateway<'a>(self, gateways: impl Fn(&UserId) -> &'a [GatewayId]) -> Vec<(GatewayId, Told)> {
        let mut full = Vec::new();
        let mut told: BTreeMap<GatewayId, Told> = BTreeMap::new();
        let mut add = |gateway: GatewayId, bytes: usize, put: &dyn Fn(&mut Told)| {
            let to = told.entry(gateway).or_default();
            if to.bytes > 0 && to.bytes + bytes > MESSAGE {
                full.push((gateway, std::mem::take(to)));
            }
            to.bytes += bytes;
            put(to);
        };
        for (device, route) in &self.displaced {
            add(route.gateway, ROUTED, &|told| told.hints.displaced.push(routed(device, *route)));
        }
        for Encoded { users, bytes, span } in &self.news {
            let to: BTreeSet<GatewayId> = users.iter().flat_map(&gateways).copied().collect();
            let trace = Trace::of(span);
            let put = |told: &mut Told| {
                if let Some(trace) = &trace {
                    told.traces.add(told.hints.news.len(), trace.clone());
                }
                told.hints.news.push(bytes.clone());
            };
            to.into_iter().for_each(|gateway| add(gateway, bytes.len(), &put));
        }
        for (user, except) in &self.owed {
            let owed = rpc::Owed {
                user: user.to_string(),
                except_device: except.as_ref().map(ToString::to_string).unwrap_or_default(),
            };
            gateways(user).iter().for_each(|gateway| add(*gateway, ROUTED, &|told| told.hints.owed.push(owed.clone())));
        }
        full.extend(told);
        full
    }
}

/// Where the hints for a gateway go.
fn subject(gateway: GatewayId) -> String {
    format!("tern.gateway.{gateway}")
}

/// Hears the hints for a gateway until the stop.
pub async fn hear(bus: Arc<Bus>, gateway: GatewayId, hints: Arc<dyn Hints>, stop: Stop) {
    let hear = |message: Bytes, traces: Traces| match rpc::Hints::decode(message) {
        Ok(told) => give(&*hints, told, &traces),
        Err(error) => tracing::debug!(%error, "a hint that is not understood"),
    };
    bus.hear(&subject(gateway), hear, || hints.missed(), stop).await;
}

fn give(hints: &dyn Hints, told: rpc::Hints, traces: &Traces) {
    let rpc::Hints { owed, news, displaced } = told;
    let decode = |(place, news)| decode(news, traces.at(place).cloned(), |user| hints.is_wanted(user));
    news.into_iter().enumerate().filter_map(decode).for_each(|news| hints.news(news));
    for rpc::Owed { user, except_device } in owed {
        // A hint that is not understood is one that is lost.
        let Ok(user) = UserId::new(&user) else { continue };
        let except = DeviceId::new(&except_device).ok().map(|id| Device { user: user.clone(), id });
        hints.owed(&user, except.as_ref());
    }
    for (device, route) in displaced.into_iter().filter_map(|of| server::routed(of).ok()) {
        hints.displaced(&device, route);
    }
}

fn encode(news: &News) -> Bytes {
    let body = match &news.body {
        Some(Body::Message(message)) => Some(rpc::fresh::Body::Message(message.clone())),
        Some(Body::Receipt(receipt)) => Some(rpc::fresh::Body::Receipt(receipt.clone())),
        _ => None,
    };
    let placed = |placed: &Placed| rpc::Placed {
        user: placed.user.to_string(),
        epoch: placed.epoch,
        before: placed.before,
        version: placed.version,
    };
    let fresh = rpc::Fresh { by: Some(named(&news.by)), body }.encode_to_vec().into();
    rpc::News { places: news.places.iter().map(placed).collect(), fresh }.encode_to_vec().into()
}

/// News for those who are wanted. What is not understood, or for nobody, is lost.
fn decode(encoded: Bytes, trace: Option<Trace>, is_wanted: impl Fn(&UserId) -> bool) -> Option<News> {
    let rpc::News { places, fresh } = rpc::News::decode(encoded).ok()?;
    let placed = |placed: rpc::Placed| {
        let rpc::Placed { user, epoch, before, version } = placed;
        let user = UserId::new(&user).ok().filter(&is_wanted)?;
        Some(Placed { user, epoch, before, version })
    };
    let places: Vec<Placed> = places.into_iter().filter_map(placed).collect();
    if places.is_empty() {
        return None;
    }
    let rpc::Fresh { by, body } = rpc::Fresh::decode(fresh).ok()?;
    let body = body.map(|body| match body {
        rpc::fresh::Body::Message(message) => Body::Message(message),
        rpc::fresh::Body::Receipt(receipt) => Body::Receipt(receipt),
    });
    Some(News { by: server::device(&by?).ok()?, body, places, trace })
}

#[cfg(test)]
mod tests {
    use tern_proto::v1;

    use super::*;

    fn news(users: usize) -> News {
        let user = |n: usize| UserId::new(&format!("u{n}")).unwrap();
        let place = |n: usize| Placed { user: user(n), epoch: 7 + n as u64, before: 3, version: 4 };
        let by = Device { user: user(0), id: DeviceId::new("d1").unwrap() };
        let body = Some(Body::Message(v1::Message { text: "hi".into(), ..Default::default() }));
        News { by, body, places: (0..users).map(place).collect(), trace: None }
    }

    #[test]
    fn news_comes_as_it_was_sent() {
        let message = news(3);
        let receipt = News { body: Some(Body::Receipt(v1::Receipt { seq: 5, ..Default::default() })), ..news(1) };
        let to_be_looked_for = News { body: None, ..news(2) };
        for news in [message, receipt, to_be_looked_for] {
            assert_eq!(decode(encode(&news), None, |_| true), Some(news));
        }
    }

    #[test]
    fn news_comes_for_those_who_are_wanted() {
        let of_three = news(3);
        let second = of_three.places[1].clone();
        let for_second = decode(encode(&of_three), None, |user| *user == second.user);
        assert_eq!(for_second, Some(News { places: vec![second], ..of_three.clone() }));
        assert_eq!(decode(encode(&of_three), None, |_| false), None);
    }

    #[test]
    fn news_without_room_is_a_hint() {
        let mut waiting = Waiting::default();
        let (large, small) = (news(PLACES), news(2));
        waiting.news(&large, encode(&large));
        assert_eq!((waiting.news.len(), waiting.owed.len()), (1, 0));
        waiting.news(&small, encode(&small));
        assert_eq!(waiting.news.len(), 1);
        let [spared, all] = [0, 1].map(|n| waiting.owed[&small.places[n].user].clone());
        assert_eq!((spared, all), (Some(small.by.id), None), "the device that caused it needs none");
    }
}
