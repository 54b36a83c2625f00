//! The database of the catalog, which is opened again after the disk has failed: redb takes nothing any more once a write or a sync was refused, though the disk may have
//! room again a moment later. What was committed before stands, and what was not was told to nobody.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redb::Database;

use super::catalog::CatalogError;

/// Pages that are kept in memory: rows carry thumbnails, which nobody needs twice in a row.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Between two tries to open it.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Handle {
    path: PathBuf,
    held: Mutex<Held>,
}

struct Held {
    database: Option<Arc<Database>>,
    /// When it was tried last.
    tried: Option<Instant>,
}

impl Handle {
    pub(super) fn new(path: &Path) -> Handle {
        Handle { path: path.to_owned(), held: Mutex::new(Held { database: None, tried: None }) }
    }

    /// The database, opened if it is not.
    pub(super) fn get(&self) -> Result<Arc<Database>, CatalogError> {
        let mut held = self.held();
        if let Some(database) = &held.database {
            return Ok(database.clone());
        }
        if held.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return Err(CatalogError::Closed);
        }
        held.tried = Some(Instant::now());
        let database = Arc::new(Database::builder().set_cache_size(CACHE_BYTES).create(&self.path)?);
        held.database = Some(database.clone());
        Ok(database)
    }

    /// Lets go of it, so that it is opened again. Whoever uses it now fails soon, and until then it cannot be opened.
    pub(super) fn close(&self) {
        self.held().database = None;
    }

    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_closed_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let handle = Handle::new(&directory.path().join("database"));
        let used = handle.get().unwrap();
        handle.close();
        assert!(matches!(handle.get(), Err(CatalogError::Closed)), "it was opened just now");
        std::thread::sleep(AGAIN);
        assert!(handle.get().is_err(), "somebody has it still");
        drop(used);
        std::thread::sleep(AGAIN);
        assert!(handle.get().is_ok());
    }
}
