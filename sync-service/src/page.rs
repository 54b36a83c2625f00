//! Pages on their way out: what to ask of storage, and what to make of its answer.

use tern_proto::key::{CLASSES, Class, Key, Version};
use tern_proto::v1::entry::Body;
use tern_proto::{limits, v1};
use tern_storage::{Device, Page, PageRequest};

use crate::Pushed;
use crate::keys::user_epoch;

/// The page above these versions. A `limit` that is 0 or too large means that of the protocol.
pub(crate) fn request(device: &Device, above: [Option<Version>; CLASSES], limit: u32) -> PageRequest {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let max_entries = if limit == 0 { limits::PAGE_ENTRIES } else { limit.min(limits::PAGE_ENTRIES) };
    PageRequest { device: device.clone(), above, max_entries, max_bytes: limits::PAGE_BYTES, texts: true }
}

/// The answer to a sync.
pub(crate) fn reply(device: &Device, page: Page) -> v1::SyncReply {
    let has_more = |class: &Class| page.more[*class as usize];
    v1::SyncReply {
        key: Some((&after(device, &page)).into()),
        more: Class::ALL.into_iter().filter(has_more).map(Class::number).collect(),
        entries: page.entries,
        key_order: v1::KeyOrder::None.into(),
    }
}

/// What to tell a long link that stands below this page.
pub(crate) fn pushed(device: &Device, page: Page) -> Pushed {
    let is_stub = |entry: &v1::Entry| matches!(entry.body, Some(Body::Stub(_)));
    if page.more != [false; CLASSES] {
        Pushed::TooMuch
    } else if page.entries.iter().all(is_stub) {
        Pushed::Nothing
    } else {
        let after = after(device, &page);
        Pushed::Delta(page.entries, after)
    }
}

fn after(device: &Device, page: &Page) -> Key {
    Key { epoch: user_epoch(page.epoch, &device.user), versions: page.after }
}
