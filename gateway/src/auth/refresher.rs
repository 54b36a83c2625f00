//! Keeps the keys of a key set behind a URL fresh.
//!
//! Fetched at the start, then again after ten minutes, after a failure with back-off, and when a token named a key that is not
//! known. A fetch that fails changes nothing: the last good set stays in force.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tern_runtime::shutdown::Stop;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Key, KeySetUrl};

/// From one fetch that worked to the next.
const REFRESH_EVERY: Duration = Duration::from_secs(600);

/// Between fetches that tokens ask for. Anybody can make up a key id.
const ASKED_APART: Duration = Duration::from_secs(10);

/// The wait after the first failure; each further one doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest wait after a failure.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The keys as last fetched. Readers and the refresher hold the lock only to copy or replace the `Arc`.
#[derive(Debug, Default)]
pub(super) struct FetchedKeys {
    keys: RwLock<Arc<[Key]>>,
    asked: Notify,
}

/// Fetches a key set for a [`super::TokenVerifier`], in a task of its own.
#[derive(Debug)]
pub struct KeySetRefresher {
    url: KeySetUrl,
    fetched: Arc<FetchedKeys>,
    /// How many fetches have failed since the last that worked.
    failures: u32,
    /// From when on a token may cause a fetch again.
    asked_from: Instant,
}

impl FetchedKeys {
    pub(super) fn current(&self) -> Arc<[Key]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the keys fetched soon. Any number of calls before that are one.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    fn replace(&self, keys: Vec<Key>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
    }
}

impl KeySetRefresher {
    pub(super) fn new(url: KeySetUrl, fetched: Arc<FetchedKeys>) -> KeySetRefresher {
        KeySetRefresher { url, fetched, failures: 0, asked_from: Instant::now() }
    }

    /// Fetches once, for 5 s at most. A failure is logged, and the keys stay as they are.
    pub async fn refresh(&mut self) {
        match self.url.fetch().await {
            Ok(keys) => {
                tracing::debug!(host = self.url.authority(), keys = keys.len(), "fetched the key set");
                self.fetched.replace(keys);
                self.failures = 0;
            }
            Err(error) => {
                tracing::warn!(host = self.url.authority(), %error, "the key set could not be fetched; the last one stays in force");
                self.failures = self.failures.saturating_add(1);
            }
        }
    }

    /// Fetches whenever it is time to, until the stop. It waits first: the first fetch is [`KeySetRefresher::refresh`].
    pub async fn run(mut self, stop: Stop) {
        let refreshes = async {
            loop {
                self.due().await;
                self.refresh().await;
            }
        };
        tokio::select! {
            () = refreshes => (),
            () = stop.stopped() => (),
        }
    }

    async fn due(&mut self) {
        let asked = async {
            self.fetched.asked.notified().await;
            sleep_until(self.asked_from).await;
        };
        tokio::select! {
            () = asked => self.asked_from = Instant::now() + ASKED_APART,
            () = sleep(self.pause()) => (),
        }
    }

    fn pause(&self) -> Duration {
        match self.failures {
            0 => REFRESH_EVERY,
            // At random from half of it on, so that servers that failed together do not return together.
            failures => FIRST_RETRY
                .saturating_mul(2_u32.saturating_pow(failures - 1))
                .min(LAST_RETRY)
                .mul_f64(0.5 + fastrand::f64() / 2.0),
        }
    }
}

#[cfg(test)]
mod tests;
