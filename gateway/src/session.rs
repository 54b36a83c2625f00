//! What a long link does about each packet, outcome, hint and moment, without any I/O.
//!
//! ```text
//!  Fresh ──hello──▶ Greeting ──welcome──▶ Open ──▶ Closed
//!    ▲                  │ retryable refusal
//!    └──────────────────┘      (every state may close)
//! ```
//!
//! The link hands in what happened, begins the [`Call`]s it gets back, and writes what was put into `out`.

use std::time::Duration;

use bytes::BytesMut;
use tern_proto::packet::{Packet, PacketError, encode_message};
use tern_proto::{Command, Key, limits, v1};
use tern_sync::{Pushed, Refusal};
use tokio::time::Instant;

use crate::counters::Ending;
use crate::pushes::{Pushes, Step};
use crate::request::{Answer, Reply, Request, bad_packet, millis, put_answer, put_link_error, refusal};
use crate::sends::{self, Batch, Sends};
use crate::settings::Settings;

/// Requests for a page at one time; with as many no more requests are read. It bounds what a client that does not read
/// makes the server hold, as each reply may fill a packet.
const SYNCS: usize = 16;

/// The state of one link.
#[derive(Debug)]
pub(crate) struct Session {
    phase: Phase,
    /// When the phase began that waits for a hello, or anything was heard.
    heard: Instant,
    /// Requests without a reply, but hello.
    in_flight: usize,
    sends: Sends,
    pushes: Pushes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fresh,
    Greeting,
    Open,
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
        Session { phase: Phase::Fresh, heard: now, in_flight: 0, sends: Sends::default(), pushes: Pushes::default() }
    }

    /// Why it is closed, if it is; the link writes what there is and ends.
    pub(crate) fn ending(&self) -> Option<Ending> {
        match self.phase {
            Phase::Closed(ending) => Some(ending),
            Phase::Fresh | Phase::Greeting | Phase::Open => None,
        }
    }

    /// Whether the next packet may be handed in. If not, the link stops reading.
    pub(crate) fn wants_packets(&self) -> bool {
        match self.phase {
            Phase::Fresh => true,
            // What came behind the hello waits for its outcome.
            Phase::Greeting | Phase::Closed(_) => false,
            Phase::Open => self.in_flight < limits::IN_FLIGHT && !self.sends.full() && self.pushes.syncs() < SYNCS,
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
            Phase::Fresh | Phase::Open => match Request::from_packet(packet) {
                Ok(request) => return self.on_request(packet, request, out),
                Err(refused) => refused,
            },
            Phase::Greeting | Phase::Closed(_) => return None,
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
                self.sends.push(sequence, request, packet.body.len());
            }
            Request::Sync(_) | Request::Check(_) | Request::Ack(_) | Request::Read(_) => {
                self.in_flight += 1;
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

    /// What to begin next besides what packets began. Asked until there is nothing more.
    pub(crate) fn next_call(&mut self, out: &mut BytesMut) -> Option<Call> {
        if self.phase != Phase::Open {
            return None;
        }
        if let Some(batch) = self.sends.next() {
            return Some(Call::Send(batch));
        }
        match self.pushes.next(out.len())? {
            Step::Push(above) => Some(Call::Push { above }),
            Step::Notify => {
                Packet::empty(Command::Notify.number(), 0).encode(out);
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
        if command == Command::Sync {
            let reply = match answer {
                Ok(Reply::Sync(reply)) => Some(reply),
                _ => None,
            };
            self.pushes.sync_ended(reply);
        }
    }

    /// The outcome of [`Call::Send`].
    pub(crate) fn on_sent(&mut self, parts: Vec<(u32, usize)>, results: Vec<v1::SendResult>, out: &mut BytesMut) {
        self.in_flight -= parts.len();
        self.sends.done();
        for (sequence, reply) in sends::split(parts, results) {
            put_answer(out, Command::Send.number(), sequence, &Ok(Reply::Send(reply)));
        }
    }

    /// The outcome of [`Call::Push`].
    pub(crate) fn on_pushed(&mut self, above: Key, pushed: Result<Pushed, Refusal>, out: &mut BytesMut) {
        if let Some(delta) = self.pushes.pushed(above, pushed) {
            encode_message(out, Command::Delta.number(), 0, &delta);
        }
    }

    /// When [`Session::on_deadline`] has to be called, unless something is heard before.
    pub(crate) fn deadline(&self, settings: &Settings) -> Instant {
        match self.phase {
            Phase::Fresh => self.heard + settings.hello_wait,
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
            Phase::Greeting | Phase::Open | Phase::Closed(_) => {
                self.go_away(Ending::Silent, settings, out);
            }
        }
    }

    /// Closes the link after telling the client why and when to come back.
    pub(crate) fn go_away(&mut self, ending: Ending, settings: &Settings, out: &mut BytesMut) {
        let (reason, retry_after) = match ending {
            Ending::Displaced => (v1::GoAwayReason::Displaced, Duration::ZERO),
            Ending::Slow => (v1::GoAwayReason::Slow, settings.spread()),
            Ending::Silent => (v1::GoAwayReason::Silent, settings.spread()),
            _ => (v1::GoAwayReason::Shutdown, settings.spread()),
        };
        let body = v1::GoAway { reason: reason.into(), retry_after_ms: millis(retry_after) };
        encode_message(out, Command::GoAway.number(), 0, &body);
        self.close(ending);
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
        if self.ending().is_none() {
            self.phase = Phase::Closed(ending);
        }
    }
}

#[cfg(test)]
mod tests {
    use tern_proto::packet::decode;

    use super::*;

    struct Bench {
        session: Session,
        out: BytesMut,
        start: Instant,
        settings: Settings,
    }

    impl Bench {
        fn fresh() -> Bench {
            let start = Instant::now();
            Bench { session: Session::new(start), out: BytesMut::new(), start, settings: Settings::default() }
        }

        fn open() -> Bench {
            let mut bench = Bench::fresh();
            assert!(matches!(bench.packet(Command::Hello, 1, &hello()), Some(Call::Hello { sequence: 1, .. })));
            bench.session.on_greeted(1, Ok(v1::HelloReply::default()), bench.start, &mut bench.out);
            assert_eq!(bench.written(), [(Command::Hello.reply(), 1)]);
            bench
        }

        fn packet(&mut self, command: Command, sequence: u32, body: &impl prost::Message) -> Option<Call> {
            assert!(self.session.wants_packets());
            self.session.on_packet(&Packet::new(command.number(), sequence, body), &mut self.out)
        }

        /// Command and sequence of each packet written since the last call.
        fn written(&mut self) -> Vec<(u32, u32)> {
            self.packets().iter().map(|packet| (packet.command, packet.sequence)).collect()
        }

        fn packets(&mut self) -> Vec<Packet> {
            let mut packets = Vec::new();
            while let Some(packet) = decode(&mut self.out).unwrap() {
                packets.push(packet);
            }
            packets
        }

        /// The codes of the error packets written since the last call.
        fn codes(&mut self) -> Vec<v1::Code> {
            let error = |packet: Packet| <v1::Error as prost::Message>::decode(packet.body).unwrap().code();
            self.packets().into_iter().map(error).collect()
        }
    }

    fn hello() -> v1::HelloRequest {
        v1::HelloRequest { protocol: 1, ..Default::default() }
    }

    fn send(id: u64) -> v1::SendRequest {
        v1::SendRequest { messages: vec![v1::OutMessage { client_msg_id: id, ..Default::default() }] }
    }

    fn unavailable() -> Refusal {
        refusal(v1::Code::Unavailable, "the store is away")
    }

    #[test]
    fn anything_before_hello_closes() {
        let mut bench = Bench::fresh();
        assert_eq!(bench.packet(Command::Heartbeat, 1, &()), None);
        assert_eq!(bench.codes(), [v1::Code::HelloRequired]);
        assert_eq!(bench.session.ending(), Some(Ending::NoHello));
        assert!(!bench.session.wants_packets());
    }

    #[test]
    fn what_follows_a_hello_waits_for_its_outcome() {
        let mut bench = Bench::fresh();
        bench.packet(Command::Hello, 1, &hello());
        assert!(!bench.session.wants_packets());
        bench.session.on_greeted(1, Err(unavailable()), bench.start, &mut bench.out);
        assert_eq!(bench.codes(), [v1::Code::Unavailable]);
        assert_eq!(bench.session.ending(), None, "a hello may be tried again");
        assert!(bench.packet(Command::Hello, 2, &hello()).is_some());
        let refused = refusal(v1::Code::BadToken, "no");
        bench.session.on_greeted(2, Err(refused), bench.start, &mut bench.out);
        assert_eq!(bench.session.ending(), Some(Ending::HelloRefused));
    }

    #[test]
    fn a_second_hello_is_refused_and_the_link_stays() {
        let mut bench = Bench::open();
        assert_eq!(bench.packet(Command::Hello, 2, &hello()), None);
        assert_eq!(bench.codes(), [v1::Code::SecondHello]);
        assert_eq!(bench.packet(Command::Heartbeat, 3, &()), None);
        assert_eq!(bench.written(), [(Command::Heartbeat.reply(), 3)]);
    }

    #[test]
    fn sends_of_one_read_are_one_batch_and_one_is_in_flight() {
        let mut bench = Bench::open();
        for sequence in 2..5 {
            assert_eq!(bench.packet(Command::Send, sequence, &send(sequence.into())), None);
        }
        let Some(Call::Send(batch)) = bench.session.next_call(&mut bench.out) else { panic!("no batch") };
        assert_eq!(batch.parts, [(2, 1), (3, 1), (4, 1)]);
        bench.packet(Command::Send, 5, &send(5));
        assert_eq!(bench.session.next_call(&mut bench.out), None);
        assert!(bench.packet(Command::Ack, 6, &v1::AckRequest::default()).is_some(), "others do not wait");
        bench.session.on_sent(batch.parts, vec![v1::SendResult::default(); 3], &mut bench.out);
        assert_eq!(bench.written(), [2, 3, 4].map(|sequence| (Command::Send.reply(), sequence)));
        assert!(matches!(bench.session.next_call(&mut bench.out), Some(Call::Send(_))));
    }

    #[test]
    fn requests_without_a_reply_are_bounded() {
        let mut bench = Bench::open();
        for sequence in 0..limits::IN_FLIGHT as u32 {
            assert!(bench.packet(Command::Ack, sequence, &v1::AckRequest::default()).is_some());
        }
        assert!(!bench.session.wants_packets());
        bench.session.on_answer(Command::Ack, 0, &Err(unavailable()), &mut bench.out);
        assert!(bench.session.wants_packets());
        let mut bench = Bench::open();
        for sequence in 0..SYNCS as u32 {
            assert!(bench.packet(Command::Sync, sequence, &v1::SyncRequest::default()).is_some());
        }
        assert!(!bench.session.wants_packets());
    }

    #[test]
    fn a_hint_is_a_notify_before_a_sync_and_a_delta_after_it() {
        let mut bench = Bench::open();
        bench.session.on_hint();
        assert_eq!(bench.session.next_call(&mut bench.out), None);
        assert_eq!(bench.written(), [(Command::Notify.number(), 0)]);
        bench.packet(Command::Sync, 2, &v1::SyncRequest::default());
        let key = Key::at(1, [5, 0]);
        let reply = v1::SyncReply { key: Some((&key).into()), ..Default::default() };
        bench.session.on_answer(Command::Sync, 2, &Ok(Reply::Sync(reply)), &mut bench.out);
        bench.session.on_hint();
        assert_eq!(bench.session.next_call(&mut bench.out), Some(Call::Push { above: key }));
        let pushed = Pushed::Delta(vec![v1::Entry::default()], Key::at(1, [6, 0]));
        bench.session.on_pushed(key, Ok(pushed), &mut bench.out);
        assert_eq!(bench.written(), [(Command::Sync.reply(), 2), (Command::Delta.number(), 0)]);
    }

    #[test]
    fn deadlines_are_of_the_hello_then_of_the_silence() {
        let mut bench = Bench::fresh();
        let (start, settings) = (bench.start, bench.settings.clone());
        bench.session.heard(start + settings.hello_wait / 2);
        assert_eq!(
            bench.session.deadline(&settings),
            start + settings.hello_wait,
            "bytes that are no hello do not count"
        );
        bench.session.on_deadline(start + settings.hello_wait, &settings, &mut bench.out);
        assert_eq!(bench.codes(), [v1::Code::HelloTimeout]);
        let mut bench = Bench::open();
        let heard = start + settings.heartbeat;
        bench.session.heard(heard);
        bench.session.on_deadline(heard + settings.heartbeat * 2, &settings, &mut bench.out);
        assert_eq!(bench.session.ending(), None);
        bench.session.on_deadline(heard + settings.heartbeat * 5 / 2, &settings, &mut bench.out);
        assert_eq!(bench.session.ending(), Some(Ending::Silent));
        assert_eq!(bench.written(), [(Command::GoAway.number(), 0)]);
    }
}
