//! Uploads on this machine's disk: a file for the parts of each open one, and a catalog of all.
//!
//! How a part flows: [`Local::put`](Uploads::put) → the lane of its upload → written beside what came meanwhile, one sync for each file → told. An upload is
//! always in the same lane, so nothing has to be locked while a part is compared with what stands there.
//!
//! The catalog decides what an upload is; a file only has parts. It is made with the first of them, and a start removes those of uploads that are not open.

mod catalog;
mod file;
mod handle;
mod row;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tern_proto::v1::Code;
use tern_proto::{MediaId, UserId};
use tern_runtime::planted::{self, Fault};
use tern_runtime::queue::{Meters, Queue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::catalog::Catalog;
pub use self::catalog::CatalogError;
use self::file::PartsFile;
use super::{Made, Quota, Result, State, Upload, UploadError, Uploads};
use crate::apart::Apart;
use crate::declared::Declared;
use crate::directory;
use crate::parts::Parts;

/// Syncs that may run at the same time.
const LANES: usize = 4;
/// Threads for them, and for looks into the catalog.
const THREADS: usize = 6;
/// Parts that one lane takes at once.
const BATCH: usize = 256;
/// Uploads that are made at once in one transaction.
const MAKES: usize = 256;
/// KiB of parts that may be on their way to the disk.
const WAITING_KIB: usize = 64 * 1024;

/// Uploads in a directory. One process at a time: the catalog is locked.
pub struct Local {
    shared: Arc<Shared>,
    lanes: [Arc<Queue<Job>>; LANES],
    makes: Arc<Queue<Making>>,
    apart: Apart,
    /// KiB that more parts may have which are on their way; who finds none waits.
    room: Arc<Semaphore>,
}

struct Shared {
    files: PathBuf,
    catalog: Catalog,
    /// The open uploads that were asked for since the start. As many as the quotas allow.
    open: Mutex<HashMap<MediaId, Arc<Open>>>,
    /// Held while an upload is looked up for its first part and while one ends, so that no ended one is opened.
    changing: Mutex<()>,
}

/// An open upload.
struct Open {
    owner: UserId,
    /// Taken for expired from then on.
    due_ms: i64,
    file: PartsFile,
    state: Mutex<OpenState>,
}

struct OpenState {
    parts: Parts,
    ended: bool,
}

/// A part on its way.
struct Job {
    open: Arc<Open>,
    index: u32,
    bytes: Bytes,
    answer: oneshot::Sender<Result<u32>>,
    /// Given back when it is told.
    _room: OwnedSemaphorePermit,
}

/// An upload that is to be complete from the start.
struct Making {
    shared: Arc<Shared>,
    owner: UserId,
    declared: Declared,
    quota: Quota,
    made: Made,
    now_ms: i64,
    answer: oneshot::Sender<Result<Upload>>,
}

impl Local {
    /// Opens the directory, and makes it if it is not there, in one that is. What no message refers to lives for so long. Blocks; needs a Tokio runtime.
    ///
    /// # Errors
    /// The disk refuses, or another process has it open.
    pub fn open(at: &Path, lifetime: Duration, meters: &Meters) -> std::result::Result<Local, CatalogError> {
        let files = at.join("parts");
        directory::make(at)?;
        directory::make(&files)?;
        let catalog = Catalog::open(&at.join("uploads.redb"), lifetime)?;
        directory::sync(at)?;
        remove_strays(&files, &catalog)?;
        let shared = Shared { files, catalog, open: Mutex::default(), changing: Mutex::default() };
        let lane = |_| Arc::new(Queue::new(BATCH, Duration::ZERO, meters.of("parts")));
        let lanes = std::array::from_fn(lane);
        let apart = Apart::new(THREADS)?;
        for queue in &lanes {
            tokio::spawn(run_lane(queue.clone(), apart.clone()));
        }
        let makes = Arc::new(Queue::new(MAKES, Duration::ZERO, meters.of("makes")));
        tokio::spawn(run_makes(makes.clone(), apart.clone()));
        Ok(Local { shared: Arc::new(shared), lanes, makes, apart, room: Arc::new(Semaphore::new(WAITING_KIB)) })
    }

    fn lane(&self, id: MediaId) -> &Queue<Job> {
        &self.lanes[(id.as_u128() % LANES as u128) as usize]
    }

    /// Runs what blocks where it may, and sees it through if the caller goes away.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> std::result::Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        let shared = self.shared.clone();
        let work = move || {
            work(&shared).inspect_err(|failed| {
                if let Failed::Catalog(error) = failed {
                    shared.catalog.failed(error);
                }
            })
        };
        match self.apart.handle().spawn_blocking(work).await {
            Ok(done) => done.map_err(UploadError::from),
            Err(broken) => Err(UploadError::Unavailable(broken.to_string())),
        }
    }

    /// The upload, if it is open; `None` once it has ended.
    async fn opened(&self, id: MediaId, now_ms: i64) -> Result<Option<Arc<Open>>> {
        if let Some(open) = self.shared.known(id) {
            return Ok(Some(open));
        }
        self.blocking(move |shared| shared.open_again(id, now_ms)).await
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.lanes.iter().for_each(|queue| queue.close());
        self.makes.close();
    }
}

/// Why something failed below.
enum Failed {
    Told(UploadError),
    Catalog(CatalogError),
}

impl From<CatalogError> for Failed {
    fn from(error: CatalogError) -> Failed {
        Failed::Catalog(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Catalog(error.into())
    }
}

impl From<UploadError> for Failed {
    fn from(error: UploadError) -> Failed {
        Failed::Told(error)
    }
}

impl From<Failed> for UploadError {
    fn from(failed: Failed) -> UploadError {
        match failed {
            Failed::Told(error) => error,
            Failed::Catalog(error) => {
                tracing::error!(%error, "uploads cannot be stored");
                UploadError::Unavailable(error.to_string())
            }
        }
    }
}

impl Shared {
    fn known(&self, id: MediaId) -> Option<Arc<Open>> {
        self.all().get(&id).cloned()
    }

    fn open_again(&self, id: MediaId, now_ms: i64) -> std::result::Result<Option<Arc<Open>>, Failed> {
        let _changing = lock(&self.changing);
        if let Some(open) = self.known(id) {
            return Ok(Some(open));
        }
        let (upload, due_ms) = self.catalog.look_due(id, now_ms)?;
        let State::Open(_) = upload.state else { return Ok(None) };
        let file = PartsFile::new(self.files.join(id.to_string()), upload.declared);
        let state = Mutex::new(OpenState { parts: file.read_parts()?, ended: false });
        let open = Arc::new(Open { owner: upload.owner, due_ms, file, state });
        self.all().insert(id, open.clone());
        Ok(Some(open))
    }

    /// What the catalog says, with the parts that are there.
    fn look(&self, id: MediaId, now_ms: i64) -> std::result::Result<Upload, Failed> {
        let upload = self.catalog.look(id, now_ms)?;
        let State::Open(_) = upload.state else { return Ok(upload) };
        match self.open_again(id, now_ms)? {
            Some(open) => Ok(Upload { state: State::Open(lock(&open.state).parts.clone()), ..upload }),
            // It has ended between the two looks.
            None => Ok(self.catalog.look(id, now_ms)?),
        }
    }

    /// The upload takes no parts any more.
    fn close(&self, id: MediaId) -> io::Result<()> {
        let open = self.all().remove(&id);
        match open {
            Some(open) => {
                lock(&open.state).ended = true;
                open.file.remove()
            }
            None => file::remove(&self.files.join(id.to_string())),
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<MediaId, Arc<Open>>> {
        lock(&self.open)
    }
}

/// Every change is whole, so a panic elsewhere leaves nothing to repair.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Files of uploads that have ended while the process died.
fn remove_strays(files: &Path, catalog: &Catalog) -> std::result::Result<(), CatalogError> {
    for entry in std::fs::read_dir(files)? {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let is_open = match id {
            Some(id) => catalog.is_open(id)?,
            None => false,
        };
        if !is_open {
            file::remove(&path)?;
        }
    }
    Ok(())
}

async fn run_lane(queue: Arc<Queue<Job>>, apart: Apart) {
    while let Some(jobs) = queue.next().await {
        // A panic drops the jobs, and with them their answers.
        let Ok(answers) = apart.handle().spawn_blocking(move || store(jobs)).await else { continue };
        // Here and not where they come from: to tell each from another thread would wake this one as often.
        answers.into_iter().for_each(|(job, answer)| job.tell(answer));
    }
}

/// Makes uploads, as many at a time as are waiting.
async fn run_makes(queue: Arc<Queue<Making>>, apart: Apart) {
    while let Some(all) = queue.next().await {
        // A panic drops them, and with them their answers.
        let Ok((answers, made)) = apart.handle().spawn_blocking(move || make(all)).await else { continue };
        // Whoever asked may have gone; what was made stands all the same.
        answers.into_iter().zip(made).for_each(|(answer, made)| drop(answer.send(made)));
    }
}

/// By when they are told, nothing of them holds the catalog open.
fn make(all: Vec<Making>) -> (Vec<oneshot::Sender<Result<Upload>>>, Vec<Result<Upload>>) {
    let Some(shared) = all.first().map(|making| making.shared.clone()) else { return Default::default() };
    let made = shared.catalog.make(&all).unwrap_or_else(|error| {
        shared.catalog.failed(&error);
        vec![Err(Failed::Catalog(error).into()); all.len()]
    });
    (all.into_iter().map(|making| making.answer).collect(), made)
}

/// Stores a batch: what is of one upload with one sync.
fn store(jobs: Vec<Job>) -> Vec<(Job, Result<u32>)> {
    let mut by_upload: Vec<(Arc<Open>, Vec<Job>)> = Vec::new();
    for job in jobs {
        match by_upload.iter_mut().find(|(open, _)| Arc::ptr_eq(open, &job.open)) {
            Some((_, jobs)) => jobs.push(job),
            None => by_upload.push((job.open.clone(), vec![job])),
        }
    }
    by_upload.into_iter().flat_map(|(open, jobs)| open.store(jobs)).collect()
}

impl Open {
    fn store(&self, jobs: Vec<Job>) -> Vec<(Job, Result<u32>)> {
        if lock(&self.state).ended {
            return jobs.into_iter().map(|job| (job, Ok(0))).collect();
        }
        let (stored, failed) = match self.write(&jobs) {
            Ok(stored) => (stored, None),
            // Its parts are not in the set: the same ones are written again.
            Err(error) => {
                tracing::error!(%error, "the parts of an upload cannot be written");
                (Vec::new(), Some(UploadError::Unavailable(error.to_string())))
            }
        };
        let mut stored = stored.into_iter();
        let mut state = lock(&self.state);
        if state.ended {
            // It may have been made again.
            let _ = self.file.remove();
        }
        let answer = |job: Job| {
            let answer = match (&failed, stored.next()) {
                _ if state.ended => Ok(0),
                (Some(failed), _) => Err(failed.clone()),
                (None, Some(true)) => {
                    state.parts.insert(job.index);
                    Ok(state.parts.left())
                }
                (None, _) => Err(UploadError::Conflict(job.index)),
            };
            (job, answer)
        };
        jobs.into_iter().map(answer).collect()
    }

    /// Writes parts that do not stand there, and syncs them. Tells of each whether it stands there now, or other bytes in its place.
    fn write(&self, jobs: &[Job]) -> io::Result<Vec<bool>> {
        let file = self.file.opened_or_made()?;
        let mut there = lock(&self.state).parts.clone();
        let before = there.left();
        let mut stored = Vec::with_capacity(jobs.len());
        for job in jobs {
            let stands = if there.has(job.index) && !planted::active(Fault::PartOverwritten) {
                self.file.read(&file, job.index)? == *job.bytes
            } else if planted::active(Fault::PartUnwritten) && job.index % 8 == 3 {
                there.insert(job.index);
                true
            } else {
                self.file.write(&file, job.index, &job.bytes)?;
                there.insert(job.index);
                true
            };
            stored.push(stands);
        }
        if there.left() < before {
            file.sync_data()?;
        }
        Ok(stored)
    }
}

impl Job {
    fn tell(self, answer: Result<u32>) {
        // Whoever asked may have gone; the part stands all the same.
        let _ = self.answer.send(answer);
    }
}

#[async_trait]
impl Uploads for Local {
    async fn begin(&self, owner: &UserId, declared: &Declared, quota: &Quota, now_ms: i64) -> Result<Upload> {
        let (owner, declared, quota) = (owner.clone(), *declared, *quota);
        self.blocking(move |shared| {
            let upload = shared.catalog.begin(&owner, &declared, &quota, now_ms)?;
            match upload.state {
                State::Open(_) => shared.look(upload.id, now_ms),
                _ => Ok(upload),
            }
        })
        .await
    }

    async fn make(
        &self,
        owner: &UserId,
        declared: &Declared,
        quota: &Quota,
        made: Made,
        now_ms: i64,
    ) -> Result<Upload> {
        let (answer, told) = oneshot::channel();
        let shared = self.shared.clone();
        let making = Making { shared, owner: owner.clone(), declared: *declared, quota: *quota, made, now_ms, answer };
        let full = |_| UploadError::Unavailable("too many uploads wait".into());
        self.makes.submit(making, false).map_err(full)?;
        let upload = told.await.unwrap_or_else(|_| Err(UploadError::Unavailable("making it broke off".into())))?;
        match upload.state {
            // One that was begun before.
            State::Open(_) => self.look(upload.id, now_ms).await,
            _ => Ok(upload),
        }
    }

    async fn look(&self, id: MediaId, now_ms: i64) -> Result<Upload> {
        self.blocking(move |shared| shared.look(id, now_ms)).await
    }

    async fn put(&self, owner: &UserId, id: MediaId, index: u32, bytes: Bytes, now_ms: i64) -> Result<u32> {
        let Some(open) = self.opened(id, now_ms).await? else {
            let upload = self.look(id, now_ms).await?;
            return if upload.owner == *owner { Ok(0) } else { Err(UploadError::NoSuch) };
        };
        if open.owner != *owner {
            return Err(UploadError::NoSuch);
        }
        if open.due_ms <= now_ms {
            return Err(UploadError::Expired);
        }
        open.file.declared.check_part(index, bytes.len()).map_err(|bad| UploadError::Part(bad.message))?;
        let kibibytes = bytes.len().div_ceil(1024) as u32; // At most 256.
        let room = self.room.clone().acquire_many_owned(kibibytes).await;
        let _room = room.map_err(|_| UploadError::Unavailable("the server stops".into()))?;
        let (answer, told) = oneshot::channel();
        let job = Job { open, index, bytes, answer, _room };
        let full = |_| UploadError::Unavailable("too many parts wait".into());
        self.lane(id).submit(job, false).map_err(full)?;
        told.await.unwrap_or_else(|_| Err(UploadError::Unavailable("storing the part broke off".into())))
    }

    async fn bytes(&self, id: MediaId) -> Result<Bytes> {
        self.blocking(move |shared| {
            let open = shared.known(id).ok_or(UploadError::NoSuch)?;
            let is_whole = {
                let state = lock(&open.state);
                state.parts.left() == 0 && !state.ended
            };
            if is_whole { Ok(open.file.read_all()?) } else { Err(UploadError::NoSuch.into()) }
        })
        .await
    }

    async fn end(&self, id: MediaId, became: std::result::Result<Made, Code>, now_ms: i64) -> Result<Upload> {
        self.blocking(move |shared| {
            let _changing = lock(&shared.changing);
            let upload = shared.catalog.end(id, became, now_ms)?;
            shared.close(id)?;
            Ok(upload)
        })
        .await
    }

    async fn lease(&self, id: MediaId, now_ms: i64) -> Result<Upload> {
        self.blocking(move |shared| shared.catalog.lease(id, now_ms)).await
    }

    async fn lapsed(&self, now_ms: i64, limit: usize) -> Result<Vec<Upload>> {
        self.blocking(move |shared| {
            let _changing = lock(&shared.changing);
            let lapsed = shared.catalog.lapsed(now_ms, limit)?;
            for upload in &lapsed {
                shared.close(upload.id)?;
            }
            Ok(lapsed)
        })
        .await
    }

    async fn keep(&self, id: MediaId) -> Result<()> {
        self.blocking(move |shared| Ok(shared.catalog.keep(id)?)).await
    }

    async fn remove(&self, id: MediaId) -> Result<()> {
        self.blocking(move |shared| Ok(shared.catalog.remove(id)?)).await
    }
}
