//! Reading a page: which versions, then what the log says at each.

use std::collections::BTreeMap;

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::{UserId, v1};
use tern_runtime::planted::{self, Fault};

use super::frame::{Found, Want};
use super::gap::Gap;
use super::reader::Reader;
use super::record::{Fact, Message, Meta};
use super::rows::{ReceiptKey, ReceiptRow};
use super::{Failure, Shared};
use crate::room::Room;
use crate::{Device, Page, PageRequest};

/// One user's state at one moment, as far as the page needs it.
struct Snapshot {
    heads: [Version; CLASSES],
    indexed: [Version; CLASSES],
    versions: Vec<Version>,
    receipts: BTreeMap<ReceiptKey, ReceiptRow>,
    gap: Gap,
}

/// Whether the page needs the index, and so perhaps the disk.
pub(super) fn is_cold(shared: &Shared, request: &PageRequest) -> bool {
    let warm = shared.users.peek(&request.device.user, |user| {
        let below = |(above, indexed): (&Option<Version>, &Version)| above.is_some_and(|above| above < *indexed);
        !request.above.iter().zip(&user.indexed).any(below)
    });
    warm != Some(true)
}

pub(super) fn read(shared: &Shared, request: &PageRequest) -> Result<Page, Failure> {
    loop {
        if let Some(page) = try_read(shared, request)? {
            return Ok(page);
        }
    }
}

/// `None` if retention has dropped what was about to be read: the next look finds it gone.
fn try_read(shared: &Shared, request: &PageRequest) -> Result<Option<Page>, Failure> {
    let [messages, receipts] = request.above;
    let snapshot = snapshot(shared, request)?;
    let mut page = Page { epoch: shared.epoch, heads: snapshot.heads, after: request.above, ..Page::default() };
    let mut room = Room::new(request.max_entries, request.max_bytes);
    let want = if request.texts { Want::All } else { Want::Meta };
    if let Some(above) = messages {
        let mut last = above.max(snapshot.gap.up_to);
        if let Some(hole) = snapshot.gap.hole(above) {
            room.take(&hole);
            page.entries.push(hole);
        }
        let versions = class_one(shared, &request.device.user, last, request.max_entries, &snapshot)?;
        if last < snapshot.indexed[Class::Messages as usize] && is_dropped(shared, &request.device.user, last + 1)? {
            // What was dropped meanwhile is perhaps no longer in the index, and would be stepped over without a hole.
            return Ok(None);
        }
        let mut reader = Reader::new(&shared.log);
        for version in versions {
            let found = shared.moved.read(&mut reader, &shared.index, version, want)?;
            if found.is_none() && is_dropped(shared, &request.device.user, version)? {
                return Ok(None);
            }
            let Some(entry) = message_entry(&request.device, version, found) else {
                last = version;
                continue;
            };
            if !room.take(&entry) {
                break;
            }
            last = version;
            page.entries.push(entry);
        }
        page.after[Class::Messages as usize] = Some(last);
    }
    // Receipts come behind the messages: a page that these fill does not look for them.
    if let Some(above) = receipts.filter(|&above| room.is_open() && above < snapshot.heads[Class::Receipts as usize]) {
        let mut last = above;
        for (key, row) in class_two(shared, &request.device.user, above, snapshot.indexed, snapshot.receipts)? {
            let body = Some(v1::entry::Body::Receipt(key.entry(&row)));
            let entry = v1::Entry { class: Class::Receipts.number(), version: row.version, body };
            if !room.take(&entry) {
                break;
            }
            last = row.version;
            page.entries.push(entry);
        }
        page.after[Class::Receipts as usize] = Some(last);
    }
    page.more = std::array::from_fn(|class| page.after[class].is_some_and(|after| after < snapshot.heads[class]));
    Ok(Some(page))
}

fn is_dropped(shared: &Shared, user: &UserId, version: Version) -> Result<bool, Failure> {
    Ok(shared.users.look(&shared.index, user, |user| version <= user.gap.up_to)?)
}

fn snapshot(shared: &Shared, request: &PageRequest) -> Result<Snapshot, Failure> {
    let [messages, receipts] = request.above;
    Ok(shared.users.with(&shared.index, &request.device.user, |user| {
        let recent = visible(&user.recent);
        let versions = messages.map_or(&[][..], |above| &recent[recent.partition_point(|&v| v <= above)..]);
        let fresh = |above| user.receipts.iter().filter(move |(_, row)| row.version > above);
        Snapshot {
            heads: user.heads,
            indexed: user.indexed,
            versions: versions.iter().take(request.max_entries).copied().collect(),
            receipts: receipts
                .map(|above| fresh(above).map(|(key, row)| (key.clone(), *row)).collect())
                .unwrap_or_default(),
            gap: user.gap,
        }
    })?)
}

/// The versions that are shown: all of them. (The planted fault hides the last but one until later ones follow.)
fn visible(recent: &[Version]) -> std::borrow::Cow<'_, [Version]> {
    let mut shown = std::borrow::Cow::Borrowed(recent);
    if planted::active(Fault::VersionOutOfCommitOrder)
        && recent.len() >= 2
        && (recent[recent.len() - 1] / 8).is_multiple_of(2)
    {
        shown.to_mut().remove(recent.len() - 2);
    }
    shown
}

fn class_one(
    shared: &Shared,
    user: &UserId,
    above: Version,
    limit: usize,
    snapshot: &Snapshot,
) -> Result<Vec<Version>, Failure> {
    let indexed = snapshot.indexed[Class::Messages as usize];
    let mut versions = Vec::new();
    if above < indexed {
        versions = shared.index.versions(user, above, indexed, limit)?;
    }
    let room = limit - versions.len();
    versions.extend(snapshot.versions.iter().take(room));
    Ok(versions)
}

fn class_two(
    shared: &Shared,
    user: &UserId,
    above: Version,
    indexed: [Version; CLASSES],
    mut receipts: BTreeMap<ReceiptKey, ReceiptRow>,
) -> Result<Vec<(ReceiptKey, ReceiptRow)>, Failure> {
    if above < indexed[Class::Receipts as usize] {
        for (key, row) in shared.index.receipts(user, above)? {
            // What the index has may be older than what is in memory, or by now as new.
            let known = receipts.entry(key).or_insert(row);
            if known.version < row.version {
                *known = row;
            }
        }
    }
    let mut receipts: Vec<_> = receipts.into_iter().collect();
    receipts.sort_unstable_by_key(|(_, row)| row.version);
    Ok(receipts)
}

/// The entry at a version; `None` only for a planted fault.
fn message_entry(reader: &Device, version: Version, found: Option<Found>) -> Option<v1::Entry> {
    let body = match found {
        Some(Found { meta: Meta { fact: Some(Fact::Message(message)) }, body, .. }) => {
            render(reader, version, message, body)
        }
        Some(_) | None => damaged(String::new(), 0),
    };
    if planted::active(Fault::OwnStubMissing) && matches!(body, v1::entry::Body::Stub(_)) {
        return None;
    }
    Some(v1::Entry { class: Class::Messages.number(), version, body: Some(body) })
}

fn render(reader: &Device, version: Version, message: Message, body: Option<Vec<u8>>) -> v1::entry::Body {
    let conversation = message.conversation_name(version);
    let Message { from, device, client_msg_id, seq, time_ms, change, media, .. } = message;
    let server_msg_id = version;
    if from == reader.user.as_str() && device == reader.id.as_str() {
        return v1::entry::Body::Stub(v1::Stub { client_msg_id, server_msg_id, conversation, seq, time_ms });
    }
    match body.map(String::from_utf8) {
        Some(Ok(text)) => v1::entry::Body::Message(v1::Message {
            from,
            conversation,
            seq,
            server_msg_id,
            client_msg_id,
            text,
            time_ms,
            change,
            media: media.map(|media| *media),
        }),
        Some(Err(_)) | None => damaged(conversation, seq),
    }
}

fn damaged(conversation: String, seq: u64) -> v1::entry::Body {
    v1::entry::Body::Damaged(v1::Damaged { conversation, seq })
}
