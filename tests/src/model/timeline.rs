//! What each user's timelines hold in the end: the truth, as its first reader read it, and what is gone from it.

use std::collections::{BTreeMap, HashMap};

use tern_proto::key::{CLASSES, Class, Key, Version};
use tern_proto::v1;

use super::case::{Handout, message, receipt, same_receipt};
use crate::history::{History, Role};

/// What a user's timelines hold in the end.
pub(crate) struct Truth<'a> {
    /// The reader's last key.
    pub(crate) head: Key,
    /// By class. Where the server does not keep everything, also what is gone: seen once, and dropped before the end.
    pub(crate) entries: [BTreeMap<Version, &'a v1::Entry>; CLASSES],
    /// Entries of class 1 at or below it are gone; 0 where the server keeps everything.
    pub(crate) floor: Version,
    /// By class and version: the event that brought the entry.
    event: HashMap<(usize, Version), usize>,
    /// The versions of the messages with a client_msg_id, whoever sent them.
    by_id: HashMap<u64, Vec<Version>>,
}

impl<'a> Truth<'a> {
    fn starting(head: Key) -> Truth<'a> {
        Truth { head, entries: Default::default(), floor: 0, event: HashMap::new(), by_id: HashMap::new() }
    }

    fn take_in(&mut self, entry: &'a v1::Entry, event: usize) {
        let Some(class) = Class::from_number(entry.class) else { return };
        let known = self.entries[class as usize].insert(entry.version, entry);
        self.event.insert((class as usize, entry.version), event);
        if let (Some(message), None) = (message(entry), known.and_then(message)) {
            self.by_id.entry(message.client_msg_id).or_default().push(entry.version);
        }
    }

    /// The messages by version.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (Version, &'a v1::Message)> {
        self.entries[Class::Messages as usize].iter().filter_map(|(version, entry)| Some((*version, message(entry)?)))
    }

    /// The entries of class 1 that are there in the end.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (Version, &'a v1::Entry)> {
        let above = self.entries[Class::Messages as usize].range(self.floor + 1..);
        above.map(|(version, entry)| (*version, *entry))
    }

    /// The entries of class 1 that are known to be gone.
    pub(crate) fn gone(&self) -> impl Iterator<Item = (Version, &'a v1::Entry)> {
        self.entries[Class::Messages as usize].range(..=self.floor).map(|(version, entry)| (*version, *entry))
    }

    /// The message that was accepted with this content and result.
    pub(crate) fn find(
        &self,
        from: &str,
        content: &v1::OutMessage,
        result: &v1::SendResult,
    ) -> Option<(Version, &'a v1::Message)> {
        let mut under = self.under_id(from, content.client_msg_id);
        under.find(|(_, message)| {
            message.server_msg_id == result.server_msg_id
                && message.text == content.text
                && message.change.is_some() == content.change.is_some()
        })
    }

    /// The messages that a user sent under an id, whatever the device and text.
    pub(crate) fn under_id(&self, from: &str, id: u64) -> impl Iterator<Item = (Version, &'a v1::Message)> {
        let versions = self.by_id.get(&id).into_iter().flatten();
        versions.filter_map(move |version| {
            let entry = self.entries[Class::Messages as usize].get(version)?;
            Some((*version, message(entry).filter(|message| message.from == from)?))
        })
    }

    /// The event that brought an entry.
    pub(crate) fn event_of(&self, class: Class, version: Version) -> Option<usize> {
        self.event.get(&(class as usize, version)).copied()
    }

    /// The first event that brought an entry of the truth itself.
    pub(crate) fn first_event(&self) -> Option<usize> {
        self.event.values().min().copied()
    }

    /// The latest receipt of (conversation, member, kind).
    pub(crate) fn receipt(&self, like: &v1::Receipt) -> Option<(Version, &'a v1::Receipt)> {
        let entries = self.entries[Class::Receipts as usize].iter().rev();
        let mut receipts = entries.filter_map(|(version, entry)| Some((*version, receipt(entry)?)));
        receipts.find(|(_, one)| same_receipt(one, like))
    }

    /// The first seq of a conversation that is there in the end.
    pub(crate) fn first_kept(&self, conversation: &str) -> Option<u64> {
        let kept = self.kept().filter_map(|(_, entry)| message(entry));
        kept.filter(|message| message.conversation == conversation).map(|message| message.seq).next()
    }

    /// Whether the newest message of a conversation is there in the end.
    pub(crate) fn keeps(&self, conversation: &str) -> bool {
        self.first_kept(conversation).is_some()
    }

    /// Whether an accepted message that is not here may have been dropped without having been seen: nothing of its conversation below it is here.
    pub(crate) fn may_have_dropped(&self, conversation: &str, seq: u64) -> bool {
        self.floor > 0 && self.first_kept(conversation).is_none_or(|first| first > seq)
    }
}

/// The truths by user; users without a reader have none.
pub(super) fn truths<'a>(history: &'a History, handouts: &[Handout<'a>]) -> BTreeMap<&'a str, Truth<'a>> {
    let mut truths: BTreeMap<&str, Truth> = BTreeMap::new();
    for handout in handouts {
        let member = &history.roster[handout.device];
        let (Role::Reader(0), Some(event)) = (member.role, handout.events.last()) else { continue };
        let truth = truths.entry(&member.user).or_insert_with(|| Truth::starting(handout.after));
        truth.head.merge(&handout.after);
        handout.entries.iter().for_each(|entry| truth.take_in(entry, *event));
    }
    if history.keeps.is_some() {
        for truth in truths.values_mut() {
            let first = truth.entries[Class::Messages as usize].keys().next().copied();
            truth.floor = first.map_or(truth.head.version(Class::Messages).unwrap_or(0), |first| first - 1);
        }
        for handout in handouts {
            if let Some(truth) = truths.get_mut(history.roster[handout.device].user.as_str()) {
                remember_gone(truth, handout);
            }
        }
    }
    truths
}

/// Takes in what a device was handed and is gone; a message rather than its stub.
fn remember_gone<'a>(truth: &mut Truth<'a>, handout: &Handout<'a>) {
    let Some(event) = handout.events.last() else { return };
    let floor = truth.floor;
    let messages = handout.entries.iter().filter(|entry| entry.class == Class::Messages.number());
    for entry in messages.filter(|entry| (1..=floor).contains(&entry.version)) {
        let known = truth.entries[Class::Messages as usize].get(&entry.version);
        let better = match &entry.body {
            Some(v1::entry::Body::Message(_)) => known.is_none_or(|known| message(known).is_none()),
            Some(v1::entry::Body::Stub(_)) => known.is_none(),
            _ => false,
        };
        if better {
            truth.take_in(entry, *event);
        }
    }
}
