//! The epoch of the store, as this replica has seen it last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// For how long an answer of storage says which epoch it has: what changes the epoch of a store takes longer.
const FRESH: Duration = Duration::from_secs(1);

/// Which epoch, and when it was seen.
pub(crate) struct Epoch {
    began: Instant,
    last: AtomicU64,
    /// When it was seen, in milliseconds.
    at: AtomicU64,
}

impl Epoch {
    pub(crate) fn new() -> Epoch {
        Epoch { began: Instant::now(), last: AtomicU64::new(0), at: AtomicU64::new(0) }
    }

    /// Storage has just said so.
    pub(crate) fn saw(&self, epoch: u64) {
        self.last.store(epoch, Ordering::Relaxed);
        self.at.store(self.now(), Ordering::Release);
    }

    /// 0 if none was seen. What rests on it is checked by storage.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// If storage has said so just now.
    pub(crate) fn current(&self) -> Option<u64> {
        let at = self.at.load(Ordering::Acquire);
        let is_fresh = self.now() < at + FRESH.as_millis() as u64;
        Some(self.last()).filter(|epoch| *epoch > 0 && is_fresh)
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_epoch_is_current_for_a_second() {
        let epoch = Epoch::new();
        assert_eq!((epoch.last(), epoch.current()), (0, None));
        epoch.saw(7);
        assert_eq!((epoch.last(), epoch.current()), (7, Some(7)));
        tokio::time::advance(FRESH).await;
        assert_eq!((epoch.last(), epoch.current()), (7, None));
    }
}
