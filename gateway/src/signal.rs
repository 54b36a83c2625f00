//! Wakes one task from any other, without a channel.

use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Something is owed to the user.
pub(crate) const HINT: u8 = 1;
/// The same device came on another link.
pub(crate) const DISPLACED: u8 = 2;
/// The server stops.
pub(crate) const STOP: u8 = 4;

/// Flags that stay set until they are taken; any number of settings before that are one wake.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    flags: AtomicU8,
    waker: AtomicWaker,
}

impl Signal {
    /// Sets a flag and wakes whoever takes the flags.
    pub(crate) fn set(&self, flag: u8) {
        // If the flag was set already, the wake that came with it is still under way.
        if self.flags.fetch_or(flag, Ordering::AcqRel) & flag == 0 {
            self.waker.wake();
        }
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
