//! What an operator may set.

use std::time::Duration;

use tern_proto::limits;

/// The settings of both links. The defaults are those of `docs/protocol.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often a client that sends nothing else sends a heartbeat; a link silent for 2.5 of them is closed. Not zero.
    pub heartbeat: Duration,
    /// A hello must come within this time of the connect.
    pub hello_wait: Duration,
    /// A link whose client takes nothing for this long is closed.
    pub write_stall: Duration,
    /// At a stop the go-aways are spread over this window, but at most half of the grace, and each client is told to come
    /// back after a random part of it.
    pub drain_window: Duration,
    /// At a stop, the longest wait for all links to end.
    pub drain_grace: Duration,
    /// Connections of one long-link listener; one more is refused.
    pub max_links: usize,
    /// Connections of one short-link listener; one more is refused.
    pub max_short_links: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            heartbeat: Duration::from_secs(120),
            hello_wait: limits::HELLO_WAIT,
            write_stall: Duration::from_secs(30),
            drain_window: Duration::from_secs(5),
            drain_grace: Duration::from_secs(10),
            max_links: 100_000,
            max_short_links: 10_000,
        }
    }
}

impl Settings {
    /// How long a client may be silent.
    pub(crate) fn silence(&self) -> Duration {
        self.heartbeat * 5 / 2
    }

    /// Over how long the go-aways of a stop are spread; the rest of the grace is for what is under way.
    pub(crate) fn pace(&self) -> Duration {
        self.drain_window.min(self.drain_grace / 2)
    }

    /// How long long links may take to end; the rest of the grace is the short link's, which closes after them.
    pub(crate) fn long_link_grace(&self) -> Duration {
        self.drain_grace * 4 / 5
    }

    /// When one of many clients shall come back, so that they do not all come at once.
    pub(crate) fn spread(&self) -> Duration {
        self.drain_window.mul_f64(fastrand::f64())
    }
}
