//! The sends of one link, in order: at most one batch is in flight, and what waits meanwhile is the next one.

use std::collections::VecDeque;

use tern_proto::v1;
use tern_runtime::planted::{self, Fault};
use tern_runtime::traces::Trace;
use tokio::time::Instant;

/// Messages of one batch, unless a single request has more.
const BATCH_MESSAGES: usize = 1_024;
/// Above this many waiting bytes no more requests are read. A batch in flight may hold as much again.
const WAITING_BYTES: u32 = 256 * 1024;

/// The send requests of a link that have no reply yet. Bounded by its reader, which asks [`Sends::full`].
#[derive(Debug, Default)]
pub(crate) struct Sends {
    waiting: VecDeque<Part>,
    waiting_bytes: u32,
    in_flight: bool,
}

#[derive(Debug)]
struct Part {
    sequence: u32,
    messages: Vec<v1::OutMessage>,
    came: Instant,
    trace: Option<Trace>,
    bytes: u32,
}

/// Adjacent requests as one call.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch {
    /// The messages of all of them.
    pub(crate) messages: Vec<v1::OutMessage>,
    /// By request: its sequence and how many of the messages are its.
    pub(crate) parts: Vec<(u32, usize)>,
    /// By request: when it came.
    pub(crate) came: Vec<Instant>,
    /// The trace of the client that the first of the requests with one names.
    pub(crate) trace: Option<Trace>,
}

impl Sends {
    /// Puts a request at the end; `bytes` is the length of its body.
    pub(crate) fn push(&mut self, sequence: u32, request: v1::SendRequest, bytes: usize, came: Instant) {
        let bytes = bytes as u32; // A packet's.
        self.waiting_bytes += bytes;
        let trace = request.traceparent.parse().ok();
        self.waiting.push_back(Part { sequence, messages: request.messages, came, trace, bytes });
    }

    /// Whether enough is waiting.
    pub(crate) fn full(&self) -> bool {
        self.waiting_bytes > WAITING_BYTES
    }

    /// The next batch, if none is in flight and something waits.
    pub(crate) fn next(&mut self) -> Option<Batch> {
        let may_overtake = planted::active(Fault::RetryAfterNewer);
        if self.in_flight && !may_overtake || self.waiting.is_empty() {
            return None;
        }
        let mut batch = Batch { messages: Vec::new(), parts: Vec::new(), came: Vec::new(), trace: None };
        while let Some(part) =
            self.waiting.pop_front_if(|part| (batch.parts.is_empty() || !may_overtake) && batch.takes(part))
        {
            self.waiting_bytes -= part.bytes;
            batch.parts.push((part.sequence, part.messages.len()));
            batch.messages.extend(part.messages);
            batch.came.push(part.came);
            batch.trace = batch.trace.or(part.trace);
        }
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new(); // An idle link keeps no memory.
        }
        self.in_flight = true;
        Some(batch)
    }

    /// The batch in flight was answered.
    pub(crate) fn done(&mut self) {
        self.in_flight = false;
    }
}

impl Batch {
    fn takes(&self, part: &Part) -> bool {
        self.parts.is_empty() || self.messages.len() + part.messages.len() <= BATCH_MESSAGES
    }
}

/// Gives each request of a batch its own results.
pub(crate) fn split(
    parts: Vec<(u32, usize)>,
    results: Vec<v1::SendResult>,
) -> impl Iterator<Item = (u32, v1::SendReply)> {
    let mut results = results.into_iter();
    parts.into_iter().map(move |(sequence, count)| {
        let results = results.by_ref().take(count).collect();
        (sequence, v1::SendReply { results })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ids: std::ops::Range<u64>) -> v1::SendRequest {
        let messages = ids.map(|id| v1::OutMessage { client_msg_id: id, ..Default::default() }).collect();
        v1::SendRequest { messages, ..Default::default() }
    }

    fn ids(batch: &Batch) -> Vec<u64> {
        batch.messages.iter().map(|message| message.client_msg_id).collect()
    }

    #[test]
    fn what_waits_during_a_batch_is_the_next_one_in_order() {
        let mut sends = Sends::default();
        assert_eq!(sends.next(), None);
        sends.push(1, request(1..3), 10, Instant::now());
        assert_eq!(sends.next().map(|batch| ids(&batch)), Some(vec![1, 2]));
        sends.push(2, request(3..4), 10, Instant::now());
        sends.push(3, request(4..4), 10, Instant::now());
        sends.push(4, request(4..6), 10, Instant::now());
        assert_eq!(sends.next(), None, "one batch is in flight");
        sends.done();
        let batch = sends.next().unwrap();
        assert_eq!((ids(&batch), &batch.parts), (vec![3, 4, 5], &vec![(2, 1), (3, 0), (4, 2)]));
        let results =
            batch.messages.iter().map(|m| v1::SendResult { client_msg_id: m.client_msg_id, ..Default::default() });
        let replies: Vec<_> = split(batch.parts, results.collect())
            .map(|(sequence, reply)| (sequence, reply.results.iter().map(|r| r.client_msg_id).collect::<Vec<_>>()))
            .collect();
        assert_eq!(replies, [(2, vec![3]), (3, vec![]), (4, vec![4, 5])]);
    }

    #[test]
    fn a_batch_is_bounded_and_what_waits_is_told() {
        let mut sends = Sends::default();
        for sequence in 0..6 {
            sends.push(sequence, request(0..256), 65_000, Instant::now());
        }
        assert!(sends.full());
        assert_eq!(sends.next().unwrap().parts.len(), 4);
        assert!(!sends.full());
        sends.done();
        assert_eq!(sends.next().unwrap().parts.len(), 2);
    }
}
