//! The catalog: what is known of each upload but its parts, in a redb database. Each change is a transaction that is on disk when it is told.

use std::io;
use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use redb::{ReadTransaction, ReadableDatabase as _, ReadableTable, TableDefinition, WriteTransaction};
use tern_proto::v1::Code;
use tern_proto::{MediaId, UserId};
use tern_runtime::planted::{self, Fault};

use super::Making;
use super::handle::Handle;
use super::row::{Row, Usage};
use crate::declared::Declared;
use crate::uploads::{Made, Quota, Upload, UploadError, check_quota, fenced, millis, unknown};

/// id → [`Row`]
const UPLOADS: TableDefinition<u128, &[u8]> = TableDefinition::new("uploads");
/// (owner, [`Row::name`]) → id, of those that have not failed.
const NAMES: TableDefinition<(&str, &[u8]), u128> = TableDefinition::new("names");
/// owner → open uploads, bytes of all
const USAGE: TableDefinition<&str, (u64, u64)> = TableDefinition::new("usage");
/// (due in Unix milliseconds, or 0 once it is fenced, id) → nothing
const DUE: TableDefinition<(i64, u128), ()> = TableDefinition::new("due");

/// Why the catalog or the disk fails.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The database refuses.
    #[error("the catalog of uploads: {0}")]
    Database(Box<redb::Error>),
    /// The file system refuses.
    #[error("the parts of uploads: {0}")]
    Io(#[from] io::Error),
    /// A row cannot be decoded.
    #[error("the catalog of uploads is damaged at {0}")]
    Damaged(MediaId),
    /// The disk has failed, and it is opened again soon.
    #[error("the catalog of uploads is closed")]
    Closed,
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for CatalogError {
            fn from(error: $error) -> CatalogError {
                CatalogError::Database(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(redb::DatabaseError, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

type Result<T> = std::result::Result<T, CatalogError>;

pub(super) struct Catalog {
    database: Handle,
    lifetime: Duration,
}

impl Catalog {
    pub(super) fn open(path: &Path, lifetime: Duration) -> Result<Catalog> {
        let database = Handle::new(path);
        let transaction = database.get()?.begin_write()?;
        transaction.open_table(UPLOADS)?;
        transaction.open_table(NAMES)?;
        transaction.open_table(USAGE)?;
        transaction.open_table(DUE)?;
        transaction.commit()?;
        Ok(Catalog { database, lifetime })
    }

    fn due_ms(&self, now_ms: i64) -> i64 {
        let lifetime = if planted::active(Fault::ExpiresEarly) { self.lifetime / 40 } else { self.lifetime };
        now_ms.saturating_add(millis(lifetime))
    }

    pub(super) fn is_open(&self, id: MediaId) -> Result<bool> {
        Ok(self.row(id)?.is_some_and(|row| row.is_open() && !row.fenced))
    }

    fn row(&self, id: MediaId) -> Result<Option<Row>> {
        let table = self.begin_read()?.open_table(UPLOADS)?;
        table.get(id.as_u128())?.map(|row| decode(id, row.value())).transpose()
    }

    pub(super) fn look(&self, id: MediaId, now_ms: i64) -> std::result::Result<Upload, super::Failed> {
        Ok(self.look_due(id, now_ms)?.0)
    }

    /// The same, and when it has outlived its time.
    pub(super) fn look_due(&self, id: MediaId, now_ms: i64) -> std::result::Result<(Upload, i64), super::Failed> {
        let row = self.row(id)?.ok_or_else(|| unknown(id, self.lifetime, now_ms))?;
        if row.is_over(now_ms) {
            return Err(UploadError::Expired.into());
        }
        Ok((row.upload(id).ok_or(CatalogError::Damaged(id))?, row.due_ms))
    }

    pub(super) fn begin(
        &self,
        owner: &UserId,
        declared: &Declared,
        quota: &Quota,
        now_ms: i64,
    ) -> std::result::Result<Upload, super::Failed> {
        let row = Row::new(owner, declared, self.due_ms(now_ms));
        loop {
            if let Some(upload) = self.named(owner, &row, now_ms)? {
                return Ok(upload);
            }
            let transaction = self.begin_write()?;
            if begun(&transaction, &row, now_ms)?.is_some() {
                // By another request, just now.
                continue;
            }
            let used = usage_of(&transaction, owner.as_str())?;
            check_quota(declared, quota, (used.open, used.bytes))?;
            let id = new_id(now_ms);
            insert(&transaction, id, &row)?;
            transaction.commit().map_err(CatalogError::from)?;
            return Ok(row.upload(id).ok_or(CatalogError::Damaged(id))?);
        }
    }

    /// What [`Making`]s come to, all in one transaction: each as if it had come behind those before it.
    pub(super) fn make(&self, all: &[Making]) -> Result<Vec<std::result::Result<Upload, UploadError>>> {
        let transaction = self.begin_write()?;
        let mut told = Vec::with_capacity(all.len());
        for making in all {
            told.push(match self.make_one(making, &transaction) {
                Ok(upload) => Ok(upload),
                Err(super::Failed::Told(error)) => Err(error),
                Err(super::Failed::Catalog(error)) => return Err(error),
            });
        }
        transaction.commit()?;
        Ok(told)
    }

    fn make_one(&self, making: &Making, transaction: &WriteTransaction) -> std::result::Result<Upload, super::Failed> {
        let Making { owner, declared, quota, made, now_ms, .. } = making;
        let mut row = Row::new(owner, declared, self.due_ms(*now_ms));
        if let Some((id, row)) = begun(transaction, &row, *now_ms)? {
            return Ok(row.upload(id).ok_or(CatalogError::Damaged(id))?);
        }
        // It is never under way.
        check_quota(declared, quota, (0, usage_of(transaction, owner.as_str())?.bytes))?;
        let id = new_id(*now_ms);
        row.end(Ok(made.clone().under(id)));
        insert(transaction, id, &row)?;
        Ok(row.upload(id).ok_or(CatalogError::Damaged(id))?)
    }

    /// The upload of this user that has the name of this row, if it is still good.
    fn named(&self, owner: &UserId, row: &Row, now_ms: i64) -> std::result::Result<Option<Upload>, super::Failed> {
        let names = self.begin_read()?.open_table(NAMES).map_err(CatalogError::from)?;
        let named = names.get((owner.as_str(), row.name().as_slice())).map_err(CatalogError::from)?;
        let Some(id) = named else { return Ok(None) };
        self.good(MediaId::from_u128(id.value()), now_ms)
    }

    /// The upload, if it can be gone on with; the lease of what is complete is renewed.
    ///
    /// # Errors
    /// As [`Row::can_be_gone_on_with`].
    fn good(&self, id: MediaId, now_ms: i64) -> std::result::Result<Option<Upload>, super::Failed> {
        let row = self.row(id)?;
        Ok(match row {
            Some(row) if !row.can_be_gone_on_with(now_ms)? => None,
            Some(row) if row.media.is_some() => match self.lease(id, now_ms) {
                Ok(upload) => Some(upload),
                // Removed meanwhile.
                Err(super::Failed::Told(UploadError::Expired | UploadError::NoSuch)) => None,
                Err(failed) => return Err(failed),
            },
            Some(row) => Some(row.upload(id).ok_or(CatalogError::Damaged(id))?),
            None => None,
        })
    }

    /// Renews the lease, if less than half of the lifetime is left of it: most sends find it long enough.
    pub(super) fn lease(&self, id: MediaId, now_ms: i64) -> std::result::Result<Upload, super::Failed> {
        let mut row = self.row(id)?.ok_or_else(|| unknown(id, self.lifetime, now_ms))?;
        if row.media.is_none() {
            return Err(UploadError::NoSuch.into());
        }
        if row.due_ms.saturating_sub(now_ms) < millis(self.lifetime) / 2 {
            let transaction = self.begin_write()?;
            row = read(&transaction, id)?.ok_or(UploadError::Expired)?;
            if !row.fenced {
                set_due(&transaction, id, &mut row, self.due_ms(now_ms))?;
                transaction.commit().map_err(CatalogError::from)?;
            }
        }
        if row.fenced {
            return Err(fenced().into());
        }
        Ok(row.upload(id).ok_or(CatalogError::Damaged(id))?)
    }

    pub(super) fn keep(&self, id: MediaId) -> Result<()> {
        let transaction = self.begin_write()?;
        let Some(mut row) = read(&transaction, id)? else { return Ok(()) };
        row.fenced = false;
        set_due(&transaction, id, &mut row, i64::MAX)?;
        Ok(transaction.commit()?)
    }

    pub(super) fn end(
        &self,
        id: MediaId,
        became: std::result::Result<Made, Code>,
        now_ms: i64,
    ) -> std::result::Result<Upload, super::Failed> {
        let transaction = self.begin_write()?;
        let mut row = read(&transaction, id)?.ok_or(UploadError::NoSuch)?;
        if row.fenced && row.media.is_none() {
            return Err(UploadError::Expired.into());
        }
        if row.is_open() {
            let before = row.usage();
            let due_ms = if became.is_ok() { self.due_ms(now_ms) } else { row.due_ms };
            row.end(became);
            set_due(&transaction, id, &mut row, due_ms)?;
            count(&transaction, &row.owner, before, row.usage())?;
            if row.failed() != Code::Ok {
                forget_name(&transaction, id, &row)?;
            }
            transaction.commit().map_err(CatalogError::from)?;
        }
        Ok(row.upload(id).ok_or(CatalogError::Damaged(id))?)
    }

    pub(super) fn lapsed(&self, now_ms: i64, limit: usize) -> Result<Vec<Upload>> {
        let due: Vec<(i64, u128)> = {
            let table = self.begin_read()?.open_table(DUE)?;
            let due = table.range(..=(now_ms, u128::MAX))?.take(limit);
            due.map(|row| row.map(|(key, _)| key.value())).collect::<std::result::Result<_, _>>()?
        };
        if due.iter().any(|(due_ms, _)| *due_ms != FENCED) {
            let transaction = self.begin_write()?;
            for &(_, id) in due.iter().filter(|(due_ms, _)| *due_ms != FENCED) {
                match fence(&transaction, MediaId::from_u128(id), now_ms) {
                    // Told below, and left as it is.
                    Ok(()) | Err(CatalogError::Damaged(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            transaction.commit()?;
        }
        let mut lapsed = Vec::new();
        for id in due.into_iter().map(|(_, id)| MediaId::from_u128(id)) {
            match self.row(id).map(|row| row.filter(|row| row.fenced).map(|row| row.upload(id))) {
                Ok(Some(Some(upload))) => lapsed.push(upload),
                // Renewed, or removed, between the two looks.
                Ok(None) => {}
                // One that is damaged holds back no other.
                Ok(Some(None)) | Err(CatalogError::Damaged(_)) => {
                    tracing::error!(%id, "the catalog of uploads is damaged here: it is left as it is");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(lapsed)
    }

    pub(super) fn remove(&self, id: MediaId) -> Result<()> {
        let transaction = self.begin_write()?;
        let Some(row) = read(&transaction, id)? else { return Ok(()) };
        transaction.open_table(UPLOADS)?.remove(id.as_u128())?;
        transaction.open_table(DUE)?.remove(due_key(id, &row))?;
        forget_name(&transaction, id, &row)?;
        count(&transaction, &row.owner, row.usage(), Usage::default())?;
        Ok(transaction.commit()?)
    }

    fn begin_write(&self) -> Result<WriteTransaction> {
        Ok(self.database.get()?.begin_write()?)
    }

    fn begin_read(&self) -> Result<ReadTransaction> {
        Ok(self.database.get()?.begin_read()?)
    }

    /// Something has failed so: if it was the disk, the database is opened again by whoever comes next.
    pub(super) fn failed(&self, error: &CatalogError) {
        if let CatalogError::Database(error) = error
            && matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            self.database.close();
        }
    }
}

/// In the place of the time in [`DUE`].
const FENCED: i64 = 0;

fn decode(id: MediaId, row: &[u8]) -> Result<Row> {
    Row::decode(row).map_err(|_| CatalogError::Damaged(id))
}

fn read(transaction: &WriteTransaction, id: MediaId) -> Result<Option<Row>> {
    let table = transaction.open_table(UPLOADS)?;
    table.get(id.as_u128())?.map(|row| decode(id, row.value())).transpose()
}

fn write(transaction: &WriteTransaction, id: MediaId, row: &Row) -> Result<()> {
    transaction.open_table(UPLOADS)?.insert(id.as_u128(), row.encode_to_vec().as_slice())?;
    Ok(())
}

fn name(transaction: &WriteTransaction, id: MediaId, row: &Row) -> Result<()> {
    transaction.open_table(NAMES)?.insert((row.owner.as_str(), row.name().as_slice()), id.as_u128())?;
    transaction.open_table(DUE)?.insert(due_key(id, row), ())?;
    Ok(())
}

fn due_key(id: MediaId, row: &Row) -> (i64, u128) {
    (if row.fenced { FENCED } else { row.due_ms }, id.as_u128())
}

/// The name may belong to a later upload by now.
fn forget_name(transaction: &WriteTransaction, id: MediaId, row: &Row) -> Result<()> {
    let mut names = transaction.open_table(NAMES)?;
    let name = row.name();
    let key = (row.owner.as_str(), name.as_slice());
    let is_own = names.get(key)?.is_some_and(|named| named.value() == id.as_u128());
    if is_own {
        names.remove(key)?;
    }
    Ok(())
}

/// Unless its lease was renewed meanwhile.
fn fence(transaction: &WriteTransaction, id: MediaId, now_ms: i64) -> Result<()> {
    let Some(mut row) = read(transaction, id)?.filter(|row| !row.fenced && row.due_ms <= now_ms) else { return Ok(()) };
    let mut due = transaction.open_table(DUE)?;
    due.remove(due_key(id, &row))?;
    row.fenced = true;
    due.insert(due_key(id, &row), ())?;
    write(transaction, id, &row)
}

/// Writes the row with another time at which it has outlived its own.
fn set_due(transaction: &WriteTransaction, id: MediaId, row: &mut Row, due_ms: i64) -> Result<()> {
    let stored = read(transaction, id)?.ok_or(CatalogError::Damaged(id))?;
    let mut due = transaction.open_table(DUE)?;
    due.remove(due_key(id, &stored))?;
    row.due_ms = due_ms;
    due.insert(due_key(id, row), ())?;
    write(transaction, id, row)
}

fn new_id(now_ms: i64) -> MediaId {
    MediaId::new(now_ms, u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)))
}

fn insert(transaction: &WriteTransaction, id: MediaId, row: &Row) -> Result<()> {
    write(transaction, id, row)?;
    name(transaction, id, row)?;
    count(transaction, &row.owner, Usage::default(), row.usage())
}

/// The upload of the name of this row, if it can be gone on with.
///
/// # Errors
/// As [`Row::can_be_gone_on_with`].
fn begun(
    transaction: &WriteTransaction,
    row: &Row,
    now_ms: i64,
) -> std::result::Result<Option<(MediaId, Row)>, super::Failed> {
    let id = {
        let names = transaction.open_table(NAMES).map_err(CatalogError::from)?;
        let named = names.get((row.owner.as_str(), row.name().as_slice())).map_err(CatalogError::from)?;
        named.map(|id| MediaId::from_u128(id.value()))
    };
    let Some(id) = id else { return Ok(None) };
    match read(transaction, id)? {
        Some(found) if found.can_be_gone_on_with(now_ms)? => Ok(Some((id, found))),
        _ => Ok(None),
    }
}

fn usage_of(transaction: &WriteTransaction, owner: &str) -> Result<Usage> {
    let table = transaction.open_table(USAGE)?;
    Ok(table.get(owner)?.map_or_else(Usage::default, |used| Usage::from(used.value())))
}

/// What a user has, where one upload counted `before` and counts `after`.
fn count(transaction: &WriteTransaction, owner: &str, before: Usage, after: Usage) -> Result<()> {
    let used = usage_of(transaction, owner)?;
    let changed = |used: u64, before: u64, after: u64| (used + after).saturating_sub(before);
    let open = changed(used.open, before.open, after.open);
    let bytes = changed(used.bytes, before.bytes, after.bytes);
    let mut table = transaction.open_table(USAGE)?;
    if (open, bytes) == (0, 0) {
        table.remove(owner)?;
    } else {
        table.insert(owner, (open, bytes))?;
    }
    Ok(())
}

impl From<(u64, u64)> for Usage {
    fn from((open, bytes): (u64, u64)) -> Usage {
        Usage { open, bytes }
    }
}
