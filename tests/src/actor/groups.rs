//! Steps about groups, and about what can be asked of any conversation.

use tern_proto::{limits, v1};

use super::Actor;
use crate::event::Request;
use crate::long_link::Lost;

/// A device that knows so many groups makes no more.
const GROUPS: usize = 4;

impl Actor {
    /// A change of a group that it knows, or a new group.
    pub(crate) fn change(&mut self, id: u64) -> v1::OutMessage {
        let may_found = self.wire.state.groups().count() < GROUPS;
        let known = self.group();
        let (to, change) = match known {
            Some(group) if !may_found || self.chance(0.8) => (group, self.some_change()),
            _ => {
                let count = self.rng.usize(1..=self.manner.peers.len());
                let add = self.rng.choose_multiple(self.manner.peers.clone(), count);
                (String::new(), v1::GroupChange { title: Some(self.title(id)), add, remove: Vec::new() })
            }
        };
        let title = change.title.map(|_| self.title(id));
        let change = v1::GroupChange { title, ..change };
        v1::OutMessage { client_msg_id: id, to, text: String::new(), change: Some(change), ..Default::default() }
    }

    /// Adds, removes, leaves, or gives a title; also all that changes nothing, and what only the owner may do.
    fn some_change(&mut self) -> v1::GroupChange {
        let (own, count) = (self.wire.identity.user.clone(), self.rng.usize(1..3));
        let some = self.rng.choose_multiple(self.manner.peers.clone(), count);
        let (add, remove) = match self.rng.u32(0..20) {
            0..10 => (some, Vec::new()),
            10..14 => (Vec::new(), some),
            14..16 => (Vec::new(), vec![own]),
            16 => (some, vec![own]),
            17 => some.split_first().map(|(one, rest)| (vec![one.clone()], rest.to_vec())).unwrap_or_default(),
            _ => (Vec::new(), Vec::new()),
        };
        let is_empty = add.is_empty() && remove.is_empty();
        let title = (is_empty || self.chance(0.2)).then(String::new);
        v1::GroupChange { title, add, remove }
    }

    fn title(&mut self, id: u64) -> String {
        format!("{}/{}/{id}", self.wire.identity.user, self.wire.identity.device)
    }

    /// A group that it has heard of; it may have left it.
    pub(crate) fn group(&mut self) -> Option<String> {
        let groups: Vec<String> = self.wire.state.groups().map(str::to_owned).collect();
        self.rng.choice(groups)
    }

    /// A change that breaks a rule, or goes where no group is.
    pub(crate) fn bad_change(&mut self, id: u64) -> v1::OutMessage {
        let group = self.group().unwrap_or_else(|| "g/1".into());
        let named = |add: &[&str]| v1::GroupChange {
            add: add.iter().map(|name| (*name).into()).collect(),
            ..Default::default()
        };
        let peer = self.manner.peers[0].clone();
        let (to, text, change) = match self.rng.u32(0..6) {
            0 => (group, "beside".into(), named(&[&peer])),
            1 => (group, String::new(), named(&[&peer, &peer])),
            2 => (group, String::new(), v1::GroupChange::default()),
            3 => (peer.clone(), String::new(), named(&[&peer])),
            4 => {
                let title = Some("x".repeat(limits::TITLE_BYTES + 1));
                (String::new(), String::new(), v1::GroupChange { title, ..Default::default() })
            }
            _ => ("g/1".into(), String::new(), named(&[&peer])),
        };
        v1::OutMessage { client_msg_id: id, to, text, change: Some(change), ..Default::default() }
    }

    /// Asks for the conversations, or for members or history of one, which need not be its own.
    pub(crate) async fn ask_about(&mut self) -> Result<(), Lost> {
        let known: Vec<(String, u64)> = self.wire.state.heads.clone().into_iter().collect();
        let foreign = self.chance(0.1).then(|| self.foreign_conversation());
        let (conversation, head) = match (foreign, self.rng.choice(known)) {
            (None, Some(known)) => known,
            (foreign, _) => (foreign.unwrap_or_else(|| "g/1".into()), 1),
        };
        let request = match self.rng.u32(0..8) {
            0 => Request::Conversations(v1::ConversationsRequest { after: String::new(), limit: self.rng.u32(0..4) }),
            1..3 => Request::Members(v1::MembersRequest { conversation }),
            _ => {
                let before_seq = if self.chance(0.5) { 0 } else { self.rng.u64(1..head + 2) };
                let limit = [0, 1, 5, 50][self.rng.usize(0..4)];
                Request::History(v1::HistoryRequest { conversation, before_seq, limit })
            }
        };
        let path = self.path();
        self.wire.ask(path, request).await?;
        Ok(())
    }
}
