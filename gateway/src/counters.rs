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
    endings: [AtomicU64; ENDINGS],
}

impl Counters {
    /// How many long links ended in this way.
    pub fn ended(&self, ending: Ending) -> u64 {
        self.endings[ending as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, ending: Ending) {
        self.endings[ending as usize].fetch_add(1, Ordering::Relaxed);
    }
}
