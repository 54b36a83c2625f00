//! Hand-written histories of a group, for the tests of the rules: a [`Story`] whose devices write into one group.

use std::collections::BTreeMap;

use tern_proto::v1::{self, entry::Body};

use super::story::Story;
use crate::event::{Event, Reply, Request, Via, What};
use crate::history::{History, Role};

const NAME: &str = "g/9000";

/// A group that ann or ben has made.
#[derive(Clone)]
pub(crate) struct GroupStory {
    /// The history around it.
    pub(crate) story: Story,
    /// What ben's reader reads of the history at the end.
    pub(crate) history_read_at_the_end: Option<Vec<u64>>,
    log: Vec<v1::Entry>,
    members: Vec<String>,
    ids: BTreeMap<usize, u64>,
    told: Vec<(String, Request, Reply)>,
}

impl GroupStory {
    /// The group after its first message.
    pub(crate) fn founded(by: usize, add: &[&str]) -> GroupStory {
        let story = Story::new();
        let members = vec![story.user(by)];
        let mut group = GroupStory {
            story,
            history_read_at_the_end: None,
            log: vec![],
            members,
            ids: BTreeMap::new(),
            told: vec![],
        };
        let change = v1::GroupChange { title: Some("title".into()), ..naming(add, &[]) };
        group.send(by, "", "", Some(change.clone()), Some(change));
        group
    }

    pub(crate) fn name(&self) -> String {
        NAME.into()
    }

    /// Writes a text into the group.
    pub(crate) fn text(&mut self, device: usize) {
        let text = format!("{device} as {}", self.log.len() + 1);
        self.send(device, NAME, &text, None, None);
    }

    /// Changes the group, and everything that is asked happens.
    pub(crate) fn change(&mut self, device: usize, add: &[&str], remove: &[&str]) {
        self.change_into(device, add, remove, add, remove);
    }

    /// Asks for one change, and another is stored.
    pub(crate) fn change_into(
        &mut self,
        device: usize,
        add: &[&str],
        remove: &[&str],
        added: &[&str],
        removed: &[&str],
    ) {
        self.send(device, NAME, "", Some(naming(add, remove)), Some(naming(added, removed)));
    }

    fn send(
        &mut self,
        device: usize,
        to: &str,
        text: &str,
        asked: Option<v1::GroupChange>,
        done: Option<v1::GroupChange>,
    ) {
        let id = self.ids.entry(device).and_modify(|id| *id += 1).or_insert(1);
        let (id, seq) = (*id, self.log.len() as u64 + 1);
        let content =
            v1::OutMessage { client_msg_id: id, to: to.into(), text: text.into(), change: asked, ..Default::default() };
        let result = v1::SendResult {
            client_msg_id: id,
            server_msg_id: device as u64 * 1000 + id,
            conversation: NAME.into(),
            seq,
            time_ms: 5,
            ..Default::default()
        };
        let message = v1::Message {
            from: self.story.user(device),
            conversation: NAME.into(),
            seq,
            server_msg_id: result.server_msg_id,
            client_msg_id: id,
            text: text.into(),
            time_ms: 5,
            change: done.clone(),
            media: None,
        };
        self.story.sent(device, Via::Packets, content, result);
        let mut receivers = self.members.clone();
        if let Some(done) = done {
            self.members.retain(|member| !done.remove.contains(member));
            self.members.extend(done.add.clone());
            receivers.extend(done.add);
        }
        let entry = v1::Entry { class: 1, version: seq, body: Some(Body::Message(message)) };
        self.log.push(entry.clone());
        self.story.owns(seq, device);
        receivers.dedup();
        for receiver in receivers {
            self.story.put(&receiver, entry.clone());
        }
    }

    /// Takes a message out of a user's timeline.
    pub(crate) fn forget(&mut self, device: usize, seq: u64) {
        self.story.forget(device, seq);
    }

    /// Puts a message into the timeline of a user who is not to see it.
    pub(crate) fn leak(&mut self, device: usize, seq: u64) {
        let (user, entry) = (self.story.user(device), self.log[seq as usize - 1].clone());
        self.story.put(&user, entry);
    }

    /// Alters a message in a user's timeline.
    pub(crate) fn alter(&mut self, device: usize, seq: u64) {
        for entry in self.story.truth_of(device) {
            if let (true, Some(Body::Message(message))) = (entry.version == seq, &mut entry.body) {
                message.time_ms += 1;
            }
        }
    }

    /// Marks as read; everybody is told.
    pub(crate) fn read(&mut self, device: usize, seq: u64) {
        let n = self.story.ask(device, Request::Read(v1::ReadRequest { conversation: NAME.into(), seq }));
        self.story.answer(device, n, Reply::Read(v1::ReadReply {}));
        let (conversation, member) = (NAME.into(), self.story.user(device));
        let receipt = v1::Receipt { conversation, member, kind: v1::ReceiptKind::Read as i32, seq, time_ms: 5 };
        for user in ["ann", "ben"] {
            self.story.put(user, v1::Entry { class: 2, version: seq, body: Some(Body::Receipt(receipt.clone())) });
        }
    }

    /// Marks as read and is told that the group is none of the user's.
    pub(crate) fn read_refused(&mut self, device: usize, seq: u64) {
        let n = self.story.ask(device, Request::Read(v1::ReadRequest { conversation: NAME.into(), seq }));
        let code = v1::Code::NotAMember.into();
        self.story.answer(device, n, Reply::Error(v1::Error { code, ..Default::default() }));
    }

    /// Asks for a page of history and gets these messages.
    pub(crate) fn history(&mut self, device: usize, before_seq: u64, seqs: &[u64], more: bool) {
        let (request, reply) = self.page(before_seq, seqs, more);
        let n = self.story.ask(device, request);
        self.story.answer(device, n, reply);
    }

    fn page(&self, before_seq: u64, seqs: &[u64], more: bool) -> (Request, Reply) {
        let messages = seqs.iter().filter_map(|seq| match &self.log[*seq as usize - 1].body {
            Some(Body::Message(message)) => Some(message.clone()),
            _ => None,
        });
        let request = v1::HistoryRequest { conversation: NAME.into(), before_seq, limit: 0 };
        let reply = v1::HistoryReply { messages: messages.collect(), more };
        (Request::History(request), Reply::History(reply))
    }

    /// Asks for the members and is told nothing in particular.
    pub(crate) fn members_asked(&mut self, device: usize) {
        let n = self.story.ask(device, Request::Members(v1::MembersRequest { conversation: NAME.into() }));
        self.story.answer(device, n, Reply::Members(v1::MembersReply::default()));
    }

    /// What the first reader of a user is told at the end.
    pub(crate) fn told_at_the_end(&mut self, device: usize, list: Vec<v1::Conversation>, members: v1::MembersReply) {
        self.listed_at_the_end(device, list);
        let about = v1::MembersRequest { conversation: NAME.into() };
        self.told.push((self.story.user(device), Request::Members(about), Reply::Members(members)));
    }

    /// Which conversations the first reader of a user is told at the end.
    pub(crate) fn listed_at_the_end(&mut self, device: usize, conversations: Vec<v1::Conversation>) {
        let reply = v1::ConversationsReply { conversations, more: false };
        self.told.push((
            self.story.user(device),
            Request::Conversations(Default::default()),
            Reply::Conversations(reply),
        ));
    }

    /// The whole history.
    pub(crate) fn end(mut self) -> History {
        if let Some(seqs) = self.history_read_at_the_end.take() {
            let (request, reply) = self.page(0, &seqs, false);
            self.told.push(("ben".into(), request, reply));
        }
        let mut history = self.story.end();
        for (n, (user, request, reply)) in (90_000..).zip(self.told) {
            let is_reader = |member: &crate::history::Member| member.user == user && member.role == Role::Reader(0);
            let device = history.roster.iter().position(is_reader).unwrap();
            let at = history.events.last().map_or(0, |event| event.at) + 10;
            history.events.push(Event { at, device, what: What::Ask { n, via: Via::Json, request } });
            history.events.push(Event { at: at + 10, device, what: What::Answer { n, reply } });
        }
        history
    }
}

fn naming(add: &[&str], remove: &[&str]) -> v1::GroupChange {
    let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
    v1::GroupChange { title: None, add: names(add), remove: names(remove) }
}
