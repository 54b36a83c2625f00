//! Routes in the memory of this process: what the others are measured against.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tern_proto::UserId;
use tokio::time::Instant;

use super::{Away, GatewayId, Route, Routes, Standing, kept, name_of};
use crate::Device;

/// By user, and then by name: the route, and when it ends.
type Users = HashMap<UserId, HashMap<String, (Route, Instant)>>;

/// Routes of one process.
pub struct Memory {
    kept: Duration,
    users: Mutex<Users>,
}

impl Memory {
    /// No routes yet; each is gone within the lifetime.
    pub fn new(lifetime: Duration) -> Memory {
        Memory { kept: kept(lifetime), users: Mutex::default() }
    }

    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew_one(&self, device: &Device, route: Route) -> Standing {
        let (now, mut users) = (Instant::now(), self.users());
        let routes = users.entry(device.user.clone()).or_default();
        routes.retain(|_, (_, end)| *end > now);
        let known = routes.get(&name_of(device, route)).map(|(known, _)| *known);
        if known.is_some_and(|known| known != route) {
            return Standing::Displaced;
        }
        routes.insert(name_of(device, route), (route, now + self.kept));
        if known.is_some() { Standing::Stands } else { Standing::Restored }
    }
}

#[async_trait]
impl Routes for Memory {
    async fn enter(&self, device: &Device, route: Route) -> Result<Option<Route>, Away> {
        let (now, mut users) = (Instant::now(), self.users());
        let routes = users.entry(device.user.clone()).or_default();
        let before = routes.insert(name_of(device, route), (route, now + self.kept));
        Ok(before.filter(|(before, end)| *end > now && *before != route).map(|(before, _)| before))
    }

    async fn renew(&self, routes: &[(Device, Route)]) -> Result<Vec<Standing>, Away> {
        Ok(routes.iter().map(|(device, route)| self.renew_one(device, *route)).collect())
    }

    async fn leave(&self, routes: &[(Device, Route)]) -> Result<(), Away> {
        let mut users = self.users();
        for (device, route) in routes {
            let Some(of_user) = users.get_mut(&device.user) else { continue };
            of_user.retain(|_, (known, _)| known != route);
            if of_user.is_empty() {
                users.remove(&device.user);
            }
        }
        Ok(())
    }

    async fn gateways(&self, users: &[UserId]) -> Result<Vec<Vec<GatewayId>>, Away> {
        let (now, known) = (Instant::now(), self.users());
        let of_user = |user: &UserId| {
            let routes = known.get(user).into_iter().flat_map(HashMap::values);
            let mut gateways: Vec<GatewayId> =
                routes.filter(|(_, end)| *end > now).map(|(route, _)| route.gateway).collect();
            gateways.sort_unstable();
            gateways.dedup();
            gateways
        };
        Ok(users.iter().map(of_user).collect())
    }
}
