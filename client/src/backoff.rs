//! How long to wait before the next attempt.

use std::time::Duration;

/// Before the first retry.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait that the client chooses by itself.
const LONGEST: Duration = Duration::from_secs(15);

/// Failed attempts of a message before it is shown as failed.
pub const ATTEMPTS: u32 = 12;

/// 0.5 s, doubled with each failure up to 15 s, of which between three quarters and all is taken: [`ATTEMPTS`] attempts
/// always outlast an outage of a minute.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new(random: fastrand::Rng) -> Backoff {
        Backoff { failures: 0, random }
    }

    /// The wait after one more failure; not below `at_least`, which the server asked for.
    pub(crate) fn wait(&mut self, at_least: Duration) -> Duration {
        let all = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        all.mul_f64(0.75 + 0.25 * self.random.f64()).max(at_least)
    }

    /// It worked: the next failure starts from the beginning.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_keeps_to_the_range() {
        let mut backoff = Backoff::new(fastrand::Rng::with_seed(1));
        for all in [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000] {
            let (all, wait) = (Duration::from_millis(all), backoff.wait(Duration::ZERO));
            assert!(wait >= all / 2 && wait <= all, "{wait:?} of {all:?}");
        }
        backoff.reset();
        assert!(backoff.wait(Duration::ZERO) <= FIRST);
        assert_eq!(backoff.wait(Duration::from_secs(60)), Duration::from_secs(60), "the server's wait is longer");
    }

    #[test]
    fn the_attempts_outlast_a_minute() {
        for seed in 0..1_000 {
            let mut backoff = Backoff::new(fastrand::Rng::with_seed(seed));
            // The first two attempts may follow each other at once: the lost transmission, then the failed connect.
            let waits: Duration = (2..ATTEMPTS).map(|_| backoff.wait(Duration::ZERO)).sum();
            assert!(waits > Duration::from_secs(60), "seed {seed}: {waits:?}");
        }
    }
}
