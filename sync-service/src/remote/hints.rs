//! Hints to every gateway. They may be lost: a gateway looks again by itself, though not at once.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tern_proto::{DeviceId, UserId};
use tern_rpc::tonic::service::Routes;
use tern_rpc::tonic::{self, Response, Status, async_trait};
use tern_rpc::v1::gateway_client::GatewayClient;
use tern_rpc::v1::gateway_server::{Gateway as Service, GatewayServer};
use tern_rpc::v1::{self as rpc};
use tern_rpc::{Replica, Replicas, Target};
use tokio::sync::Notify;

use crate::{Device, Hints};

/// Users that may wait for one gateway. More are not told, and count as lost.
const WAITING: usize = 64 * 1024;
/// Users of one call.
const AT_ONCE: usize = 4096;
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
    /// By user the device that needs no hint, if there is but one such.
    owed: Mutex<HashMap<UserId, Option<DeviceId>>>,
    more: Notify,
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
        let except = except.filter(|device| device.user == *user).map(|device| &device.id);
        for gateway in self.shared.gateways().values() {
            gateway.add(user, except);
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
                let gateway = Arc::new(Gateway { replica, owed: Mutex::default(), more: Notify::new() });
                tokio::spawn(tell(Arc::downgrade(&gateway)));
                gateway
            });
        }
    }
}

impl Gateway {
    fn add(&self, user: &UserId, except: Option<&DeviceId>) {
        let mut owed = self.owed();
        let (was_empty, is_full) = (owed.is_empty(), owed.len() >= WAITING);
        match owed.get_mut(user) {
            Some(known) if known.as_ref() == except => return,
            // Two causes: nobody is left out.
            Some(known) => *known = None,
            None if is_full => return,
            None => {
                owed.insert(user.clone(), except.cloned());
            }
        }
        if was_empty {
            self.more.notify_one();
        }
    }

    fn take(&self) -> Vec<rpc::Owed> {
        let owed = std::mem::take(&mut *self.owed());
        let message = |(user, except): (UserId, Option<DeviceId>)| rpc::Owed {
            user: user.to_string(),
            except_device: except.map(|id| id.to_string()).unwrap_or_default(),
        };
        owed.into_iter().map(message).collect()
    }

    fn owed(&self) -> MutexGuard<'_, HashMap<UserId, Option<DeviceId>>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
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
        let all = gateway.take();
        // One that does not answer is not waited for: it looks again by itself when it is back.
        for owed in all.chunks(AT_ONCE).filter(|_| gateway.replica.is_well()) {
            let mut request = tonic::Request::new(rpc::HintRequest { owed: owed.to_vec() });
            request.set_timeout(PATIENCE);
            let told = GatewayClient::new(gateway.replica.channel()).hint(request).await;
            if let Err(status) = told {
                tracing::debug!(address = %gateway.replica.address(), %status, lost = owed.len(), "hints are lost");
            }
        }
    }
}

/// How a gateway hears hints.
struct Hearing(Arc<dyn Hints>);

/// The routes of a gateway's ear, to be served.
pub fn hint_routes(hints: Arc<dyn Hints>) -> Routes {
    Routes::new(GatewayServer::new(Hearing(hints)))
}

#[async_trait]
impl Service for Hearing {
    async fn hint(&self, request: tonic::Request<rpc::HintRequest>) -> Result<Response<rpc::HintReply>, Status> {
        for rpc::Owed { user, except_device } in request.into_inner().owed {
            // A hint that is not understood is one that is lost.
            let Ok(user) = UserId::new(&user) else { continue };
            let except = DeviceId::new(&except_device).ok().map(|id| Device { user: user.clone(), id });
            self.0.owed(&user, except.as_ref());
        }
        Ok(Response::new(rpc::HintReply {}))
    }
}
