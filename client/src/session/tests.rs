//! The session with literal packets and a clock of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_proto::{Command, Key, Packet, UserId, v1};

use super::{Action, Leave, Profile, Session};
use crate::clip::{Batch, Clip};
use crate::message::Fate;
use crate::options::Receive;
use crate::queries::QueryError;

const SECOND: Duration = Duration::from_secs(1);

/// A session and what it did.
struct Run {
    session: Session,
    now: Instant,
}

fn profile(receive: Receive, poll: Option<Duration>) -> Profile {
    Profile {
        user: UserId::new("alice").unwrap(),
        token: "JWT".into(),
        device_id: "d1".into(),
        client_name: "demo/1".into(),
        start: v1::Start::Oldest,
        receive,
        ask_every: 90 * SECOND,
        poll,
    }
}

fn key(messages: u64) -> Key {
    Key::at(7, [messages, 0])
}

fn wire(key: Key) -> Option<v1::SyncKey> {
    Some(v1::SyncKey::from(&key))
}

impl Run {
    fn new(profile: Profile, key: Option<Key>) -> Run {
        let now = Instant::now();
        Run { session: Session::new(profile, key, now, fastrand::Rng::with_seed(1)), now }
    }

    /// A session whose hello is answered, at key 10, with nothing pending.
    fn open() -> Run {
        let mut run = Run::new(profile(Receive::All, None), Some(key(10)));
        run.hello(v1::HelloReply::default());
        run.actions();
        run
    }

    /// [`Run::open`] after a first sync, so that deltas may come.
    fn synced() -> Run {
        let mut run = Run::open();
        run.push(Command::Notify, &());
        run.answer(&v1::SyncReply { key: wire(key(10)), ..Default::default() });
        run.actions();
        run
    }

    fn hello(&mut self, reply: v1::HelloReply) {
        let reply = v1::HelloReply { user: "alice".into(), heartbeat_ms: 270_000, ..reply };
        self.session.on_packet(&Packet::new(Command::Hello.reply(), 1, &reply), self.now);
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.session.next_action()).collect()
    }

    /// The packets among the actions.
    fn packets(&mut self) -> Vec<Packet> {
        self.actions()
            .into_iter()
            .filter_map(|action| if let Action::Transmit(packet) = action { Some(packet) } else { None })
            .collect()
    }

    fn commands(&mut self) -> Vec<Command> {
        self.packets().iter().map(|packet| packet.known_command().unwrap()).collect()
    }

    fn push(&mut self, command: Command, body: &impl prost::Message) {
        self.session.on_packet(&Packet::new(command.number(), 0, body), self.now);
    }

    /// Answers the request that was sent last.
    fn answer(&mut self, reply: &impl prost::Message) {
        let last = self.session.in_flight.last().unwrap();
        let packet = Packet::new(last.request.command().reply(), last.sequence, reply);
        self.session.on_packet(&packet, self.now);
    }

    fn refuse(&mut self, code: v1::Code, retry_after_ms: u32) {
        let sequence = self.session.in_flight.last().unwrap().sequence;
        let error = v1::Error { code: code.into(), retry_after_ms, ..Default::default() };
        self.session.on_packet(&Packet::new(Command::Error.number(), sequence, &error), self.now);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.session.on_tick(self.now);
    }

    fn send(&mut self, ids: &[u64]) {
        assert!(self.session.wants_batch(self.now));
        let message =
            |id: &u64| v1::OutMessage { client_msg_id: *id, to: "bob".into(), text: "hi".into(), ..Default::default() };
        let messages = ids.iter().map(message).collect();
        self.session.send(Batch { messages, clip: None }, self.now);
    }
}

fn decode<T: prost::Message + Default>(packet: &Packet) -> T {
    T::decode(packet.body.clone()).unwrap()
}

fn message(version: u64) -> v1::Entry {
    let message = v1::Message { server_msg_id: version, ..Default::default() };
    v1::Entry { class: 1, version, body: Some(v1::entry::Body::Message(message)) }
}

fn delta(before: Key, after: Key) -> v1::Delta {
    v1::Delta { before: wire(before), entries: vec![message(after.versions[0].unwrap())], after: wire(after) }
}

fn order(order: v1::KeyOrder, key: Key) -> v1::CheckReply {
    v1::CheckReply { pending: false, key_order: order.into(), key: wire(key) }
}

#[test]
fn hello_presents_the_key_and_syncs_what_is_pending() {
    let mut run = Run::new(profile(Receive::All, None), Some(key(10)));
    let packets = run.packets();
    let hello: v1::HelloRequest = decode(&packets[0]);
    assert_eq!((packets.len(), packets[0].command, hello.protocol), (1, 1001, 1));
    assert_eq!((hello.token.as_str(), hello.device_id.as_str(), hello.peek), ("JWT", "d1", false));
    assert_eq!(hello.key, wire(key(10)));
    assert!(!run.session.wants_batch(run.now), "nothing before the hello is answered");

    run.hello(v1::HelloReply { pending: true, highest_client_msg_id: 40, ..Default::default() });
    let actions = run.actions();
    assert_eq!(actions[..3], [Action::Opened, Action::GoOnAbove(40), Action::CaughtUp(false)]);
    let Action::Transmit(sync) = &actions[3] else { panic!("{actions:?}") };
    assert_eq!(decode::<v1::SyncRequest>(sync), v1::SyncRequest { key: wire(key(10)), peek: false, limit: 0 });
    assert!(run.session.wants_batch(run.now));
}

#[test]
fn the_token_of_another_user_ends_the_link_before_anything_is_sent() {
    let mut run = Run::new(profile(Receive::All, None), Some(key(10)));
    run.actions();
    let reply = v1::HelloReply { user: "carol".into(), pending: true, ..Default::default() };
    run.session.on_packet(&Packet::new(Command::Hello.reply(), 1, &reply), run.now);
    assert_eq!(run.actions(), [Action::Leave(Leave::OtherUser("carol".into()))]);
    assert!(!run.session.wants_batch(run.now));
}

#[test]
fn pages_are_applied_before_their_keys_are_presented_and_the_last_is_acknowledged() {
    let mut run = Run::open();
    run.push(Command::Notify, &());
    assert_eq!(run.commands(), [Command::Sync]);
    run.answer(&v1::SyncReply { entries: vec![message(11)], key: wire(key(11)), more: vec![1], key_order: 0 });
    let actions = run.actions();
    assert_eq!(actions[0], Action::Apply(vec![message(11)], key(11)));
    let Action::Transmit(sync) = &actions[2] else { panic!("{actions:?}") };
    assert_eq!(decode::<v1::SyncRequest>(sync).key, wire(key(11)), "the next page acknowledges this one");

    run.answer(&v1::SyncReply { entries: vec![message(12)], key: wire(key(12)), more: vec![], key_order: 0 });
    let actions = run.actions();
    assert_eq!(actions[..2], [Action::Apply(vec![message(12)], key(12)), Action::CaughtUp(true)]);
    let Action::Transmit(ack) = &actions[2] else { panic!("{actions:?}") };
    assert_eq!((ack.command, decode::<v1::AckRequest>(ack).key), (1003, wire(key(12))));
    run.answer(&v1::AckReply::default());
    assert_eq!(run.actions(), []);
}

#[test]
fn a_key_never_goes_back() {
    let mut run = Run::open();
    run.push(Command::Notify, &());
    run.answer(&v1::SyncReply { entries: vec![], key: wire(Key::at(7, [4, 3])), ..Default::default() });
    assert!(run.actions().contains(&Action::Apply(vec![], Key::at(7, [10, 3]))));
}

#[test]
fn a_delta_applies_only_at_the_key() {
    let mut run = Run::synced();
    run.push(Command::Delta, &delta(key(10), key(11)));
    run.push(Command::Delta, &delta(key(11), key(12)));
    let actions = run.actions();
    assert_eq!(actions[0], Action::Apply(vec![message(11)], key(11)));
    assert_eq!(actions[2], Action::Apply(vec![message(12)], key(12)), "several may be in flight");
    assert!(matches!(&actions[1], Action::Transmit(ack) if ack.command == 1003));
    assert_eq!(actions.len(), 3, "one acknowledgement at a time");
    run.answer(&v1::AckReply::default());
    let acks = run.packets();
    assert_eq!(decode::<v1::AckRequest>(&acks[0]).key, wire(key(12)), "the later key after the earlier's reply");

    for stray in [delta(key(11), key(12)), delta(key(13), key(14))] {
        let mut run = Run::synced();
        run.push(Command::Delta, &stray);
        assert_eq!(run.commands(), [Command::Sync], "doubled or lost: {stray:?}");
    }
}

#[test]
fn a_hint_during_a_sync_means_one_more() {
    for hint in [Command::Notify, Command::Delta] {
        let mut run = Run::open();
        run.push(Command::Notify, &());
        run.actions();
        for _ in 0..2 {
            match hint {
                Command::Delta => run.push(hint, &delta(key(10), key(11))),
                _ => run.push(hint, &()),
            }
        }
        assert_eq!(run.actions(), [], "not now");
        run.answer(&v1::SyncReply { key: wire(key(10)), ..Default::default() });
        assert_eq!(run.commands(), [Command::Sync], "{hint:?}");
        run.answer(&v1::SyncReply { key: wire(key(10)), ..Default::default() });
        assert_eq!(run.commands(), [], "one more, not two");
    }
}

#[test]
fn orders_replace_the_key_as_a_whole() {
    let mut run = Run::new(profile(Receive::All, None), None);
    run.actions();
    run.hello(v1::HelloReply {
        key_order: v1::KeyOrder::Start.into(),
        key: wire(key(0)),
        pending: true,
        ..Default::default()
    });
    let actions = run.actions();
    assert_eq!(actions[2], Action::ReplaceKey(key(0)));
    assert!(matches!(&actions[4], Action::Transmit(sync) if decode::<v1::SyncRequest>(sync).key == wire(key(0))));

    let mut run = Run::open();
    run.wait(90 * SECOND);
    assert_eq!(run.commands(), [Command::Check]);
    run.answer(&order(v1::KeyOrder::ReplaceEpoch, Key::at(8, [3, 2])));
    assert!(run.actions().contains(&Action::ReplaceKey(Key::at(8, [3, 2]))), "to a smaller one of another epoch");
    run.wait(SECOND);
    let sync = run.packets();
    assert_eq!(decode::<v1::SyncRequest>(&sync[0]).key, wire(Key::at(8, [3, 2])), "and then it syncs");
}

#[test]
fn another_epoch_without_an_order_ends_the_link() {
    let mut run = Run::open();
    run.push(Command::Notify, &());
    run.answer(&v1::SyncReply { key: wire(Key::at(8, [1, 1])), ..Default::default() });
    assert!(matches!(run.actions().pop(), Some(Action::Leave(Leave::Broken(_)))));
}

#[test]
fn peeking_acknowledges_nothing() {
    let mut run = Run::new(profile(Receive::Peek, None), Some(key(10)));
    assert!(decode::<v1::HelloRequest>(&run.packets()[0]).peek);
    run.hello(v1::HelloReply { pending: true, ..Default::default() });
    assert!(decode::<v1::SyncRequest>(&run.packets()[0]).peek);
    run.answer(&v1::SyncReply { entries: vec![message(11)], key: wire(key(11)), ..Default::default() });
    assert_eq!(run.commands(), [], "no acknowledgement");
    run.wait(90 * SECOND);
    assert!(decode::<v1::CheckRequest>(&run.packets()[0]).peek);
}

#[test]
fn a_device_that_only_sends_leaves_entries_alone() {
    let mut run = Run::new(profile(Receive::Nothing, None), None);
    assert!(decode::<v1::HelloRequest>(&run.packets()[0]).peek);
    run.hello(v1::HelloReply {
        key_order: v1::KeyOrder::Start.into(),
        key: wire(key(5)),
        pending: true,
        ..Default::default()
    });
    run.push(Command::Notify, &());
    run.push(Command::Delta, &delta(key(5), key(6)));
    run.wait(100 * SECOND);
    assert_eq!(run.actions(), [Action::Opened, Action::GoOnAbove(0)]);
}

#[test]
fn one_batch_at_a_time_and_results_in_their_order() {
    let mut run = Run::open();
    run.send(&[1, 2]);
    assert_eq!(run.commands(), [Command::Send]);
    assert!(!run.session.wants_batch(run.now));
    assert_eq!(run.session.unanswered(), [1, 2]);
    let result = |id| v1::SendResult { client_msg_id: id, ..Default::default() };
    run.answer(&v1::SendReply { results: vec![result(1), result(2)] });
    assert_eq!(run.actions(), [Action::Settle(vec![result(1), result(2)])]);
    assert!(run.session.wants_batch(run.now));
    assert!(run.session.unanswered().is_empty());

    run.send(&[3]);
    run.actions();
    run.answer(&v1::SendReply { results: vec![result(4)] });
    assert!(matches!(run.actions()[..], [Action::Leave(Leave::Broken(_))]), "another message's result");
}

#[test]
fn retryable_answers_hold_the_outbox_with_growing_waits() {
    let mut run = Run::open();
    run.send(&[1, 2]);
    let result = |id, code: v1::Code| v1::SendResult { client_msg_id: id, code: code.into(), ..Default::default() };
    let busy = v1::SendResult { retry_after_ms: 2_000, ..result(1, v1::Code::Busy) };
    run.answer(&v1::SendReply { results: vec![busy, result(2, v1::Code::Ok)] });
    assert!(!run.session.wants_batch(run.now + SECOND));
    assert_eq!(run.session.deadline(run.now), Some(run.now + 2 * SECOND));
    run.wait(2 * SECOND);
    run.send(&[1]);
    run.actions();
    run.refuse(v1::Code::Unavailable, 0);
    let settled = run.actions();
    assert_eq!(settled, [Action::Settle(vec![result(1, v1::Code::Unavailable)])], "the request as a whole");
    assert!(!run.session.wants_batch(run.now + SECOND / 2));
    assert!(run.session.wants_batch(run.now + SECOND));
}

#[test]
fn an_error_for_the_whole_batch_settles_no_message() {
    for code in [0, v1::Code::Conflict.into(), v1::Code::BadBody.into(), 9_999] {
        let mut run = Run::open();
        run.send(&[1]);
        run.actions();
        let sequence = run.session.in_flight.last().unwrap().sequence;
        let error = v1::Error { code, ..Default::default() };
        run.session.on_packet(&Packet::new(Command::Error.number(), sequence, &error), run.now);
        let Some(Action::Settle(results)) = run.actions().pop() else { panic!("{code}") };
        assert_eq!(Fate::of(results[0].code), Fate::Again, "{code}");
        assert!(!run.session.wants_batch(run.now));
    }
}

#[test]
fn one_query_at_a_time_and_its_reply_as_it_is() {
    let mut run = Run::open();
    assert!(run.session.wants_query(run.now));
    run.session.query(5, Command::Members, Bytes::from_static(b"asked"), run.now);
    let packets = run.packets();
    assert_eq!((packets[0].known_command(), &packets[0].body[..]), (Some(Command::Members), &b"asked"[..]));
    assert!(!run.session.wants_query(run.now) && !run.session.is_idle());
    let reply = v1::MembersReply { title: "Trip".into(), ..Default::default() };
    run.answer(&reply);
    assert_eq!(run.actions(), [Action::Answered(5, Ok(prost::Message::encode_to_vec(&reply).into()))]);
    assert!(run.session.wants_query(run.now) && run.session.is_idle());
}

#[test]
fn a_refused_query_is_answered_and_an_unavailable_one_is_asked_again_later() {
    let mut run = Run::open();
    run.session.query(5, Command::History, Bytes::new(), run.now);
    run.actions();
    run.refuse(v1::Code::Unavailable, 3_000);
    assert_eq!(run.actions(), [Action::NotAnswered(5, "CODE_UNAVAILABLE")]);
    assert!(!run.session.wants_query(run.now));
    assert_eq!(run.session.deadline(run.now), Some(run.now + 3 * SECOND));
    run.wait(3 * SECOND);
    assert!(run.session.wants_query(run.now));

    run.session.query(5, Command::History, Bytes::new(), run.now);
    run.actions();
    run.refuse(v1::Code::NotAMember, 0);
    let refused = QueryError::Refused { code: v1::Code::NotAMember, message: String::new() };
    assert_eq!(run.actions(), [Action::Answered(5, Err(refused))], "and the link stays");
    assert!(run.session.wants_query(run.now));
}

#[test]
fn silence_is_filled_with_heartbeats_and_checks() {
    let mut run = Run::open();
    let start = run.now;
    let mut sent = Vec::new();
    for _ in 0..100 {
        let due = run.session.deadline(run.now).unwrap();
        if due > start + 300 * SECOND {
            break;
        }
        run.now = due;
        run.session.on_tick(due);
        for command in run.commands() {
            sent.push(((run.now - start).as_secs(), command));
            match command {
                Command::Check => run.answer(&v1::CheckReply::default()),
                _ => run.answer(&()),
            }
        }
        run.actions();
    }
    assert_eq!(sent, [(90, Command::Check), (180, Command::Check), (270, Command::Check)], "a check is no silence");

    let mut run = Run::new(profile(Receive::Nothing, None), None);
    run.hello(v1::HelloReply::default());
    run.actions();
    assert_eq!(run.session.deadline(run.now), Some(run.now + 270 * SECOND));
    run.wait(270 * SECOND);
    let packets = run.packets();
    assert_eq!((packets.len(), packets[0].command, packets[0].encoded_len()), (1, 6, 16));
}

#[test]
fn a_request_without_a_reply_ends_the_link() {
    let mut run = Run::open();
    run.send(&[1]);
    run.actions();
    assert_eq!(run.session.deadline(run.now), Some(run.now + 15 * SECOND));
    run.wait(14 * SECOND);
    assert_eq!(run.actions(), []);
    run.wait(SECOND);
    assert_eq!(run.actions(), [Action::Leave(Leave::NoReply)]);
    assert_eq!(run.session.unanswered(), [1]);
    run.push(Command::Notify, &());
    assert_eq!(run.actions(), [], "nothing after the end");
}

#[test]
fn go_aways_and_closing_errors_end_the_link() {
    let go_away = |reason: v1::GoAwayReason| v1::GoAway { reason: reason.into(), retry_after_ms: 2_500 };
    let mut run = Run::open();
    run.push(Command::GoAway, &go_away(v1::GoAwayReason::Displaced));
    assert_eq!(run.actions(), [Action::Leave(Leave::Displaced)]);

    let mut run = Run::open();
    run.push(Command::GoAway, &go_away(v1::GoAwayReason::Shutdown));
    let wait = Duration::from_millis(2_500);
    assert_eq!(run.actions(), [Action::Leave(Leave::GoAway(v1::GoAwayReason::Shutdown, wait))]);

    let mut run = Run::new(profile(Receive::All, None), None);
    run.actions();
    run.refuse(v1::Code::TokenExpired, 0);
    assert!(matches!(run.actions()[..], [Action::Leave(Leave::Refused { code: v1::Code::TokenExpired, .. })]));
}

#[test]
fn unknown_commands_and_stray_replies_are_ignored() {
    let mut run = Run::open();
    for packet in [Packet::empty(4_242, 0), Packet::empty(Command::Sync.reply(), 77), Packet::empty(4_242, 77)] {
        run.session.on_packet(&packet, run.now);
    }
    assert_eq!(run.actions(), []);
}

#[test]
fn a_server_that_cannot_answer_a_sync_is_asked_again_later() {
    let mut run = Run::open();
    run.push(Command::Notify, &());
    run.actions();
    run.refuse(v1::Code::Unavailable, 3_000);
    assert_eq!(run.actions(), []);
    assert_eq!(run.session.deadline(run.now), Some(run.now + 3 * SECOND));
    run.wait(3 * SECOND);
    assert_eq!(run.commands(), [Command::Sync]);
}

#[test]
fn an_application_that_is_behind_stops_the_fetching() {
    let mut run = Run::synced();
    run.session.set_full(true, run.now);
    run.push(Command::Delta, &delta(key(10), key(11)));
    run.push(Command::Notify, &());
    assert_eq!(run.commands(), []);
    run.session.set_full(false, run.now);
    let sync = run.packets();
    assert_eq!(decode::<v1::SyncRequest>(&sync[0]).key, wire(key(10)), "nothing was skipped");
}

#[test]
fn the_short_link_waits_in_checks() {
    let mut run = Run::new(profile(Receive::All, Some(30 * SECOND)), Some(key(10)));
    run.actions();
    run.hello(v1::HelloReply::default());
    let packets = run.packets();
    assert_eq!(decode::<v1::CheckRequest>(&packets[0]).wait_ms, 30_000);
    assert_eq!(run.session.deadline(run.now), Some(run.now + 45 * SECOND), "the wait and the reply's time");
    run.send(&[1]);
    assert_eq!(run.commands(), [Command::Send], "sends do not wait for it");
    run.answer(&v1::SendReply { results: vec![v1::SendResult { client_msg_id: 1, ..Default::default() }] });
    assert!(run.session.is_idle());

    run.now += 10 * SECOND;
    run.answer(&v1::CheckReply { pending: true, ..Default::default() });
    assert_eq!(run.commands(), [Command::Sync]);
    run.answer(&v1::SyncReply { entries: vec![message(11)], key: wire(key(11)), ..Default::default() });
    let packets = run.packets();
    assert_eq!(packets.iter().map(|p| p.command).collect::<Vec<_>>(), [1002, 1003]);
    run.answer(&v1::AckReply::default());
    run.answer(&v1::CheckReply::default());
    assert_eq!(run.commands(), [], "a server that does not wait is not asked without pause");
    run.wait(SECOND / 2);
    assert_eq!(run.commands(), [Command::Check]);
}

fn speak(run: &mut Run, chunks: usize, stored: u32) {
    let begin = v1::MediaBegin { sha256: "ab".into(), ..Default::default() };
    let clip = Some(Clip { begin, bytes: vec![7; chunks * 1_536].into(), stored });
    let messages = vec![v1::OutMessage { client_msg_id: 5, to: "bob".into(), ..Default::default() }];
    run.session.send(Batch { messages, clip }, run.now);
}

#[test]
fn a_clip_of_two_seconds_is_two_packets_and_one_reply() {
    let mut run = Run::open();
    speak(&mut run, 2, 0);
    let packets = run.packets();
    let commands: Vec<_> = packets.iter().map(|packet| packet.known_command().unwrap()).collect();
    assert_eq!(commands, [Command::Chunk, Command::Send]);
    assert_eq!((decode::<v1::Chunk>(&packets[0]).index, packets[0].sequence), (0, 0));
    let sent: v1::SendRequest = decode(&packets[1]);
    assert_eq!(sent.messages[0].chunk.as_ref().unwrap().index, 1);
    assert!(!run.session.wants_batch(run.now) && !run.session.is_idle());
    let result = v1::SendResult { client_msg_id: 5, ..Default::default() };
    run.answer(&v1::SendReply { results: vec![result] });
    assert!(run.actions().iter().any(|action| matches!(action, Action::Settle(_))));
    assert!(run.session.wants_batch(run.now) && run.session.is_idle());
}

#[test]
fn a_long_clip_goes_on_as_it_is_told_and_ends_with_its_message() {
    let mut run = Run::open();
    speak(&mut run, 50, 0);
    assert_eq!(run.commands(), [Command::Chunk; 32]);
    assert_eq!(run.session.unanswered(), [5]);
    assert!(!run.session.wants_batch(run.now) && !run.session.is_idle());
    run.push(Command::ChunksStored, &v1::ChunksStored { sha256: "ab".into(), chunks: 24 });
    let actions = run.actions();
    assert!(actions.contains(&Action::ClipStored(5, 24, 50)));
    assert_eq!(actions.len(), 1 + 17 + 1, "49 chunks are out, and the message with the last one");
    assert!(!run.session.wants_batch(run.now) && run.session.unanswered() == [5]);
    let mut run = Run::open();
    speak(&mut run, 50, 40);
    assert_eq!(run.commands().len(), 10, "it goes on from what was stored");
    let mut run = Run::open();
    speak(&mut run, 50, 0);
    run.actions();
    run.wait(15 * SECOND);
    assert_eq!(run.commands(), [Command::Send], "nothing is heard of it, so the message asks why");
    run.wait(15 * SECOND);
    assert!(run.actions().contains(&Action::Leave(Leave::NoReply)));
}
