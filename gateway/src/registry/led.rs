//! Has hints led to this gateway: says which sessions and waits are here, and again and again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tern_proto::UserId;
use tern_runtime::shutdown::Stop;
use tern_sync::{Device, GatewayId, Held, Kept, Route, Standing, SyncApi};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Kind, Leading, Listener, Registry, SHARDS, Shard, lock};
use crate::signal::{DISPLACED, HINT, Signal};

/// Those who have come or left and of whom nothing was said yet.
const CHANGES: usize = 64 * 1024;
/// So many at a time are told of.
const AT_A_TIME: usize = 1024;

/// What there is to say about the routes of this gateway.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) gateway: GatewayId,
    changes: Mutex<Changes>,
    more: Notify,
}

/// What the task that keeps the routes has not heard yet.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Sessions that have come.
    pub(super) came: Vec<(Device, u64)>,
    /// Routes of listeners that have left.
    left: Vec<(Device, Route)>,
}

/// A route that is to be kept again.
struct Due {
    kept: Kept,
    /// When its listener came.
    since: Instant,
    /// What was known.
    before: Leading,
    signal: Arc<Signal>,
}

impl Registry {
    /// Has hints led to sessions as they come, and not when they have left; says so again for everybody here, each once in every `renewal` and never all at once; until the stop. Where
    /// several gateways are, each has to run this once.
    pub async fn keep_routes(self: Arc<Registry>, sync: Arc<dyn SyncApi>, renewal: Duration, stop: Stop) {
        let Some(routed) = &self.routed else { return };
        let pause = renewal / SHARDS as u32;
        let (mut at, mut shards) = (Instant::now() + pause, self.shards.iter().cycle());
        loop {
            tokio::select! {
                () = stop.stopped() => return self.tell(routed, &*sync).await,
                () = routed.more.notified() => self.tell(routed, &*sync).await,
                () = tokio::time::sleep_until(at) => {
                    if let Some(shard) = shards.next() {
                        self.keep(self.all_kept(shard), &*sync).await;
                    }
                    // What was late is not made up for: it would be too much at once.
                    at = (at + pause).max(Instant::now());
                }
            }
        }
    }

    /// Tells who has come and who has left, in this order: a wait that has led hints to a hello leaves when its session has come.
    async fn tell(&self, routed: &Routed, sync: &dyn SyncApi) {
        let Changes { came, left } = std::mem::take(&mut *routed.changes());
        let here = came.iter().filter_map(|(device, session)| self.due_of(device, *session));
        self.keep(here.collect(), sync).await;
        for left in left.chunks(AT_A_TIME) {
            sync.leave_routes(left.to_vec()).await;
        }
    }

    fn all_kept(&self, shard: &Shard) -> Vec<Due> {
        let of_user = |(user, here): (&UserId, &Vec<Listener>)| {
            here.iter().filter_map(|listener| self.due(user, listener)).collect::<Vec<_>>()
        };
        lock(shard).iter().flat_map(of_user).collect()
    }

    /// What is to be said of a session that may be here.
    fn due_of(&self, device: &Device, session: u64) -> Option<Due> {
        let shard = self.shard(&device.user);
        let is_it = |listener: &&Listener| listener.kind == Kind::Session && listener.id == session;
        self.due(&device.user, shard.get(&device.user)?.iter().find(is_it)?)
    }

    /// What is to be said of a listener. Nothing of a wait to which nobody has had hints led, nor of a session that has not taken its place.
    fn due(&self, user: &UserId, listener: &Listener) -> Option<Due> {
        let is_to_be_led = match listener.kind {
            Kind::Session => listener.has_place,
            Kind::Waiter => listener.leading != Leading::No,
        };
        if !is_to_be_led {
            return None;
        }
        let device = Device { user: user.clone(), id: listener.device.clone() };
        let route = self.route(listener.kind, listener.id)?;
        let kept = Kept { device, route, age: Duration::ZERO, came: listener.came };
        Some(Due { kept, since: listener.since, before: listener.leading, signal: Arc::clone(&listener.signal) })
    }

    async fn keep(&self, all: Vec<Due>, sync: &dyn SyncApi) {
        let mut all = all.into_iter().peekable();
        while all.peek().is_some() {
            let some = all.by_ref().take(AT_A_TIME).collect();
            let undated = self.keep_some(some, sync).await;
            if undated.is_empty() {
                continue;
            }
            // They have a date now, and some of them may be gone.
            let again = undated.iter().filter_map(|Kept { device, route, .. }| self.due_of(device, route.link));
            self.keep_some(again.collect(), sync).await;
        }
    }

    /// Those that were not kept for want of a date: sessions that came while nobody answered.
    async fn keep_some(&self, mut some: Vec<Due>, sync: &dyn SyncApi) -> Vec<Kept> {
        some.iter_mut().for_each(|due| due.kept.age = due.since.elapsed());
        let answers = sync.keep_routes(some.iter().map(|due| due.kept.clone()).collect()).await.unwrap_or_default();
        let mut undated = Vec::new();
        for (at, Due { mut kept, before, signal, .. }) in some.into_iter().enumerate() {
            let Some(Held { standing, came }) = answers.get(at).copied() else {
                self.led(&kept, Leading::Perhaps);
                continue;
            };
            kept.came = came;
            match standing {
                Standing::Undated => {
                    self.led(&kept, Leading::Perhaps);
                    undated.push(kept);
                    continue;
                }
                Standing::Displaced => signal.set(DISPLACED),
                // It was lost, or may have been while nobody answered: hints may have been missed.
                Standing::New if before != Leading::No => signal.set(HINT),
                _ if before == Leading::Perhaps => signal.set(HINT),
                Standing::New | Standing::Stands => {}
            }
            self.led(&kept, Leading::Yes);
        }
        undated
    }

    pub(super) fn led(&self, Kept { device, route, came, .. }: &Kept, leading: Leading) {
        let kind = if route.is_wait { Kind::Waiter } else { Kind::Session };
        let mut shard = self.shard(&device.user);
        let here = shard.get_mut(&device.user).into_iter().flatten();
        if let Some(listener) = here.into_iter().find(|listener| listener.kind == kind && listener.id == route.link) {
            (listener.leading, listener.came) = (leading, *came);
        }
    }

    /// Hints need not be led to a listener any more.
    pub(super) fn leave_route(&self, device: &Device, kind: Kind, id: u64) {
        if let (Some(routed), Some(route)) = (&self.routed, self.route(kind, id)) {
            routed.change(|changes| changes.left.push((device.clone(), route)));
        }
    }
}

impl Routed {
    pub(super) fn new(gateway: GatewayId) -> Routed {
        Routed { gateway, changes: Mutex::default(), more: Notify::new() }
    }

    /// Notes a change. Beyond what there is room for, who has come is told of with the next renewal, and the routes of those who have left end by themselves.
    pub(super) fn change(&self, change: impl FnOnce(&mut Changes)) {
        let mut changes = self.changes();
        if changes.came.len() + changes.left.len() < CHANGES {
            change(&mut changes);
        }
        drop(changes);
        self.more.notify_one();
    }

    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
