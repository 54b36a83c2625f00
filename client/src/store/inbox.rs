//! The inbox: what the server handed out, until the application confirms it.

use prost::Message as _;
use rusqlite::{Connection, params};
use tern_proto::{Class, Key, v1};

use super::outbox::{self, Change};
use super::{PROCESSED, Store, StoreError, set_key};
use crate::message::{InboxEntry, Sent};

/// What applying a page or a delta changed.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Own messages whose acknowledgement had been lost.
    pub(crate) closed: Vec<Change>,
    /// Receipts that say something new.
    pub(crate) receipts: Vec<v1::Receipt>,
    /// Entries that were damaged or are not known to this version.
    pub(crate) unreadable: u64,
    /// Entries that the server no longer keeps, at most.
    pub(crate) missing: u64,
}

impl Store {
    /// Applies the entries between the old key and `key`, all in one transaction. What was processed before is skipped.
    pub(crate) fn apply(&mut self, entries: &[v1::Entry], key: &Key) -> Result<Applied, StoreError> {
        let tx = self.db.transaction()?;
        let mut applied = Applied::default();
        for entry in entries {
            apply_one(&tx, entry, &mut applied)?;
        }
        tx.execute("DELETE FROM processed WHERE number <= (SELECT max(number) FROM processed) - ?1", [PROCESSED])?;
        set_key(&tx, key)?;
        tx.commit()?;
        Ok(applied)
    }

    /// The first entries above a place in the inbox, at most `limit`.
    pub(crate) fn take(&self, above: i64, limit: usize) -> Result<Vec<InboxEntry>, StoreError> {
        let mut query =
            self.db.prepare("SELECT number, entry FROM inbox WHERE number > ?1 ORDER BY number LIMIT ?2")?;
        let mut rows = query.query(params![above, limit as i64])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            let entry = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            let entry = v1::Entry::decode(entry).ok().and_then(|entry| InboxEntry::new(row.get(0).ok()?, entry));
            entries.push(entry.ok_or(rusqlite::Error::InvalidQuery)?);
        }
        Ok(entries)
    }

    /// The application is done with these.
    pub(crate) fn confirm(&mut self, numbers: &[i64]) -> Result<(), StoreError> {
        let tx = self.db.transaction()?;
        let mut delete = tx.prepare("DELETE FROM inbox WHERE number = ?1")?;
        for number in numbers {
            delete.execute([number])?;
        }
        drop(delete);
        tx.commit()?;
        Ok(())
    }

    /// Entries that are not confirmed.
    pub(crate) fn backlog(&self) -> Result<usize, StoreError> {
        Ok(self.db.query_row("SELECT count(*) FROM inbox", [], |row| row.get::<_, i64>(0))? as usize)
    }
}

fn apply_one(db: &Connection, entry: &v1::Entry, applied: &mut Applied) -> rusqlite::Result<()> {
    let body = entry.body.as_ref().filter(|_| Class::from_number(entry.class).is_some());
    applied.unreadable += u64::from(matches!(body, None | Some(v1::entry::Body::Damaged(_))));
    match body {
        Some(v1::entry::Body::Message(message)) if is_new(db, message)? => push(db, entry),
        Some(v1::entry::Body::Receipt(receipt)) if raises(db, receipt)? => {
            applied.receipts.push(receipt.clone());
            push(db, entry)
        }
        Some(v1::entry::Body::Stub(stub)) => {
            let sent = Sent {
                server_msg_id: stub.server_msg_id,
                conversation: stub.conversation.clone(),
                seq: stub.seq,
                time_ms: stub.time_ms,
            };
            applied.closed.extend(outbox::close(db, stub.client_msg_id, &sent)?);
            Ok(())
        }
        Some(v1::entry::Body::Damaged(_)) => push(db, entry),
        Some(v1::entry::Body::Hole(hole)) => {
            // It counts all that the timeline has lost, so the newest hole counts for those before it.
            applied.missing = applied.missing.max(hole.count);
            push(db, entry)
        }
        // Processed before, or unknown.
        _ => Ok(()),
    }
}

/// Whether it was not processed before. A server whose data was made anew uses the same ids again, so it is the same message only if its time is the same too;
/// of those that an earlier format remembers the time is not known.
fn is_new(db: &Connection, message: &v1::Message) -> rusqlite::Result<bool> {
    let insert = "INSERT INTO processed (server_msg_id, time_ms) VALUES (?1, ?2)
        ON CONFLICT (server_msg_id) DO UPDATE SET time_ms = excluded.time_ms WHERE time_ms <> excluded.time_ms";
    Ok(db.execute(insert, params![message.server_msg_id as i64, message.time_ms])? == 1)
}

fn raises(db: &Connection, receipt: &v1::Receipt) -> rusqlite::Result<bool> {
    let raise = "INSERT INTO receipts VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET seq = excluded.seq WHERE excluded.seq > seq";
    let changed = db.execute(raise, params![receipt.conversation, receipt.member, receipt.kind, receipt.seq as i64])?;
    Ok(changed == 1)
}

fn push(db: &Connection, entry: &v1::Entry) -> rusqlite::Result<()> {
    db.execute("INSERT INTO inbox (entry) VALUES (?1)", [entry.encode_to_vec()])?;
    Ok(())
}
