//! The object store: merged bytes, under the id of their media. They never change.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _};
use tern_proto::MediaId;

use crate::directory;

/// The store cannot be read or written now; the reason is for the operator.
#[derive(Debug, thiserror::Error)]
#[error("the object store: {0}")]
pub struct ObjectError(#[from] object_store::Error);

/// Where merged bytes are.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
}

impl Objects {
    /// Objects in a directory, which is made if it is not there. What is written is synced.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn in_directory(at: &Path) -> anyhow::Result<Objects> {
        let media = at.join("media");
        directory::make(at)?;
        directory::make(&media)?;
        remove_unfinished(&media)?;
        let store = LocalFileSystem::new_with_prefix(at)?.with_fsync(true).with_automatic_cleanup(true);
        Ok(Objects { store: Arc::new(store) })
    }

    /// Stores the bytes; durable when this returns. Again is harmless: they are the same.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn put(&self, id: MediaId, bytes: Bytes) -> Result<(), ObjectError> {
        self.store.put(&key(id), bytes.into()).await?;
        Ok(())
    }

    /// The bytes of a range that is not empty and lies within the object, as they come.
    ///
    /// # Errors
    /// [`ObjectError`], also while they come.
    pub async fn read(
        &self,
        id: MediaId,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.store.get_opts(&key(id), options).await?;
        Ok(found.into_stream().map(|bytes| bytes.map_err(ObjectError::from)).boxed())
    }

    /// Removes the object; one that is not there is removed.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn remove(&self, id: MediaId) -> Result<(), ObjectError> {
        match self.store.delete(&key(id)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a process that died was writing. The store gives an object its name when it is whole; until then it stands beside it, with a `#` and a number behind the name.
fn remove_unfinished(media: &Path) -> std::io::Result<()> {
    for spread in std::fs::read_dir(media)? {
        let spread = spread?.path();
        if !spread.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(spread)? {
            let file = file?;
            if file.file_name().to_string_lossy().contains('#') {
                std::fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

/// Spread by the random end of the id, so that no directory has all of them.
fn key(id: MediaId) -> Key {
    let id = id.to_string();
    Key::from(format!("media/{}/{id}", &id[30..]))
}
