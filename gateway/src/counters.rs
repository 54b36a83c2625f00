//! What the gateway counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why the server closed a long link, or that the client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Ending {
    /// The client hung up, or the network did.
    Gone,
    /// Bytes that are no packet.
    BadPacket,
    /// Something else came before hello, or no hello in time.
    NoHello,
    /// The hello was refused: protocol, token or device.
    HelloRefused,
    /// The same device came on another link.
    Displaced,
    /// The server stops.
    Shutdown,
    /// The client did not read what it was sent.
    Slow,
    /// Nothing was heard from the client.
    Silent,
    /// There were too many links already.
    TooMany,
}

const ENDINGS: usize = Ending::TooMany as usize + 1;

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    taken: AtomicU64,
    endings: [AtomicU64; ENDINGS],
}

impl Ending {
    /// Every ending, with its name in the metrics.
    pub const ALL: [(Ending, &str); ENDINGS] = [
        (Ending::Gone, "gone"),
        (Ending::BadPacket, "bad_packet"),
        (Ending::NoHello, "no_hello"),
        (Ending::HelloRefused, "hello_refused"),
        (Ending::Displaced, "displaced"),
        (Ending::Shutdown, "shutdown"),
        (Ending::Slow, "slow"),
        (Ending::Silent, "silent"),
        (Ending::TooMany, "too_many"),
    ];
}

impl Counters {
    /// How many long links were taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many long links there are.
    pub fn links(&self) -> u64 {
        // One that is turned away was never taken.
        let ended: u64 =
            Ending::ALL.iter().filter(|(ending, _)| *ending != Ending::TooMany).map(|(e, _)| self.ended(*e)).sum();
        self.taken().saturating_sub(ended)
    }

    /// How many long links ended in this way.
    pub fn ended(&self, ending: Ending) -> u64 {
        self.endings[ending as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, ending: Ending) {
        self.endings[ending as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_links_are_those_that_were_taken_and_have_not_ended() {
        let counters = Counters::default();
        (0..3).for_each(|_| counters.take());
        counters.count(Ending::Silent);
        counters.count(Ending::TooMany);
        assert_eq!((counters.taken(), counters.links()), (3, 2));
        assert_eq!((counters.ended(Ending::Silent), counters.ended(Ending::Gone)), (1, 0));
    }

    #[test]
    fn every_ending_has_a_name_of_its_own() {
        for (index, (ending, name)) in Ending::ALL.into_iter().enumerate() {
            assert_eq!(ending as usize, index);
            assert!(Ending::ALL[index + 1..].iter().all(|(_, other)| *other != name));
        }
    }
}
