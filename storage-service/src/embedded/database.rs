//! The database of the index, which can be closed while somebody still holds the index.

use std::path::Path;
use std::sync::{PoisonError, RwLock};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::tables::IndexError;

/// Memory that the database may use for its pages.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// An open database, until it is closed.
pub(super) struct Handle(RwLock<Option<Database>>);

impl Handle {
    /// Opens or creates it.
    pub(super) fn open(path: &Path) -> Result<Handle, IndexError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        Ok(Handle(RwLock::new(Some(database))))
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, IndexError> {
        let database = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(database.as_ref().ok_or(IndexError::Closed)?.begin_read()?)
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, IndexError> {
        let database = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(database.as_ref().ok_or(IndexError::Closed)?.begin_write()?)
    }

    /// Closes it: whoever asks from now on gets [`IndexError::Closed`].
    pub(super) fn close(&self) {
        let database = self.0.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = database.map(Database::close) {
            tracing::debug!(%error, "closing the index; the next opening repairs it");
        }
    }
}
