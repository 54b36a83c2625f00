//! The index on disk: opened as it is, or made anew from the dump that the last cleaning of the log left.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::dump;
use super::index::Index;
use super::open::OpenError;
use super::tables::IndexError;

pub(super) const INDEX: &str = "index.redb";
pub(super) const INDEX_DAMAGED: &str = "index.damaged";
/// The index as of the last cleaning, flat; see [`dump`].
pub(super) const DUMP: &str = "index.dump";

/// Runs before a checkpoint is written; replaced in tests that let it fail.
pub(super) type CheckFn = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// The index, and whether it was made anew. One that is damaged is: everything in it is in the log and, of what
/// the log no longer has, in the dump.
///
/// # Errors
/// The disk refuses. An index that may be good is left alone.
pub(super) fn open_index(dir: &Path, before_write: Option<CheckFn>) -> Result<(Index, bool), OpenError> {
    let (path, marker) = (dir.join(INDEX), dir.join(INDEX_DAMAGED));
    let io_error = |error| OpenError::Io { path: path.clone(), error };
    let index_error = |error: IndexError| OpenError::Index(path.clone(), error.to_string());
    let anew = || Index::open(&path, before_write.clone()).map_err(index_error);
    if marker.exists() {
        tracing::warn!("the index was found damaged; it is rebuilt from the log");
        remove(&path).and_then(|()| remove(&marker)).map_err(io_error)?;
    }
    let index = match Index::open(&path, before_write.clone()) {
        Ok(index) => index,
        Err(error) if !error.is_damage() => return Err(index_error(error)),
        Err(error) => {
            tracing::warn!(%error, "the index cannot be opened; it is rebuilt from the log");
            remove(&path).map_err(io_error)?;
            anew()?
        }
    };
    let (applied, _) = index.applied().map_err(index_error)?;
    let dumped = dir.join(DUMP);
    let head = match dump::read_head(&dumped) {
        Ok(head) => head,
        Err(error) => {
            tracing::error!(%error, "the dump of the index cannot be read; it is needed if the index is lost");
            None
        }
    };
    // What lies below the head's first position is in the dump and nowhere else.
    let Some(_) = head.filter(|head| applied < head.first) else { return Ok((index, applied == 0)) };
    let index = if applied == 0 {
        index
    } else {
        tracing::warn!("the index is older than the log; it is rebuilt");
        index.close();
        remove(&path).map_err(io_error)?;
        anew()?
    };
    match dump::load(&dumped, &index) {
        Ok(()) => Ok((index, true)),
        Err(error) if error.is_damage() => {
            tracing::error!(%error, "the index and its dump are lost; what is left of the log is read");
            Ok((index, true))
        }
        Err(error) => Err(OpenError::Index(dumped, error.to_string())),
    }
}

/// Removes a file; one that is not there is as good as removed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
