//! A hint that carries what it is about, so that a link which stands right before the entry needs no look to be told it.

use tern_proto::key::{Class, Version};
use tern_proto::v1::entry::Body;
use tern_proto::{DeviceId, UserId, v1};
use tern_runtime::traces::Trace;
use tern_storage::{Content, Device, Op, Place, Sent, Told};

use crate::keys::user_epoch;
use crate::{Hints, Risen};

/// Longer texts are left to a look: a hint is for links that are right before it, and is lost on all others.
const TEXT_BYTES: usize = 1024;

/// An entry that was just committed, and where it stands in the timelines of those who are owed it.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// The device that caused it; it needs no hint, and gets the stub of a message.
    pub by: Device,
    /// A message or a receipt. `None` for a message that is not told with a hint: it has to be looked for.
    pub body: Option<Body>,
    /// By timeline.
    pub places: Vec<Placed>,
    /// That of the request that caused it, if it is traced.
    pub trace: Option<Trace>,
}

/// Where an entry stands in a user's timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Whose.
    pub user: UserId,
    /// That of the user's keys.
    pub epoch: u64,
    /// A key at this version, or above it and below that of the entry, has the entry as its next.
    pub before: Version,
    /// That of the entry.
    pub version: Version,
}

impl News {
    /// Of a message; `None` where storage has not told the places.
    pub(crate) fn of_message(by: &Device, sent: &Sent, short: Option<Short>) -> Option<News> {
        if sent.places.is_empty() {
            return None;
        }
        let message = |short: Short| v1::Message {
            from: by.user.to_string(),
            conversation: sent.conversation.to_string(),
            seq: sent.seq,
            server_msg_id: sent.server_msg_id,
            client_msg_id: short.client_msg_id,
            text: short.text,
            time_ms: sent.time_ms,
            change: None,
            media: None,
        };
        let places = sent.owed.iter().zip(&sent.places).map(|(user, place)| Placed::new(user, place));
        let (by, trace) = (by.clone(), Trace::current());
        let body = short.map(message).map(Body::Message);
        Some(News { by, body, places: places.collect(), trace })
    }

    /// Of a receipt, if storage has told it.
    fn of_receipt(by: &Device, told: &Told) -> Option<News> {
        let (receipt, place) = told.receipt.as_ref()?;
        let places = vec![Placed::new(&told.user, place)];
        Some(News { by: by.clone(), body: Some(Body::Receipt(receipt.clone())), places, trace: Trace::current() })
    }

    /// The class of the timelines.
    pub fn class(&self) -> Class {
        match self.body {
            Some(Body::Receipt(_)) => Class::Receipts,
            _ => Class::Messages,
        }
    }

    /// Whether this device of the user caused it.
    pub fn is_own(&self, placed: &Placed, device: &DeviceId) -> bool {
        self.by.id == *device && self.by.user == placed.user
    }

    /// The entry as this device of the user would find it in a page; `None` if it has to look for it there.
    pub fn entry(&self, placed: &Placed, device: &DeviceId) -> Option<v1::Entry> {
        let body = match self.body.as_ref()? {
            Body::Message(message) if self.is_own(placed, device) => Body::Stub(v1::Stub {
                client_msg_id: message.client_msg_id,
                server_msg_id: message.server_msg_id,
                conversation: message.conversation.clone(),
                seq: message.seq,
                time_ms: message.time_ms,
            }),
            body => body.clone(),
        };
        Some(v1::Entry { class: self.class().number(), version: placed.version, body: Some(body) })
    }
}

impl Placed {
    /// The head that this has become.
    pub(crate) fn risen(&self, class: Class) -> Risen {
        Risen { user: self.user.clone(), epoch: self.epoch, class, version: self.version }
    }

    fn new(user: &UserId, place: &Place) -> Placed {
        let Place { epoch, before, version } = *place;
        Placed { user: user.clone(), epoch: user_epoch(epoch, user), before, version }
    }
}

/// Hints everybody whose timeline has a new receipt, but not the device that caused it.
pub(crate) fn of_receipts(hints: &dyn Hints, by: &Device, told: &[Told]) {
    for told in told {
        match News::of_receipt(by, told) {
            Some(news) => hints.news(news),
            None => hints.owed(&told.user, Some(by)),
        }
    }
}

/// What of a send has to be kept for the news of it.
pub(crate) struct Short {
    client_msg_id: u64,
    text: String,
}

impl Short {
    /// `None` for what is not told with a hint: long texts, media, and changes, of which storage decides what becomes of them.
    pub(crate) fn of(op: &Op) -> Option<Short> {
        match op {
            Op::Send { client_msg_id, content: Content::Text { text, media: None, .. }, .. }
                if text.len() <= TEXT_BYTES =>
            {
                Some(Short { client_msg_id: *client_msg_id, text: text.clone() })
            }
            _ => None,
        }
    }
}
