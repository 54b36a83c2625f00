use super::*;
use crate::wire::next_packet;

fn key(version: u64) -> v1::SyncKey {
    v1::SyncKey { epoch: 9, classes: vec![v1::Position { class: 1, version }] }
}

fn message(sender: u32, number: u64, version: u64) -> v1::Entry {
    let mut text = String::new();
    Stamp { sender, number, sent_at: 1_000_000 }.write(&mut text, 50);
    let message = v1::Message { text, ..Default::default() };
    v1::Entry { class: 1, version, body: Some(v1::entry::Body::Message(message)) }
}

fn page(entries: Vec<v1::Entry>, after: u64, more: Vec<u32>) -> v1::SyncReply {
    v1::SyncReply { entries, key: Some(key(after)), more, key_order: 0 }
}

fn delta(before: u64, entries: Vec<v1::Entry>, after: u64) -> v1::Delta {
    v1::Delta { before: Some(key(before)), entries, after: Some(key(after)) }
}

/// A phone that gets texts from the senders 7 and 8, and what it has written.
struct Stage {
    phone: Phone,
    tally: Rc<RefCell<Tally>>,
    out: Vec<u8>,
}

impl Stage {
    fn new() -> Stage {
        let tally = Rc::<RefCell<Tally>>::default();
        let identity = Identity { user: "bob".into(), token: "JWT".into() };
        Stage { phone: Phone::new(identity, 7, 2, Rc::clone(&tally)), tally, out: Vec::new() }
    }

    /// One that has said hello and synced, at version 4.
    fn ready() -> Stage {
        let mut stage = Stage::new();
        stage.phone.open(&mut stage.out).unwrap();
        let hello = v1::HelloReply { key_order: 1, key: Some(key(4)), ..Default::default() };
        stage.gets(Command::Hello.reply(), &hello).unwrap();
        stage.gets(Command::Sync.reply(), &page(vec![], 4, vec![])).unwrap();
        stage.tally.borrow_mut().measure_from(0);
        stage.out.clear();
        stage
    }

    fn gets(&mut self, command: u32, body: &impl Message) -> Result<(), Trouble> {
        let body = body.encode_to_vec();
        self.phone.on_packet(&Packet { command, sequence: 0, body: &body }, 3_000_000, &mut self.out)
    }

    /// What was written since the last time: commands, and the version of the key in each.
    fn said(&mut self) -> Vec<(u32, Option<u64>)> {
        let (out, mut said) = (std::mem::take(&mut self.out), Vec::new());
        let mut input = &out[..];
        while let Some(packet) = next_packet(&mut input).unwrap() {
            let key = v1::AckRequest::decode(packet.body).ok().and_then(|request| request.key);
            said.push((packet.command, key.map(|key| key.classes[0].version)));
        }
        said
    }

    fn delivered(&self) -> u64 {
        self.tally.borrow().counts.delivered
    }
}

const SYNC: u32 = Command::Sync.number();
const ACK: u32 = Command::Ack.number();
const DELTA: u32 = Command::Delta.number();

#[test]
fn it_syncs_until_there_is_no_more_and_acknowledges_each_page() {
    let mut stage = Stage::new();
    stage.phone.open(&mut stage.out).unwrap();
    assert_eq!(stage.said()[0].0, Command::Hello.number());
    let hello = v1::HelloReply { key_order: 1, key: Some(key(4)), ..Default::default() };
    stage.gets(Command::Hello.reply(), &hello).unwrap();
    assert_eq!(stage.said(), [(SYNC, Some(4))]);
    stage.gets(Command::Sync.reply(), &page(vec![message(7, 1, 5)], 5, vec![1])).unwrap();
    assert_eq!(stage.said(), [(SYNC, Some(5))], "the next sync acknowledges the page");
    assert!(!stage.phone.is_ready());
    stage.gets(Command::Sync.reply(), &page(vec![message(7, 2, 6)], 6, vec![])).unwrap();
    assert_eq!(stage.said(), [(ACK, Some(6))]);
    assert!(stage.phone.is_ready() && !stage.phone.is_quiet(), "the ack is not answered");
    stage.gets(Command::Ack.reply(), &v1::AckReply::default()).unwrap();
    assert!(stage.phone.is_quiet());
    assert_eq!(
        (stage.delivered(), stage.phone.faults(|sender| if sender == 7 { 2 } else { 0 })),
        (2, Faults::default())
    );

    stage.phone.hang_up();
    stage.phone.open(&mut stage.out).unwrap();
    stage.gets(Command::Hello.reply(), &v1::HelloReply::default()).unwrap();
    assert_eq!(stage.said()[1], (SYNC, Some(6)), "it comes back with its key");
}

#[test]
fn a_delta_counts_only_on_top_of_its_key() {
    let mut stage = Stage::ready();
    stage.gets(DELTA, &delta(4, vec![message(7, 1, 5)], 5)).unwrap();
    stage.gets(DELTA, &delta(5, vec![message(8, 1, 6)], 6)).unwrap();
    assert_eq!(stage.said(), [(ACK, Some(5)), (ACK, Some(6))]);
    stage.gets(DELTA, &delta(5, vec![message(8, 1, 6)], 6)).unwrap();
    assert_eq!((stage.said(), stage.delivered()), (vec![(SYNC, Some(6))], 2));
    stage.gets(Command::Notify.number(), &v1::AckReply::default()).unwrap();
    stage.gets(DELTA, &delta(6, vec![message(7, 2, 7)], 7)).unwrap();
    assert_eq!((stage.said(), stage.delivered()), (vec![], 2), "a sync is under way");
    stage.gets(Command::Sync.reply(), &page(vec![message(7, 2, 7)], 7, vec![])).unwrap();
    assert_eq!(stage.said(), [(SYNC, Some(7))], "one more for the hints that came meanwhile");
    assert_eq!((stage.delivered(), stage.tally.borrow().counts.pushes), (3, 5));
}

#[test]
fn what_came_twice_never_or_late_is_a_fault() {
    let mut stage = Stage::ready();
    let entries = vec![message(7, 2, 5), message(7, 1, 6), message(8, 1, 7), message(8, 1, 8)];
    stage.gets(DELTA, &delta(4, entries, 8)).unwrap();
    assert_eq!(stage.phone.faults(|_| 3), Faults { lost: 3, duplicated: 1, out_of_order: 1 });
}

#[test]
fn whatever_voids_the_run_is_told() {
    let fails = |command, body: &dyn Fn(&mut Stage, u32) -> Result<(), Trouble>| {
        let mut stage = Stage::ready();
        body(&mut stage, command).unwrap_err().to_string()
    };
    let foreign = fails(DELTA, &|stage, command| stage.gets(command, &delta(4, vec![message(9, 1, 5)], 5)));
    assert!(foreign.contains("nobody of this run"), "{foreign}");
    let order = fails(Command::Ack.reply(), &|stage, command| {
        stage.gets(command, &v1::AckReply { key_order: v1::KeyOrder::ReplaceAhead.into(), key: Some(key(1)) })
    });
    assert!(order.contains("replace"), "{order}");
    let error = fails(Command::Error.number(), &|stage, command| {
        stage.gets(command, &v1::Error { code: v1::Code::Busy.into(), message: "later".into(), ..Default::default() })
    });
    assert_eq!(error, "CODE_BUSY: later");
    let away = fails(Command::GoAway.number(), &|stage, command| {
        stage.gets(command, &v1::GoAway { reason: v1::GoAwayReason::Slow.into(), retry_after_ms: 0 })
    });
    assert!(away.contains("GO_AWAY_REASON_SLOW"), "{away}");
}

/// Numbers and texts' stamps of the sends that were written, by packet.
fn sends(out: &mut Vec<u8>) -> Vec<Vec<(u64, Stamp)>> {
    let (out, mut sends) = (std::mem::take(out), Vec::new());
    let mut input = &out[..];
    while let Some(packet) = next_packet(&mut input).unwrap() {
        assert_eq!(packet.command, Command::Send.number());
        let request = v1::SendRequest::decode(packet.body).unwrap();
        let stamp = |message: &v1::OutMessage| Stamp::read(message.text.as_bytes()).unwrap();
        sends.push(request.messages.iter().map(|message| (message.client_msg_id, stamp(message))).collect());
    }
    sends
}

fn results(codes: &[(u64, v1::Code)]) -> v1::SendReply {
    let result = |&(client_msg_id, code): &(u64, v1::Code)| v1::SendResult {
        client_msg_id,
        code: code.into(),
        ..Default::default()
    };
    v1::SendReply { results: codes.iter().map(result).collect() }
}

#[test]
fn a_window_is_kept_full_and_a_schedule_is_kept_whatever_the_answers_do() {
    let mut stage = Stage::ready();
    let mut outbox = Outbox::new(7, "alice".into(), 100);
    outbox.window = 2;
    stage.phone.outbox = Some(outbox);
    stage.phone.pump(1_000_000, &mut stage.out).unwrap();
    let stamp = |number, sent_at| (number, Stamp { sender: 7, number, sent_at });
    assert_eq!(sends(&mut stage.out), [vec![stamp(1, 1_000_000)], vec![stamp(2, 1_000_000)]]);
    stage.phone.pump(1_500_000, &mut stage.out).unwrap();
    assert!(stage.out.is_empty() && !stage.phone.is_quiet());

    stage.gets(Command::Send.reply(), &results(&[(2, v1::Code::Ok)])).unwrap();
    stage.phone.pump(3_000_000, &mut stage.out).unwrap();
    assert_eq!(sends(&mut stage.out), [vec![stamp(3, 3_000_000)]]);
    let outbox = stage.phone.outbox.as_mut().unwrap();
    (outbox.window, outbox.due) = (0, [2_000_000, 2_500_000].into());
    stage.phone.pump(3_000_000, &mut stage.out).unwrap();
    assert_eq!(sends(&mut stage.out), [vec![stamp(4, 2_000_000)], vec![stamp(5, 2_500_000)]], "by the scheduled time");

    stage.gets(Command::Send.reply(), &results(&[1, 3, 4, 5].map(|number| (number, v1::Code::Ok)))).unwrap();
    assert!(stage.phone.is_quiet());
    assert!(stage.gets(Command::Send.reply(), &results(&[(5, v1::Code::Ok)])).is_err(), "nothing asks for it");
    assert_eq!(stage.tally.borrow_mut().ack.spread().unwrap().p99, 2.0);
    assert_eq!(stage.tally.borrow().counts.acked, 5);
}

#[test]
fn a_batch_goes_in_one_packet_and_ends_with_what_is_left() {
    let mut stage = Stage::ready();
    let mut outbox = Outbox::new(7, "alice".into(), 100);
    (outbox.window, outbox.batch, outbox.left) = (8, 4, 6);
    stage.phone.outbox = Some(outbox);
    stage.phone.pump(0, &mut stage.out).unwrap();
    assert_eq!(sends(&mut stage.out).iter().map(Vec::len).collect::<Vec<_>>(), [4, 2]);
    let refused = stage.gets(Command::Send.reply(), &results(&[(1, v1::Code::Unavailable)])).unwrap_err();
    assert!(refused.to_string().contains("CODE_UNAVAILABLE"), "{refused}");
}

#[test]
fn a_group_is_made_before_anything_is_sent_to_it() {
    let mut stage = Stage::ready();
    let mut outbox = Outbox::of_group(7, vec!["alice".into(), "carol".into()], 100);
    assert!(!outbox.is_quiet(), "the group is not made");
    outbox.window = 1;
    stage.phone.outbox = Some(outbox);
    let send = |stage: &mut Stage| {
        stage.phone.pump(1_000_000, &mut stage.out).unwrap();
        let out = std::mem::take(&mut stage.out);
        let request = v1::SendRequest::decode(next_packet(&mut &out[..]).unwrap().unwrap().body).unwrap();
        assert_eq!(request.messages.len(), 1);
        request.messages.into_iter().next().unwrap()
    };
    let founding = send(&mut stage);
    let added = founding.change.unwrap().add;
    assert_eq!((founding.client_msg_id, &*founding.to, &*founding.text), (1, "", ""));
    assert_eq!(added, ["alice", "carol"]);

    let made = v1::SendResult { client_msg_id: 1, conversation: "g/4608".into(), ..Default::default() };
    stage.gets(Command::Send.reply(), &v1::SendReply { results: vec![made] }).unwrap();
    let text = send(&mut stage);
    assert_eq!((text.client_msg_id, &*text.to, text.change), (2, "g/4608", None));
    assert_eq!(Stamp::read(text.text.as_bytes()).unwrap().number, 2);
}

#[test]
fn what_makes_a_group_is_the_first_message_of_its_only_sender() {
    let mut stage = Stage::ready();
    let change = v1::GroupChange { add: vec!["bob".into()], ..Default::default() };
    let founding = v1::Message { client_msg_id: 1, change: Some(change), ..Default::default() };
    let founding = v1::Entry { class: 1, version: 5, body: Some(v1::entry::Body::Message(founding)) };
    stage.gets(DELTA, &delta(4, vec![founding, message(7, 2, 6)], 6)).unwrap();
    let only = |sent| move |sender| if sender == 7 { sent } else { 0 };
    assert_eq!((stage.delivered(), stage.phone.faults(only(2))), (2, Faults::default()));
    assert_eq!(stage.phone.faults(only(3)).lost, 1);
}

#[test]
fn a_rate_that_the_server_does_not_keep_up_with_voids_the_run() {
    let mut stage = Stage::ready();
    let mut outbox = Outbox::new(7, "alice".into(), 100);
    outbox.due = vec![0; 3_000].into();
    stage.phone.outbox = Some(outbox);
    assert!(matches!(stage.phone.pump(0, &mut stage.out), Err(Trouble::Behind(_))));
}

#[test]
fn a_probe_greets_nobody_and_takes_its_packets_back() {
    let tally = Rc::<RefCell<Tally>>::default();
    tally.borrow_mut().measure_from(0);
    let mut probe = Phone::probe(Rc::clone(&tally));
    let mut out = Vec::new();
    probe.open(&mut out).unwrap();
    (probe.beats.window, probe.beats.bytes) = (2, 130);
    probe.pump(1_000_000, &mut out).unwrap();
    assert_eq!(out.len(), 2 * 146);
    let mut input = &out[..146];
    let echo = next_packet(&mut input).unwrap().unwrap();
    probe.on_packet(&echo, 3_000_000, &mut Vec::new()).unwrap();
    assert_eq!(tally.borrow().counts.beats, 1);
    assert_eq!(tally.borrow_mut().beat.spread().unwrap().p50, 2.0);
}
