//! What a user reads: its timelines, an entry per version.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use prost::Message;
use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::v1;
use tern_proto::v1::entry::Body;

use crate::{Device, Page, PageRequest};

/// One step of a timeline.
#[derive(Clone)]
pub(super) enum Item {
    /// A message; the device that sent it reads a stub instead.
    Message { sender: Device, message: Box<v1::Message> },
    /// A receipt.
    Receipt(v1::Receipt),
}

/// The timelines of one user.
#[derive(Default)]
pub(super) struct Timelines {
    classes: [BTreeMap<Version, Item>; CLASSES],
    gap: Gap,
}

/// The lost beginning of class 1.
#[derive(Default)]
struct Gap {
    up_to: Version,
    count: u64,
    reason: v1::HoleReason,
}

impl Timelines {
    pub(super) fn add_message(&mut self, version: Version, sender: &Device, message: &v1::Message) {
        let item = Item::Message { sender: sender.clone(), message: Box::new(message.clone()) };
        self.classes[Class::Messages as usize].insert(version, item);
    }

    /// Takes the place of the older receipt of the same (conversation, member, kind).
    pub(super) fn add_receipt(&mut self, version: Version, receipt: &v1::Receipt) {
        let receipts = &mut self.classes[Class::Receipts as usize];
        receipts.retain(|_, item| !matches!(item, Item::Receipt(older) if same_key(older, receipt)));
        receipts.insert(version, Item::Receipt(receipt.clone()));
    }

    /// The newest version of each class. The newest receipt is never replaced by an older one, so it is still there; the newest message may have
    /// been dropped.
    pub(super) fn heads(&self) -> [Version; CLASSES] {
        let mut heads = self.classes.each_ref().map(|items| items.last_key_value().map_or(0, |(version, _)| *version));
        let messages = &mut heads[Class::Messages as usize];
        *messages = (*messages).max(self.gap.up_to);
        heads
    }

    /// Class 1, the oldest first: version and message.
    pub(super) fn messages(&self) -> impl Iterator<Item = (Version, &v1::Message)> {
        self.classes[Class::Messages as usize].iter().filter_map(|(version, item)| match item {
            Item::Message { message, .. } => Some((*version, message.as_ref())),
            Item::Receipt(_) => None,
        })
    }

    /// Drops so many of the oldest entries of class 1; gives the version of the last one.
    pub(super) fn drop_oldest(&mut self, count: usize, reason: v1::HoleReason) -> Version {
        for _ in 0..count {
            if let Some((version, _)) = self.classes[Class::Messages as usize].pop_first() {
                let by_cap = self.gap.reason == v1::HoleReason::Cap;
                let reason = if by_cap { self.gap.reason } else { reason };
                self.gap = Gap { up_to: version, count: self.gap.count + 1, reason };
            }
        }
        self.gap.up_to
    }

    /// What a key of class 1 sees that lies in the gap: 0 means the oldest kept, and misses nothing.
    fn hole(&self, class: Class, above: Version) -> Option<v1::Entry> {
        let misses = class == Class::Messages && above > 0 && above < self.gap.up_to;
        let hole = v1::Hole { reason: self.gap.reason.into(), count: self.gap.count };
        misses.then(|| v1::Entry { class: class.number(), version: self.gap.up_to, body: Some(Body::Hole(hole)) })
    }

    /// Fills `page` class by class, until an entry is over the count or the bytes.
    pub(super) fn read(&self, request: &PageRequest, page: &mut Page) {
        page.heads = self.heads();
        page.after = request.above;
        let mut bytes = 0;
        for class in Class::ALL {
            let Some(above) = request.above[class as usize] else { continue };
            if class == Class::Messages {
                page.after[class as usize] = Some(above.max(self.gap.up_to));
            }
            let items = self.classes[class as usize].range((Excluded(above), Unbounded));
            let kept = items.map(|(&version, item)| item.entry(class, version, &request.device));
            for entry in self.hole(class, above).into_iter().chain(kept) {
                let version = entry.version;
                bytes += encoded_bytes(&entry);
                let fits = page.entries.len() < request.max_entries && bytes <= request.max_bytes;
                if !fits && !page.entries.is_empty() {
                    page.more[class as usize] = true;
                    break;
                }
                page.after[class as usize] = Some(version);
                page.entries.push(entry);
            }
        }
    }
}

impl Item {
    fn entry(&self, class: Class, version: Version, reader: &Device) -> v1::Entry {
        let body = match self.clone() {
            Item::Message { sender, message } if sender == *reader => Body::Stub(v1::Stub {
                client_msg_id: message.client_msg_id,
                server_msg_id: message.server_msg_id,
                conversation: message.conversation,
                seq: message.seq,
                time_ms: message.time_ms,
            }),
            Item::Message { message, .. } => Body::Message(*message),
            Item::Receipt(receipt) => Body::Receipt(receipt),
        };
        v1::Entry { class: class.number(), version, body: Some(body) }
    }
}

fn same_key(a: &v1::Receipt, b: &v1::Receipt) -> bool {
    (&a.conversation, &a.member, a.kind) == (&b.conversation, &b.member, b.kind)
}

/// The bytes of an entry as an element of the reply's repeated field: tag, length and the entry.
fn encoded_bytes(entry: &v1::Entry) -> usize {
    let length = entry.encoded_len();
    1 + prost::length_delimiter_len(length) + length
}
