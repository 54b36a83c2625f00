//! Who is here: the sessions of each user, and the checks that wait for something to come.
//!
//! A hint sets a flag of each and wakes it; news is handed over too, as far as there is room. See [`Signal`].

mod led;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tern_proto::{DeviceId, UserId};
use tern_runtime::metrics::Metrics;
use tern_runtime::shutdown::Stop;
use tern_sync::{Came, Device, GatewayId, Hints, Kept, News, Route, SyncApi};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::led::Routed;
use crate::counters::Heard;
use crate::signal::{DISPLACED, Delivery, Fresh, HINT, STOP, Signal};

/// Locks are held for a few map operations; with this many, links on other cores rarely meet.
const SHARDS: usize = 64;
/// Checks of one user that wait at the same time; one more is refused.
const WAITERS: usize = 64;
/// Within this time everybody looks who may have missed a hint.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The sessions and waiting checks of this gateway, by user.
#[derive(Debug)]
pub struct Registry {
    /// By user who is here; no list is empty.
    shards: Vec<Shard>,
    hasher: RandomState,
    waits: AtomicU64,
    /// Nobody shall wait any more.
    closed: AtomicBool,
    /// Hints were.
    missed: Notify,
    /// There where hints have to be led here.
    routed: Option<Routed>,
    heard: Heard,
}

/// A part of the users.
type Shard = Mutex<HashMap<UserId, Vec<Listener>>>;

/// One that hears the hints of a user.
#[derive(Debug)]
struct Listener {
    kind: Kind,
    /// Unique among its kind.
    id: u64,
    device: DeviceId,
    signal: Arc<Signal>,
    /// When it came.
    since: Instant,
    /// The same where the routes are kept, as far as that was told.
    came: Option<Came>,
    leading: Leading,
    /// Of a session: whether it has taken the place of its device.
    has_place: bool,
}

/// What a hello has learned of its routes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Led {
    pub(crate) leading: Leading,
    pub(crate) came: Option<Came>,
}

/// Whether hints are led to a listener, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leading {
    /// Nobody has asked for that, or it is about to be, and none can have been missed.
    No,
    Yes,
    /// They were, but the last time nobody answered.
    Perhaps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Session,
    Waiter,
}

/// A registered session; leaves the registry when dropped.
#[derive(Debug)]
pub(crate) struct Presence {
    registry: Arc<Registry>,
    device: Device,
    session: u64,
    /// There until the session takes its device's place: the wait of the hello, to which hints are led meanwhile.
    before: Option<Box<Option<Waiter>>>,
}

/// Hears the hints of a user from its creation on; leaves the registry when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    registry: Arc<Registry>,
    device: Device,
    id: u64,
    signal: Arc<Signal>,
    /// Hints are led to it.
    is_led: AtomicBool,
}

impl Registry {
    /// A registry with nobody in it.
    pub fn new() -> Arc<Registry> {
        Registry::with(None)
    }

    /// One of several gateways, to which hints are led by routes. [`Registry::keep_routes`] has to run.
    pub fn routed(gateway: GatewayId) -> Arc<Registry> {
        Registry::with(Some(Routed::new(gateway)))
    }

    /// Reports what is counted of hints.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.heard.report_to(metrics);
    }

    fn with(routed: Option<Routed>) -> Arc<Registry> {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Arc::new(Registry {
            shards,
            hasher: RandomState::new(),
            waits: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            missed: Notify::new(),
            routed,
            heard: Heard::default(),
        })
    }

    /// Enters a session whose hello came at `since` and was accepted. `waiter` is that of the hello, and `led` whether hints were led to it.
    pub(crate) fn register(
        self: &Arc<Registry>,
        device: Device,
        session: u64,
        since: Instant,
        signal: Arc<Signal>,
        Led { leading, came }: Led,
        waiter: Option<Waiter>,
    ) -> Presence {
        let own =
            Listener { since, came, leading, ..Listener::new(Kind::Session, session, &device, Arc::clone(&signal)) };
        {
            let mut shard = self.shard(&device.user);
            let here = shard.entry(device.user.clone()).or_default();
            // Most users have one session: four places at once would cost every idle link memory.
            here.reserve_exact(1);
            here.push(own);
        }
        // What came after the hello was judged and before this reached only its wait.
        if waiter.as_ref().is_none_or(Waiter::hinted) {
            signal.set(HINT);
        }
        Presence { registry: Arc::clone(self), device, session, before: Some(Box::new(waiter)) }
    }

    /// A session takes the place of its device: of all that have done so the one whose hello came last stays, whichever was answered first, and the others are told that they are displaced.
    fn take_place(&self, device: &Device, session: u64) {
        let mut shard = self.shard(&device.user);
        let Some(here) = shard.get_mut(&device.user) else { return };
        let is_of_device = |other: &Listener| other.kind == Kind::Session && other.device == device.id;
        here.iter_mut().filter(|own| is_of_device(own) && own.id == session).for_each(|own| own.has_place = true);
        let rivals = || here.iter().filter(|other| is_of_device(other) && other.has_place);
        let Some(youngest) = rivals().max_by_key(|other| other.since).map(|youngest| youngest.id) else { return };
        rivals().filter(|other| other.id != youngest).for_each(|older| older.signal.set(DISPLACED));
        here.retain(|other| !is_of_device(other) || !other.has_place || other.id == youngest);
    }

    /// Starts to listen for what comes for the device; `None` if its user has too many waiters.
    pub(crate) fn wait(self: &Arc<Registry>, device: &Device) -> Option<Waiter> {
        let id = self.waits.fetch_add(1, Ordering::Relaxed);
        let signal = Arc::new(Signal::default());
        let mut shard = self.shard(&device.user);
        let waiting = |here: &Vec<Listener>| here.iter().filter(|other| other.kind == Kind::Waiter).count();
        if shard.get(&device.user).map_or(0, waiting) >= WAITERS {
            return None;
        }
        let here = shard.entry(device.user.clone()).or_default();
        here.reserve_exact(1);
        here.push(Listener::new(Kind::Waiter, id, device, Arc::clone(&signal)));
        // Read under the shard's lock: either this sees it, or who set it finds the waiter.
        if self.closed.load(Ordering::Acquire) {
            signal.set(STOP);
        }
        let (registry, device) = (Arc::clone(self), device.clone());
        Some(Waiter { registry, device, id, signal, is_led: AtomicBool::new(false) })
    }

    /// Ends every wait that is under way, so that a stop need not wait for them. A client may then wait again.
    pub(crate) fn end_waits(&self) {
        for shard in &self.shards {
            let shard = lock(shard);
            let waiters = shard.values().flatten().filter(|listener| listener.kind == Kind::Waiter);
            waiters.for_each(|waiter| waiter.signal.set(STOP));
        }
    }

    /// Ends every wait that is under way, and those that come later at once.
    pub(crate) fn end_all_waits(&self) {
        self.closed.store(true, Ordering::Release);
        self.end_waits();
    }

    /// Looks again for everybody, once in each `every` and never for all at once, until the stop: where hints can be lost, this bounds how late an entry may be.
    /// A link that has nothing to be told stays silent.
    /// Where hints were missed, all of them look sooner.
    pub async fn look_again(self: Arc<Registry>, every: Duration, stop: Stop) {
        let (mut sooner, mut at) = (0, Instant::now() + every / SHARDS as u32);
        for shard in self.shards.iter().cycle() {
            loop {
                tokio::select! {
                    () = stop.stopped() => return,
                    () = tokio::time::sleep_until(at) => break,
                    () = self.missed.notified() => sooner = SHARDS,
                }
                at = at.min(Instant::now() + CATCH_UP.min(every) / SHARDS as u32);
            }
            lock(shard).values().flatten().for_each(|listener| listener.signal.set(HINT));
            sooner = usize::saturating_sub(sooner, 1);
            at = Instant::now() + if sooner > 0 { CATCH_UP.min(every) } else { every } / SHARDS as u32;
        }
    }

    /// The route of a listener, where there are routes.
    fn route(&self, kind: Kind, id: u64) -> Option<Route> {
        let gateway = self.routed.as_ref()?.gateway;
        Some(Route { gateway, link: id, is_wait: kind == Kind::Waiter })
    }

    fn leave(&self, device: &Device, kind: Kind, id: u64) {
        let user = &device.user;
        let mut shard = self.shard(user);
        let Some(here) = shard.get_mut(user) else { return };
        // By the id, so that a late cleanup never removes the session that displaced this one.
        here.retain(|listener| listener.kind != kind || listener.id != id);
        if here.is_empty() {
            shard.remove(user);
        } else {
            here.shrink_to_fit();
        }
    }

    fn shard(&self, user: &UserId) -> MutexGuard<'_, HashMap<UserId, Vec<Listener>>> {
        let index = self.hasher.hash_one(user) as usize % SHARDS;
        lock(&self.shards[index])
    }
}

impl Listener {
    fn new(kind: Kind, id: u64, device: &Device, signal: Arc<Signal>) -> Listener {
        Listener {
            kind,
            id,
            device: device.id.clone(),
            signal,
            since: Instant::now(),
            came: None,
            leading: Leading::No,
            has_place: false,
        }
    }
}

/// Every change is whole, so a panic elsewhere leaves nothing to repair.
fn lock(shard: &Shard) -> MutexGuard<'_, HashMap<UserId, Vec<Listener>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hints for Registry {
    fn displaced(&self, device: &Device, route: Route) {
        self.heard.hint("displaced");
        let shard = self.shard(&device.user);
        let here = shard.get(&device.user).into_iter().flatten();
        // By the link, so that a late word of an old one never reaches a new one.
        let displaced = here.filter(|listener| listener.kind == Kind::Session && listener.id == route.link);
        displaced.for_each(|listener| listener.signal.set(DISPLACED));
    }

    fn missed(&self) {
        self.heard.missed();
        self.missed.notify_one();
    }

    fn owed(&self, user: &UserId, except: Option<&Device>) {
        self.heard.hint("owed");
        let except = except.filter(|device| device.user == *user).map(|device| &device.id);
        let shard = self.shard(user);
        let Some(here) = shard.get(user) else { return };
        here.iter().filter(|listener| Some(&listener.device) != except).for_each(|listener| listener.signal.set(HINT));
    }

    fn news(&self, news: News) {
        self.heard.hint("news");
        for placed in &news.places {
            let shard = self.shard(&placed.user);
            for listener in shard.get(&placed.user).into_iter().flatten() {
                let is_own = news.is_own(placed, &listener.device);
                let delivery = Delivery::of(news.trace.as_ref().filter(|_| !is_own));
                // A waiter takes no entry, so none is copied for it.
                let entry = match listener.kind {
                    Kind::Session => news.entry(placed, &listener.device),
                    Kind::Waiter => None,
                };
                match entry {
                    Some(entry) => {
                        let (epoch, class, before) = (placed.epoch, news.class(), placed.before);
                        listener.signal.tell(Fresh { epoch, class, before, entry, is_own, delivery });
                    }
                    None if is_own => {}
                    None => listener.signal.set(HINT),
                }
            }
        }
    }

    fn is_wanted(&self, user: &UserId) -> bool {
        self.shard(user).contains_key(user)
    }
}

impl Presence {
    /// Takes the device's place from its other links, unless that is done. Once the client is known to be there: a hello that was late comes with the end of its link right behind it, and the device
    /// may be on another link by then.
    pub(crate) fn take_place(&mut self) {
        let Some(waiter) = self.before.take() else { return };
        self.registry.take_place(&self.device, self.session);
        if let Some(routed) = &self.registry.routed {
            routed.change(|changes| changes.came.push((self.device.clone(), self.session)));
        }
        drop(waiter);
    }

    /// Whose session it is.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.registry.leave_route(&self.device, Kind::Session, self.session);
        self.registry.leave(&self.device, Kind::Session, self.session);
    }
}

impl Waiter {
    /// Has hints led to it, where there are routes. What is to be thought of a session that follows on it, whose hello came at `since`: [`Leading::Perhaps`] if that has failed, and hints go astray.
    pub(crate) async fn lead(&self, sync: &dyn SyncApi, since: Instant) -> Led {
        let Some(route) = self.registry.route(Kind::Waiter, self.id) else { return Led::nothing(Leading::No) };
        self.is_led.store(true, Ordering::Relaxed);
        let kept = Kept { device: self.device.clone(), route, age: since.elapsed(), came: None };
        self.registry.led(&kept, Leading::Yes);
        match sync.keep_routes(vec![kept]).await {
            Ok(held) => Led { leading: Leading::No, came: held.first().and_then(|held| held.came) },
            Err(refused) => {
                tracing::debug!(%refused, "hints may go astray until the routes are kept again");
                Led::nothing(Leading::Perhaps)
            }
        }
    }

    /// Whether a hint came since the creation or the last answer; does not wait.
    pub(crate) fn hinted(&self) -> bool {
        self.signal.clear() & HINT != 0
    }

    /// Waits for a hint since the creation or the last answer; `false` if waiting makes no sense any more.
    pub(crate) async fn hint(&self) -> bool {
        self.signal.raised().await & STOP == 0
    }
}

impl Led {
    /// Where nothing was said of when it came.
    pub(crate) fn nothing(leading: Leading) -> Led {
        Led { leading, came: None }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.is_led.load(Ordering::Relaxed) {
            self.registry.leave_route(&self.device, Kind::Waiter, self.id);
        }
        self.registry.leave(&self.device, Kind::Waiter, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(user: &str, id: &str) -> Device {
        Device { user: UserId::new(user).unwrap(), id: DeviceId::new(id).unwrap() }
    }

    fn people(registry: &Registry) -> usize {
        registry.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    fn enter(registry: &Arc<Registry>, device: &Device, session: u64) -> (Presence, Arc<Signal>) {
        let signal = Arc::new(Signal::default());
        let (since, waiter) = (Instant::now(), registry.wait(device));
        let mut presence =
            registry.register(device.clone(), session, since, Arc::clone(&signal), Led::nothing(Leading::No), waiter);
        presence.take_place();
        (presence, signal)
    }

    #[test]
    fn a_hint_reaches_the_users_devices_but_the_one_that_caused_it() {
        let registry = Registry::new();
        let (d1, d2, other) = (device("alice", "d1"), device("alice", "d2"), device("bob", "d1"));
        let (_a, first) = enter(&registry, &d1, 1);
        let (_b, second) = enter(&registry, &d2, 2);
        let (_c, third) = enter(&registry, &other, 3);
        registry.owed(&d1.user, Some(&d1));
        assert_eq!((first.clear(), second.clear(), third.clear()), (0, HINT, 0));
        registry.owed(&d1.user, Some(&other));
        assert_eq!((first.clear(), second.clear(), third.clear()), (HINT, HINT, 0));
        registry.owed(&d1.user, None);
        assert_eq!((first.clear(), second.clear(), third.clear()), (HINT, HINT, 0));
    }

    #[test]
    fn news_that_has_to_be_looked_for_is_a_hint() {
        let registry = Registry::new();
        let (d1, d2) = (device("alice", "d1"), device("alice", "d2"));
        let (_a, first) = enter(&registry, &d1, 1);
        let (_b, second) = enter(&registry, &d2, 2);
        let places = vec![tern_sync::Placed { user: d1.user.clone(), epoch: 1, before: 0, version: 3 }];
        registry.news(News { by: d1.clone(), body: None, places, trace: None });
        assert_eq!((first.clear(), second.clear()), (0, HINT));
        assert!(second.entries().is_empty());
    }

    // displaced-session: the late cleanup of the old link must not remove the new one.
    #[test]
    fn a_displaced_session_that_leaves_late_leaves_the_new_one_in_place() {
        let registry = Registry::new();
        let d1 = device("alice", "d1");
        let (old, old_signal) = enter(&registry, &d1, 1);
        let (new, new_signal) = enter(&registry, &d1, 2);
        assert_eq!((old_signal.clear(), new_signal.clear()), (DISPLACED, 0));
        drop(old);
        registry.owed(&d1.user, None);
        assert_eq!((old_signal.clear(), new_signal.clear()), (0, HINT));
        drop(new);
        assert_eq!(people(&registry), 0, "nobody is left behind");
    }

    #[test]
    fn a_hello_that_was_late_is_the_one_that_is_displaced() {
        let registry = Registry::new();
        let d1 = device("alice", "d1");
        let came_first = Instant::now();
        let (_young, young_signal) = enter(&registry, &d1, 2);
        let (waiter, late_signal) = (registry.wait(&d1), Arc::new(Signal::default()));
        let mut late =
            registry.register(d1.clone(), 1, came_first, Arc::clone(&late_signal), Led::nothing(Leading::No), waiter);
        assert_eq!((young_signal.clear(), late_signal.clear()), (0, 0), "it may have ended already");
        late.take_place();
        assert_eq!((young_signal.clear(), late_signal.clear()), (0, DISPLACED));
        drop(late);
        registry.owed(&d1.user, None);
        assert_eq!(young_signal.clear(), HINT, "it is still there");
    }

    #[tokio::test]
    async fn a_waiter_misses_no_hint_since_its_creation() {
        let registry = Registry::new();
        let d1 = device("alice", "d1");
        let waiter = registry.wait(&d1).unwrap();
        assert!(!waiter.hinted());
        registry.owed(&d1.user, None);
        assert!(waiter.hint().await);
        registry.owed(&d1.user, Some(&d1));
        assert!(!waiter.hinted(), "its own device caused it");
        registry.end_waits();
        assert!(!waiter.hint().await);
        drop(waiter);
        let later = registry.wait(&d1).unwrap();
        assert_eq!(later.signal.clear(), 0, "it may wait until the end");
        registry.end_all_waits();
        assert!(!later.hint().await);
        drop(later);
        let last = registry.wait(&d1).unwrap();
        assert!(!last.hint().await, "nobody waits any more");
        drop(last);
        assert_eq!(people(&registry), 0, "nobody is left behind");
    }

    #[test]
    fn waiters_of_a_user_are_bounded() {
        let registry = Registry::new();
        let d1 = device("alice", "d1");
        let mut waiters: Vec<_> = (0..WAITERS).map(|_| registry.wait(&d1).unwrap()).collect();
        assert!(registry.wait(&d1).is_none());
        waiters.pop();
        assert!(registry.wait(&d1).is_some());
    }
}
