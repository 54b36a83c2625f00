//! One conversation as decisions need it, whatever the engine: who is in it and how far each has come.
//!
//! [`Conversation::judge`] says what of a change may happen. `message`, `read` and `delivered` take note of what was decided and tell whose
//! timelines it enters. A conversation of two is one whose members never change.

use std::collections::HashSet;
use std::sync::Arc;

use tern_proto::limits::MEMBERS;
use tern_proto::{UserId, v1};
use tern_runtime::planted::{self, Fault};

use crate::{Change, Member};

/// A conversation of two, or a group.
#[derive(Default)]
pub(crate) struct Conversation {
    /// What its members may ask for.
    pub state: crate::Conversation,
    /// Who is in it, in the order of the members.
    everyone: Arc<[UserId]>,
    /// Places in the members, in the order of their names: a large group is not searched from end to end.
    by_name: Box<[usize]>,
}

impl Conversation {
    /// Both are in it from the beginning.
    pub(crate) fn of_two(users: [UserId; 2]) -> Conversation {
        let members = users.map(|user| Member::new(user, 1)).to_vec();
        Conversation::of(crate::Conversation { members, ..Default::default() })
    }

    /// A group as it is before its first message.
    pub(crate) fn founded_by(user: UserId) -> Conversation {
        let members = vec![Member::new(user.clone(), 1)];
        Conversation::of(crate::Conversation { members, owner: Some(user), ..Default::default() })
    }

    /// One that stands so.
    pub(crate) fn of(state: crate::Conversation) -> Conversation {
        let mut conversation = Conversation { state, ..Conversation::default() };
        conversation.arrange();
        conversation
    }

    /// The members are others than before.
    fn arrange(&mut self) {
        let members = &self.state.members;
        self.everyone = members.iter().map(|member| member.user.clone()).collect();
        self.by_name = (0..members.len()).collect();
        self.by_name.sort_unstable_by_key(|&place| &members[place].user);
    }

    fn place(&self, user: &UserId) -> Option<usize> {
        let at = self.by_name.binary_search_by_key(&user, |&place| &self.everyone[place]).ok()?;
        Some(self.by_name[at])
    }

    pub(crate) fn member(&self, user: &UserId) -> Option<&Member> {
        self.place(user).map(|place| &self.state.members[place])
    }

    fn member_mut(&mut self, user: &UserId) -> Option<&mut Member> {
        self.place(user).map(|place| &mut self.state.members[place])
    }

    /// What of the change really happens, or the reason why nothing of it may.
    pub(crate) fn judge(&self, sender: &UserId, change: &Change) -> Result<v1::GroupChange, v1::Code> {
        let members: HashSet<&UserId> = self.everyone.iter().collect();
        if !members.contains(sender) {
            return Err(v1::Code::NotAMember);
        }
        let mut after = members.clone();
        let add: Vec<String> = change.add.iter().filter(|user| after.insert(user)).map(UserId::to_string).collect();
        let mut stay = members;
        let remove: Vec<&UserId> = change.remove.iter().filter(|user| stay.remove(user)).collect();
        if self.state.owner.as_ref() != Some(sender) && remove.iter().any(|user| *user != sender) {
            return Err(v1::Code::NotAllowed);
        }
        if stay.len() + add.len() > MEMBERS {
            return Err(v1::Code::GroupFull);
        }
        let remove = remove.into_iter().map(UserId::to_string).collect();
        Ok(v1::GroupChange { title: change.title.clone(), add, remove })
    }

    /// The message at `seq`. It enters the timelines of all who are members before it or after it.
    pub(crate) fn message(
        &mut self,
        from: &UserId,
        (seq, time_ms): (u64, i64),
        change: Option<&v1::GroupChange>,
    ) -> Arc<[UserId]> {
        let mut owed = self.everyone.clone();
        if let Some(change) = change {
            let joined = self.change(change, seq);
            owed = owed.iter().chain(&joined).cloned().collect();
        }
        self.reach(seq);
        self.state.time_ms = time_ms;
        if let Some(sender) = self.member_mut(from) {
            sender.last_sent = sender.last_sent.max(seq);
        }
        owed
    }

    /// Gives those who joined.
    fn change(&mut self, change: &v1::GroupChange, seq: u64) -> Vec<UserId> {
        if let Some(title) = &change.title {
            self.state.title.clone_from(title);
        }
        // Nobody is there already, unless the record of a removal was lost.
        let names = change.add.iter().filter_map(|name| UserId::new(name).ok());
        let joined: Vec<UserId> = names.filter(|user| self.place(user).is_none()).collect();
        let removed: HashSet<&str> = change.remove.iter().map(String::as_str).collect();
        let members = &mut self.state.members;
        members.retain(|member| !removed.contains(member.user.as_str()));
        members.extend(joined.iter().map(|user| Member::new(user.clone(), seq)));
        if !members.iter().any(|member| Some(&member.user) == self.state.owner.as_ref()) {
            self.state.owner = members.first().map(|member| member.user.clone());
        }
        self.arrange();
        joined
    }

    /// Tells the reader's own timeline, and every author who may have a message among the newly read.
    pub(crate) fn read(&mut self, reader: &UserId, seq: u64) -> Arc<[UserId]> {
        let Some(member) = self.member_mut(reader) else { return Arc::default() };
        let before = member.read;
        member.read = before.max(seq);
        member.delivered = member.delivered.max(seq);
        self.reach(seq);
        let goes_back = planted::active(Fault::ReadMarkGoesBack) && seq <= before;
        let told = |member: &&Member| member.last_sent > before || goes_back || member.user == *reader;
        self.state.members.iter().filter(told).map(|member| member.user.clone()).collect()
    }

    /// A position and nothing more: whether somebody is told is for the caller to know.
    pub(crate) fn delivered(&mut self, user: &UserId, seq: u64) {
        if let Some(member) = self.member_mut(user) {
            member.delivered = member.delivered.max(seq);
            self.reach(seq);
        }
    }

    /// By a receipt, higher only where the message itself is lost; its number is not used again.
    fn reach(&mut self, seq: u64) {
        self.state.seq = self.state.seq.max(seq);
    }
}
