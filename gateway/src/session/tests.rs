//! The session without a link.

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

    fn go_away(&mut self, ending: Ending) {
        self.session.go_away(ending, self.start, &self.settings, &mut self.out);
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
    v1::SendRequest { messages: vec![v1::OutMessage { client_msg_id: id, ..Default::default() }], ..Default::default() }
}

fn unavailable() -> Refusal {
    refusal(v1::Code::Unavailable, "the store is away")
}

fn sent(messages: usize) -> Sent {
    Sent { results: vec![v1::SendResult::default(); messages], ..Sent::default() }
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
fn a_session_closed_during_its_hello_stays_closed() {
    for greeted in [Ok(v1::HelloReply::default()), Err(unavailable())] {
        let mut bench = Bench::fresh();
        bench.packet(Command::Hello, 1, &hello());
        bench.go_away(Ending::Shutdown);
        assert_eq!(bench.written(), [(Command::GoAway.number(), 0)]);
        bench.session.on_greeted(1, greeted, bench.start, &mut bench.out);
        assert_eq!(bench.session.ending(), Some(Ending::Shutdown));
        assert_eq!(bench.written(), []);
    }
}

#[test]
fn a_session_that_leaves_answers_what_it_took_and_no_more() {
    let mut bench = Bench::open();
    bench.packet(Command::Send, 2, &send(1));
    let Some(Call::Send(first)) = bench.session.next_call(&mut bench.out, &Counters::default()) else {
        panic!("no batch")
    };
    bench.packet(Command::Send, 3, &send(2));
    bench.packet(Command::Ack, 4, &v1::AckRequest::default());
    bench.go_away(Ending::Displaced);
    bench.go_away(Ending::Shutdown);
    assert_eq!(bench.written(), [(Command::GoAway.number(), 0)], "it is told once");
    assert!(!bench.session.wants_packets());
    bench.session.on_hint();
    bench.session.on_sent(first.parts, sent(1), &mut bench.out);
    let Some(Call::Send(second)) = bench.session.next_call(&mut bench.out, &Counters::default()) else {
        panic!("no batch")
    };
    bench.session.on_sent(second.parts, sent(1), &mut bench.out);
    assert_eq!(bench.session.next_call(&mut bench.out, &Counters::default()), None, "a hint is nothing to it any more");
    assert_eq!(bench.session.ending(), None);
    bench.session.on_answer(Command::Ack, 4, &Ok(Reply::Ack(v1::AckReply::default())), &mut bench.out);
    let answered = [(Command::Send.reply(), 2), (Command::Send.reply(), 3), (Command::Ack.reply(), 4)];
    assert_eq!(bench.written(), answered);
    assert_eq!(bench.session.ending(), Some(Ending::Displaced));
}

#[test]
fn leaving_is_bounded_in_time_and_ends_when_the_client_takes_nothing() {
    let leaving = || {
        let mut bench = Bench::open();
        bench.packet(Command::Ack, 2, &v1::AckRequest::default());
        bench.go_away(Ending::Shutdown);
        assert_eq!((bench.session.ending(), bench.written().len()), (None, 1));
        bench
    };
    let mut bench = leaving();
    let until = bench.session.deadline(&bench.settings);
    assert_eq!(until, bench.start + PARTING);
    bench.session.on_deadline(until, &bench.settings, &mut bench.out);
    assert_eq!((bench.session.ending(), bench.written()), (Some(Ending::Shutdown), vec![]));
    let mut bench = leaving();
    bench.go_away(Ending::Slow);
    assert_eq!((bench.session.ending(), bench.written()), (Some(Ending::Shutdown), vec![]));
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
    let Some(Call::Send(batch)) = bench.session.next_call(&mut bench.out, &Counters::default()) else {
        panic!("no batch")
    };
    assert_eq!(batch.parts, [(2, 1), (3, 1), (4, 1)]);
    bench.packet(Command::Send, 5, &send(5));
    assert_eq!(bench.session.next_call(&mut bench.out, &Counters::default()), None);
    assert!(bench.packet(Command::Ack, 6, &v1::AckRequest::default()).is_some(), "others do not wait");
    bench.session.on_sent(batch.parts, sent(3), &mut bench.out);
    assert_eq!(bench.written(), [2, 3, 4].map(|sequence| (Command::Send.reply(), sequence)));
    assert!(matches!(bench.session.next_call(&mut bench.out, &Counters::default()), Some(Call::Send(_))));
}

#[test]
fn a_chunk_is_no_request_and_goes_ahead_of_its_message() {
    let mut bench = Bench::open();
    assert_eq!(bench.packet(Command::Chunk, 0, &v1::Chunk::default()), None);
    assert_eq!(bench.session.next_call(&mut bench.out, &Counters::default()), None);
    bench.packet(Command::Send, 2, &send(1));
    let Some(Call::Send(batch)) = bench.session.next_call(&mut bench.out, &Counters::default()) else {
        panic!("no batch")
    };
    assert_eq!((batch.chunks.len(), &batch.parts[..]), (1, &[(2, 1)][..]));
    let stored = vec![v1::ChunksStored::default()];
    bench.session.on_sent(batch.parts, Sent { stored, ..sent(1) }, &mut bench.out);
    assert_eq!(bench.written(), [(Command::ChunksStored.number(), 0), (Command::Send.reply(), 2)]);
    bench.go_away(Ending::Shutdown);
    assert_eq!(bench.session.ending(), Some(Ending::Shutdown), "nothing waits for an answer");
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
    for command in [Command::Sync, Command::Conversations, Command::History, Command::Members] {
        let mut bench = Bench::open();
        for sequence in 0..PAGES.into() {
            assert!(bench.packet(command, sequence, &()).is_some());
        }
        assert!(!bench.session.wants_packets(), "{command:?}");
        bench.session.on_answer(command, 0, &Err(unavailable()), &mut bench.out);
        assert!(bench.session.wants_packets(), "{command:?}");
    }
}

#[test]
fn a_hint_is_a_notify_before_a_sync_and_a_delta_after_it() {
    let mut bench = Bench::open();
    bench.session.on_hint();
    assert_eq!(bench.session.next_call(&mut bench.out, &Counters::default()), None);
    assert_eq!(bench.written(), [(Command::Notify.number(), 0)]);
    bench.packet(Command::Sync, 2, &v1::SyncRequest::default());
    let key = Key::at(1, [5, 0]);
    let reply = v1::SyncReply { key: Some((&key).into()), ..Default::default() };
    bench.session.on_answer(Command::Sync, 2, &Ok(Reply::Sync(reply)), &mut bench.out);
    bench.session.on_hint();
    assert_eq!(bench.session.next_call(&mut bench.out, &Counters::default()), Some(Call::Push { above: key }));
    let pushed = Pushed::Delta(vec![v1::Entry::default()], Key::at(1, [6, 0]));
    bench.session.on_pushed(key, Ok(pushed), &mut bench.out, &Counters::default());
    assert_eq!(bench.written(), [(Command::Sync.reply(), 2), (Command::Delta.number(), 0)]);
}

#[test]
fn deadlines_are_of_the_hello_then_of_the_silence() {
    let mut bench = Bench::fresh();
    let (start, settings) = (bench.start, bench.settings.clone());
    bench.session.heard(start + settings.hello_wait / 2);
    assert_eq!(bench.session.deadline(&settings), start + settings.hello_wait, "bytes that are no hello do not count");
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
