//! The outbox: messages from the moment that the application hands them over until they are settled.
//!
//! They go out in id order. When the attempts of one are used up, everything that waits behind it fails with it: what is
//! tried again later must not find that its successors have passed it.

use prost::Message as _;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tern_proto::{limits, v1};

use super::{CLIP, SETTLED, Store, StoreError};
use crate::backoff::ATTEMPTS;
use crate::checked::{check_change, check_text};
use crate::clip::{Batch, Clip};
use crate::message::{Fate, MessageState, Outgoing, Sent};
use crate::recipient::Recipient;

/// How many messages may be waiting or failed.
pub(crate) const OPEN: usize = 10_000;

const SENDING: i64 = 0;
const SENT: i64 = 1;
const REFUSED: i64 = 2;
const FAILED: i64 = 3;

/// Encoded bytes of one send request: a packet less its header and slack.
const BATCH_BYTES: usize = limits::PACKET_BYTES - 512;
/// Bytes of a tag and a length that stand before each message in a request, at most.
const FRAME_BYTES: usize = 4;

/// A message and its new state.
pub(crate) type Change = (u64, MessageState);

const COLUMNS: &str = "SELECT id, recipient, text, state, code, reason, server_msg_id, conversation, seq, time_ms,
    (SELECT max(CASE WHEN r.kind = 2 THEN 2 ELSE 1 END) FROM receipts r
     WHERE r.conversation = outbox.conversation AND r.seq >= outbox.seq AND r.member <> (SELECT user FROM me)), change,
    media, clip_begin
    FROM outbox";

impl Store {
    /// Takes messages in, all or none; they get ids in their order. The chunk of one that is about a clip is here the whole clip. A note takes its place in the same transaction, and
    /// those behind it are forgotten; what has a note does not pass failed messages.
    pub(crate) fn enqueue(
        &mut self,
        messages: &[v1::OutMessage],
        note: Option<(usize, &str)>,
    ) -> Result<Vec<u64>, StoreError> {
        if self.peeking {
            return Err(StoreError::Peeking);
        }
        messages.iter().try_for_each(check)?;
        let (sending, failed) = self.open_messages()?;
        if sending + failed + messages.len() > OPEN {
            return Err(StoreError::OutboxFull);
        }
        if failed > 0 && note.is_some() {
            return Err(StoreError::BehindFailed);
        }
        let tx = self.db.transaction()?;
        let last: i64 = tx.query_row("SELECT last_id FROM me", [], |row| row.get(0))?;
        let new_last = last.checked_add(messages.len() as i64).ok_or(StoreError::NoIdsLeft)?;
        let insert = "INSERT INTO outbox (id, recipient, text, change, state, media, clip_begin, clip)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let mut insert = tx.prepare(insert)?;
        for (id, message) in (last + 1..).zip(messages) {
            let change = message.change.as_ref().map(v1::GroupChange::encode_to_vec);
            let begin = message.chunk.as_ref().and_then(|clip| clip.clip.as_ref()).map(v1::MediaBegin::encode_to_vec);
            let clip = message.chunk.as_ref().map(|clip| &clip.bytes);
            insert.execute(params![id, message.to, message.text, change, SENDING, message.media, begin, clip])?;
        }
        drop(insert);
        tx.execute("UPDATE me SET last_id = ?1", [new_last])?;
        if let Some((place, text)) = note {
            tx.execute("DELETE FROM notes WHERE place >= ?1", [place as i64])?;
            tx.execute("INSERT INTO notes VALUES (?1, ?2)", params![place as i64, text])?;
        }
        tx.commit()?;
        Ok((last + 1..=new_last).map(|id| id as u64).collect())
    }

    /// Ids go on above this one.
    pub(crate) fn go_on_above(&mut self, highest: u64) -> Result<(), StoreError> {
        let highest = i64::try_from(highest).unwrap_or(i64::MAX);
        self.db.execute("UPDATE me SET last_id = max(last_id, ?1)", [highest])?;
        Ok(())
    }

    /// The first messages that wait for an answer, in id order, as many as fit one request. One that was tried before says so; what the server makes of it is the same either way, so it does not matter that one whose
    /// link could not be had counts as tried, and one that is started again as new. One about a clip goes alone.
    pub(crate) fn batch(&self) -> Result<Batch, StoreError> {
        let mut query = self.db.prepare(
            "SELECT id, recipient, text, change, attempts > 0, media, clip_begin IS NOT NULL
            FROM outbox WHERE state = 0 ORDER BY id LIMIT ?1",
        )?;
        let mut rows = query.query([limits::SEND_MESSAGES as i64])?;
        let (mut batch, mut bytes) = (Batch::default(), 0);
        while let Some(row) = rows.next()? {
            let is_clip: bool = row.get(6)?;
            if is_clip && !batch.messages.is_empty() {
                break;
            }
            let client_msg_id = row.get::<_, i64>(0)? as u64;
            let message = v1::OutMessage {
                client_msg_id,
                to: row.get(1)?,
                text: row.get(2)?,
                change: decoded(row, 3)?,
                again: row.get(4)?,
                media: row.get(5)?,
                chunk: None,
            };
            bytes += message.encoded_len() + FRAME_BYTES;
            // One that is too long by itself goes alone, and fails: else nothing would ever go.
            if bytes > BATCH_BYTES && !batch.messages.is_empty() {
                break;
            }
            batch.messages.push(message);
            if is_clip {
                batch.clip = Some(self.clip(client_msg_id)?);
                break;
            }
        }
        Ok(batch)
    }

    fn clip(&self, id: u64) -> Result<Clip, StoreError> {
        let query = "SELECT clip_begin, clip, clip_stored FROM outbox WHERE id = ?1";
        let read = |row: &Row<'_>| {
            let begin = v1::MediaBegin::decode(row.get::<_, Vec<u8>>(0)?.as_slice());
            let begin = begin.map_err(|_| rusqlite::Error::InvalidQuery)?;
            Ok(Clip { begin, bytes: row.get::<_, Vec<u8>>(1)?.into(), stored: row.get(2)? })
        };
        Ok(self.db.query_row(query, [id as i64], read)?)
    }

    /// So many chunks of the clip of a message are on the server. That is progress: its attempts count from there, unless the server has said that some are missing: then it may
    /// have been told as much before.
    pub(crate) fn clip_stored(&mut self, id: u64, chunks: u32) -> Result<(), StoreError> {
        let update = "UPDATE outbox SET clip_stored = ?2,
                attempts = CASE WHEN reason = ?3 THEN attempts ELSE 0 END WHERE id = ?1 AND state = 0";
        self.db.execute(update, params![id as i64, chunks, v1::Code::UploadIncomplete.as_str_name()])?;
        Ok(())
    }

    /// Takes the server's results in. Whatever is neither accepted nor refused for good is a failed attempt.
    pub(crate) fn settle(&mut self, results: &[v1::SendResult]) -> Result<Vec<Change>, StoreError> {
        let tx = self.db.transaction()?;
        let mut changes = Vec::new();
        for result in results {
            changes.extend(match Fate::of(result.code) {
                Fate::Sent => close(&tx, result.client_msg_id, &sent(result))?,
                Fate::Refused(code) => refuse(&tx, result.client_msg_id, code)?,
                Fate::Again => {
                    attempt_failed(&tx, result.client_msg_id, reason(result.code))?;
                    if result.code() == v1::Code::UploadIncomplete {
                        tx.execute("UPDATE outbox SET clip_stored = 0 WHERE id = ?1", [result.client_msg_id as i64])?;
                    }
                    None
                }
            });
        }
        changes.extend(fail_exhausted(&tx)?);
        forget_settled(&tx)?;
        tx.commit()?;
        self.refused += changes.iter().filter(|(_, state)| matches!(state, MessageState::Refused(_))).count() as u64;
        Ok(changes)
    }

    /// These were transmitted and not answered.
    pub(crate) fn unanswered(&mut self, ids: &[u64], reason: &str) -> Result<Vec<Change>, StoreError> {
        let tx = self.db.transaction()?;
        ids.iter().try_for_each(|id| attempt_failed(&tx, *id, reason))?;
        let changes = fail_exhausted(&tx)?;
        tx.commit()?;
        Ok(changes)
    }

    /// No link could be had while messages waited: one failed attempt for each of them.
    pub(crate) fn unreachable(&mut self, reason: &str) -> Result<Vec<Change>, StoreError> {
        let tx = self.db.transaction()?;
        tx.execute("UPDATE outbox SET attempts = attempts + 1, reason = ?1 WHERE state = 0", [reason])?;
        let changes = fail_exhausted(&tx)?;
        tx.commit()?;
        Ok(changes)
    }

    /// Starts again with a failed message; `false` if it is not a failed one.
    pub(crate) fn resend(&mut self, id: u64) -> Result<bool, StoreError> {
        let again = "UPDATE outbox SET state = 0, attempts = 0, reason = NULL WHERE id = ?1 AND state = 3";
        Ok(self.db.execute(again, [id as i64])? == 1)
    }

    /// Starts again with all failed messages, or with those to one recipient, at once, so that none passes another; gives
    /// their ids, ascending.
    pub(crate) fn resend_all(&mut self, to: Option<&Recipient>) -> Result<Vec<u64>, StoreError> {
        let again = "UPDATE outbox SET state = 0, attempts = 0, reason = NULL
            WHERE state = 3 AND recipient = ifnull(?1, recipient) RETURNING id";
        let mut update = self.db.prepare(again)?;
        let id = |row: &Row<'_>| Ok(row.get::<_, i64>(0)? as u64);
        let mut ids = update.query_map([to.map(Recipient::as_str)], id)?.collect::<Result<Vec<_>, _>>()?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// How many messages are sending, and how many failed.
    pub(crate) fn open_messages(&self) -> Result<(usize, usize), StoreError> {
        let count =
            "SELECT (SELECT count(*) FROM outbox WHERE state = 0), (SELECT count(*) FROM outbox WHERE state = 3)";
        let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)? as usize, row.get::<_, i64>(1)? as usize));
        Ok(self.db.query_row(count, [], read)?)
    }

    /// A message, while it is remembered.
    pub(crate) fn outgoing(&self, id: u64) -> Result<Option<Outgoing>, StoreError> {
        Ok(self.db.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id as i64], outgoing).optional()?)
    }

    /// The latest messages, oldest first.
    pub(crate) fn latest_outgoing(&self, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        let mut query = self.db.prepare(&format!("{COLUMNS} ORDER BY id DESC LIMIT ?1"))?;
        let mut latest = query.query_map([limit as i64], outgoing)?.collect::<Result<Vec<_>, _>>()?;
        latest.reverse();
        Ok(latest)
    }
}

fn check(message: &v1::OutMessage) -> Result<(), StoreError> {
    match &message.change {
        Some(change) => Ok(check_change(&message.to, change)?),
        None if message.chunk.as_ref().is_some_and(|clip| !(1..=CLIP).contains(&clip.bytes.len())) => {
            Err(StoreError::BadClip)
        }
        None if message.text.is_empty() && (!message.media.is_empty() || message.chunk.is_some()) => Ok(()),
        None => Ok(check_text(&message.text)?),
    }
}

fn about(row: &Row<'_>) -> rusqlite::Result<String> {
    let clip: Option<v1::MediaBegin> = decoded(row, 13)?;
    clip.map_or_else(|| row.get(12), |clip| Ok(clip.sha256))
}

fn decoded<T: prost::Message + Default>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let bytes: Option<Vec<u8>> = row.get(column)?;
    bytes.map(|bytes| T::decode(bytes.as_slice()).map_err(|_| rusqlite::Error::InvalidQuery)).transpose()
}

fn sent(result: &v1::SendResult) -> Sent {
    Sent {
        server_msg_id: result.server_msg_id,
        conversation: result.conversation.clone(),
        seq: result.seq,
        time_ms: result.time_ms,
    }
}

/// The server has the message. A failed one counts too: its last attempt may have arrived after all.
pub(super) fn close(db: &Connection, id: u64, sent: &Sent) -> rusqlite::Result<Option<Change>> {
    let update =
        "UPDATE outbox SET state = 1, reason = NULL, clip = NULL, server_msg_id = ?2, conversation = ?3, seq = ?4, time_ms = ?5
        WHERE id = ?1 AND state IN (0, 3)";
    let (server_msg_id, seq) = (sent.server_msg_id as i64, sent.seq as i64);
    let changed = db.execute(update, params![id as i64, server_msg_id, sent.conversation, seq, sent.time_ms])?;
    Ok((changed == 1).then(|| (id, MessageState::Sent(sent.clone()))))
}

fn refuse(db: &Connection, id: u64, code: v1::Code) -> rusqlite::Result<Option<Change>> {
    let update = "UPDATE outbox SET state = 2, code = ?2, clip = NULL WHERE id = ?1 AND state IN (0, 3)";
    let changed = db.execute(update, params![id as i64, code as i32])?;
    Ok((changed == 1).then_some((id, MessageState::Refused(code))))
}

fn attempt_failed(db: &Connection, id: u64, reason: &str) -> rusqlite::Result<()> {
    let update = "UPDATE outbox SET attempts = attempts + 1, reason = ?2 WHERE id = ?1 AND state = 0";
    db.execute(update, params![id as i64, reason]).map(drop)
}

/// Fails the first message whose attempts are used up, and what waits behind it.
fn fail_exhausted(db: &Connection) -> rusqlite::Result<Vec<Change>> {
    let first = "SELECT id, reason FROM outbox WHERE state = 0 AND attempts >= ?1 ORDER BY id LIMIT 1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default()));
    let Some((first, reason)): Option<(i64, String)> = db.query_row(first, [ATTEMPTS], read).optional()? else {
        return Ok(Vec::new());
    };
    let mut update =
        db.prepare("UPDATE outbox SET state = 3, reason = ?2 WHERE state = 0 AND id >= ?1 RETURNING id")?;
    let id = |row: &Row<'_>| Ok(row.get::<_, i64>(0)? as u64);
    let mut ids = update.query_map(params![first, reason], id)?.collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable();
    Ok(ids.into_iter().map(|id| (id, MessageState::Failed(reason.clone()))).collect())
}

fn reason(code: i32) -> &'static str {
    v1::Code::try_from(code).map_or("an answer of a newer server", |code| code.as_str_name())
}

fn forget_settled(db: &Connection) -> rusqlite::Result<usize> {
    db.execute("DELETE FROM outbox WHERE id <= (SELECT last_id FROM me) - ?1 AND state IN (1, 2)", [SETTLED])
}

fn outgoing(row: &Row<'_>) -> rusqlite::Result<Outgoing> {
    let sent = || {
        Ok::<_, rusqlite::Error>(Sent {
            server_msg_id: row.get::<_, i64>(6)? as u64,
            conversation: row.get(7)?,
            seq: row.get::<_, i64>(8)? as u64,
            time_ms: row.get(9)?,
        })
    };
    let receipt: Option<i32> = row.get(10)?;
    let state = match (row.get(3)?, receipt.map(v1::ReceiptKind::try_from)) {
        (SENT, Some(Ok(v1::ReceiptKind::Read))) => MessageState::Read(sent()?),
        (SENT, Some(Ok(v1::ReceiptKind::Delivered))) => MessageState::Delivered(sent()?),
        (SENT, _) => MessageState::Sent(sent()?),
        (REFUSED, _) => MessageState::Refused(v1::Code::try_from(row.get::<_, i32>(4)?).unwrap_or_default()),
        (FAILED, _) => MessageState::Failed(row.get::<_, Option<String>>(5)?.unwrap_or_default()),
        _ => MessageState::Sending,
    };
    let id = row.get::<_, i64>(0)? as u64;
    Ok(Outgoing { id, to: row.get(1)?, text: row.get(2)?, change: decoded(row, 11)?, about: about(row)?, state })
}
