//! What the store keeps and what each op does to it.

use std::collections::BTreeMap;
use std::ops::Bound;

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::{ConversationId, UserId, limits, v1};

use super::timeline::Timelines;
use crate::{Content, Device, DeviceState, Op, Outcome, Page, PageRequest, Sent};

/// Everything.
pub(super) struct State {
    epoch: u64,
    keep_ms: i64,
    /// The newest time that a send carried.
    newest_ms: i64,
    /// The last version given, in any timeline: so the order of versions is the order of commits.
    version: Version,
    server_msg_id: u64,
    timelines: BTreeMap<UserId, Timelines>,
    conversations: BTreeMap<ConversationId, Conversation>,
    senders: BTreeMap<Device, Sender>,
    cursors: BTreeMap<Device, Cursor>,
}

/// A conversation with at least one message.
#[derive(Default)]
struct Conversation {
    head: u64,
    members: BTreeMap<UserId, Member>,
}

/// Where a member stands in a conversation, as sequence numbers; `read` is never above `delivered`.
#[derive(Default)]
struct Member {
    last_sent: u64,
    delivered: u64,
    read: u64,
}

/// What is remembered of the sends of a device. It outlives the device's cursor.
#[derive(Default)]
struct Sender {
    results: BTreeMap<u64, Remembered>,
    floor: u64,
    highest: u64,
}

struct Remembered {
    content: Content,
    outcome: Outcome,
    time_ms: i64,
}

/// Where a device is in its user's timelines.
#[derive(Default)]
struct Cursor {
    acked: [Version; CLASSES],
    derived: Version,
    heard_ms: i64,
}

impl State {
    pub(super) fn new(epoch: u64, keep_ms: i64) -> State {
        State {
            epoch,
            keep_ms,
            newest_ms: 0,
            version: 0,
            server_msg_id: 0,
            timelines: BTreeMap::new(),
            conversations: BTreeMap::new(),
            senders: BTreeMap::new(),
            cursors: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, op: Op) -> Outcome {
        match op {
            Op::Send { from, client_msg_id, content, time_ms } => self.send(&from, client_msg_id, content, time_ms),
            Op::Start { device, start, time_ms } => self.start(&device, start, time_ms),
            Op::Ack { device, versions, time_ms } => self.ack(&device, versions, time_ms),
            Op::Read { by, conversation, seq, time_ms } => self.read(&by.user, &conversation, seq, time_ms),
            Op::Delivered { by, derived, positions, time_ms } => self.delivered(&by, derived, &positions, time_ms),
        }
    }

    pub(super) fn page(&self, request: &PageRequest) -> Page {
        let mut page = Page { epoch: self.epoch, after: request.above, ..Page::default() };
        if let Some(timelines) = self.timelines.get(&request.device.user) {
            timelines.read(request, &mut page);
        }
        page
    }

    pub(super) fn device(&self, device: &Device) -> DeviceState {
        let cursor = self.cursors.get(device);
        DeviceState {
            epoch: self.epoch,
            heads: self.heads(&device.user),
            known: cursor.is_some(),
            acked: cursor.map_or([0; CLASSES], |cursor| cursor.acked),
            derived: cursor.map_or(0, |cursor| cursor.derived),
            heard_ms: cursor.map_or(0, |cursor| cursor.heard_ms),
            highest_client_msg_id: self.senders.get(device).map_or(0, |sender| sender.highest),
        }
    }

    pub(super) fn underived(&self, after: Option<&Device>, limit: usize) -> Vec<Device> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = |cursor: &Cursor| cursor.acked[Class::Messages as usize] > cursor.derived;
        let cursors = self.cursors.range((from, Bound::Unbounded));
        cursors.filter(|(_, cursor)| behind(cursor)).map(|(device, _)| device.clone()).take(limit).collect()
    }

    fn send(&mut self, from: &Device, client_msg_id: u64, content: Content, time_ms: i64) -> Outcome {
        self.newest_ms = self.newest_ms.max(time_ms);
        let oldest_kept = self.newest_ms - self.keep_ms;
        let sender = self.senders.entry(from.clone()).or_default();
        sender.forget_before(oldest_kept);
        if let Some(remembered) = sender.results.get(&client_msg_id) {
            let same = same_content(&remembered.content, &content);
            return if same { remembered.outcome.clone() } else { Outcome::Conflict };
        }
        if client_msg_id <= sender.floor {
            return Outcome::TooOld;
        }
        let outcome = match &content {
            Content::Refused { code, .. } => Outcome::Refused(*code),
            Content::Text { to, text } => Outcome::Sent(self.store(from, to, client_msg_id, text, time_ms)),
        };
        let sender = self.senders.entry(from.clone()).or_default();
        sender.highest = sender.highest.max(client_msg_id);
        let again = match outcome.clone() {
            Outcome::Sent(sent) => Outcome::Sent(Sent { fresh: false, ..sent }),
            other => other,
        };
        sender.results.insert(client_msg_id, Remembered { content, outcome: again, time_ms });
        outcome
    }

    /// A new message: the next of its conversation, in the timelines of both.
    fn store(&mut self, from: &Device, to: &UserId, client_msg_id: u64, text: &str, time_ms: i64) -> Sent {
        let id = ConversationId::of_two(&from.user, to);
        let conversation = self.conversations.entry(id.clone()).or_default();
        conversation.head += 1;
        let seq = conversation.head;
        conversation.member(&from.user).last_sent = seq;
        self.server_msg_id += 1;
        let message = v1::Message {
            from: from.user.to_string(),
            conversation: id.to_string(),
            seq,
            server_msg_id: self.server_msg_id,
            client_msg_id,
            text: text.to_owned(),
            time_ms,
        };
        for user in [to, &from.user] {
            self.version += 1;
            self.timelines.entry(user.clone()).or_default().add_message(self.version, from, &message);
        }
        Sent { server_msg_id: self.server_msg_id, conversation: id, seq, time_ms, fresh: true }
    }

    fn start(&mut self, device: &Device, start: v1::Start, time_ms: i64) -> Outcome {
        let position = match start {
            v1::Start::Oldest if self.cursors.contains_key(device) => return Outcome::Started([0; CLASSES]),
            v1::Start::Oldest => [0; CLASSES],
            v1::Start::Heads => self.heads(&device.user),
        };
        let cursor = self.heard(device, time_ms);
        cursor.raise(position.map(Some));
        cursor.derived = cursor.derived.max(position[Class::Messages as usize]);
        Outcome::Started(position)
    }

    fn ack(&mut self, device: &Device, versions: [Option<Version>; CLASSES], time_ms: i64) -> Outcome {
        self.heard(device, time_ms).raise(versions);
        Outcome::Done
    }

    fn read(&mut self, reader: &UserId, id: &ConversationId, seq: u64, time_ms: i64) -> Outcome {
        let Some(other) = id.other(reader) else {
            return Outcome::NotAMember;
        };
        let conversation = self.conversations.entry(id.clone()).or_default();
        if seq > conversation.head {
            return Outcome::BeyondHead;
        }
        let theirs = conversation.member(&other).last_sent;
        let member = conversation.member(reader);
        if seq <= member.read {
            return Outcome::Raised(Vec::new());
        }
        // The other member is told if a message of theirs may be among the newly read.
        let tell_other = theirs > member.read;
        member.read = seq;
        member.delivered = member.delivered.max(seq);
        let receipt = receipt(id, reader, v1::ReceiptKind::Read, seq, time_ms);
        let mut users = vec![reader.clone()];
        users.extend(tell_other.then_some(other));
        users.iter().for_each(|user| self.add_receipt(user, &receipt));
        Outcome::Raised(users)
    }

    fn delivered(
        &mut self,
        by: &Device,
        derived: Version,
        positions: &[(ConversationId, u64)],
        time_ms: i64,
    ) -> Outcome {
        let mut users = Vec::new();
        for (id, seq) in positions {
            let (Some(other), Some(conversation)) = (id.other(&by.user), self.conversations.get_mut(id)) else {
                continue;
            };
            let seq = (*seq).min(conversation.head);
            let member = conversation.member(&by.user);
            if seq > member.delivered {
                member.delivered = seq;
                self.add_receipt(&other, &receipt(id, &by.user, v1::ReceiptKind::Delivered, seq, time_ms));
                if !users.contains(&other) {
                    users.push(other);
                }
            }
        }
        if let Some(cursor) = self.cursors.get_mut(by) {
            cursor.derived = cursor.derived.max(derived);
        }
        Outcome::Raised(users)
    }

    fn add_receipt(&mut self, user: &UserId, receipt: &v1::Receipt) {
        self.version += 1;
        self.timelines.entry(user.clone()).or_default().add_receipt(self.version, receipt);
    }

    /// The device's cursor, made if it is unknown; where there are too many, the longest silent device yields.
    fn heard(&mut self, device: &Device, time_ms: i64) -> &mut Cursor {
        let siblings = || self.cursors.iter().filter(|(sibling, _)| sibling.user == device.user);
        if !self.cursors.contains_key(device) && siblings().count() >= limits::DEVICES {
            let silent = siblings().min_by_key(|(_, cursor)| cursor.heard_ms).map(|(silent, _)| silent.clone());
            silent.and_then(|silent| self.cursors.remove(&silent));
        }
        let cursor = self.cursors.entry(device.clone()).or_default();
        cursor.heard_ms = cursor.heard_ms.max(time_ms);
        cursor
    }

    fn heads(&self, user: &UserId) -> [Version; CLASSES] {
        self.timelines.get(user).map_or([0; CLASSES], Timelines::heads)
    }
}

impl Conversation {
    fn member(&mut self, user: &UserId) -> &mut Member {
        self.members.entry(user.clone()).or_default()
    }
}

impl Sender {
    /// Forgets older results; the floor says that ids up to the highest of them may have been used.
    fn forget_before(&mut self, oldest_kept: i64) {
        let floor = &mut self.floor;
        self.results.retain(|client_msg_id, remembered| {
            let keep = remembered.time_ms >= oldest_kept;
            if !keep {
                *floor = (*floor).max(*client_msg_id);
            }
            keep
        });
    }
}

impl Cursor {
    /// Never back.
    fn raise(&mut self, versions: [Option<Version>; CLASSES]) {
        for (acked, version) in self.acked.iter_mut().zip(versions) {
            *acked = (*acked).max(version.unwrap_or(0));
        }
    }
}

/// Refusals are compared by the hash of what was refused: the code follows from the content.
fn same_content(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::Refused { hash: a, .. }, Content::Refused { hash: b, .. }) => a == b,
        _ => a == b,
    }
}

fn receipt(id: &ConversationId, member: &UserId, kind: v1::ReceiptKind, seq: u64, time_ms: i64) -> v1::Receipt {
    v1::Receipt { conversation: id.to_string(), member: member.to_string(), kind: kind.into(), seq, time_ms }
}
