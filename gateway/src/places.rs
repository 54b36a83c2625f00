//! The connections of one listener: how many there may be, and how they are told to stop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::signal::{STOP, Signal};

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

    /// Tells every connection to stop and waits until all have left, at most `grace`. Returns how many have not.
    pub(crate) async fn drain(&self, grace: Duration) -> usize {
        self.lock().values().for_each(|signal| signal.set(STOP));
        let empty = async {
            loop {
                let left = self.left.notified();
                if self.lock().is_empty() {
                    return;
                }
                left.await;
            }
        };
        let _ = tokio::time::timeout(grace, empty).await;
        self.lock().len()
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

    #[tokio::test]
    async fn the_limit_holds_and_a_drain_waits_for_the_last() {
        let places = Places::new(2);
        let (first, second) = (places.take(1).unwrap(), places.take(2).unwrap());
        assert!(places.take(3).is_none());
        drop(first);
        let third = places.take(3).unwrap();
        assert_eq!(places.drain(Duration::ZERO).await, 2);
        assert_eq!((second.signal.clear(), third.signal.clear()), (STOP, STOP));
        let drain = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.drain(Duration::from_secs(60)).await }
        });
        assert_eq!(second.signal.raised().await, STOP);
        drop((second, third));
        assert_eq!(drain.await.unwrap(), 0);
    }
}
