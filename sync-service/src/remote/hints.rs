//! Hints to every gateway. They may be lost: a gateway looks again by itself, though not at once.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prost::Message as _;
use prost::bytes::Bytes;
use tern_proto::v1::entry::Body;
use tern_proto::{DeviceId, UserId};
use tern_rpc::tonic::service::Routes;
use tern_rpc::tonic::{self, Response, Status, async_trait};
use tern_rpc::v1::gateway_client::GatewayClient;
use tern_rpc::v1::gateway_server::{Gateway as Service, GatewayServer};
use tern_rpc::v1::{self as rpc};
use tern_rpc::{MESSAGE_BYTES, Replica, Replicas, Target};
use tern_runtime::queue::let_others_run;
use tokio::sync::Notify;

use super::client::named;
use super::server::device;
use crate::{Device, Hints, News, Placed};

/// Users that may wait for one gateway. More are not told, and count as lost.
const WAITING: usize = 64 * 1024;
/// Places of news that may wait for one gateway. More is told without what it is about.
const PLACES: usize = 16 * 1024;
/// A gateway that has not answered by then has missed what it was told.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks for gateways that are new or gone.
const LOOK: Duration = Duration::from_millis(500);

/// Tells every gateway. What comes together travels together: per gateway one call is under way, and what is owed meanwhile is the next one.
pub struct Broadcast {
    shared: Arc<Shared>,
}

struct Shared {
    replicas: Replicas,
    gateways: Mutex<BTreeMap<SocketAddr, Arc<Gateway>>>,
}

/// What one gateway has not been told yet.
struct Gateway {
    replica: Arc<Replica>,
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    /// By user the device that needs no hint, if there is but one such.
    owed: HashMap<UserId, Option<DeviceId>>,
    /// In their order, encoded.
    news: Vec<Bytes>,
    /// Of the news.
    places: usize,
}

impl Broadcast {
    /// Tells the gateways at `target`. Needs a Tokio runtime.
    pub fn new(target: Target) -> Broadcast {
        let shared = Arc::new(Shared { replicas: Replicas::of("gateway", target), gateways: Mutex::default() });
        tokio::spawn(look(Arc::downgrade(&shared)));
        Broadcast { shared }
    }
}

impl Hints for Broadcast {
    fn owed(&self, user: &UserId, except: Option<&Device>) {
        for gateway in self.shared.gateways().values() {
            gateway.add(|waiting| waiting.owed(user, except));
        }
    }

    fn news(&self, news: News) {
        let encoded = encode(&news);
        for gateway in self.shared.gateways().values() {
            gateway.add(|waiting| waiting.news(&news, encoded.clone()));
        }
    }
}

impl Shared {
    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn gateways(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Arc<Gateway>>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self) {
        let replicas = self.replicas.all();
        let mut gateways = self.gateways();
        gateways.retain(|address, _| replicas.iter().any(|replica| replica.address() == *address));
        for replica in replicas {
            gateways.entry(replica.address()).or_insert_with(|| {
                let gateway = Arc::new(Gateway { replica, waiting: Mutex::default(), more: Notify::new() });
                tokio::spawn(tell(Arc::downgrade(&gateway)));
                gateway
            });
        }
    }
}

impl Gateway {
    fn add(&self, add: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.waiting();
        let was_empty = waiting.is_empty();
        add(&mut waiting);
        if was_empty {
            self.more.notify_one();
        }
    }

    fn take(&self) -> rpc::HintRequest {
        let Waiting { owed: waiting_owed, news, .. } = std::mem::take(&mut *self.waiting());
        let message = |(user, except): (UserId, Option<DeviceId>)| rpc::Owed {
            user: user.to_string(),
            except_device: except.map(|id| id.to_string()).unwrap_or_default(),
        };
        let owed = waiting_owed.into_iter().map(message).collect();
        rpc::HintRequest { owed, news }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the gateways until nobody hints any more.
async fn look(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        shared.refresh();
        drop(shared);
        tokio::time::sleep(LOOK).await;
    }
}

/// Tells one gateway, until it has left for good.
async fn tell(gateway: Weak<Gateway>) {
    while let Some(gateway) = gateway.upgrade() {
        if tokio::time::timeout(LOOK, gateway.more.notified()).await.is_err() {
            continue;
        }
        let_others_run().await;
        let hints = gateway.take();
        // One that does not answer is not waited for: it looks again by itself from time to time.
        if !gateway.replica.is_well() {
            continue;
        }
        let count = hints.owed.len() + hints.news.len();
        let mut request = tonic::Request::new(hints);
        request.set_timeout(PATIENCE);
        let client = GatewayClient::new(gateway.replica.channel());
        let told = client.max_encoding_message_size(MESSAGE_BYTES).hint(request).await;
        if let Err(status) = told {
            tracing::debug!(address = %gateway.replica.address(), %status, lost = count, "hints are lost");
        }
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
            None if is_full => {}
            None => {
                self.owed.insert(user.clone(), except.cloned());
            }
        }
    }

    fn news(&mut self, news: &News, encoded: Bytes) {
        if self.places + news.places.len() <= PLACES {
            self.places += news.places.len();
            return self.news.push(encoded);
        }
        for placed in &news.places {
            self.owed(&placed.user, Some(&news.by));
        }
    }

    fn is_empty(&self) -> bool {
        self.owed.is_empty() && self.news.is_empty()
    }
}

fn encode(news: &News) -> Bytes {
    let body = match &news.body {
        Body::Message(message) => Some(rpc::fresh::Body::Message(message.clone())),
        Body::Receipt(receipt) => Some(rpc::fresh::Body::Receipt(receipt.clone())),
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
fn decode(encoded: Bytes, is_wanted: impl Fn(&UserId) -> bool) -> Option<News> {
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
    let body = match body? {
        rpc::fresh::Body::Message(message) => Body::Message(message),
        rpc::fresh::Body::Receipt(receipt) => Body::Receipt(receipt),
    };
    Some(News { by: device(&by?).ok()?, body, places })
}

/// How a gateway hears hints.
struct Hearing(Arc<dyn Hints>);

/// The routes of a gateway's ear, to be served.
pub fn hint_routes(hints: Arc<dyn Hints>) -> Routes {
    Routes::new(GatewayServer::new(Hearing(hints)).max_decoding_message_size(MESSAGE_BYTES))
}

#[async_trait]
impl Service for Hearing {
    async fn hint(&self, request: tonic::Request<rpc::HintRequest>) -> Result<Response<rpc::HintReply>, Status> {
        let rpc::HintRequest { owed, news } = request.into_inner();
        let decode = |news| decode(news, |user| self.0.is_wanted(user));
        news.into_iter().filter_map(decode).for_each(|news| self.0.news(news));
        for rpc::Owed { user, except_device } in owed {
            // A hint that is not understood is one that is lost.
            let Ok(user) = UserId::new(&user) else { continue };
            let except = DeviceId::new(&except_device).ok().map(|id| Device { user: user.clone(), id });
            self.0.owed(&user, except.as_ref());
        }
        Ok(Response::new(rpc::HintReply {}))
    }
}

#[cfg(test)]
mod tests {
    use tern_proto::v1;

    use super::*;

    fn news(users: usize) -> News {
        let user = |n: usize| UserId::new(&format!("u{n}")).unwrap();
        let place = |n: usize| Placed { user: user(n), epoch: 7 + n as u64, before: 3, version: 4 };
        let by = Device { user: user(0), id: DeviceId::new("d1").unwrap() };
        let body = Body::Message(v1::Message { text: "hi".into(), ..Default::default() });
        News { by, body, places: (0..users).map(place).collect() }
    }

    #[test]
    fn news_comes_as_it_was_sent() {
        let message = news(3);
        let receipt = News { body: Body::Receipt(v1::Receipt { seq: 5, ..Default::default() }), ..news(1) };
        for news in [message, receipt] {
            assert_eq!(decode(encode(&news), |_| true), Some(news));
        }
    }

    #[test]
    fn news_comes_for_those_who_are_wanted() {
        let of_three = news(3);
        let second = of_three.places[1].clone();
        let for_second = decode(encode(&of_three), |user| *user == second.user);
        assert_eq!(for_second, Some(News { places: vec![second], ..of_three.clone() }));
        assert_eq!(decode(encode(&of_three), |_| false), None);
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
