//! Wakes one task from any other, without a channel, and hands it what is new.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tern_proto::key::{Class, Version};
use tern_proto::v1;
use tern_runtime::traces::Trace;
use tracing::Span;

/// Something is owed to the user.
pub(crate) const HINT: u8 = 1;
/// The same device came on another link.
pub(crate) const DISPLACED: u8 = 2;
/// The server stops.
pub(crate) const STOP: u8 = 4;
/// Entries have come.
pub(crate) const NEWS: u8 = 8;

/// Entries that may wait to be taken. More are hinted.
const ENTRIES: usize = 32;

/// Flags that stay set until they are taken; any number of settings before that are one wake.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    flags: AtomicU8,
    waker: AtomicWaker,
    fresh: Mutex<Vec<Fresh>>,
}

/// An entry that was just committed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fresh {
    /// That of the user's keys.
    pub(crate) epoch: u64,
    pub(crate) class: Class,
    /// Nothing lies between this version and that of the entry.
    pub(crate) before: Version,
    pub(crate) entry: v1::Entry,
    /// The device caused it: it is not told by itself.
    pub(crate) is_own: bool,
    pub(crate) delivery: Delivery,
}

/// The traced span of a delivery, which ends when it is dropped. It makes no difference to an entry.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    _span: Span,
}

impl Delivery {
    /// In this trace, if in any.
    pub(crate) fn of(trace: Option<&Trace>) -> Delivery {
        Delivery { _span: trace.map_or_else(Span::none, |trace| trace.span("deliver", "consumer")) }
    }
}

impl PartialEq for Delivery {
    fn eq(&self, _: &Delivery) -> bool {
        true
    }
}

impl Signal {
    /// Sets a flag and wakes whoever takes the flags.
    pub(crate) fn set(&self, flag: u8) {
        // If the flag was set already, the wake that came with it is still under way.
        if self.flags.fetch_or(flag, Ordering::AcqRel) & flag == 0 {
            self.waker.wake();
        }
    }

    /// Hands over an entry. An own one waits for company; if too much waits, all of it is left to a look.
    pub(crate) fn tell(&self, fresh: Fresh) {
        let flag = {
            let mut waiting = self.fresh();
            let flag = if waiting.len() < ENTRIES { NEWS } else { HINT };
            // Most links take it at once: four places would cost them memory.
            waiting.reserve_exact(1);
            waiting.push(fresh);
            let is_owed = match flag {
                NEWS => waiting.last().is_some_and(|fresh| !fresh.is_own),
                // What is dropped leaves a gap, but nobody else may come to show it.
                _ => std::mem::take(&mut *waiting).iter().any(|fresh| !fresh.is_own),
            };
            is_owed.then_some(flag)
        };
        if let Some(flag) = flag {
            self.set(flag);
        }
    }

    /// The entries that have come since the last call, in the order in which they came.
    pub(crate) fn entries(&self) -> Vec<Fresh> {
        std::mem::take(&mut *self.fresh())
    }

    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn fresh(&self) -> MutexGuard<'_, Vec<Fresh>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flags set since the last call, which clears them. One task only; it is woken at the next flag.
    pub(crate) fn take(&self, context: &Context<'_>) -> u8 {
        self.waker.register(context.waker());
        self.clear()
    }

    /// Takes the flags without waiting for more.
    pub(crate) fn clear(&self) -> u8 {
        self.flags.swap(0, Ordering::AcqRel)
    }

    /// Waits for any flag and takes them all.
    pub(crate) async fn raised(&self) -> u8 {
        std::future::poll_fn(|context| match self.take(context) {
            0 => Poll::Pending,
            flags => Poll::Ready(flags),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn fresh(version: u64, is_own: bool) -> Fresh {
        let entry = v1::Entry { class: 1, version, body: None };
        Fresh { epoch: 7, class: Class::Messages, before: version - 1, entry, is_own, delivery: Delivery::of(None) }
    }

    #[test]
    fn entries_are_handed_over_and_own_ones_wake_nobody() {
        let signal = Signal::default();
        signal.tell(fresh(1, true));
        assert_eq!(signal.clear(), 0);
        signal.tell(fresh(2, false));
        assert_eq!(signal.clear(), NEWS);
        assert_eq!(signal.entries(), [fresh(1, true), fresh(2, false)]);
        assert_eq!(signal.entries(), []);
    }

    #[test]
    fn entries_beyond_the_room_are_a_hint_if_one_of_them_is_owed() {
        let signal = Signal::default();
        (1..=ENTRIES as u64 + 1).for_each(|version| signal.tell(fresh(version, true)));
        assert_eq!((signal.clear(), signal.entries()), (0, Vec::new()), "own ones alone are not worth a look");
        (1..=ENTRIES as u64).for_each(|version| signal.tell(fresh(version, version > 1)));
        signal.tell(fresh(ENTRIES as u64 + 1, true));
        assert_eq!((signal.clear(), signal.entries()), (NEWS | HINT, Vec::new()), "the first one was owed");
    }

    #[tokio::test]
    async fn flags_are_kept_until_taken_and_coalesce() {
        let signal = Arc::new(Signal::default());
        signal.set(HINT);
        signal.set(HINT);
        signal.set(STOP);
        assert_eq!(signal.raised().await, HINT | STOP);
        assert_eq!(signal.clear(), 0);
        let waiting = tokio::spawn({
            let signal = Arc::clone(&signal);
            async move { signal.raised().await }
        });
        tokio::task::yield_now().await;
        signal.set(DISPLACED);
        assert_eq!(waiting.await.unwrap(), DISPLACED);
    }
}
