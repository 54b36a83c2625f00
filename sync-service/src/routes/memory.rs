//! Routes in the memory of this process: what the others are measured against.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tern_proto::UserId;
use tokio::time::Instant;

use super::{Away, Came, GatewayId, Held, Kept, Route, Routes, Standing, distinct, kept, name_of};
use crate::Device;

/// By user, and then by name.
type Users = HashMap<UserId, HashMap<String, Known>>;

#[derive(Clone, Copy)]
struct Known {
    route: Route,
    /// When its link came, in microseconds of the clock.
    came: u64,
    ends: Instant,
}

/// What the clock shows at first: who came before it was started is dated too.
const START: Duration = Duration::from_secs(365 * 86_400);

/// Routes of one process.
pub struct Memory {
    kept: Duration,
    /// When its clock showed [`START`].
    start: Instant,
    users: Mutex<Users>,
}

impl Memory {
    /// No routes yet; each is gone within the lifetime.
    pub fn new(lifetime: Duration) -> Memory {
        Memory { kept: kept(lifetime), start: Instant::now(), users: Mutex::default() }
    }

    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_one(&self, Kept { device, route, age, came: told }: &Kept) -> (Held, Option<Route>) {
        let mut users = self.users();
        let now = Instant::now();
        let routes = users.entry(device.user.clone()).or_default();
        routes.retain(|_, known| known.ends > now);
        let seems = (START + (now - self.start)).saturating_sub(*age).as_micros() as u64;
        if !route.is_wait && told.is_none() {
            return (Held { standing: Standing::Undated, came: Came::of(seems) }, None);
        }
        let came = told.map_or(seems, |told| told.micros().min(seems));
        let before = routes.get(&name_of(device, *route)).copied();
        let other = before.filter(|before| before.route != *route);
        let standing = match (before, other) {
            (_, Some(other)) if other.came > came => Standing::Displaced,
            (Some(_), None) => Standing::Stands,
            _ => Standing::New,
        };
        let held = Held { standing, came: Came::of(came) };
        if standing == Standing::Displaced {
            return (held, None);
        }
        routes.insert(name_of(device, *route), Known { route: *route, came, ends: now + self.kept });
        (held, other.map(|other| other.route))
    }
}

#[async_trait]
impl Routes for Memory {
    async fn keep(&self, routes: &[Kept]) -> Result<Vec<(Held, Option<Route>)>, Away> {
        Ok(routes.iter().map(|kept| self.keep_one(kept)).collect())
    }

    async fn leave(&self, routes: &[(Device, Route)]) -> Result<(), Away> {
        let mut users = self.users();
        for (device, route) in routes {
            let Some(of_user) = users.get_mut(&device.user) else { continue };
            of_user.retain(|_, known| known.route != *route);
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
            distinct(routes.filter(|known| known.ends > now).map(|known| known.route.gateway))
        };
        Ok(users.iter().map(of_user).collect())
    }
}
