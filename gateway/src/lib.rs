//! Terminates client links: long link, short link, sessions. It owns no data and never opens storage.
//!
//! How a request flows:
//!
//! ```text
//!  accept ─▶ link ─▶ session ─▶ request ─▶ dispatch ─▶ tern_sync::SyncApi
//!  (socket)  (I/O)   (state)    (decode)   (one table)        │ commits, then hints
//!              ▲                    ▲                         ▼
//!              └───── signal ◀──────┼──────────────────── registry
//!            short_link (HTTP) ─────┘
//!               └──▶ media ─▶ tern_media::MediaApi
//! ```
//!
//! - [`serve`]: both listeners, and the order of a stop
//! - `link`: the one task of a long link; performs I/O and decides nothing
//! - `session`, with `sends` and `pushes`: what a long link does about each packet, outcome and hint, without I/O
//! - `media`: uploads in parts, and fetching, over the short link alone
//! - `request`, `dispatch`: packets and JSON to calls and back, one table for both links
//! - [`Registry`]: who is here; the way of a hint
//! - `auth`: tokens

mod accept;
mod auth;
mod counters;
mod dispatch;
mod io;
mod link;
mod media;
#[cfg(test)]
mod nothing;
mod output;
mod places;
mod pushes;
mod registry;
mod request;
mod sends;
mod serve;
mod session;
mod settings;
pub mod setup;
mod short_link;
mod signal;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tern_media::MediaApi;
use tern_runtime::metrics::{Metrics, Ready};
use tern_sync::SyncApi;

pub use accept::listen;
pub use auth::{BadKey, BadKeySetUrl, BadToken, KeySetRefresher, KeySetUrl, TokenVerifier, mint};
pub use counters::{Counters, Ending};
pub use registry::Registry;
pub use serve::serve;
pub use settings::Settings;

/// What the links of this process share.
pub struct Gateway {
    sync: Arc<dyn SyncApi>,
    /// None where media is not served.
    media: Option<Arc<dyn MediaApi>>,
    registry: Arc<Registry>,
    settings: Settings,
    verifier: TokenVerifier,
    counters: Counters,
    sessions: AtomicU64,
}

impl Gateway {
    /// A gateway in front of `sync`, and of `media` where that is served. The registry is the one whose hints `sync` calls.
    pub fn new(
        sync: Arc<dyn SyncApi>,
        media: Option<Arc<dyn MediaApi>>,
        registry: Arc<Registry>,
        settings: Settings,
        verifier: TokenVerifier,
    ) -> Arc<Gateway> {
        // The boot id in the upper bits keeps the sessions of two runs, and of two gateways, apart.
        let boot = u64::from(fastrand::u32(1..)) << 32;
        let counters = Counters::default();
        Arc::new(Gateway { sync, media, registry, settings, verifier, counters, sessions: AtomicU64::new(boot) })
    }

    /// Reports what is counted, of hints too.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.counters.report_to(metrics);
        self.registry.report_to(metrics);
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A number that no other link of this process has, and by chance none of another.
    fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Ready for Gateway {
    async fn ready(&self) -> Result<(), String> {
        self.sync.ready().await.map_err(|refused| refused.message)
    }
}
