//! Who is here: the sessions of each user, and the checks that wait for something to come.
//!
//! A hint sets a flag of each and wakes it; news is handed over too, as far as there is room. See [`Signal`].

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tern_proto::{DeviceId, UserId};
use tern_runtime::shutdown::Stop;
use tern_sync::{Device, Hints, News};

use crate::signal::{DISPLACED, Fresh, HINT, STOP, Signal};

/// Locks are held for a few map operations; with this many, links on other cores rarely meet.
const SHARDS: usize = 64;
/// Checks of one user that wait at the same time; one more is refused.
const WAITERS: usize = 64;

/// The sessions and waiting checks of this gateway, by user.
#[derive(Debug)]
pub struct Registry {
    /// By user who is here; no list is empty.
    shards: Vec<Mutex<HashMap<UserId, Vec<Listener>>>>,
    hasher: RandomState,
    waits: AtomicU64,
    /// Nobody shall wait any more.
    closed: AtomicBool,
}

/// One that hears the hints of a user.
#[derive(Debug)]
struct Listener {
    kind: Kind,
    /// Unique among its kind.
    id: u64,
    device: DeviceId,
    signal: Arc<Signal>,
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
}

/// Hears the hints of a user from its creation on; leaves the registry when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    registry: Arc<Registry>,
    user: UserId,
    id: u64,
    signal: Arc<Signal>,
}

impl Registry {
    /// A registry with nobody in it.
    pub fn new() -> Arc<Registry> {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Arc::new(Registry {
            shards,
            hasher: RandomState::new(),
            waits: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// Enters a session. An earlier one of the same device is told that it is displaced.
    pub(crate) fn register(self: &Arc<Registry>, device: Device, session: u64, signal: Arc<Signal>) -> Presence {
        let displaced = {
            let mut shard = self.shard(&device.user);
            let here = shard.entry(device.user.clone()).or_default();
            let is_earlier = |other: &Listener| other.kind == Kind::Session && other.device == device.id;
            let earlier = here.iter().position(is_earlier);
            let displaced = earlier.map(|index| here.swap_remove(index).signal);
            // Most users have one session: four places at once would cost every idle link memory.
            here.reserve_exact(1);
            here.push(Listener { kind: Kind::Session, id: session, device: device.id.clone(), signal });
            displaced
        };
        if let Some(signal) = displaced {
            signal.set(DISPLACED);
        }
        Presence { registry: Arc::clone(self), device, session }
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
        here.push(Listener { kind: Kind::Waiter, id, device: device.id.clone(), signal: Arc::clone(&signal) });
        // Read under the shard's lock: either this sees it, or who set it finds the waiter.
        if self.closed.load(Ordering::Acquire) {
            signal.set(STOP);
        }
        Some(Waiter { registry: Arc::clone(self), user: device.user.clone(), id, signal })
    }

    /// Ends every wait that is under way, so that a stop need not wait for them. A client may then wait again.
    pub(crate) fn end_waits(&self) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
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
    pub async fn look_again(self: Arc<Registry>, every: Duration, stop: Stop) {
        for shard in self.shards.iter().cycle() {
            tokio::select! {
                () = stop.stopped() => return,
                () = tokio::time::sleep(every / SHARDS as u32) => {}
            }
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().flatten().for_each(|listener| listener.signal.set(HINT));
        }
    }

    fn leave(&self, user: &UserId, kind: Kind, id: u64) {
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
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hints for Registry {
    fn owed(&self, user: &UserId, except: Option<&Device>) {
        let except = except.filter(|device| device.user == *user).map(|device| &device.id);
        let shard = self.shard(user);
        let Some(here) = shard.get(user) else { return };
        here.iter().filter(|listener| Some(&listener.device) != except).for_each(|listener| listener.signal.set(HINT));
    }

    fn news(&self, news: News) {
        for placed in &news.places {
            let shard = self.shard(&placed.user);
            for listener in shard.get(&placed.user).into_iter().flatten() {
                let is_own = news.is_own(placed, &listener.device);
                match listener.kind {
                    Kind::Session => listener.signal.tell(Fresh {
                        epoch: placed.epoch,
                        class: news.class(),
                        before: placed.before,
                        entry: news.entry(placed, &listener.device),
                        is_own,
                    }),
                    Kind::Waiter if is_own => {}
                    Kind::Waiter => listener.signal.set(HINT),
                }
            }
        }
    }

    fn is_wanted(&self, user: &UserId) -> bool {
        self.shard(user).contains_key(user)
    }
}

impl Presence {
    /// Whose session it is.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.registry.leave(&self.device.user, Kind::Session, self.session);
    }
}

impl Waiter {
    /// Whether a hint came since the creation or the last answer; does not wait.
    pub(crate) fn hinted(&self) -> bool {
        self.signal.clear() & HINT != 0
    }

    /// Waits for a hint since the creation or the last answer; `false` if waiting makes no sense any more.
    pub(crate) async fn hint(&self) -> bool {
        self.signal.raised().await & STOP == 0
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.registry.leave(&self.user, Kind::Waiter, self.id);
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
        (registry.register(device.clone(), session, Arc::clone(&signal)), signal)
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
