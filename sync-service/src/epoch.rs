//! The epoch of the store, as this replica has seen it last.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For how long after it was asked an answer of storage says which epoch it has: what changes the epoch of a store takes longer.
const FRESH: Duration = Duration::from_secs(1);

/// Which epoch, and when storage was asked.
#[derive(Default)]
pub(crate) struct Epoch(Mutex<Option<(u64, Instant)>>);

impl Epoch {
    /// Storage has said so when it was asked then. An answer that was long on its way does not undo what is known since.
    pub(crate) fn saw(&self, epoch: u64, asked: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|(_, before)| before <= asked) {
            *known = Some((epoch, asked));
        }
    }

    /// 0 if none was seen. It may be another by now.
    pub(crate) fn last(&self) -> u64 {
        self.known().map_or(0, |(epoch, _)| epoch)
    }

    /// If storage has said so just now.
    pub(crate) fn current(&self) -> Option<u64> {
        self.known().filter(|(_, asked)| asked.elapsed() < FRESH).map(|(epoch, _)| epoch)
    }

    fn known(&self) -> Option<(u64, Instant)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_epoch_is_current_for_a_second_after_the_question() {
        let epoch = Epoch::default();
        assert_eq!((epoch.last(), epoch.current()), (0, None));
        let asked = Instant::now();
        tokio::time::advance(FRESH / 2).await;
        epoch.saw(7, asked);
        assert_eq!((epoch.last(), epoch.current()), (7, Some(7)));
        tokio::time::advance(FRESH / 2).await;
        assert_eq!((epoch.last(), epoch.current()), (7, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_does_not_bring_an_epoch_back() {
        let epoch = Epoch::default();
        let early = Instant::now();
        tokio::time::advance(FRESH / 2).await;
        epoch.saw(8, Instant::now());
        epoch.saw(7, early);
        assert_eq!((epoch.last(), epoch.current()), (8, Some(8)));
    }
}
