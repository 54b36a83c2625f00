//! What each op of a batch becomes, given what is [`Known`]. No I/O: the same rules as everywhere, on loaded rows.

use std::sync::Arc;

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::{ConversationId, UserId, limits, v1};

use super::effects::{Effects, NewMessage, NewRefusal, ReceiptKey};
use super::known::{Cursor, Known, Loaded, Remembered, Used};
use crate::conversation::Conversation;
use crate::{Content, Device, Op, Outcome, Recipient, Sent, Told};

/// Decides ops in their order, and gathers what is to be written.
pub(super) struct Decider {
    pub known: Known,
    pub effects: Effects,
}

/// A message that may be stored.
struct Admitted {
    conversation: ConversationId,
    /// For a group that it makes.
    founded: Option<Conversation>,
    change: Option<v1::GroupChange>,
}

impl Decider {
    pub(super) fn new(known: Known) -> Decider {
        Decider { known, effects: Effects::default() }
    }

    pub(super) fn decide(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Send { from, client_msg_id, content, time_ms } => self.send(from, *client_msg_id, content, *time_ms),
            Op::Start { device, start, time_ms } => self.start(device, *start, *time_ms),
            Op::Ack { device, epoch, versions, time_ms } => self.ack(device, *epoch, *versions, *time_ms),
            Op::Read { by, conversation, seq, time_ms } => self.read(&by.user, conversation, *seq, *time_ms),
            Op::Delivered { by, derived, positions, time_ms } => self.delivered(by, *derived, positions, *time_ms),
        }
    }

    fn send(&mut self, from: &Device, client_msg_id: u64, content: &Content, time_ms: i64) -> Outcome {
        let hash = content.hash();
        match self.known.used(from, client_msg_id) {
            Some(Used::As(remembered)) if remembered.hash == hash => return remembered.outcome.clone(),
            Some(Used::As(_)) => return Outcome::Conflict,
            Some(Used::Forgotten) => return Outcome::TooOld,
            None => {}
        }
        let outcome = match self.admit(&from.user, content) {
            Ok(admitted) => self.store(from, (client_msg_id, hash, time_ms), content, admitted),
            Err(code) => {
                self.effects.refusals.push(NewRefusal { from: from.clone(), client_msg_id, time_ms, hash, code });
                Outcome::Refused(code)
            }
        };
        let again = match outcome.clone() {
            Outcome::Sent(sent) => Outcome::Sent(sent.repeated()),
            outcome => outcome,
        };
        let results = self.known.results.entry(from.clone()).or_default();
        results.insert(client_msg_id, Remembered { hash, outcome: again });
        outcome
    }

    /// Where a message goes and what it does there, or the final refusal that it gets.
    fn admit(&self, sender: &UserId, content: &Content) -> Result<Admitted, v1::Code> {
        let to = |conversation: ConversationId, change| Admitted { conversation, founded: None, change };
        match content {
            Content::Refused { code, .. } => Err(*code),
            Content::Text { to: Recipient::User(user), .. } => Ok(to(ConversationId::of_two(sender, user), None)),
            Content::Text { to: Recipient::Group(group), .. } => {
                self.group_of(group, sender)?;
                Ok(to(group.clone(), None))
            }
            Content::Change { group: Some(group), change } => {
                let change = self.group_of(group, sender)?.judge(sender, change)?;
                Ok(to(group.clone(), Some(change)))
            }
            Content::Change { group: None, change } => {
                let founded = Conversation::founded_by(sender.clone());
                let change = founded.judge(sender, change)?;
                // Named when it is stored.
                let conversation = ConversationId::of_group(1);
                Ok(Admitted { conversation, founded: Some(founded), change: Some(change) })
            }
        }
    }

    fn group_of(&self, group: &ConversationId, member: &UserId) -> Result<&Conversation, v1::Code> {
        let known = self.known.conversations.get(group).map(|loaded| &loaded.conversation);
        known.filter(|known| group.is_group() && known.member(member).is_some()).ok_or(v1::Code::NotAMember)
    }

    fn store(
        &mut self,
        from: &Device,
        (client_msg_id, hash, time_ms): (u64, u64, i64),
        content: &Content,
        admitted: Admitted,
    ) -> Outcome {
        let Some(server_msg_id) = self.known.ids.next() else { return Outcome::Unavailable };
        let Admitted { mut conversation, founded, change } = admitted;
        if let Some(founded) = founded {
            conversation = ConversationId::of_group(server_msg_id);
            let loaded = Loaded { conversation: founded, stored: Vec::new(), is_new: true, changed: false };
            self.known.conversations.insert(conversation.clone(), loaded);
        }
        let Some(loaded) = self.known.conversations.get_mut(&conversation) else { return Outcome::Unavailable };
        loaded.changed = true;
        let seq = loaded.conversation.state.seq + 1;
        let owed = loaded.conversation.message(&from.user, (seq, time_ms), change.as_ref());
        let (text, media) = match content {
            Content::Text { text, media, .. } => (text.clone(), media.clone()),
            Content::Change { .. } | Content::Refused { .. } => (String::new(), None),
        };
        let message = NewMessage {
            conversation: conversation.clone(),
            seq,
            server_msg_id,
            from: from.clone(),
            client_msg_id,
            time_ms,
            hash,
            refs: owed.len(),
            text,
            change,
            media,
        };
        let places = self.effects.message(message, &owed);
        Outcome::Sent(Sent { server_msg_id, conversation, seq, time_ms, owed, places })
    }

    /// At heads, nothing of this batch has entered the user's timelines before: the op begins a transaction.
    fn start(&mut self, device: &Device, start: v1::Start, time_ms: i64) -> Outcome {
        let position = match start {
            v1::Start::Oldest if self.is_known(device) => return Outcome::Started([0; CLASSES]),
            v1::Start::Oldest => [0; CLASSES],
            v1::Start::Heads => self.known.heads.get(&device.user).copied().unwrap_or_default().heads,
        };
        let cursor = self.heard(device, time_ms);
        cursor.raise(position);
        cursor.derived = cursor.derived.max(position[Class::Messages as usize]);
        Outcome::Started(position)
    }

    fn ack(&mut self, device: &Device, epoch: u64, versions: [Option<Version>; CLASSES], time_ms: i64) -> Outcome {
        let state = self.known.state(device);
        if !state.takes(epoch, versions) || !state.is_news(versions, time_ms) {
            return Outcome::Acked(state);
        }
        let owed_foreign = self.effects.is_owed_foreign(&device.user);
        let cursor = self.heard(device, time_ms);
        cursor.raise(versions.map(Option::unwrap_or_default));
        if cursor.derived >= state.foreign && !owed_foreign {
            cursor.derived = cursor.derived.max(cursor.acked[Class::Messages as usize]);
        }
        Outcome::Acked(self.known.state(device))
    }

    fn read(&mut self, reader: &UserId, id: &ConversationId, seq: u64, time_ms: i64) -> Outcome {
        let read = |loaded: &Loaded| Some((loaded.conversation.state.seq, loaded.conversation.member(reader)?.read));
        let loaded = self.known.conversations.get_mut(id);
        let Some((loaded, (head, read))) = loaded.and_then(|loaded| read(loaded).map(|read| (loaded, read))) else {
            return Outcome::NotAMember;
        };
        if seq > head {
            return Outcome::BeyondHead;
        }
        if seq <= read {
            return Outcome::Raised(Vec::new());
        }
        let users = loaded.conversation.read(reader, seq);
        loaded.changed = true;
        let told = |user: &UserId| self.receipt(user.clone(), id, (reader, v1::ReceiptKind::Read), seq, time_ms);
        Outcome::Raised(users.iter().map(told).collect())
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
            let Some(loaded) = self.known.conversations.get_mut(id) else { continue };
            let seq = (*seq).min(loaded.conversation.state.seq);
            let Some(_) = loaded.conversation.member(&by.user).filter(|member| seq > member.delivered) else {
                continue;
            };
            loaded.conversation.delivered(&by.user, seq);
            loaded.changed = true;
            // In a group it is a position and no entry.
            let Some(other) = id.other(&by.user) else { continue };
            let raised = self.receipt(other, id, (&by.user, v1::ReceiptKind::Delivered), seq, time_ms);
            match told.iter_mut().find(|told| told.user == raised.user) {
                Some(told) => told.receipt = None,
                None => told.push(raised),
            }
        }
        if let Some(cursor) = self.known.cursors.get_mut(&by.user).and_then(|cursors| cursors.get_mut(&by.id)) {
            cursor.derived = cursor.derived.max(derived);
            self.effects.cursors.insert(by.clone());
        }
        Outcome::Raised(told)
    }

    fn receipt(
        &mut self,
        user: UserId,
        conversation: &ConversationId,
        (member, kind): (&UserId, v1::ReceiptKind),
        seq: u64,
        time_ms: i64,
    ) -> Told {
        let receipt = v1::Receipt {
            conversation: conversation.to_string(),
            member: member.to_string(),
            kind: kind.into(),
            seq,
            time_ms,
        };
        let (conversation, member) = (conversation.clone(), member.clone());
        let key = ReceiptKey { user: user.clone(), conversation, member, kind: kind.into() };
        let place = self.effects.receipt(key, seq, time_ms);
        Told { user, receipt: Some((receipt, place)) }
    }

    fn is_known(&self, device: &Device) -> bool {
        self.known.cursors.get(&device.user).is_some_and(|cursors| cursors.contains_key(&device.id))
    }

    /// The device's cursor, made if it is unknown; where there are too many, the longest silent yield.
    fn heard(&mut self, device: &Device, time_ms: i64) -> &mut Cursor {
        let cursors = self.known.cursors.entry(device.user.clone()).or_default();
        if !cursors.contains_key(&device.id) {
            self.effects.arrived(&device.user);
            while cursors.len() >= limits::DEVICES {
                let silent = cursors.iter().min_by_key(|(_, cursor)| cursor.heard_ms).map(|(id, _)| id.clone());
                let Some(id) = silent else { break };
                cursors.remove(&id);
                let gone = Device { user: device.user.clone(), id };
                self.effects.cursors.remove(&gone);
                self.effects.gone.insert(gone);
            }
        }
        self.effects.cursors.insert(device.clone());
        let cursor = cursors.entry(device.id.clone()).or_default();
        cursor.heard_ms = cursor.heard_ms.max(time_ms);
        cursor
    }
}

/// The result of a message that is stored already.
pub(super) fn remembered(server_msg_id: u64, conversation: ConversationId, seq: u64, time_ms: i64) -> Sent {
    Sent { server_msg_id, conversation, seq, time_ms, owed: Arc::default(), places: Vec::new() }
}
