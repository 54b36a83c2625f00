//! The tables of the index, and how it fails.

use std::io;

use redb::{Key, ReadTransaction, TableDefinition, Value, WriteTransaction};

pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// user → [`UserRow`]
pub(super) const USERS: TableDefinition<&str, &[u8]> = TableDefinition::new("users");
/// (user, last version of the block) → [`VersionBlock`]
pub(super) const TIMELINES: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("timelines");
/// (user, conversation, member, kind) → [`ReceiptRow`]
pub(super) const RECEIPTS: TableDefinition<(&str, &str, &str, u32), &[u8]> = TableDefinition::new("receipts");
/// conversation → [`ConversationRow`]
pub(super) const CONVERSATIONS: TableDefinition<&str, &[u8]> = TableDefinition::new("conversations");
/// (user, conversation) → nothing: those that the user is in and that have a message.
pub(super) const MEMBERSHIPS: TableDefinition<(&str, &str), ()> = TableDefinition::new("memberships");
/// (conversation, last sequence of the block) → [`ResultBlock`] of sequences.
pub(super) const HISTORY: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("history");
/// (user, device) → [`SenderRow`]
pub(super) const SENDERS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("senders");
/// (user, device, last id of the block) → [`ResultBlock`]; the blocks of a device are disjoint and ascending.
pub(super) const RESULTS: TableDefinition<(&str, &str, u64), &[u8]> = TableDefinition::new("results");
/// (user, device, id) → [`LateRow`], for ids that came below a block that was already there.
pub(super) const LATE_RESULTS: TableDefinition<(&str, &str, u64), &[u8]> = TableDefinition::new("late_results");
/// (time in milliseconds, user, device, id, late) → nothing: when a row of the two tables above may be forgotten.
pub(super) const EXPIRY: TableDefinition<(i64, &str, &str, u64, bool), ()> = TableDefinition::new("expiry");
/// (user, device) → nothing: acknowledged beyond what is derived.
pub(super) const UNDERIVED: TableDefinition<(&str, &str), ()> = TableDefinition::new("underived");
/// version → position of the copy of its record, for entries that outlived their segment.
pub(super) const MOVED: TableDefinition<u64, u64> = TableDefinition::new("moved");

/// (media, conversation) → the sequence of the newest message there that refers to it.
pub(super) const REFERENCES: TableDefinition<(u128, &str), u64> = TableDefinition::new("references");

/// Something to be done with each table.
pub(super) trait Tables {
    fn table<K: Key + 'static, V: Value + 'static>(&mut self, table: TableDefinition<'static, K, V>) -> Result<()>;
}

/// Every table there is, so that none is forgotten where all are meant.
pub(super) fn each_table(tables: &mut impl Tables) -> Result<()> {
    tables.table(META)?;
    tables.table(USERS)?;
    tables.table(TIMELINES)?;
    tables.table(RECEIPTS)?;
    tables.table(CONVERSATIONS)?;
    tables.table(MEMBERSHIPS)?;
    tables.table(HISTORY)?;
    tables.table(SENDERS)?;
    tables.table(RESULTS)?;
    tables.table(LATE_RESULTS)?;
    tables.table(EXPIRY)?;
    tables.table(UNDERIVED)?;
    tables.table(MOVED)?;
    tables.table(REFERENCES)
}

const APPLIED: &str = "applied";
const EPOCH: &str = "epoch";
const FIRST: &str = "first";

/// Why the index failed; it is not needed for durability and can be deleted and rebuilt.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// The database refuses.
    #[error("the index: {0}")]
    Database(Box<redb::Error>),
    /// A row does not check out.
    #[error("the index is damaged; the next start rebuilds it from the log")]
    Damaged,
    /// A checksum or the end of the dump does not check out.
    #[error("the dump of the index is damaged")]
    DamagedDump,
    /// The file system refuses.
    #[error("the index: {0}")]
    Io(#[from] io::Error),
    /// It is being opened anew.
    #[error("the index is being opened again")]
    Closed,
}

impl IndexError {
    /// Whether trying again is of no use: what is there has to be made anew.
    pub(super) fn is_damage(&self) -> bool {
        let passes = |kind| !matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
        match self {
            IndexError::Damaged | IndexError::DamagedDump => true,
            IndexError::Io(_) | IndexError::Closed => false,
            IndexError::Database(error) => match &**error {
                redb::Error::DatabaseAlreadyOpen | redb::Error::PreviousIo => false,
                redb::Error::Io(error) => !passes(error.kind()),
                _ => true,
            },
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for IndexError {
            fn from(error: $error) -> IndexError {
                IndexError::Database(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(redb::DatabaseError, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

pub(super) type Result<T> = std::result::Result<T, IndexError>;

/// How far the log is in the index, and the epoch then, as a transaction sees it.
pub(super) fn applied(transaction: &ReadTransaction) -> Result<(u64, u64)> {
    let meta = transaction.open_table(META)?;
    let get = |key| Ok::<_, IndexError>(meta.get(key)?.map_or(0, |value| value.value()));
    Ok((get(APPLIED)?, get(EPOCH)?))
}

/// Where the log begins, as a transaction sees it.
pub(super) fn first(transaction: &ReadTransaction) -> Result<u64> {
    Ok(transaction.open_table(META)?.get(FIRST)?.map_or(0, |value| value.value()))
}

/// Notes how far the log is in the index, and the epoch.
pub(super) fn set_applied(transaction: &WriteTransaction, applied: u64, epoch: u64) -> Result<()> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(APPLIED, applied)?;
    meta.insert(EPOCH, epoch)?;
    Ok(())
}

/// Notes where the log begins.
pub(super) fn set_first(transaction: &WriteTransaction, first: u64) -> Result<()> {
    transaction.open_table(META)?.insert(FIRST, first)?;
    Ok(())
}

/// Makes every table.
pub(super) fn create(transaction: &WriteTransaction) -> Result<()> {
    each_table(&mut Creation(transaction))
}

struct Creation<'a>(&'a WriteTransaction);

impl Tables for Creation<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(&mut self, table: TableDefinition<'static, K, V>) -> Result<()> {
        self.0.open_table(table)?;
        Ok(())
    }
}
