//! What a group of links has done so far.

use std::ops::{Add, Sub};
use std::rc::Rc;

use tokio::sync::Notify;

use crate::samples::Samples;

/// Counts since the group was made. Two of them, subtracted, are what happened in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages handed to the link.
    pub(crate) sent: u64,
    /// Messages that the server has acknowledged.
    pub(crate) acked: u64,
    /// Messages that have come, doubles included.
    pub(crate) delivered: u64,
    /// Acknowledgements of keys that were sent.
    pub(crate) acks: u64,
    /// Deltas and notifies that have come.
    pub(crate) pushes: u64,
    /// Heartbeats that were answered.
    pub(crate) beats: u64,
    /// Bytes written to the links.
    pub(crate) bytes_out: u64,
    /// Bytes read from the links.
    pub(crate) bytes_in: u64,
}

/// The counts, and how long things took.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    /// Times are kept of what was sent from here on, by the clock of the run.
    pub(crate) since: u64,
    /// From the send (or its scheduled time) to the acknowledgement.
    pub(crate) ack: Samples,
    /// From the send (or its scheduled time) to the delivery.
    pub(crate) delivery: Samples,
    /// From the heartbeat's scheduled time to its answer.
    pub(crate) beat: Samples,
    /// So many deliveries are waited for.
    pub(crate) awaited: u64,
    /// Told when they have come.
    pub(crate) arrived: Rc<Notify>,
}

impl Default for Tally {
    /// Keeps no times yet.
    fn default() -> Tally {
        let (ack, delivery, beat) = Default::default();
        let (counts, arrived) = Default::default();
        Tally { counts, since: u64::MAX, ack, delivery, beat, awaited: u64::MAX, arrived }
    }
}

impl Tally {
    /// Forgets the times so far and keeps those of what is sent from now on.
    pub(crate) fn measure_from(&mut self, now: u64) {
        self.since = now;
        [&mut self.ack, &mut self.delivery, &mut self.beat].into_iter().for_each(Samples::clear);
    }

    /// Keeps those that it has, and no more.
    pub(crate) fn keep_no_more(&mut self) {
        self.since = u64::MAX;
    }

    pub(crate) fn acked(&mut self, sent_at: u64, now: u64) {
        self.counts.acked += 1;
        if sent_at >= self.since {
            self.ack.record(now.saturating_sub(sent_at));
        }
    }

    pub(crate) fn delivered(&mut self, sent_at: u64, now: u64) {
        self.counts.delivered += 1;
        if self.counts.delivered == self.awaited {
            self.arrived.notify_one();
        }
        if sent_at >= self.since {
            self.delivery.record(now.saturating_sub(sent_at));
        }
    }

    pub(crate) fn answered(&mut self, sent_at: u64, now: u64) {
        self.counts.beats += 1;
        if sent_at >= self.since {
            self.beat.record(now.saturating_sub(sent_at));
        }
    }
}

impl Counts {
    fn each(self, other: Counts, merge: fn(u64, u64) -> u64) -> Counts {
        Counts {
            sent: merge(self.sent, other.sent),
            acked: merge(self.acked, other.acked),
            delivered: merge(self.delivered, other.delivered),
            acks: merge(self.acks, other.acks),
            pushes: merge(self.pushes, other.pushes),
            beats: merge(self.beats, other.beats),
            bytes_out: merge(self.bytes_out, other.bytes_out),
            bytes_in: merge(self.bytes_in, other.bytes_in),
        }
    }
}

impl Add for Counts {
    type Output = Counts;

    fn add(self, other: Counts) -> Counts {
        self.each(other, u64::wrapping_add)
    }
}

impl Sub for Counts {
    type Output = Counts;

    fn sub(self, earlier: Counts) -> Counts {
        self.each(earlier, u64::wrapping_sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_since_then_is_timed_but_everything_counts() {
        let mut tally = Tally::default();
        tally.acked(1_000, 9_000_000);
        assert_eq!(tally.ack.spread(), None);
        tally.measure_from(5_000_000);
        tally.acked(4_000_000, 9_000_000);
        assert_eq!(tally.ack.spread(), None);
        tally.acked(6_000_000, 9_000_000);
        assert_eq!(tally.ack.spread().unwrap().p99, 3.0);
        tally.keep_no_more();
        tally.acked(6_000_000, 99_000_000);
        assert_eq!(tally.ack.spread().unwrap().p99, 3.0, "what was kept stays");
        assert_eq!(tally.counts.acked, 4);
    }
}
