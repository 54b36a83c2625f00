//! What the store keeps and what each op does to it.

use std::collections::BTreeMap;
use std::ops::Bound;

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::{ConversationId, MediaId, UserId, limits, v1};

use super::conversation::Conversation;
use super::retention::Rules;
use super::timeline::Timelines;
use crate::{
    Content, Device, DeviceState, History, HistoryRequest, Listed, Op, Outcome, Page, PageRequest, Place, Recipient,
    Sent, Told,
};

/// Everything.
pub(super) struct State {
    pub(super) epoch: u64,
    pub(super) keep_ms: i64,
    pub(super) rules: Rules,
    /// The newest time that a send carried.
    newest_ms: i64,
    /// The last version given, in any timeline: so the order of versions is the order of commits.
    version: Version,
    server_msg_id: u64,
    pub(super) timelines: BTreeMap<UserId, Timelines>,
    conversations: BTreeMap<ConversationId, Conversation>,
    /// The newest message of a conversation that is about media.
    references: BTreeMap<(MediaId, ConversationId), u64>,
    senders: BTreeMap<Device, Sender>,
    pub(super) cursors: BTreeMap<Device, Cursor>,
}

/// A message that may be stored.
struct Admitted {
    id: ConversationId,
    text: String,
    change: Option<v1::GroupChange>,
    media: Option<v1::Media>,
}

/// What is remembered of the sends of a device. It outlives the device's cursor.
#[derive(Default)]
struct Sender {
    results: BTreeMap<u64, Remembered>,
    floor: u64,
    highest: u64,
}

struct Remembered {
    hash: u64,
    outcome: Outcome,
    time_ms: i64,
}

/// Where a device is in its user's timelines.
#[derive(Default)]
pub(super) struct Cursor {
    pub(super) acked: [Version; CLASSES],
    pub(super) derived: Version,
    pub(super) heard_ms: i64,
}

impl State {
    pub(super) fn new(epoch: u64, keep_ms: i64) -> State {
        State {
            epoch,
            keep_ms,
            rules: Rules::default(),
            newest_ms: 0,
            version: 0,
            server_msg_id: 0,
            timelines: BTreeMap::new(),
            conversations: BTreeMap::new(),
            references: BTreeMap::new(),
            senders: BTreeMap::new(),
            cursors: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, op: Op) -> Outcome {
        match op {
            Op::Send { from, client_msg_id, content, time_ms } => self.send(&from, client_msg_id, content, time_ms),
            Op::Start { device, start, time_ms } => self.start(&device, start, time_ms),
            Op::Ack { device, epoch, versions, time_ms } => self.ack(&device, epoch, versions, time_ms),
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
            foreign: self.foreign(&device.user),
            heard_ms: cursor.map_or(0, |cursor| cursor.heard_ms),
        }
    }

    pub(super) fn highest_client_msg_id(&self, device: &Device) -> u64 {
        self.senders.get(device).map_or(0, |sender| sender.highest)
    }

    pub(super) fn underived(&self, after: Option<&Device>, limit: usize) -> Vec<Device> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = |cursor: &Cursor| cursor.acked[Class::Messages as usize] > cursor.derived;
        let cursors = self.cursors.range((from, Bound::Unbounded));
        cursors.filter(|(_, cursor)| behind(cursor)).map(|(device, _)| device.clone()).take(limit).collect()
    }

    pub(super) fn conversations(&self, user: &UserId, after: Option<&ConversationId>, limit: usize) -> Vec<Listed> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let conversations = self.conversations.range::<ConversationId, _>((from, Bound::Unbounded));
        conversations.filter_map(|(id, conversation)| conversation.listed(id, user)).take(limit).collect()
    }

    pub(super) fn references(
        &self,
        media: MediaId,
        reader: Option<&UserId>,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Vec<(ConversationId, u64)> {
        let sees = |id: &ConversationId, seq: u64, reader: &UserId| {
            let members = self.conversations.get(id).map(|conversation| &conversation.state.members[..]);
            members.unwrap_or_default().iter().any(|member| member.user == *reader && member.joined <= seq)
        };
        let of_media =
            self.references.iter().filter(|((of, id), _)| *of == media && after.is_none_or(|after| id > after));
        let of_media = of_media.filter(|((_, id), seq)| reader.is_none_or(|reader| sees(id, **seq, reader)));
        of_media.map(|((_, id), seq)| (id.clone(), *seq)).take(limit).collect()
    }

    pub(super) fn conversation(&mut self, id: &ConversationId) -> Option<crate::Conversation> {
        self.known(id).map(|conversation| conversation.state.clone())
    }

    pub(super) fn history(&self, request: &HistoryRequest) -> History {
        let conversation = self.conversations.get(&request.conversation);
        conversation.map(|conversation| conversation.history(request)).unwrap_or_default()
    }

    fn send(&mut self, from: &Device, client_msg_id: u64, content: Content, time_ms: i64) -> Outcome {
        self.newest_ms = self.newest_ms.max(time_ms);
        let oldest_kept = self.newest_ms - self.keep_ms;
        let sender = self.senders.entry(from.clone()).or_default();
        sender.forget_before(oldest_kept);
        if let Some(remembered) = sender.results.get(&client_msg_id) {
            return if remembered.hash == content.hash() { remembered.outcome.clone() } else { Outcome::Conflict };
        }
        if client_msg_id <= sender.floor {
            return Outcome::TooOld;
        }
        let outcome = match self.admit(&from.user, &content) {
            Ok(admitted) => Outcome::Sent(self.store(from, client_msg_id, admitted, time_ms)),
            Err(code) => Outcome::Refused(code),
        };
        let sender = self.senders.entry(from.clone()).or_default();
        sender.highest = sender.highest.max(client_msg_id);
        let again = match outcome.clone() {
            Outcome::Sent(sent) => Outcome::Sent(sent.repeated()),
            other => other,
        };
        sender.results.insert(client_msg_id, Remembered { hash: content.hash(), outcome: again, time_ms });
        outcome
    }

    /// Where a message goes and what it does there, or why it may not. Makes the conversation if it is new.
    fn admit(&mut self, sender: &UserId, content: &Content) -> Result<Admitted, v1::Code> {
        let admitted =
            |id: ConversationId, text: &str, change| Admitted { id, text: text.to_owned(), change, media: None };
        let about = |admitted: Admitted, media: &Option<v1::Media>| Admitted { media: media.clone(), ..admitted };
        match content {
            Content::Refused { code, .. } => Err(*code),
            Content::Text { to: Recipient::User(to), text, media } => {
                Ok(about(admitted(ConversationId::of_two(sender, to), text, None), media))
            }
            Content::Text { to: Recipient::Group(group), text, media } => {
                self.group_of(group, sender)?;
                Ok(about(admitted(group.clone(), text, None), media))
            }
            Content::Change { group: Some(group), change } => {
                let change = self.group_of(group, sender)?.admit(sender, change)?;
                Ok(admitted(group.clone(), "", Some(change)))
            }
            Content::Change { group: None, change } => {
                let group = Conversation::founded_by(sender);
                let change = group.admit(sender, change)?;
                let id = ConversationId::of_group(self.server_msg_id + 1);
                self.conversations.insert(id.clone(), group);
                Ok(admitted(id, "", Some(change)))
            }
        }
    }

    fn group_of(&self, group: &ConversationId, member: &UserId) -> Result<&Conversation, v1::Code> {
        let known = self.conversations.get(group).filter(|known| group.is_group() && known.has(member));
        known.ok_or(v1::Code::NotAMember)
    }

    /// The conversation; one of two is there even before it has a message.
    fn known(&mut self, id: &ConversationId) -> Option<&mut Conversation> {
        if let Some(users) = id.pair() {
            return Some(self.conversations.entry(id.clone()).or_insert_with(|| Conversation::of_two(users)));
        }
        self.conversations.get_mut(id)
    }

    /// A new message: the next of its conversation, in the timelines of all its members.
    fn store(&mut self, from: &Device, client_msg_id: u64, admitted: Admitted, time_ms: i64) -> Sent {
        let Admitted { id, text, change, media } = admitted;
        self.server_msg_id += 1;
        let server_msg_id = self.server_msg_id;
        let conversation = self.known(&id).expect("it was admitted to one that is there");
        let message = v1::Message {
            from: from.user.to_string(),
            conversation: id.to_string(),
            seq: conversation.state.seq + 1,
            server_msg_id,
            client_msg_id,
            text,
            time_ms,
            change,
            media,
        };
        let owed = conversation.add(&from.user, &message);
        if let Some(media) = message.media.as_ref().and_then(|media| media.id.parse().ok()) {
            self.references.insert((media, id.clone()), message.seq);
        }
        let mut places = Vec::new();
        for user in &owed {
            self.version += 1;
            places.push(self.place(user, Class::Messages));
            self.timelines.entry(user.clone()).or_default().add_message(self.version, from, &message);
        }
        Sent { server_msg_id, conversation: id, seq: message.seq, time_ms, owed: owed.into(), places }
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

    fn ack(&mut self, device: &Device, epoch: u64, versions: [Option<Version>; CLASSES], time_ms: i64) -> Outcome {
        let state = self.device(device);
        if state.takes(epoch, versions) && state.is_news(versions, time_ms) {
            let cursor = self.heard(device, time_ms);
            cursor.raise(versions);
            if cursor.derived >= state.foreign {
                cursor.derived = cursor.derived.max(cursor.acked[Class::Messages as usize]);
            }
        }
        Outcome::Acked(self.device(device))
    }

    fn read(&mut self, reader: &UserId, id: &ConversationId, seq: u64, time_ms: i64) -> Outcome {
        let Some((conversation, read)) = self.known(id).and_then(|conversation| {
            let read = conversation.member(reader)?.read;
            Some((conversation, read))
        }) else {
            return Outcome::NotAMember;
        };
        if seq > conversation.state.seq {
            return Outcome::BeyondHead;
        }
        if seq <= read {
            return Outcome::Raised(Vec::new());
        }
        let users = conversation.read(reader, seq);
        let receipt = receipt(id, reader, v1::ReceiptKind::Read, seq, time_ms);
        Outcome::Raised(users.into_iter().map(|user| self.add_receipt(user, &receipt)).collect())
    }

    fn delivered(
        &mut self,
        by: &Device,
        derived: Version,
        positions: &[(ConversationId, u64)],
        time_ms: i64,
    ) -> Outcome {
        let mut told: Vec<Told> = Vec::new();
        for (id, seq) in positions {
            let Some(conversation) = self.conversations.get_mut(id) else { continue };
            let seq = (*seq).min(conversation.state.seq);
            let Some(member) = conversation.member(&by.user).filter(|member| seq > member.delivered) else { continue };
            member.delivered = seq;
            // In a group it is a position and no entry.
            let Some(other) = id.other(&by.user) else { continue };
            let raised = self.add_receipt(other, &receipt(id, &by.user, v1::ReceiptKind::Delivered, seq, time_ms));
            match told.iter_mut().find(|told| told.user == raised.user) {
                Some(told) => told.receipt = None,
                None => told.push(raised),
            }
        }
        if let Some(cursor) = self.cursors.get_mut(by) {
            cursor.derived = cursor.derived.max(derived);
        }
        Outcome::Raised(told)
    }

    fn add_receipt(&mut self, user: UserId, receipt: &v1::Receipt) -> Told {
        self.version += 1;
        let place = self.place(&user, Class::Receipts);
        self.timelines.entry(user.clone()).or_default().add_receipt(self.version, receipt);
        Told { user, receipt: Some((receipt.clone(), place)) }
    }

    /// Of the entry that comes next into the timeline, at the last version given.
    fn place(&self, user: &UserId, class: Class) -> Place {
        Place { epoch: self.epoch, before: self.heads(user)[class as usize], version: self.version }
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

    fn foreign(&self, user: &UserId) -> Version {
        let of_others = |(_, message): &(Version, &v1::Message)| message.from != user.as_str();
        let messages = self.timelines.get(user).into_iter().flat_map(Timelines::messages);
        messages.filter(of_others).last().map_or(0, |(version, _)| version)
    }

    fn heads(&self, user: &UserId) -> [Version; CLASSES] {
        self.timelines.get(user).map_or([0; CLASSES], Timelines::heads)
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

fn receipt(id: &ConversationId, member: &UserId, kind: v1::ReceiptKind, seq: u64, time_ms: i64) -> v1::Receipt {
    v1::Receipt { conversation: id.to_string(), member: member.to_string(), kind: kind.into(), seq, time_ms }
}
