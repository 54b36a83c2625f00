//! The sends of one link, in order: at most one batch is in flight, and what waits meanwhile is the next one. Chunks of clips go with them, so that they are stored
//! before the message that needs them is looked at.

use std::collections::VecDeque;

use tern_proto::{limits, v1};
use tern_runtime::planted::{self, Fault};
use tern_runtime::traces::Trace;
use tokio::time::Instant;

/// Messages of one batch, unless a single request has more.
const BATCH_MESSAGES: usize = 1_024;
/// Above this many waiting bytes no more requests are read. A batch in flight may hold as much again.
const WAITING_BYTES: u32 = 256 * 1024;

/// With more bytes of chunks waiting they are stored, though nothing asks for it. So much an idle link may hold.
const HELD_BYTES: u32 = 16 * 1024;
/// What a chunk counts beside its bytes: there may be very many that have none.
const CHUNK: u32 = 128;

/// The send requests of a link that have no reply yet, and chunks that are not stored. Bounded by its reader, which asks [`Sends::full`].
#[derive(Debug, Default)]
pub(crate) struct Sends {
    waiting: VecDeque<Waiting>,
    waiting_bytes: u32,
    /// Of the waiting those that a batch is begun for.
    urgent: u32,
    in_flight: bool,
}

#[derive(Debug)]
struct Waiting {
    part: Part,
    bytes: u32,
}

#[derive(Debug)]
enum Part {
    Request { sequence: u32, messages: Vec<v1::OutMessage>, came: Instant, trace: Option<Trace> },
    Chunk(v1::Chunk),
}

/// Adjacent requests as one call.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Batch {
    /// What is to be stored before the messages.
    pub(crate) chunks: Vec<v1::Chunk>,
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
        let trace = request.traceparent.parse().ok();
        self.wait(Part::Request { sequence, messages: request.messages, came, trace }, bytes as u32); // A packet's.
    }

    /// Puts a chunk at the end.
    pub(crate) fn push_chunk(&mut self, chunk: v1::Chunk, bytes: usize) {
        self.wait(Part::Chunk(chunk), bytes as u32 + CHUNK);
    }

    fn wait(&mut self, part: Part, bytes: u32) {
        self.waiting_bytes += bytes;
        self.urgent += u32::from(part.is_urgent());
        self.waiting.push_back(Waiting { part, bytes });
    }

    /// Whether enough is waiting.
    pub(crate) fn full(&self) -> bool {
        self.waiting_bytes > WAITING_BYTES
    }

    /// The next batch, if none is in flight and something waits that is not held.
    ///
    /// A chunk that nothing is told of waits for its message: with all of a short clip there, it is stored as one.
    pub(crate) fn next(&mut self) -> Option<Batch> {
        let may_overtake = planted::active(Fault::RetryAfterNewer);
        let is_held = self.urgent == 0 && self.waiting_bytes <= HELD_BYTES;
        if self.in_flight && !may_overtake || self.waiting.is_empty() || is_held {
            return None;
        }
        let mut batch = Batch::default();
        while let Some(Waiting { part, bytes }) =
            self.waiting.pop_front_if(|waiting| (batch.parts.is_empty() || !may_overtake) && batch.takes(&waiting.part))
        {
            self.waiting_bytes -= bytes;
            self.urgent -= u32::from(part.is_urgent());
            batch.take(part);
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

impl Part {
    /// Whether somebody waits for it: for a reply, or to be told what is stored.
    fn is_urgent(&self) -> bool {
        match self {
            Part::Request { .. } => true,
            Part::Chunk(chunk) => chunk.index % limits::CHUNKS_TOLD == limits::CHUNKS_TOLD - 1,
        }
    }
}

impl Batch {
    fn takes(&self, part: &Part) -> bool {
        match part {
            Part::Request { messages, .. } => {
                self.parts.is_empty() || self.messages.len() + messages.len() <= BATCH_MESSAGES
            }
            Part::Chunk(_) => true,
        }
    }

    fn take(&mut self, part: Part) {
        match part {
            Part::Request { sequence, messages, came, trace } => {
                self.parts.push((sequence, messages.len()));
                self.messages.extend(messages);
                self.came.push(came);
                self.trace = self.trace.take().or(trace);
            }
            Part::Chunk(chunk) => self.chunks.push(chunk),
        }
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
    fn chunks_go_ahead_of_what_came_behind_them() {
        let mut sends = Sends::default();
        let chunk = |index| v1::Chunk { index, ..Default::default() };
        sends.push_chunk(chunk(0), 1_600);
        assert_eq!(sends.next(), None, "it waits for its message");
        sends.push(1, request(1..2), 10, Instant::now());
        sends.push_chunk(chunk(1), 1_600);
        let batch = sends.next().unwrap();
        assert_eq!((ids(&batch), batch.chunks, batch.parts), (vec![1], vec![chunk(0), chunk(1)], vec![(1, 1)]));
        sends.push_chunk(chunk(7), 1_600);
        assert_eq!(sends.next(), None, "one batch is in flight");
        sends.done();
        assert_eq!(sends.next().map(|batch| batch.chunks), Some(vec![chunk(7)]), "that it is stored will be told");
        sends.done();
        (0..HELD_BYTES / CHUNK + 1).for_each(|_| sends.push_chunk(chunk(0), 0));
        assert!(sends.next().is_some(), "an idle link holds no more");
        (0..WAITING_BYTES / CHUNK + 1).for_each(|index| sends.push_chunk(chunk(index), 0));
        assert!(sends.full(), "chunks without bytes fill it too");
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
