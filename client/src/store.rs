//! The local store of one device: its id, key, outbox, inbox and processed ids, in SQLite.
//!
//! ```text
//! page or delta ─ apply (one transaction) ─▶ inbox ─ take ─▶ application ─ confirm ─▶ gone
//!                      └▶ processed, receipts, key              outbox ─ batch ─▶ link ─ settle ─▶ sent, refused, failed
//! ```
//!
//! A commit is on disk when a method returns, so a key is never acknowledged before what it stands for is kept. Everything
//! here survives `kill -9` at any moment. The directory is locked for one process. The calls block: [`worker`] runs them on
//! a thread of their own.
//!
//! Bounds: confirmed entries are deleted, [`PROCESSED`] ids and [`SETTLED`] settled messages are remembered, [`OPEN`] messages
//! may wait, and the session stops fetching while [`crate::session::BACKLOG`] entries are unconfirmed.

mod inbox;
mod outbox;
#[cfg(test)]
mod tests;
pub(crate) mod worker;

use std::fs::{DirBuilder, File, TryLockError};
use std::path::{Path, PathBuf};

pub(crate) use outbox::Change;
pub(crate) use outbox::OPEN;
use rusqlite::{Connection, OptionalExtension, params};
use tern_proto::{Key, UserId};

use crate::checked::{BadChange, BadText};

/// The version of the tables, kept in `user_version`.
const FORMAT: i64 = 5;
/// Bytes of a clip: what a server takes of any media unless its operator says otherwise.
pub(crate) const CLIP: usize = 32 * 1024 * 1024;
/// How many processed messages are remembered, to skip entries that come again after a replaced key.
pub(crate) const PROCESSED: i64 = 100_000;
/// How many sent and refused messages are remembered for [`crate::Client::outcome`].
pub(crate) const SETTLED: i64 = 10_000;

const TABLES: &str = "
CREATE TABLE me (
    device TEXT NOT NULL,
    user TEXT NOT NULL,
    last_id INTEGER NOT NULL,  -- the highest client_msg_id given away
    epoch INTEGER,             -- the key; all null before the first
    messages INTEGER,
    receipts INTEGER
);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,    -- client_msg_id
    recipient TEXT NOT NULL,   -- empty: makes a group
    text TEXT NOT NULL,
    state INTEGER NOT NULL,    -- outbox.rs
    attempts INTEGER NOT NULL DEFAULT 0,
    code INTEGER,              -- of a refusal
    reason TEXT,               -- of a failure
    server_msg_id INTEGER,
    conversation TEXT,
    seq INTEGER,
    time_ms INTEGER,
    change BLOB,               -- GroupChange, instead of a text; since format 2
    media TEXT NOT NULL DEFAULT '', -- the id of what the message is about; since format 4
    clip_begin BLOB,           -- MediaBegin of the clip that it is about; since format 5
    clip BLOB,                 -- until it is settled; since format 5
    clip_stored INTEGER NOT NULL DEFAULT 0 -- so many chunks are on the server; since format 5
);
CREATE INDEX outbox_sending ON outbox (id) WHERE state = 0;
CREATE INDEX outbox_failed ON outbox (id) WHERE state = 3;
-- AUTOINCREMENT: a number is never used again, so whoever reads in order misses nothing.
CREATE TABLE inbox (number INTEGER PRIMARY KEY AUTOINCREMENT, entry BLOB NOT NULL);
CREATE TABLE processed (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    server_msg_id INTEGER NOT NULL UNIQUE,
    time_ms INTEGER            -- since format 3: another server may use the same ids
);
CREATE TABLE receipts (
    conversation TEXT, member TEXT, kind INTEGER, seq INTEGER NOT NULL,
    PRIMARY KEY (conversation, member, kind)
) WITHOUT ROWID;
CREATE TABLE reads (conversation TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE notes (place INTEGER PRIMARY KEY, text TEXT NOT NULL);
";

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another client of this one, uses the directory.
    #[error("{0} is in use by another client; each client needs a data directory of its own")]
    InUse(PathBuf),
    /// The directory belongs to another user.
    #[error("{path} belongs to the user {owner}")]
    OtherUser {
        /// The directory.
        path: PathBuf,
        /// Its user.
        owner: String,
    },
    /// The directory was written by another version.
    #[error("{path} has format {format}, this program knows {FORMAT}")]
    Format {
        /// The directory.
        path: PathBuf,
        /// What it says.
        format: i64,
    },
    /// The directory or its lock cannot be made.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("the local store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// The store refused or failed; nothing of the call is stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The text cannot be sent.
    #[error(transparent)]
    BadText(#[from] BadText),
    /// The group cannot be made or changed so.
    #[error(transparent)]
    BadChange(#[from] BadChange),
    /// Not a clip that any server takes.
    #[error("a clip has 1 to {} bytes", CLIP)]
    BadClip,
    /// 10,000 messages are waiting or failed.
    #[error("the outbox is full: {OPEN} messages are neither sent nor refused")]
    OutboxFull,
    /// Messages failed, and these must not pass them: [`crate::ClientOptions::resend_failed`], [`crate::Client::resend_all`].
    #[error("earlier messages failed and must be sent first")]
    BehindFailed,
    /// The server knows an id of this device so high that none is left.
    #[error("this device has no message ids left")]
    NoIdsLeft,
    /// A client that peeks stores nothing, so it can neither send nor mark.
    #[error("a client that peeks cannot send")]
    Peeking,
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
    /// The database failed.
    #[error("the local store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// One device's store.
#[derive(Debug)]
pub(crate) struct Store {
    db: Connection,
    device: String,
    peeking: bool,
    /// Messages refused since the store was opened.
    refused: u64,
    /// Held until the store is dropped.
    _lock: File,
}

impl Store {
    /// Opens or makes the store of a device. With `peek` everything happens in a copy in memory; only a new device's id is
    /// written.
    pub(crate) fn open(path: &Path, user: &UserId, peek: bool) -> Result<Store, OpenError> {
        let lock = lock(path)?;
        let file = path.join("client.sqlite");
        let db = Connection::open(&file)?;
        db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
        let format: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match format {
            FORMAT => {}
            0 => make(&db, user)?,
            1..FORMAT => upgrade(&db, format)?,
            format => return Err(OpenError::Format { path: path.to_owned(), format }),
        }
        let (device, owner) =
            db.query_row("SELECT device, user FROM me", [], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
        if owner != user.as_str() {
            return Err(OpenError::OtherUser { path: path.to_owned(), owner });
        }
        let db = if peek { copy(db, &file)? } else { db };
        Ok(Store { db, device, peeking: peek, refused: 0, _lock: lock })
    }

    /// The device's id: 32 hexadecimal digits, random.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Messages refused since the store was opened.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// The key, once there is one.
    pub(crate) fn key(&self) -> Result<Option<Key>, StoreError> {
        let read = |row: &rusqlite::Row<'_>| {
            let version = |column| row.get::<_, Option<i64>>(column).map(|version| version.map(|v| v as u64));
            let (epoch, versions) = (version(0)?, [version(1)?, version(2)?]);
            Ok(epoch.map(|epoch| Key { epoch, versions }))
        };
        Ok(self.db.query_row("SELECT epoch, messages, receipts FROM me", [], read)?)
    }

    /// Replaces the key as a whole.
    pub(crate) fn replace_key(&mut self, key: &Key) -> Result<(), StoreError> {
        Ok(set_key(&self.db, key)?)
    }

    /// Marks a conversation as read; waits here until the server has it. Never goes back.
    pub(crate) fn want_read(&mut self, conversation: &str, seq: u64) -> Result<(), StoreError> {
        if self.peeking {
            return Err(StoreError::Peeking);
        }
        let raise = "INSERT INTO reads VALUES (?1, ?2) ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)";
        self.db.execute(raise, params![conversation, seq as i64])?;
        Ok(())
    }

    /// A read mark that the server does not have yet.
    pub(crate) fn next_read(&self) -> Result<Option<(String, u64)>, StoreError> {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64));
        Ok(self.db.query_row("SELECT conversation, seq FROM reads LIMIT 1", [], read).optional()?)
    }

    /// The server has answered a read mark; a higher one that came meanwhile stays.
    pub(crate) fn read_done(&mut self, conversation: &str, seq: u64) -> Result<(), StoreError> {
        self.db
            .execute("DELETE FROM reads WHERE conversation = ?1 AND seq <= ?2", params![conversation, seq as i64])?;
        Ok(())
    }

    /// The application's notes, oldest first.
    pub(crate) fn notes(&self) -> Result<Vec<String>, StoreError> {
        let mut query = self.db.prepare("SELECT text FROM notes ORDER BY place")?;
        let notes = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(notes)
    }

    /// Forgets the notes.
    pub(crate) fn clear_notes(&mut self) -> Result<(), StoreError> {
        self.db.execute("DELETE FROM notes", [])?;
        Ok(())
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let mut directory = DirBuilder::new();
    directory.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut directory, 0o700);
    directory.create(path).map_err(io)?;
    let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock")).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

fn make(db: &Connection, user: &UserId) -> rusqlite::Result<()> {
    let tx = db.unchecked_transaction()?;
    tx.execute_batch(TABLES)?;
    tx.execute("INSERT INTO me (device, user, last_id) VALUES (lower(hex(randomblob(16))), ?1, 0)", [user.as_str()])?;
    tx.pragma_update(None, "user_version", FORMAT)?;
    tx.commit()
}

/// From an older format, which is at least 1, to that of this version.
fn upgrade(db: &Connection, format: i64) -> rusqlite::Result<()> {
    let steps = [
        "ALTER TABLE outbox ADD COLUMN change BLOB",
        "ALTER TABLE processed ADD COLUMN time_ms INTEGER",
        "ALTER TABLE outbox ADD COLUMN media TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE outbox ADD COLUMN clip_begin BLOB;
         ALTER TABLE outbox ADD COLUMN clip BLOB;
         ALTER TABLE outbox ADD COLUMN clip_stored INTEGER NOT NULL DEFAULT 0",
    ];
    let tx = db.unchecked_transaction()?;
    for step in steps.iter().skip(format as usize - 1) {
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "user_version", FORMAT)?;
    tx.commit()
}

/// What a peek needs, in memory. The outbox stays out: a peek sends nothing.
fn copy(db: Connection, file: &Path) -> rusqlite::Result<Connection> {
    drop(db);
    let memory = Connection::open_in_memory()?;
    memory.execute_batch(TABLES)?;
    memory.execute("ATTACH ?1 AS disk", [file.to_string_lossy()])?;
    for table in ["me", "inbox", "processed", "receipts"] {
        memory.execute_batch(&format!("INSERT INTO main.{table} SELECT * FROM disk.{table}"))?;
    }
    memory.execute_batch("DETACH disk")?;
    Ok(memory)
}

fn set_key(db: &Connection, key: &Key) -> rusqlite::Result<()> {
    let [messages, receipts] = key.versions.map(|version| version.map(|version| version as i64));
    db.execute(
        "UPDATE me SET epoch = ?1, messages = ?2, receipts = ?3",
        params![key.epoch as i64, messages, receipts],
    )?;
    Ok(())
}
