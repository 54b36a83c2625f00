//! What a link has to write, and how much hurry there is.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

/// Bytes on their way out. An idle link's has none and holds no memory.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) bytes: BytesMut,
    /// So many of the bytes, the first ones, may wait for others.
    unhurried: usize,
    wait: Wait,
}

/// Why nothing is being written.
#[derive(Clone, Copy, Debug, Default)]
enum Wait {
    #[default]
    Nothing,
    /// What there is may wait for company until then.
    Company(Instant),
    /// The client has taken nothing since then.
    Client(Instant),
}

impl Output {
    /// Adds what nobody waits for: it is written with what comes next, at the latest when it is `due`.
    pub(crate) fn add_unhurried(&mut self, due: Instant, add: impl FnOnce(&mut BytesMut)) {
        let alone = self.bytes.len() == self.unhurried;
        add(&mut self.bytes);
        if alone {
            self.unhurried = self.bytes.len();
            if matches!(self.wait, Wait::Nothing) {
                self.wait = Wait::Company(due);
            }
        }
    }

    /// Whether there is something that has to be written now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let waited = !matches!(self.wait, Wait::Company(due) if now < due);
        self.bytes.len() > self.unhurried || !self.bytes.is_empty() && waited
    }

    /// So many bytes went out.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.unhurried = 0;
        self.wait = Wait::Nothing;
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
    }

    /// The client takes nothing at the moment.
    pub(crate) fn stall(&mut self, now: Instant) {
        if !matches!(self.wait, Wait::Client(_)) {
            self.wait = Wait::Client(now);
        }
    }

    /// Whether the client has taken nothing for so long.
    pub(crate) fn is_stalled(&self, stall: Duration, now: Instant) -> bool {
        matches!(self.wait, Wait::Client(since) if now >= since + stall)
    }

    /// When to look again, if not before.
    pub(crate) fn deadline(&self, stall: Duration) -> Option<Instant> {
        match self.wait {
            Wait::Nothing => None,
            Wait::Company(due) => Some(due),
            Wait::Client(since) => Some(since + stall),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUE: Duration = Duration::from_millis(50);

    fn unhurried(output: &mut Output, due: Instant) {
        output.add_unhurried(due, |out| out.extend_from_slice(b"ack"));
    }

    #[test]
    fn what_is_in_no_hurry_waits_for_company_until_it_is_due() {
        let now = Instant::now();
        let mut output = Output::default();
        assert!(!output.is_due(now));
        unhurried(&mut output, now + DUE);
        unhurried(&mut output, now + 2 * DUE);
        assert!(!output.is_due(now));
        assert_eq!(output.deadline(DUE), Some(now + DUE), "the first one counts");
        assert!(output.is_due(now + DUE));
        output.bytes.extend_from_slice(b"delta");
        assert!(output.is_due(now), "company has come");
        output.wrote(11);
        assert!(!output.is_due(now + DUE) && output.deadline(DUE).is_none());
    }

    #[test]
    fn behind_what_is_in_a_hurry_nothing_waits() {
        let now = Instant::now();
        let mut output = Output::default();
        output.bytes.extend_from_slice(b"delta");
        unhurried(&mut output, now + DUE);
        assert!(output.is_due(now));
        output.wrote(2);
        assert!(output.is_due(now), "the rest of a write is due");
    }

    #[test]
    fn a_stall_lasts_until_the_client_takes_something() {
        let now = Instant::now();
        let mut output = Output::default();
        output.bytes.extend_from_slice(b"delta");
        output.stall(now);
        output.stall(now + DUE);
        assert!(output.is_stalled(DUE, now + DUE) && !output.is_stalled(DUE, now));
        assert!(output.is_due(now + DUE), "it is tried again when there is room");
        output.wrote(1);
        assert!(!output.is_stalled(DUE, now + DUE));
    }
}
