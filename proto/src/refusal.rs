//! How a request fails.

use std::time::Duration;

use crate::v1::Code;

/// How long a client is told to wait before it tries again, where a retry helps.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request that failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Refusal {
    /// What it is on the wire.
    pub code: Code,
    /// For the developer of the client; no content, no secrets.
    pub message: String,
    /// How long to wait before a retry; zero where a retry does not help.
    pub retry_after: Duration,
}

impl Refusal {
    /// With a wait of [`RETRY_AFTER`] where a retry helps.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        let retry_after = if code.is_retryable() { RETRY_AFTER } else { Duration::ZERO };
        Refusal { code, message: message.into(), retry_after }
    }
}
