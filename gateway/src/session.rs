//! What a long link does about each packet, outcome, hint and moment, without any I/O.
//!
//! ```text
//!  Fresh ──hello──▶ Greeting ──welcome──▶ Open ──stop, displaced──▶ Leaving ──all answered──▶ Closed
//!    ▲                  │ retryable refusal
//!    └──────────────────┘      (every state may close)
//! ```
//!
//! A session that leaves has said go-away: it takes no more packets, and answers those it took.
//!
//! The link hands in what happened, begins the [`Call`]s it gets back, and writes what was put into `out`.

use std::time::Duration;

use bytes::BytesMut;
use tern_proto::packet::{Packet, PacketError, encode_message};
use tern_proto::v1::entry::Body;
use tern_proto::{Command, Key, limits, v1};
use tern_sync::{Pushed, Refusal};
use tokio::time::Instant;

use crate::counters::{Counters, Ending};
use crate::dispatch::Sent;
use crate::pushes::{Pushes, Step};
use crate::request::{
    Answer, Reply, Request, Taken, bad_packet, millis, put_answer, put_link_error, put_stored, refusal,
};
use crate::sends::{self, Batch, Sends};
use crate::settings::Settings;
use crate::signal::Fresh;

/// Requests for a page at one time; with as many no more requests are read. It bounds what a client that does not read
/// makes the server hold, as each reply may fill a packet.
const PAGES: u16 = 16;

/// The longest that a session leaves; a closed link then gives its client as long to take the last packets.
pub(crate) const PARTING: Duration = Duration::from_secs(2);

/// The state of one link.
#[derive(Debug)]
pub(crate) struct Session {
    phase: Phase,
    /// When the phase began that waits for a hello, or anything was heard.
    heard: Instant,
    /// Requests without a reply, but hello.
    in_flight: u16,
    /// Those of them whose reply may fill a packet.
    pages: u16,
    sends: Sends,
    pushes: Pushes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fresh,
    Greeting,
    Open,
    Leaving { ending: Ending, until: Instant },
    Closed(Ending),
}

/// What the link has to begin.
#[derive(Debug, PartialEq)]
pub(crate) enum Call {
    /// Answered by [`Session::on_greeted`].
    Hello { sequence: u32, request: v1::HelloRequest },
    /// Answered by [`Session::on_answer`].
    Request { sequence: u32, request: Request },
    /// Answered by [`Session::on_sent`].
    Send(Batch),
    /// Answered by [`Session::on_pushed`].
    Push { above: Key },
}

impl Session {
    /// The session of a link that was just opened.
    pub(crate) fn new(now: Instant) -> Session {
        Session {
            phase: Phase::Fresh,
            heard: now,
            in_flight: 0,
            pages: 0,
            sends: Sends::default(),
            pushes: Pushes::default(),
        }
    }

    /// Why it is closed, if it is; the link writes what there is and ends.
    pub(crate) fn ending(&self) -> Option<Ending> {
        match self.phase {
            Phase::Closed(ending) => Some(ending),
            Phase::Leaving { ending, .. } => (self.in_flight == 0).then_some(ending),
            Phase::Fresh | Phase::Greeting | Phase::Open => None,
        }
    }

    /// Whether the next packet may be handed in. If not, the link stops reading.
    pub(crate) fn wants_packets(&self) -> bool {
        match self.phase {
            Phase::Fresh => true,
            // What came behind the hello waits for its outcome.
            Phase::Greeting | Phase::Leaving { .. } | Phase::Closed(_) => false,
            Phase::Open => usize::from(self.in_flight) < limits::IN_FLIGHT && !self.sends.full() && self.pages < PAGES,
        }
    }

    /// Bytes came, or the link did not look whether any did.
    pub(crate) fn heard(&mut self, now: Instant) {
        if self.phase != Phase::Fresh {
            self.heard = now;
        }
    }

    /// A packet came. Sends are begun by [`Session::next_call`], so that those of one read go together.
    pub(crate) fn on_packet(&mut self, packet: &Packet, out: &mut BytesMut) -> Option<Call> {
        let hello = packet.command == Command::Hello.number();
        let refused = match self.phase {
            Phase::Fresh if !hello => refusal(v1::Code::HelloRequired, "say hello first"),
            Phase::Open if hello => refusal(v1::Code::SecondHello, "hello was said already"),
            Phase::Fresh | Phase::Open => match Taken::from_packet(packet) {
                Ok(Taken::Request(request)) => return self.on_request(packet, request, out),
                Ok(Taken::Chunk(chunk)) => {
                    self.sends.push_chunk(chunk, packet.body.len());
                    return None;
                }
                Err(refused) => refused,
            },
            Phase::Greeting | Phase::Leaving { .. } | Phase::Closed(_) => return None,
        };
        self.refuse(packet.command, packet.sequence, refused, out);
        None
    }

    fn on_request(&mut self, packet: &Packet, request: Request, out: &mut BytesMut) -> Option<Call> {
        let sequence = packet.sequence;
        match request {
            Request::Heartbeat => put_answer(out, packet.command, sequence, &Ok(Reply::Heartbeat)),
            Request::Hello(request) => {
                self.phase = Phase::Greeting;
                return Some(Call::Hello { sequence, request });
            }
            Request::Send(request) => {
                self.in_flight += 1;
                self.sends.push(sequence, request, packet.body.len(), self.heard);
            }
            request => {
                self.in_flight += 1;
                self.pages += u16::from(is_page(request.command()));
                if let Request::Sync(_) = request {
                    self.pushes.sync_began();
                }
                return Some(Call::Request { sequence, request });
            }
        }
        None
    }

    /// Bytes came that are no packet.
    pub(crate) fn on_bad_packet(&mut self, error: PacketError, out: &mut BytesMut) {
        put_link_error(out, &bad_packet(error));
        self.close(Ending::BadPacket);
    }

    /// Something is owed to the user.
    pub(crate) fn on_hint(&mut self) {
        self.pushes.hint();
    }

    /// Entries came with hints.
    pub(crate) fn on_news(&mut self, fresh: Vec<Fresh>) {
        self.pushes.news(fresh);
    }

    /// What to begin next besides what packets began. Asked until there is nothing more.
    pub(crate) fn next_call(&mut self, out: &mut BytesMut, counters: &Counters) -> Option<Call> {
        if !matches!(self.phase, Phase::Open | Phase::Leaving { .. }) {
            return None;
        }
        if let Some(batch) = self.sends.next() {
            return Some(Call::Send(batch));
        }
        if self.phase != Phase::Open {
            return None;
        }
        match self.pushes.next(out.len())? {
            Step::Push(above) => Some(Call::Push { above }),
            Step::Notify => {
                Packet::empty(Command::Notify.number(), 0).encode(out);
                None
            }
            Step::Delta(delta) => {
                put_delta(out, &delta, counters);
                None
            }
        }
    }

    /// The outcome of [`Call::Hello`].
    pub(crate) fn on_greeted(
        &mut self,
        sequence: u32,
        greeted: Result<v1::HelloReply, Refusal>,
        now: Instant,
        out: &mut BytesMut,
    ) {
        if self.phase != Phase::Greeting {
            return; // Closed in the meantime.
        }
        self.heard = now;
        match greeted {
            Ok(reply) => {
                self.phase = Phase::Open;
                put_answer(out, Command::Hello.number(), sequence, &Ok(Reply::Hello(reply)));
            }
            Err(refused) => {
                self.phase = Phase::Fresh;
                self.refuse(Command::Hello.number(), sequence, refused, out);
            }
        }
    }

    /// The outcome of [`Call::Request`].
    pub(crate) fn on_answer(&mut self, command: Command, sequence: u32, answer: &Answer, out: &mut BytesMut) {
        self.in_flight -= 1;
        put_answer(out, command.number(), sequence, answer);
        self.pages -= u16::from(is_page(command));
        if command == Command::Sync {
            let reply = match answer {
                Ok(Reply::Sync(reply)) => Some(reply),
                _ => None,
            };
            self.pushes.sync_ended(reply);
        }
    }

    /// The outcome of [`Call::Send`].
    pub(crate) fn on_sent(&mut self, parts: Vec<(u32, usize)>, sent: Sent, out: &mut BytesMut) {
        let Sent { stored, results } = sent;
        self.in_flight -= parts.len() as u16; // Each was counted when it came.
        self.sends.done();
        put_stored(out, &stored);
        for (sequence, reply) in sends::split(parts, results) {
            put_answer(out, Command::Send.number(), sequence, &Ok(Reply::Send(reply)));
        }
    }

    /// The outcome of [`Call::Push`].
    pub(crate) fn on_pushed(
        &mut self,
        above: Key,
        pushed: Result<Pushed, Refusal>,
        out: &mut BytesMut,
        counters: &Counters,
    ) {
        if self.phase != Phase::Open {
            return; // The client was told to leave; it syncs when it is back.
        }
        if let Some(delta) = self.pushes.pushed(above, pushed) {
            put_delta(out, &delta, counters);
        }
    }

    /// When [`Session::on_deadline`] has to be called, unless something is heard before.
    pub(crate) fn deadline(&self, settings: &Settings) -> Instant {
        match self.phase {
            Phase::Fresh => self.heard + settings.hello_wait,
            Phase::Leaving { until, .. } => until,
            Phase::Greeting | Phase::Open | Phase::Closed(_) => self.heard + settings.silence(),
        }
    }

    /// Closes the link if the deadline has come.
    pub(crate) fn on_deadline(&mut self, now: Instant, settings: &Settings, out: &mut BytesMut) {
        if now < self.deadline(settings) {
            return;
        }
        match self.phase {
            Phase::Fresh => {
                put_link_error(out, &refusal(v1::Code::HelloTimeout, "no hello in time"));
                self.close(Ending::NoHello);
            }
            Phase::Leaving { ending, .. } => self.close(ending),
            Phase::Greeting | Phase::Open | Phase::Closed(_) => self.go_away(Ending::Silent, now, settings, out),
        }
    }

    /// Tells the client why it has to leave and when to come back. A stop and a displacement let the session leave, so that
    /// what is in flight is answered; else, or when told again for another reason, it closes at once.
    pub(crate) fn go_away(&mut self, ending: Ending, now: Instant, settings: &Settings, out: &mut BytesMut) {
        let may_leave = matches!(ending, Ending::Shutdown | Ending::Displaced);
        match self.phase {
            Phase::Fresh | Phase::Greeting | Phase::Open => (),
            Phase::Leaving { .. } if may_leave => return,
            Phase::Leaving { ending: first, .. } => return self.close(first),
            Phase::Closed(_) => return,
        }
        let (reason, retry_after) = match ending {
            Ending::Displaced => (v1::GoAwayReason::Displaced, Duration::ZERO),
            Ending::Slow => (v1::GoAwayReason::Slow, settings.spread()),
            Ending::Silent => (v1::GoAwayReason::Silent, settings.spread()),
            _ => (v1::GoAwayReason::Shutdown, settings.spread()),
        };
        let body = v1::GoAway { reason: reason.into(), retry_after_ms: millis(retry_after) };
        encode_message(out, Command::GoAway.number(), 0, &body);
        if may_leave && self.phase == Phase::Open {
            self.phase = Phase::Leaving { ending, until: now + PARTING };
        } else {
            self.close(ending);
        }
    }

    /// Answers with an error packet and closes the link if the code says so.
    fn refuse(&mut self, command: u32, sequence: u32, refused: Refusal, out: &mut BytesMut) {
        let code = refused.code;
        put_answer(out, command, sequence, &Err(refused));
        if code.closes_link() {
            let hello_missing = code == v1::Code::HelloRequired;
            self.close(if hello_missing { Ending::NoHello } else { Ending::HelloRefused });
        }
    }

    fn close(&mut self, ending: Ending) {
        if !matches!(self.phase, Phase::Closed(_)) {
            self.phase = Phase::Closed(ending);
        }
    }
}

/// Whether the reply may fill a packet.
fn is_page(command: Command) -> bool {
    matches!(command, Command::Sync | Command::Conversations | Command::History | Command::Members)
}

fn put_delta(out: &mut BytesMut, delta: &v1::Delta, counters: &Counters) {
    encode_message(out, Command::Delta.number(), 0, delta);
    for entry in &delta.entries {
        if let Some(Body::Message(message)) = &entry.body {
            counters.delivered(message.time_ms);
        }
    }
}

#[cfg(test)]
mod tests;
