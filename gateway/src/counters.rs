//! What the gateway counts.

use std::time::Duration;

use tern_proto::Command;
use tern_runtime::clock;
use tern_runtime::metrics::{By, Counter, Gauge, Histogram, Metrics, seconds};

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

/// What is counted since the start of the process.
#[derive(Clone, Debug)]
pub struct Counters {
    links: Gauge,
    taken: Counter,
    ended: By<Counter>,
    packets: By<Counter>,
    requests: By<Histogram>,
    deliveries: Histogram,
}

/// What is counted of the hints that reach this gateway.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    hints: By<Counter>,
    missed: Counter,
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

impl Default for Counters {
    fn default() -> Counters {
        let ended = By::default();
        // So that each is told before it has happened.
        Ending::ALL.iter().for_each(|(_, reason)| drop(ended.get_or_create(&[("reason", *reason)])));
        Counters {
            links: Gauge::default(),
            taken: Counter::default(),
            ended,
            packets: By::default(),
            requests: By::new_with_constructor(seconds),
            deliveries: seconds(),
        }
    }
}

impl Counters {
    /// How many long links ended in this way.
    pub fn ended(&self, ending: Ending) -> u64 {
        self.ended.get_or_create(&reason(ending)).get()
    }

    /// Reports them.
    pub fn report_to(&self, metrics: &mut Metrics) {
        metrics.register("tern_links", "Long links that are open", self.links.clone());
        metrics.register("tern_links_taken", "Long links that were taken", self.taken.clone());
        metrics.register("tern_links_ended", "Long links that ended or were turned away", self.ended.clone());
        metrics.register("tern_packets", "Packets that came, by command", self.packets.clone());
        let help = "From a request to the answer to it, by command; a check may wait for as long as it is told to";
        metrics.register("tern_request_seconds", help, self.requests.clone());
        let help =
            "From the time of a message, by the clock that took it, until a link here has it to write in a delta";
        metrics.register("tern_delivery_seconds", help, self.deliveries.clone());
    }

    pub(crate) fn take(&self) {
        self.taken.inc();
        self.links.inc();
    }

    pub(crate) fn count(&self, ending: Ending) {
        self.ended.get_or_create(&reason(ending)).inc();
        // One that is turned away was never taken.
        if ending != Ending::TooMany {
            self.links.dec();
        }
    }

    /// A packet came; `None` if the table has no such command.
    pub(crate) fn packet(&self, command: Option<Command>) {
        self.packets.get_or_create(&[("command", command.map_or("unknown", Command::name))]).inc();
    }

    /// A message that was taken at this time is handed to a link.
    pub(crate) fn delivered(&self, time_ms: i64) {
        // Another clock may be ahead of this one.
        self.deliveries.observe((clock::unix_millis() - time_ms).max(0) as f64 / 1000.0);
    }

    /// A request was answered, so long after it came.
    pub(crate) fn answered(&self, command: Command, after: Duration) {
        self.requests.get_or_create(&[("command", command.name())]).observe(after.as_secs_f64());
    }
}

impl Heard {
    pub(crate) fn report_to(&self, metrics: &mut Metrics) {
        metrics.register("tern_hints_heard", "Hints that came, by kind", self.hints.clone());
        let help = "Times that hints may have been missed, so that everybody here looks again";
        metrics.register("tern_hints_missed", help, self.missed.clone());
    }

    pub(crate) fn hint(&self, kind: &'static str) {
        self.hints.get_or_create(&[("kind", kind)]).inc();
    }

    pub(crate) fn missed(&self) {
        self.missed.inc();
    }
}

fn reason(ending: Ending) -> [(&'static str, &'static str); 1] {
    [("reason", Ending::ALL[ending as usize].1)]
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
        assert_eq!((counters.taken.get(), counters.links.get()), (3, 2));
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
