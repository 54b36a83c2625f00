//! Small hand-written histories for the tests of the rules.
//!
//! Three devices: ann's phone and desk and ben's phone. [`Story::end`] adds what every run ends with: each device
//! reads and applies everything, and the readers read the truth.

use std::collections::BTreeMap;

use tern_proto::v1::{self, entry::Body};

use super::content::conversation;
use super::{Findings, judge};
use crate::event::{Event, Reply, Request, Via, What};
use crate::history::{History, Keeps, Member, Outage, Role};

pub(crate) const ANN: usize = 0;
pub(crate) const BEN: usize = 1;
pub(crate) const DESK: usize = 2;
const EPOCH: u64 = 7;

/// A history in the making.
#[derive(Clone)]
pub(crate) struct Story {
    history: History,
    now: u64,
    n: u64,
    truths: BTreeMap<String, Vec<v1::Entry>>,
    /// Who sent what is stored at a version.
    owners: BTreeMap<u64, usize>,
    /// Devices that do not read everything at the end by themselves.
    pub(crate) unfinished: Vec<usize>,
}

pub(crate) fn assert_holds(history: &History) {
    let Findings { violations, .. } = judge(history);
    assert!(violations.is_empty(), "{violations:#?}");
}

pub(crate) fn assert_breaks(rule: &str, history: &History) {
    let Findings { violations, .. } = judge(history);
    let broken: Vec<_> = violations.iter().filter(|violation| violation.rule == rule).collect();
    assert!(!broken.is_empty(), "{rule} is not among {violations:#?}");
    assert!(broken.iter().any(|violation| !violation.evidence.is_empty()), "nothing shows {broken:#?}");
}

pub(crate) fn key(versions: (u64, u64)) -> v1::SyncKey {
    key_of(EPOCH, versions)
}

pub(crate) fn key_of(epoch: u64, (messages, receipts): (u64, u64)) -> v1::SyncKey {
    let position = |class, version| v1::Position { class, version };
    v1::SyncKey { epoch, classes: vec![position(1, messages), position(2, receipts)] }
}

pub(crate) fn message_entry(
    version: u64,
    from: &str,
    to: &str,
    conversation: &str,
    seq: u64,
    id: u64,
    text: &str,
) -> v1::Entry {
    assert!(conversation.contains(to));
    let message = v1::Message {
        from: from.into(),
        conversation: conversation.into(),
        seq,
        server_msg_id: 4000 + id,
        client_msg_id: id,
        text: text.into(),
        time_ms: 5,
        change: None,
        media: None,
    };
    v1::Entry { class: 1, version, body: Some(Body::Message(message)) }
}

pub(crate) fn receipt_entry(version: u64, member: &str, kind: v1::ReceiptKind, seq: u64) -> v1::Entry {
    let (conversation, member) = ("ann:ben".into(), member.into());
    let receipt = v1::Receipt { conversation, member, kind: kind as i32, seq, time_ms: 5 };
    v1::Entry { class: 2, version, body: Some(Body::Receipt(receipt)) }
}

pub(crate) fn hole_entry(version: u64, reason: v1::HoleReason, count: u64) -> v1::Entry {
    v1::Entry { class: 1, version, body: Some(Body::Hole(v1::Hole { reason: reason as i32, count })) }
}

/// The stub of a message.
pub(crate) fn stub_of(entry: &v1::Entry) -> v1::Entry {
    let Some(Body::Message(message)) = entry.body.clone() else { panic!("not a message") };
    let stub = v1::Stub {
        client_msg_id: message.client_msg_id,
        server_msg_id: message.server_msg_id,
        conversation: message.conversation,
        seq: message.seq,
        time_ms: message.time_ms,
    };
    v1::Entry { class: 1, version: entry.version, body: Some(Body::Stub(stub)) }
}

impl Story {
    pub(crate) fn new() -> Story {
        let member = |user: &str, device: &str, role| Member { user: user.into(), device: device.into(), role };
        let roster = vec![
            member("ann", "phone", Role::Actor),
            member("ben", "phone", Role::Actor),
            member("ann", "desk", Role::Actor),
        ];
        let history = History { roster, ..History::default() };
        let truths = [("ann".to_owned(), Vec::new()), ("ben".to_owned(), Vec::new())].into();
        Story { history, now: 0, n: 0, truths, owners: BTreeMap::new(), unfinished: Vec::new() }
    }

    /// Ann's phone has sent message 1 to ben: version 1, seq 1.
    pub(crate) fn with_a_message() -> Story {
        let mut story = Story::new();
        story.send(ANN, 1, BEN, 1);
        story.store(ANN, 1, 1, BEN, 1);
        story
    }

    pub(crate) fn user(&self, device: usize) -> String {
        self.history.roster[device].user.clone()
    }

    /// Time of the next event, in tens.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Sets the time of the next event.
    pub(crate) fn go_to(&mut self, now: u64) {
        self.now = now;
    }

    pub(crate) fn record(&mut self, device: usize, what: What) {
        self.history.events.push(Event { at: self.now, device, what });
        self.now += 10;
    }

    pub(crate) fn ask(&mut self, device: usize, request: Request) -> u64 {
        self.ask_via(device, Via::Packets, request)
    }

    pub(crate) fn ask_via(&mut self, device: usize, via: Via, request: Request) -> u64 {
        self.n += 1;
        self.record(device, What::Ask { n: self.n, via, request });
        self.n
    }

    pub(crate) fn answer(&mut self, device: usize, n: u64, reply: Reply) {
        self.record(device, What::Answer { n, reply });
    }

    pub(crate) fn text(device: usize, id: u64) -> String {
        format!("{device}/{id}")
    }

    pub(crate) fn content(&self, device: usize, id: u64, to: usize) -> v1::OutMessage {
        v1::OutMessage { client_msg_id: id, to: self.user(to), text: Story::text(device, id), ..Default::default() }
    }

    /// The result of an accepted message.
    pub(crate) fn accept(&self, device: usize, id: u64, to: usize, seq: u64) -> v1::SendResult {
        v1::SendResult {
            client_msg_id: id,
            server_msg_id: device as u64 * 1000 + id,
            conversation: conversation(&self.user(device), &self.user(to)),
            seq,
            time_ms: 5,
            ..Default::default()
        }
    }

    /// Asks to send and is answered.
    pub(crate) fn sent(&mut self, device: usize, via: Via, content: v1::OutMessage, result: v1::SendResult) {
        let n =
            self.ask_via(device, via, Request::Send(v1::SendRequest { messages: vec![content], ..Default::default() }));
        self.answer(device, n, Reply::Send(v1::SendReply { results: vec![result] }));
    }

    /// Sends a message and is told that it is accepted.
    pub(crate) fn send(&mut self, device: usize, id: u64, to: usize, seq: u64) {
        let (content, result) = (self.content(device, id, to), self.accept(device, id, to, seq));
        self.sent(device, Via::Packets, content, result);
    }

    /// Puts a message into both timelines.
    pub(crate) fn store(&mut self, device: usize, version: u64, id: u64, to: usize, seq: u64) {
        let result = self.accept(device, id, to, seq);
        let message = v1::Message {
            from: self.user(device),
            conversation: result.conversation,
            seq,
            server_msg_id: result.server_msg_id,
            client_msg_id: id,
            text: Story::text(device, id),
            time_ms: 5,
            change: None,
            media: None,
        };
        let entry = v1::Entry { class: 1, version, body: Some(Body::Message(message)) };
        for member in [device, to] {
            self.truth_of(member).push(entry.clone());
        }
        self.owners.insert(version, device);
    }

    /// What the timelines of the device's user hold in the end.
    pub(crate) fn truth_of(&mut self, device: usize) -> &mut Vec<v1::Entry> {
        let user = self.user(device);
        self.truths.entry(user).or_default()
    }

    /// Puts an entry into a user's timelines, in the order of versions; users without readers have none.
    pub(crate) fn put(&mut self, user: &str, entry: v1::Entry) {
        if let Some(truth) = self.truths.get_mut(user) {
            truth.push(entry);
            truth.sort_by_key(|entry| (entry.class, entry.version));
        }
    }

    /// Says who sent what is stored at a version.
    pub(crate) fn owns(&mut self, version: u64, device: usize) {
        self.owners.insert(version, device);
    }

    /// Says what the server was told to keep.
    pub(crate) fn keeps(&mut self, keeps: Keeps) {
        self.history.keeps = Some(keeps);
    }

    /// Says when the disk refused.
    pub(crate) fn outage(&mut self, outage: Outage) {
        self.history.outages.push(outage);
    }

    /// The device is told where it starts.
    pub(crate) fn start(&mut self, device: usize) {
        let n = self.ask(device, Request::Hello(v1::HelloRequest { protocol: 1, ..Default::default() }));
        let start = v1::KeyOrder::Start as i32;
        self.answer(
            device,
            n,
            Reply::Hello(v1::HelloReply { key_order: start, key: Some(key((0, 0))), ..Default::default() }),
        );
    }

    /// Applies the page that was asked last.
    pub(crate) fn apply_last(&mut self, device: usize, at: (u64, u64)) {
        self.record(device, What::Applied { from: self.n, key: key(at) });
    }

    /// Drops the oldest entries of class 1.
    pub(crate) fn drop_up_to(&mut self, device: usize, version: u64) {
        self.truth_of(device).retain(|entry| entry.class != 1 || entry.version > version);
    }

    pub(crate) fn forget(&mut self, device: usize, version: u64) {
        self.truth_of(device).retain(|entry| entry.version != version);
    }

    /// What a page from the oldest holds for the device.
    pub(crate) fn entries_for(&mut self, device: usize) -> Vec<v1::Entry> {
        let owners = self.owners.clone();
        let own = |entry: &v1::Entry| entry.class == 1 && owners.get(&entry.version) == Some(&device);
        let is_message = |entry: &v1::Entry| matches!(entry.body, Some(Body::Message(_)));
        let entries = self.truth_of(device).iter();
        entries.map(|entry| if own(entry) && is_message(entry) { stub_of(entry) } else { entry.clone() }).collect()
    }

    /// The last versions of the user's timelines.
    pub(crate) fn head_of(&mut self, device: usize) -> (u64, u64) {
        let of = |class: u32, entries: &[v1::Entry]| {
            entries.iter().filter(|entry| entry.class == class).map(|entry| entry.version).max().unwrap_or(0)
        };
        let entries = self.truth_of(device);
        (of(1, entries), of(2, entries))
    }

    pub(crate) fn sync(&mut self, device: usize, via: Via, request: v1::SyncRequest, reply: v1::SyncReply) -> u64 {
        let n = self.ask_via(device, via, Request::Sync(request));
        self.answer(device, n, Reply::Sync(reply));
        n
    }

    /// A page between two keys; asked with peek, so that it acknowledges nothing.
    pub(crate) fn page(
        &mut self,
        device: usize,
        before: (u64, u64),
        entries: Vec<v1::Entry>,
        after: (u64, u64),
        more: &[u32],
    ) -> u64 {
        let request = v1::SyncRequest { key: Some(key(before)), peek: true, limit: 0 };
        let reply = v1::SyncReply { entries, key: Some(key(after)), more: more.into(), key_order: 0 };
        self.sync(device, Via::Packets, request, reply)
    }

    /// Acknowledges and is answered.
    pub(crate) fn ack(&mut self, device: usize, at: (u64, u64)) {
        let n = self.ask(device, Request::Ack(v1::AckRequest { key: Some(key(at)) }));
        self.answer(device, n, Reply::Ack(v1::AckReply::default()));
    }

    /// Ben acknowledges messages of ann, and she is told so.
    pub(crate) fn acked_and_told(&mut self, device: usize, version: u64) {
        self.ack(device, (version, 0));
        if version > 0 {
            let user = self.user(device);
            self.put("ann", receipt_entry(1, &user, v1::ReceiptKind::Delivered, version));
        }
    }

    /// Peeks with a key and is ordered to replace it.
    pub(crate) fn replaced(&mut self, device: usize, presented: v1::SyncKey, order: v1::KeyOrder, by: (u64, u64)) {
        let request = v1::CheckRequest { key: Some(presented), peek: true, wait_ms: 0 };
        let n = self.ask(device, Request::Check(request));
        let reply = v1::CheckReply { pending: false, key_order: order as i32, key: Some(key(by)) };
        self.answer(device, n, Reply::Check(reply));
    }

    /// Marks as read; answered as done.
    pub(crate) fn read(&mut self, device: usize, seq: u64) {
        let n = self.ask(device, Request::Read(v1::ReadRequest { conversation: "ann:ben".into(), seq }));
        self.answer(device, n, Reply::Read(v1::ReadReply {}));
    }

    /// The whole history: every device has everything, and the readers have read.
    pub(crate) fn end(mut self) -> History {
        for device in [ANN, BEN, DESK] {
            if !self.unfinished.contains(&device) {
                let (entries, head) = (self.entries_for(device), self.head_of(device));
                let from = self.page(device, (0, 0), entries, head, &[]);
                self.record(device, What::Applied { from, key: key(head) });
                self.page(device, head, Vec::new(), head, &[]);
            }
        }
        for reader in 0..2 {
            for user in [ANN, BEN] {
                let (name, role) = (self.user(user), Role::Reader(reader));
                self.history.roster.push(Member { user: name, device: format!("reader{reader}"), role });
                let device = self.history.roster.len() - 1;
                let (entries, head) = (self.truth_of(user).clone(), self.head_of(user));
                self.page(device, (0, 0), entries, head, &[]);
            }
        }
        self.history
    }
}
