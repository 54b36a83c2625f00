//! The object store: merged bytes, under the id of their media. They never change.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientOptions, Error, ObjectStore, ObjectStoreExt as _, RetryConfig};
use tern_proto::MediaId;

use crate::apart::Apart;
use crate::directory;

/// Bytes that are read of a bucket at once: who reads slowly keeps no request open.
const PIECE_OF_BUCKET: u64 = 1024 * 1024;
/// The same of a directory, where it costs little: who reads slowly keeps no more in memory.
const PIECE_OF_FILE: u64 = 128 * 1024;
/// Bytes that are written into a directory at once.
const WRITTEN: usize = 256 * 1024;
/// The longest that a request to a bucket may take, with all its bytes.
const REQUEST: Duration = Duration::from_secs(60);
/// Threads that write into a directory, and as many that read there: who reads does not wait for a sync.
const THREADS: usize = 2;
/// For so long a request to a bucket is made again.
const AGAIN: Duration = Duration::from_secs(10);

/// A bucket of an S3-compatible store, and who may use it. Shows nothing of the key in `Debug`.
#[derive(Clone)]
pub struct Bucket {
    /// A URL; none is Amazon's own of the region.
    pub endpoint: Option<String>,
    /// As in `us-east-1`.
    pub region: String,
    /// It must be there.
    pub name: String,
    /// The id of the key.
    pub access_key: String,
    /// The key.
    pub secret_key: String,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("endpoint", &self.endpoint).field("name", &self.name).finish_non_exhaustive()
    }
}

/// The store cannot be read or written now; the reason is for the operator.
#[derive(Debug, thiserror::Error)]
#[error("the object store: {0}")]
pub struct ObjectError(#[from] object_store::Error);

/// Where merged bytes are.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    directory: Option<Directory>,
}

/// Where the store is a directory, which blocks.
#[derive(Clone)]
struct Directory {
    writing: Apart,
    reading: Apart,
    at: PathBuf,
}

impl Objects {
    /// Objects in a directory of this process alone, which is made if it is not there. What is written is synced.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn in_directory(at: &Path) -> anyhow::Result<Objects> {
        let objects = Objects::shared(at)?;
        for spread in std::fs::read_dir(at.join("media"))? {
            let spread = spread?.path();
            if spread.is_dir() {
                remove_staged(&spread, |_| true)?;
            }
        }
        Ok(objects)
    }

    /// The same in a directory that others use at the same time: what one that died was writing stays there.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn shared(at: &Path) -> anyhow::Result<Objects> {
        directory::make(at)?;
        directory::make(&at.join("media"))?;
        let store = LocalFileSystem::new_with_prefix(at)?.with_fsync(true).with_automatic_cleanup(true);
        let (writing, reading) = (Apart::new(THREADS)?, Apart::new(THREADS)?);
        let directory = Directory { writing, reading, at: at.to_owned() };
        Ok(Objects { store: Arc::new(store), directory: Some(directory) })
    }

    /// Objects in a bucket.
    ///
    /// # Errors
    /// It cannot be used as it is set: the key is refused, or there is no such bucket. That it does not answer now is none.
    pub async fn in_bucket(bucket: &Bucket) -> anyhow::Result<Objects> {
        let plain = bucket.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let client = ClientOptions::new()
            .with_allow_http(plain)
            .with_connect_timeout(Duration::from_secs(2))
            .with_timeout(REQUEST);
        let (init_backoff, max_backoff) = (Duration::from_millis(100), Duration::from_secs(1));
        let backoff = BackoffConfig { init_backoff, max_backoff, base: 2.0 };
        let mut builder = AmazonS3Builder::new()
            .with_region(&bucket.region)
            .with_bucket_name(&bucket.name)
            .with_access_key_id(&bucket.access_key)
            .with_secret_access_key(&bucket.secret_key)
            // What speaks S3 without being Amazon's knows neither names of hosts for buckets nor, often, removing many at once.
            .with_virtual_hosted_style_request(bucket.endpoint.is_none())
            .with_disable_bulk_delete(true)
            .with_client_options(client)
            .with_retry(RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: AGAIN });
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let objects = Objects { store: Arc::new(builder.build()?), directory: None };
        objects.check().await.map(|()| objects)
    }

    async fn check(&self) -> anyhow::Result<()> {
        match self.store.head(&Key::from("media/none")).await {
            // A bucket that is not there is told like an object that is not.
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "the bucket of media does not answer; what needs it will fail until it does");
                return Ok(());
            }
        }
        self.store.list(Some(&Key::from("media"))).try_next().await?;
        Ok(())
    }

    /// Stores the bytes; durable when this returns. Again is harmless: they are the same.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn put(&self, id: MediaId, bytes: Bytes) -> Result<(), ObjectError> {
        let store = self.store.clone();
        match &self.directory {
            Some(directory) => apart(&directory.writing, directory.clone().put(store, key(id), bytes)).await?,
            None => drop(store.put(&key(id), bytes.into()).await?),
        }
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
        let (end, objects) = (range.end, self.clone());
        let first = objects.piece(id, range).await?;
        let rest = stream::try_unfold((objects, first.end), move |(objects, from)| async move {
            if from >= end {
                return Ok(None);
            }
            let Piece { bytes, end: next } = objects.piece(id, from..end).await?;
            Ok(Some((bytes, (objects, next))))
        });
        Ok(stream::once(async { Ok(first.bytes) }).chain(rest).boxed())
    }

    /// The first bytes of a range.
    async fn piece(&self, id: MediaId, Range { start, end }: Range<u64>) -> Result<Piece, ObjectError> {
        let (store, key) = (self.store.clone(), key(id));
        let up_to = |bytes| start..end.min(start.saturating_add(bytes));
        let bytes = match &self.directory {
            Some(directory) => {
                let range = up_to(PIECE_OF_FILE);
                apart(&directory.reading, async move { store.get_range(&key, range).await }).await?
            }
            None => store.get_range(&key, up_to(PIECE_OF_BUCKET)).await?,
        };
        let end = start + bytes.len().max(1) as u64;
        Ok(Piece { bytes, end })
    }

    /// Removes the object; one that is not there is removed.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn remove(&self, id: MediaId) -> Result<(), ObjectError> {
        let (store, key) = (self.store.clone(), key(id));
        let removed = match &self.directory {
            Some(directory) => apart(&directory.writing, async move { store.delete(&key).await }).await,
            None => store.delete(&key).await,
        };
        match removed {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Some bytes of an object, and where those behind them begin.
struct Piece {
    bytes: Bytes,
    end: u64,
}

/// Does it where waiting for the disk holds up nothing else.
async fn apart<T: Send + 'static>(
    threads: &Apart,
    work: impl Future<Output = object_store::Result<T>> + Send + 'static,
) -> object_store::Result<T> {
    threads.handle().spawn(work).await.unwrap_or_else(|source| Err(Error::JoinError { source }))
}

impl Directory {
    async fn put(self, store: Arc<dyn ObjectStore>, key: Key, bytes: Bytes) -> object_store::Result<()> {
        let stored = write_in_pieces(&*store, &key, bytes).await;
        if stored.is_err() {
            // What could not be synced or renamed stays otherwise, once more for each time that it is tried. Another replica that is about to rename the same tries again.
            let path = self.at.join(key.as_ref());
            let name = key.filename().unwrap_or_default();
            if let Some(spread) = path.parent()
                && let Err(error) = remove_staged(spread, |of| of == name)
            {
                tracing::error!(%error, %key, "what was to become an object stays in the store");
            }
        }
        stored
    }
}

/// To write megabytes at once takes a core for milliseconds, in which the kernel lets nobody else have it.
async fn write_in_pieces(store: &dyn ObjectStore, key: &Key, bytes: Bytes) -> object_store::Result<()> {
    let mut upload = store.put_multipart(key).await?;
    for start in (0..bytes.len()).step_by(WRITTEN) {
        upload.put_part(bytes.slice(start..bytes.len().min(start + WRITTEN)).into()).await?;
    }
    upload.complete().await.map(drop)
}

/// Removes what was to become objects of such names. The store gives an object its name when it is whole; until then it stands beside it, with a `#` and a number behind the name.
fn remove_staged(spread: &Path, is_meant: impl Fn(&str) -> bool) -> std::io::Result<()> {
    for file in std::fs::read_dir(spread)? {
        let file = file?;
        if file.file_name().to_string_lossy().split_once('#').is_some_and(|(of, _)| is_meant(of)) {
            // Whoever wrote it may have removed or renamed it just now.
            match std::fs::remove_file(file.path()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_in_pieces_is_read_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let objects = Objects::in_directory(directory.path()).unwrap();
        for (number, length) in [1, WRITTEN - 1, WRITTEN, WRITTEN + 1, 3 * WRITTEN + 7].into_iter().enumerate() {
            let id: MediaId = format!("{number:032x}").parse().unwrap();
            let whole: Bytes = (0..length).map(|at| (at / 1000) as u8).collect();
            // Again is harmless.
            objects.put(id, whole.clone()).await.unwrap();
            objects.put(id, whole.clone()).await.unwrap();
            let read: Vec<Bytes> = objects.read(id, 0..length as u64).await.unwrap().try_collect().await.unwrap();
            assert_eq!(read.concat(), whole, "{length} bytes");
        }
    }

    #[tokio::test]
    async fn what_cannot_become_an_object_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let objects = Objects::in_directory(directory.path()).unwrap();
        let id: MediaId = format!("{:032x}", 7).parse().unwrap();
        // A directory that is not empty cannot be replaced.
        let taken = directory.path().join(key(id).as_ref());
        std::fs::create_dir_all(taken.join("in the way")).unwrap();
        for _ in 0..3 {
            objects.put(id, vec![7; WRITTEN + 1].into()).await.unwrap_err();
        }
        assert_eq!(std::fs::read_dir(taken.parent().unwrap()).unwrap().count(), 1);
        std::fs::remove_dir_all(&taken).unwrap();
        objects.put(id, vec![7; WRITTEN + 1].into()).await.unwrap();
    }
}
