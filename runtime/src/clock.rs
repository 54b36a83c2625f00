//! The one place that reads the wall clock.

use std::time::UNIX_EPOCH;

/// Milliseconds since 1970 by this host's clock, for display and for retention; it decides nothing about order,
/// dedup or keys. 0 if the clock stands before 1970.
#[allow(clippy::disallowed_methods)]
pub fn unix_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
