//! The connections of one listener: how many there may be, and how they are told to stop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::signal::{STOP, Signal};

/// Connections told to stop at one moment are at least so many, so that a stop with few does not wait.
const GROUP: usize = 50;
/// The time between two groups.
const TICK: Duration = Duration::from_millis(50);

/// A bounded set of connections.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    taken: Mutex<HashMap<u64, Arc<Signal>>>,
    left: Notify,
}

/// One connection's place; leaves the set when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// The number of the connection, and of its session if it gets one.
    pub(crate) id: u64,
    /// Wakes the connection's task.
    pub(crate) signal: Arc<Signal>,
    places: Arc<Places>,
}

impl Places {
    /// A set that takes at most `limit` connections.
    pub(crate) fn new(limit: usize) -> Arc<Places> {
        Arc::new(Places { limit, taken: Mutex::default(), left: Notify::new() })
    }

    /// A place for the connection, or `None` if all are taken.
    pub(crate) fn take(self: &Arc<Places>, id: u64) -> Option<Place> {
        let mut taken = self.lock();
        if taken.len() >= self.limit {
            return None;
        }
        let signal = Arc::new(Signal::default());
        taken.insert(id, Arc::clone(&signal));
        Some(Place { id, signal, places: Arc::clone(self) })
    }

    /// How many are taken.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Tells every connection to stop, in groups over the `window`, and waits until all have left or until the `end`.
    /// Nothing may enter meanwhile.
    pub(crate) async fn drain(&self, window: Duration, end: Instant) {
        let drained = async {
            self.tell_all(window).await;
            self.emptied().await;
        };
        // Who is left at the end is the caller's to count.
        let _ = tokio::time::timeout_at(end, drained).await;
    }

    async fn tell_all(&self, window: Duration) {
        let signals: Vec<_> = self.lock().values().cloned().collect();
        let ticks = (window.as_millis() / TICK.as_millis()).max(1);
        let group = signals.len().div_ceil(usize::try_from(ticks).unwrap_or(usize::MAX)).max(GROUP);
        for (index, group) in signals.chunks(group).enumerate() {
            if index > 0 {
                tokio::time::sleep(TICK).await;
            }
            group.iter().for_each(|signal| signal.set(STOP));
        }
    }

    async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.lock().is_empty() {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Signal>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.id);
        self.places.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_limit_holds_and_a_drain_waits_for_the_last() {
        let places = Places::new(2);
        let (first, second) = (places.take(1).unwrap(), places.take(2).unwrap());
        assert!(places.take(3).is_none());
        drop(first);
        let third = places.take(3).unwrap();
        places.drain(Duration::ZERO, Instant::now()).await;
        assert_eq!(places.count(), 2);
        assert_eq!((second.signal.clear(), third.signal.clear()), (STOP, STOP));
        let drain = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.drain(Duration::ZERO, Instant::now() + PATIENCE).await }
        });
        assert_eq!(second.signal.raised().await, STOP);
        drop((second, third));
        drain.await.unwrap();
        assert_eq!(places.count(), 0);
    }

    // A drain polled once, since its end has come, tells the first group alone.
    #[tokio::test]
    async fn many_are_told_in_groups_that_fit_the_window() {
        for (window, first) in [(PATIENCE, GROUP), (TICK * 4, 60), (TICK / 2, 240), (Duration::ZERO, 240)] {
            let places = Places::new(240);
            let taken: Vec<_> = (0..240).map(|id| places.take(id).unwrap()).collect();
            places.drain(window, Instant::now()).await;
            assert_eq!(taken.iter().filter(|place| place.signal.clear() == STOP).count(), first, "{window:?}");
        }
        let places = Places::new(240);
        let taken: Vec<_> = (0..240).map(|id| places.take(id).unwrap()).collect();
        let ends = async {
            for place in taken {
                assert_eq!(place.signal.raised().await, STOP);
            }
        };
        tokio::join!(places.drain(TICK * 4, Instant::now() + PATIENCE), ends);
        assert_eq!(places.count(), 0);
    }
}
