//! The groups of a history: the log of each, who was in it from where to where, and what of that was sure at which time.

use std::collections::{BTreeMap, HashMap};

use tern_proto::v1::{self, entry::Body};

use super::case::Case;
use crate::device::is_group;

/// A message of a group.
pub(crate) struct Logged<'a> {
    /// The message.
    pub(crate) message: &'a v1::Message,
    /// The event that shows it.
    pub(crate) event: usize,
    /// It was stored not before this, in microseconds of the run,
    asked: u64,
    /// and not after this.
    seen: u64,
}

/// From where to where a user sees a group; without an end the user is still in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The message that added the user.
    pub(crate) from: u64,
    /// The message that removed the user.
    pub(crate) to: Option<u64>,
}

/// A group as its log tells it.
#[derive(Default)]
pub(crate) struct Group<'a> {
    /// What all truths together hold of it, by seq.
    pub(crate) log: BTreeMap<u64, Logged<'a>>,
    /// Something may have come behind the log that retention has dropped before anybody saw it.
    has_lost_its_end: bool,
    /// By user, in order.
    spans: BTreeMap<&'a str, Vec<Span>>,
    /// From which seq on who owns it; nobody owns one that is empty.
    owners: BTreeMap<u64, Option<&'a str>>,
    /// Its title in the end.
    pub(crate) title: &'a str,
    /// Who is in it in the end, in the order of joining.
    pub(crate) members: Vec<&'a str>,
}

impl<'a> Group<'a> {
    /// Whether nothing of the log is missing, so that what it says about members can be relied on.
    pub(crate) fn is_whole(&self) -> bool {
        !self.has_lost_its_end && self.log.keys().copied().eq(1..=self.log.len() as u64)
    }

    /// The last message of its log.
    fn last(&self) -> Option<&'a v1::Message> {
        self.log.values().next_back().map(|logged| logged.message)
    }

    /// Whether a user sees a seq.
    pub(crate) fn sees(&self, user: &str, seq: u64) -> bool {
        self.spans_of(user).any(|span| span.from <= seq && span.to.is_none_or(|to| seq <= to))
    }

    /// Whether a user was in it when a seq was sent: the sender of the first one, and who was in it before.
    pub(crate) fn may_send(&self, user: &str, seq: u64) -> bool {
        let founds = seq == 1 && self.log.get(&1).is_some_and(|first| first.message.from == user);
        founds || self.spans_of(user).any(|span| span.from < seq && span.to.is_none_or(|to| seq <= to))
    }

    /// Who owned it when a seq was sent.
    pub(crate) fn owner_at(&self, seq: u64) -> Option<&'a str> {
        self.owners.range(..seq.max(2)).next_back().and_then(|(_, owner)| *owner)
    }

    /// Who owns it in the end.
    pub(crate) fn owner(&self) -> Option<&'a str> {
        self.owners.values().next_back().copied().flatten()
    }

    /// Where a user who is in it in the end has joined last.
    pub(crate) fn joined(&self, user: &str) -> Option<u64> {
        self.spans_of(user).find(|span| span.to.is_none()).map(|span| span.from)
    }

    /// Where a user has joined last, whether or not the user has left since.
    pub(crate) fn last_joined(&self, user: &str) -> Option<u64> {
        self.spans_of(user).last().map(|span| span.from)
    }

    /// The newest message of a user who is in it in the end, since joining last.
    pub(crate) fn newest_of(&self, user: &str) -> Option<u64> {
        let joined = self.joined(user)?;
        let own = self.log.range(joined..).rev().find(|(_, logged)| logged.message.from == user);
        own.map(|(seq, _)| *seq)
    }

    /// Everybody who was ever in it.
    pub(crate) fn everybody(&self) -> impl Iterator<Item = &'a str> {
        self.spans.keys().copied()
    }

    /// The message by which a user joined who sees a seq.
    pub(crate) fn joining_of(&self, user: &str, seq: u64) -> Option<u64> {
        let mut spans = self.spans_of(user);
        spans.find(|span| span.from <= seq && span.to.is_none_or(|to| seq <= to)).map(|span| span.from)
    }

    /// How many are in it after a seq.
    pub(crate) fn size_after(&self, seq: u64) -> usize {
        let is_in = |span: &Span| span.from <= seq && span.to.is_none_or(|to| seq < to);
        self.spans.values().filter(|spans| spans.iter().any(is_in)).count()
    }

    /// The event that shows a message.
    pub(crate) fn event_at(&self, seq: u64) -> Option<usize> {
        self.log.get(&seq).map(|logged| logged.event)
    }

    /// Whether a user may have been in it at some moment between two times.
    pub(crate) fn may_be_in(&self, user: &str, since: u64, until: u64) -> bool {
        self.spans_of(user)
            .any(|span| self.asked(span.from) <= until && span.to.is_none_or(|to| self.seen(to) >= since))
    }

    /// Whether a user was in it all the time between two times.
    pub(crate) fn is_surely_in(&self, user: &str, since: u64, until: u64) -> bool {
        self.spans_of(user).any(|span| self.seen(span.from) < since && span.to.is_none_or(|to| until < self.asked(to)))
    }

    /// Whether a user owned it all the time between two times.
    pub(crate) fn surely_owns(&self, user: &str, since: u64, until: u64) -> bool {
        self.owners.iter().any(|(from, owner)| {
            let next = self.owners.range(from + 1..).next().map(|(next, _)| *next);
            *owner == Some(user) && self.seen(*from) < since && next.is_none_or(|next| until < self.asked(next))
        })
    }

    /// The highest seq that was surely stored before a time and that the user sees.
    pub(crate) fn surely_reached(&self, user: &str, by: u64) -> u64 {
        let stored = self.log.iter().rev().filter(|(seq, logged)| logged.seen < by && self.sees(user, **seq));
        stored.map(|(seq, _)| *seq).next().unwrap_or(0)
    }

    fn spans_of(&self, user: &str) -> impl Iterator<Item = Span> {
        self.spans.get(user).into_iter().flatten().copied()
    }

    fn asked(&self, seq: u64) -> u64 {
        self.log.get(&seq).map_or(0, |logged| logged.asked)
    }

    fn seen(&self, seq: u64) -> u64 {
        self.log.get(&seq).map_or(u64::MAX, |logged| logged.seen)
    }

    fn joins(&mut self, user: &'a str, seq: u64) {
        if !self.members.contains(&user) {
            self.members.push(user);
            self.spans.entry(user).or_default().push(Span { from: seq, to: None });
        }
    }

    fn leaves(&mut self, user: &str, seq: u64) {
        let open = self.spans.get_mut(user).and_then(|spans| spans.last_mut()).filter(|span| span.to.is_none());
        if let Some(span) = open {
            span.to = Some(seq);
            self.members.retain(|member| *member != user);
        }
    }

    /// Follows the changes of the log.
    fn follow(&mut self) {
        let messages: Vec<&v1::Message> = self.log.values().map(|logged| logged.message).collect();
        for message in messages {
            let Some(change) = &message.change else { continue };
            if let Some(title) = &change.title {
                self.title = title;
            }
            let founder = (message.seq == 1).then_some(message.from.as_str());
            change.remove.iter().for_each(|user| self.leaves(user, message.seq));
            founder
                .into_iter()
                .chain(change.add.iter().map(String::as_str))
                .for_each(|user| self.joins(user, message.seq));
            let owner = self.owner().filter(|owner| self.members.contains(owner));
            let owner = owner.or(self.members.first().copied());
            if self.owners.is_empty() || owner != self.owner() {
                self.owners.insert(message.seq, owner);
            }
        }
    }
}

/// The groups by name.
pub(super) fn groups<'a>(case: &Case<'a>) -> BTreeMap<&'a str, Group<'a>> {
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    let seen = first_seen(case);
    for truth in case.truths.values() {
        for (version, message) in truth.messages().filter(|(_, message)| is_group(&message.conversation)) {
            let Some(event) = truth.event_of(tern_proto::Class::Messages, version) else { continue };
            let log = &mut groups.entry(&message.conversation).or_default().log;
            log.entry(message.seq).or_insert_with(|| {
                let seen = seen.get(&message.server_msg_id).copied().unwrap_or(u64::MAX);
                Logged { message, event, asked: asked(case, message), seen }
            });
        }
    }
    groups.values_mut().for_each(Group::follow);
    for group in ends_lost(case, &groups) {
        groups.entry(group).or_default().has_lost_its_end = true;
    }
    groups
}

/// The groups of which something may have come behind the log and was dropped unseen: a message that was accepted, or one of which it was never told what
/// became of it. Not if a member still has the last message: then nothing behind it was dropped.
fn ends_lost<'a>(case: &Case<'a>, groups: &BTreeMap<&'a str, Group<'a>>) -> Vec<&'a str> {
    let may_be_lost = |group: &str| {
        let Some(group) = groups.get(group) else { return case.truths.values().any(|truth| truth.floor > 0) };
        let last = group.last();
        let floor = |member: &str| case.truths.get(member).map_or(0, |truth| truth.floor);
        // Whoever was in it last saw the message by which everybody had left.
        let mut saw = group.members.iter().copied().chain(last.map(|last| last.from.as_str()));
        saw.all(|member| floor(member) >= last.map_or(0, |last| last.server_msg_id))
    };
    let head = |group: &str| groups.get(group).and_then(Group::last).map_or(0, |last| last.seq);
    let accepted = case.accepted.iter().map(|accepted| (accepted.result.conversation.as_str(), accepted.result.seq));
    let above = accepted.filter(|(group, seq)| is_group(group) && *seq > head(group)).map(|(group, _)| group);
    let unknown = case.tries.iter().filter_map(|(id, tries)| {
        let group = tries.first().map(|first| first.content.to.as_str()).filter(|to| is_group(to))?;
        let is_logged = |(device, id): (usize, u64)| {
            let mut messages = groups.get(group).into_iter().flat_map(|group| group.log.values());
            messages.any(|logged| logged.message.client_msg_id == id && case.sender(logged.message) == Some(device))
        };
        (tries.iter().all(|attempt| attempt.settled().is_none()) && !is_logged(*id)).then_some(group)
    });
    above.chain(unknown).filter(|group| may_be_lost(group)).collect()
}

/// When the id of a message was asked first.
fn asked(case: &Case, message: &v1::Message) -> u64 {
    let tries = case.sender(message).and_then(|device| case.tries.get(&(device, message.client_msg_id)));
    let asks = tries.into_iter().flatten().map(|attempt| case.at(case.exchanges[attempt.exchange].ask));
    asks.min().unwrap_or(0)
}

/// By server_msg_id of a group's message: when a handout or an answer showed it first.
fn first_seen(case: &Case) -> HashMap<u64, u64> {
    let mut seen: HashMap<u64, u64> = HashMap::new();
    let mut note = |id: u64, at: u64| {
        let first = seen.entry(id).or_insert(at);
        *first = at.min(*first);
    };
    for accepted in case.accepted.iter().filter(|accepted| is_group(&accepted.result.conversation)) {
        note(accepted.result.server_msg_id, case.at(accepted.answer));
    }
    for handout in &case.handouts {
        let Some(event) = handout.events.last() else { continue };
        for entry in handout.entries {
            match &entry.body {
                Some(Body::Message(message)) if is_group(&message.conversation) => {
                    note(message.server_msg_id, case.at(*event));
                }
                Some(Body::Stub(stub)) if is_group(&stub.conversation) => note(stub.server_msg_id, case.at(*event)),
                _ => {}
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::super::group_story::GroupStory;
    use super::super::story::{ANN, BEN, assert_breaks, assert_holds};
    use crate::history::{History, Keeps};

    /// Ann makes a group with ben, who sees that and leaves it. Nobody sees him leave. Then he is told that he is not in it.
    fn left(is_kept: bool) -> History {
        let mut group = GroupStory::founded(ANN, &["ben"]);
        let first = group.story.entries_for(BEN);
        group.story.page(BEN, (0, 0), first, (1, 0), &[]);
        group.change(BEN, &[], &["ben"]);
        // What is kept begins behind it.
        group.story.send(ANN, 9, BEN, 1);
        group.story.store(ANN, 3, 9, BEN, 1);
        for device in [ANN, BEN] {
            if is_kept {
                group.forget(device, 2);
            } else {
                group.story.drop_up_to(device, 2);
            }
        }
        if !is_kept {
            group.story.keeps(Keeps { window: 0, cap: 1, results: 0, until: None });
        }
        group.read_refused(BEN, 1);
        group.end()
    }

    #[test]
    fn of_a_group_whose_end_was_dropped_unseen_the_members_are_not_known() {
        assert_breaks("0", &left(true));
        assert_holds(&left(false));
    }
}
