//! A conversation: who is in it, how far each has come, and what was said.

use prost::Message as _;
use tern_proto::{ConversationId, UserId, limits, v1};

use crate::{Change, History, HistoryRequest, Listed, Member};

/// A conversation of two, or a group.
#[derive(Default)]
pub(super) struct Conversation {
    /// What anybody may ask for.
    pub(super) state: crate::Conversation,
    messages: Vec<v1::Message>,
}

impl Conversation {
    /// Both are in it from the beginning.
    pub(super) fn of_two(users: [UserId; 2]) -> Conversation {
        let mut conversation = Conversation::default();
        conversation.state.members.extend(users.map(|user| Member::new(user, 1)));
        conversation
    }

    /// A new group, without its first message.
    pub(super) fn founded_by(user: &UserId) -> Conversation {
        let mut conversation = Conversation::default();
        conversation.state.owner = Some(user.clone());
        conversation.state.members.push(Member::new(user.clone(), 1));
        conversation
    }

    pub(super) fn member(&mut self, user: &UserId) -> Option<&mut Member> {
        self.state.members.iter_mut().find(|member| member.user == *user)
    }

    pub(super) fn has(&self, user: &UserId) -> bool {
        self.state.members.iter().any(|member| member.user == *user)
    }

    fn users(&self) -> Vec<UserId> {
        self.state.members.iter().map(|member| member.user.clone()).collect()
    }

    /// What of the change would really happen, or why a member may not ask for it.
    pub(super) fn admit(&self, sender: &UserId, change: &Change) -> Result<v1::GroupChange, v1::Code> {
        let mut filtered = v1::GroupChange { title: change.title.clone(), ..v1::GroupChange::default() };
        for user in &change.add {
            if !self.has(user) && !filtered.add.contains(&user.to_string()) {
                filtered.add.push(user.to_string());
            }
        }
        for user in &change.remove {
            if self.has(user) && !filtered.remove.contains(&user.to_string()) {
                if user != sender && self.state.owner.as_ref() != Some(sender) {
                    return Err(v1::Code::NotAllowed);
                }
                filtered.remove.push(user.to_string());
            }
        }
        if self.state.members.len() - filtered.remove.len() + filtered.add.len() > limits::MEMBERS {
            return Err(v1::Code::GroupFull);
        }
        Ok(filtered)
    }

    /// The next message. Gives those who get it: whoever is a member before it or after it.
    pub(super) fn add(&mut self, sender: &UserId, message: &v1::Message) -> Vec<UserId> {
        let mut readers = self.users();
        self.state.seq = message.seq;
        self.state.time_ms = message.time_ms;
        self.messages.push(message.clone());
        if let Some(change) = &message.change {
            self.change(change, message.seq);
        }
        if let Some(sender) = self.member(sender) {
            sender.last_sent = message.seq;
        }
        let joined: Vec<UserId> = self.users().into_iter().filter(|user| !readers.contains(user)).collect();
        readers.extend(joined);
        readers
    }

    fn change(&mut self, change: &v1::GroupChange, seq: u64) {
        let state = &mut self.state;
        if let Some(title) = &change.title {
            state.title = title.clone();
        }
        state.members.retain(|member| !change.remove.contains(&member.user.to_string()));
        let joining = change.add.iter().map(|name| name.parse().expect("a user name"));
        state.members.extend(joining.map(|user| Member::new(user, seq)));
        if !state.members.iter().any(|member| Some(&member.user) == state.owner.as_ref()) {
            state.owner = state.members.first().map(|member| member.user.clone());
        }
    }

    /// Raises what a member has read; gives those who are told. The caller has checked that it goes up and not beyond the head.
    pub(super) fn read(&mut self, reader: &UserId, seq: u64) -> Vec<UserId> {
        let mut told = vec![reader.clone()];
        let Some(member) = self.member(reader) else { return Vec::new() };
        let before = std::mem::replace(&mut member.read, seq);
        member.delivered = member.delivered.max(seq);
        // An author is told if a message of its own may be among the newly read.
        let others = self.state.members.iter().filter(|other| other.user != *reader && other.last_sent > before);
        told.extend(others.map(|other| other.user.clone()));
        told
    }

    /// As the member lists it; `None` if the user is none, or nothing was said yet.
    pub(super) fn listed(&self, id: &ConversationId, user: &UserId) -> Option<Listed> {
        let state = &self.state;
        let member = state.members.iter().find(|member| member.user == *user && state.seq > 0)?;
        Some(Listed {
            id: id.clone(),
            title: state.title.clone(),
            seq: state.seq,
            time_ms: state.time_ms,
            members: state.members.len(),
            member: member.clone(),
        })
    }

    pub(super) fn history(&self, request: &HistoryRequest) -> History {
        let asked = self.messages.iter().filter(|message| (request.from..request.before).contains(&message.seq));
        let mut history = History::default();
        let mut bytes = 0;
        for message in asked.rev() {
            let length = message.encoded_len();
            bytes += 1 + prost::length_delimiter_len(length) + length;
            let fits = history.messages.len() < request.max_entries && bytes <= request.max_bytes;
            if !fits && !history.messages.is_empty() {
                history.more = true;
                break;
            }
            history.messages.insert(0, message.clone());
        }
        history
    }
}
