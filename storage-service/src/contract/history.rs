//! Short words for the cases: ops, and reading all there is.

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::v1::entry::Body;
use tern_proto::{ConversationId, DeviceId, UserId, limits, v1};

use crate::{
    Change, Content, Conversation, Device, DeviceState, History, HistoryRequest, Listed, Op, Outcome, Page,
    PageRequest, Recipient, Sent, Storage,
};

/// The server's clock where a case does not care.
pub(super) const NOW: i64 = 1_700_000_000_000;

pub(super) fn user(name: &str) -> UserId {
    name.parse().expect("a user name")
}

/// From `alice/d1`.
pub(super) fn device(name: &str) -> Device {
    let (user_name, id) = name.split_once('/').expect("user/device");
    Device { user: user(user_name), id: DeviceId::new(id).expect("a device name") }
}

pub(super) fn conversation(name: &str) -> ConversationId {
    ConversationId::new(name).expect("a conversation")
}

pub(super) fn text(from: &str, client_msg_id: u64, to: &str, text: &str) -> Op {
    let content = Content::Text { to: Recipient::User(user(to)), text: text.to_owned(), media: None };
    Op::Send { from: device(from), client_msg_id, content, time_ms: NOW }
}

pub(super) fn group_text(from: &str, client_msg_id: u64, group: &ConversationId, text: &str) -> Op {
    let content = Content::Text { to: Recipient::Group(group.clone()), text: text.to_owned(), media: None };
    Op::Send { from: device(from), client_msg_id, content, time_ms: NOW }
}

/// Makes a group or changes it; `title` may be empty, which stands for none.
pub(super) fn change(
    from: &str,
    client_msg_id: u64,
    group: Option<&ConversationId>,
    title: &str,
    add: &[&str],
    remove: &[&str],
) -> Op {
    let users = |names: &[&str]| names.iter().map(|name| user(name)).collect();
    let title = Some(title).filter(|title| !title.is_empty()).map(str::to_owned);
    let change = Change { title, add: users(add), remove: users(remove) };
    let content = Content::Change { group: group.cloned(), change };
    Op::Send { from: device(from), client_msg_id, content, time_ms: NOW }
}

/// A group of alice, who owns it, and these.
pub(super) async fn group_with(store: &dyn Storage, others: &[&str]) -> ConversationId {
    sent(store, change("alice/d1", 1, None, "", others, &[])).await.conversation
}

pub(super) fn refused(from: &str, client_msg_id: u64, hash: u64) -> Op {
    let content = Content::Refused { code: v1::Code::EmptyText, hash };
    Op::Send { from: device(from), client_msg_id, content, time_ms: NOW }
}

pub(super) fn start(of: &str, start: v1::Start) -> Op {
    Op::Start { device: device(of), start, time_ms: NOW }
}

pub(super) fn ack(of: &str, versions: [Option<Version>; CLASSES]) -> Op {
    // Of the epoch that the store is in when it is committed.
    Op::Ack { device: device(of), epoch: 0, versions, time_ms: NOW }
}

pub(super) fn read(by: &str, of: &str, seq: u64) -> Op {
    Op::Read { by: device(by), conversation: conversation(of), seq, time_ms: NOW }
}

pub(super) fn delivered(by: &str, derived: Version, of: &str, seq: u64) -> Op {
    Op::Delivered { by: device(by), derived, positions: vec![(conversation(of), seq)], time_ms: NOW }
}

/// The same op at another time.
pub(super) fn at(time: i64, mut op: Op) -> Op {
    match &mut op {
        Op::Send { time_ms, .. }
        | Op::Start { time_ms, .. }
        | Op::Ack { time_ms, .. }
        | Op::Read { time_ms, .. }
        | Op::Delivered { time_ms, .. } => *time_ms = time,
    }
    op
}

/// The store's.
pub(super) async fn epoch(store: &dyn Storage) -> u64 {
    store.device(&device("alice/d1")).await.expect("available").epoch
}

pub(super) async fn commit(store: &dyn Storage, mut op: Op) -> Outcome {
    if let Op::Ack { epoch: of @ 0, .. } = &mut op {
        *of = epoch(store).await;
    }
    let mut outcomes = store.commit(vec![op]).await;
    assert_eq!(outcomes.len(), 1, "one outcome for each op");
    outcomes.remove(0)
}

/// Commits a send that must be stored, now or before.
pub(super) async fn sent(store: &dyn Storage, op: Op) -> Sent {
    match commit(store, op).await {
        Outcome::Sent(sent) => sent,
        other => panic!("expected a stored message: {other:?}"),
    }
}

/// Commits an op that may raise a receipt: the users told, by name.
pub(super) async fn raised(store: &dyn Storage, op: Op) -> Vec<String> {
    match commit(store, op).await {
        Outcome::Raised(told) => {
            let mut names: Vec<String> = told.iter().map(|told| told.user.to_string()).collect();
            names.sort();
            names
        }
        other => panic!("expected Raised: {other:?}"),
    }
}

/// Commits a send that must be refused for good.
pub(super) async fn refusal(store: &dyn Storage, op: Op) -> v1::Code {
    match commit(store, op).await {
        Outcome::Refused(code) => code,
        other => panic!("expected a final refusal: {other:?}"),
    }
}

/// A conversation that must be there.
pub(super) async fn standing(store: &dyn Storage, of: &ConversationId) -> Conversation {
    store.conversation(of).await.expect("available").expect("a conversation")
}

/// The members, in the order in which they joined.
pub(super) async fn members(store: &dyn Storage, of: &ConversationId) -> Vec<String> {
    standing(store, of).await.members.iter().map(|member| member.user.to_string()).collect()
}

pub(super) async fn list(store: &dyn Storage, of: &str, after: Option<&ConversationId>, limit: usize) -> Vec<Listed> {
    store.conversations(&user(of), after, limit).await.expect("available")
}

/// Messages of a conversation with `from <= seq < before`.
pub(super) async fn past(
    store: &dyn Storage,
    of: &ConversationId,
    (from, before): (u64, u64),
    max_entries: usize,
) -> History {
    let request = HistoryRequest { conversation: of.clone(), before, from, max_entries, max_bytes: limits::PAGE_BYTES };
    store.history(request).await.expect("available")
}

/// The sequences of the messages in a timeline that are of this conversation, stubs included.
pub(super) async fn seqs(store: &dyn Storage, reader: &str, of: &ConversationId) -> Vec<u64> {
    let all = messages(store, reader).await;
    all.into_iter().filter(|(conversation, ..)| conversation == of.as_str()).map(|(_, seq, _)| seq).collect()
}

pub(super) async fn state(store: &dyn Storage, of: &str) -> DeviceState {
    store.device(&device(of)).await.expect("available")
}

pub(super) async fn highest(store: &dyn Storage, of: &str) -> u64 {
    store.highest_client_msg_id(&device(of)).await.expect("available")
}

pub(super) async fn page(
    store: &dyn Storage,
    reader: &Device,
    above: [Option<Version>; CLASSES],
    max_entries: usize,
) -> Page {
    let request =
        PageRequest { device: reader.clone(), above, max_entries, max_bytes: limits::PAGE_BYTES, texts: true };
    store.page(request).await.expect("available")
}

/// Reads both timelines of the device's user to their ends.
pub(super) async fn timelines(store: &dyn Storage, reader: &Device) -> Vec<v1::Entry> {
    let mut entries = Vec::new();
    let mut above = [Some(0); CLASSES];
    loop {
        let page = page(store, reader, above, limits::PAGE_ENTRIES).await;
        assert!(!page.entries.is_empty() || page.more == [false; CLASSES], "paging ends");
        entries.extend(page.entries);
        above = page.after;
        if page.more == [false; CLASSES] {
            // Pages of class 1 come first; after several pages each class is still ascending.
            entries.sort_by_key(|entry: &v1::Entry| entry.class);
            return entries;
        }
    }
}

/// The messages, those of the device itself included as stubs: (conversation, seq, text or "stub").
pub(super) async fn messages(store: &dyn Storage, reader: &str) -> Vec<(String, u64, String)> {
    let entries = timelines(store, &device(reader)).await;
    let line = |entry: v1::Entry| match entry.body? {
        Body::Message(message) => Some((message.conversation, message.seq, message.text)),
        Body::Stub(stub) => Some((stub.conversation, stub.seq, "stub".to_owned())),
        _ => None,
    };
    entries.into_iter().filter_map(line).collect()
}

/// The receipts in a timeline: (version, member, kind, seq).
pub(super) async fn receipts(store: &dyn Storage, reader: &str) -> Vec<(Version, String, v1::ReceiptKind, u64)> {
    let entries = timelines(store, &device(reader)).await;
    let line = |entry: v1::Entry| match entry.body? {
        Body::Receipt(receipt) => Some((entry.version, receipt.member.clone(), receipt.kind(), receipt.seq)),
        _ => None,
    };
    entries.into_iter().filter_map(line).collect()
}

/// The versions of one class in a timeline.
pub(super) async fn versions(store: &dyn Storage, reader: &str, class: Class) -> Vec<Version> {
    let entries = timelines(store, &device(reader)).await;
    entries.iter().filter(|entry| entry.class == class.number()).map(|entry| entry.version).collect()
}
