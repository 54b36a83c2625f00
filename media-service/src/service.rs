//! The service: each request judged, carried out against uploads and objects, answered.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{join, join_all};
use futures_util::stream::BoxStream;
use sha2::Digest as _;
use tern_proto::v1::Code;
use tern_proto::{MediaId, Refusal, UserId, limits, v1};
use tern_runtime::clock::unix_millis;
use tern_runtime::planted::{self, Fault};
use tokio::sync::{AcquireError, Mutex, Semaphore};

use crate::apart;
use crate::audio::{self, Heard};
use crate::clips::{Whole, take_wholes};
use crate::declared::Declared;
use crate::image::{self, Looked};
use crate::objects::{ObjectError, Objects};
use crate::setup::Media;
use crate::uploads::{Made, Quota, SHORT, State, Upload, UploadError, Uploads, unknown};
use crate::{MediaApi, Opened, strip};

/// Uploads beyond [`SHORT`] that are completed at the same time, and so are in memory as a whole, decoded or on their way to the object store.
const STORING: usize = 8;
/// The same of clips that are looked at at once.
const WORDS: usize = 64;
/// Completions that may be under way; one more is refused.
const COMPLETIONS: usize = 4_096;
/// Bytes of audio that are looked at at once: that takes less than a thread.
const AT_ONCE: u64 = 256 * 1024;

/// The media service over what is durable of uploads and an object store. Needs a Tokio runtime.
pub struct MediaService {
    shared: Arc<Shared>,
    quota: Quota,
    lifetime: Duration,
}

struct Shared {
    uploads: Arc<dyn Uploads>,
    objects: Objects,
    /// Images that may be decoded at the same time.
    making: Semaphore,
    /// At most [`STORING`].
    storing: Semaphore,
    /// At most [`WORDS`].
    words: Semaphore,
    /// Completions under way, those included that nobody waits for any more.
    places: Arc<Semaphore>,
    /// So that an upload is completed once in this process, and who comes second finds the result.
    completing: std::sync::Mutex<HashMap<MediaId, Arc<Mutex<()>>>>,
    strips_metadata: bool,
}

impl MediaService {
    /// A service that decodes so many images at the same time.
    pub fn new(uploads: Arc<dyn Uploads>, objects: Objects, settings: &Media, makers: usize) -> Arc<MediaService> {
        let completing = Default::default();
        let (making, strips_metadata) = (Semaphore::new(makers.max(1)), settings.strips_metadata);
        let (storing, words) = (Semaphore::new(STORING), Semaphore::new(WORDS));
        let places = Arc::new(Semaphore::new(COMPLETIONS));
        let shared = Arc::new(Shared { uploads, objects, making, storing, words, places, completing, strips_metadata });
        Arc::new(MediaService { shared, quota: settings.quota, lifetime: settings.lifetime })
    }

    /// An upload of this user.
    async fn own(&self, user: &UserId, id: MediaId) -> Result<Upload, Refusal> {
        let upload = self.shared.uploads.look(id, unix_millis()).await?;
        if upload.owner == *user { Ok(upload) } else { Err(self.nothing(id)) }
    }

    /// What is told of this id if there is nothing under it, or as if there were not.
    fn nothing(&self, id: MediaId) -> Refusal {
        unknown(id, self.lifetime, unix_millis()).into()
    }

    /// Stores chunks of one clip.
    async fn put_chunks(
        &self,
        user: &UserId,
        clip: v1::MediaBegin,
        chunks: Vec<(u32, Vec<u8>)>,
    ) -> Result<(), Refusal> {
        let declared = declared(&clip)?;
        let (uploads, now_ms) = (&self.shared.uploads, unix_millis());
        let upload = uploads.begin(user, &declared, &self.quota, now_ms).await?;
        let put = chunks.into_iter().map(|(index, bytes)| uploads.put(user, upload.id, index, bytes.into(), now_ms));
        // Each of them, also where another one is refused.
        join_all(put).await.into_iter().try_for_each(|stored| stored.map(drop))?;
        Ok(())
    }

    /// Stores a clip of which all bytes are there.
    async fn whole(&self, user: &UserId, clip: v1::MediaBegin, bytes: Bytes) -> Result<(), Refusal> {
        let declared = declared(&clip)?;
        let (uploads, now_ms) = (&self.shared.uploads, unix_millis());
        let upload = match judge(bytes.clone(), &declared, false) {
            Ok(judged) => uploads.make(user, &declared, &self.quota, judged.made(), now_ms).await?,
            Err(_) => uploads.begin(user, &declared, &self.quota, now_ms).await?,
        };
        if let State::Open(_) = upload.state {
            // Some of it came before, or it will be refused: by whoever asks for it.
            let chunks = bytes.chunks(limits::CHUNK_BYTES as usize).enumerate();
            let put = chunks.map(|(index, chunk)| {
                uploads.put(user, upload.id, index as u32, Bytes::copy_from_slice(chunk), now_ms)
            });
            for stored in join_all(put).await {
                stored?;
            }
        }
        Ok(())
    }

    /// How far a clip is stored; nothing if that cannot be told.
    async fn stored(&self, user: &UserId, clip: v1::MediaBegin) -> Option<v1::ChunksStored> {
        let declared = declared(&clip).ok()?;
        let upload = self.shared.uploads.begin(user, &declared, &self.quota, unix_millis()).await.ok()?;
        let chunks = match upload.state {
            State::Open(parts) => parts.missing(1).first().map_or(parts.count(), |run| run.first),
            State::Complete(_) => declared.parts(),
            State::Failed(_) => return None,
        };
        Some(v1::ChunksStored { sha256: clip.sha256, chunks })
    }

    /// Sees the completion through, also if whoever asked for it goes away.
    async fn completed(&self, id: MediaId) -> Result<v1::MediaUpload, Refusal> {
        let shared = self.shared.clone();
        let busy = |_| Refusal::new(Code::Busy, "too many uploads are being completed");
        let place = shared.places.clone().try_acquire_owned().map_err(busy)?;
        let completion = async move {
            let _place = place;
            shared.complete(id).await
        };
        match tokio::spawn(completion).await {
            Ok(completed) => completed,
            Err(broken) => {
                tracing::error!(%broken, "completing an upload broke off");
                Err(Refusal::new(Code::Unavailable, "completing the upload broke off"))
            }
        }
    }
}

#[async_trait]
impl MediaApi for MediaService {
    async fn begin(&self, user: &UserId, request: v1::MediaBegin) -> Result<v1::MediaUpload, Refusal> {
        let declared = Declared::new(&request)?;
        told(&self.shared.uploads.begin(user, &declared, &self.quota, unix_millis()).await?)
    }

    async fn part(&self, user: &UserId, id: MediaId, index: u32, crc32: u32, bytes: Bytes) -> Result<u32, Refusal> {
        if crc32fast::hash(&bytes) != crc32 {
            return Err(Refusal::new(Code::BadPart, "the bytes do not have the CRC-32 that was said: send them again"));
        }
        match self.shared.uploads.put(user, id, index, bytes, unix_millis()).await {
            Err(UploadError::NoSuch) => Err(self.nothing(id)),
            stored => Ok(stored?),
        }
    }

    async fn upload(&self, user: &UserId, id: MediaId) -> Result<v1::MediaUpload, Refusal> {
        told(&self.own(user, id).await?)
    }

    async fn complete(&self, user: &UserId, id: MediaId) -> Result<v1::MediaUpload, Refusal> {
        self.own(user, id).await?;
        self.completed(id).await
    }

    async fn chunks(&self, user: &UserId, mut chunks: Vec<v1::Chunk>) -> Vec<v1::ChunksStored> {
        let wholes = take_wholes(&mut chunks).into_iter();
        let is_told = |chunk: &&v1::Chunk| chunk.index % limits::CHUNKS_TOLD == limits::CHUNKS_TOLD - 1;
        let told: HashSet<v1::MediaBegin> =
            chunks.iter().filter(is_told).filter_map(|chunk| chunk.clip.clone()).collect();
        let wholes = join_all(wholes.map(|Whole { clip, bytes }| self.whole(user, clip, bytes)));
        let mut clips: HashMap<v1::MediaBegin, Vec<(u32, Vec<u8>)>> = HashMap::new();
        for v1::Chunk { clip, index, bytes } in chunks {
            clips.entry(clip.unwrap_or_default()).or_default().push((index, bytes));
        }
        let put = join_all(clips.into_iter().map(|(clip, chunks)| self.put_chunks(user, clip, chunks)));
        let (wholes, put) = join(wholes, put).await;
        for refused in wholes.into_iter().chain(put).filter_map(Result::err) {
            tracing::debug!(code = refused.code.as_str_name(), "a chunk is not stored");
        }
        join_all(told.into_iter().map(|clip| self.stored(user, clip))).await.into_iter().flatten().collect()
    }

    async fn clip(&self, user: &UserId, clip: v1::MediaBegin) -> Result<v1::Media, Refusal> {
        let declared = declared(&clip)?;
        let upload = self.shared.uploads.begin(user, &declared, &self.quota, unix_millis()).await?;
        if let State::Open(_) = upload.state {
            if planted::active(Fault::ClipUnfinished) {
                return Ok(v1::Media { id: upload.id.to_string(), ..Default::default() });
            }
            self.completed(upload.id).await?;
        }
        self.lease(upload.id).await
    }

    async fn open(&self, id: MediaId) -> Result<Opened, Refusal> {
        let upload = self.shared.uploads.look(id, unix_millis()).await?;
        let Made { media, thumbnail, content } = complete(upload.state)?;
        Ok(Opened { owner: upload.owner, media, thumbnail, content, as_nothing: self.nothing(id) })
    }

    async fn lease(&self, id: MediaId) -> Result<v1::Media, Refusal> {
        Ok(complete(self.shared.uploads.lease(id, unix_millis()).await?.state)?.media)
    }

    async fn read(
        &self,
        id: MediaId,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Refusal>>, Refusal> {
        let bytes = self.shared.objects.read(id, range).await.map_err(|error| unreadable(&error))?;
        Ok(bytes.map(|bytes| bytes.map_err(|error| unreadable(&error))).boxed())
    }
}

impl Shared {
    async fn complete(&self, id: MediaId) -> Result<v1::MediaUpload, Refusal> {
        let turn = self.turn(id);
        let _first = turn.lock().await;
        let upload = self.uploads.look(id, unix_millis()).await?;
        match &upload.state {
            State::Open(parts) if parts.left() > 0 => {
                Err(Refusal::new(Code::UploadIncomplete, format!("{} parts are missing", parts.left())))
            }
            State::Open(_) => told(&self.make(upload).await?),
            State::Complete(_) | State::Failed(_) => told(&upload),
        }
    }

    /// The lock of those who complete this upload.
    fn turn(&self, id: MediaId) -> Arc<Mutex<()>> {
        let mut turns = self.completing.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody takes one but here.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(id).or_default().clone()
    }

    /// Merges the parts, and stores what has become of them.
    async fn make(&self, upload: Upload) -> Result<Upload, Refusal> {
        let (declared, strips) = (upload.declared, self.strips_metadata);
        // A word does not wait for images, and what the object store need not take does not wait for it.
        let is_short = is_short(&declared);
        let places = if is_short { &self.words } else { &self.storing };
        let _storing = if declared.bytes > SHORT { Some(places.acquire().await.map_err(stops)?) } else { None };
        let making = if is_short { None } else { Some(self.making.acquire().await.map_err(stops)?) };
        let bytes = match self.uploads.bytes(upload.id).await {
            // Another replica has ended it meanwhile.
            Err(UploadError::NoSuch) => return Ok(self.uploads.look(upload.id, unix_millis()).await?),
            bytes => bytes?,
        };
        let judged = if is_short {
            judge(bytes, &declared, strips)
        } else {
            // What makes it panic would do so again.
            apart::once(move || judge(bytes, &declared, strips)).await.map_err(no_thread)?.unwrap_or_else(|| {
                tracing::error!(id = %upload.id, "what was uploaded broke what looks at it");
                Err(Code::BadMedia)
            })
        };
        drop(making);
        let mut judged = match judged {
            Ok(judged) => judged,
            Err(code) => return Ok(self.uploads.end(upload.id, Err(code), unix_millis()).await?),
        };
        judged.media.id = upload.id.to_string();
        if judged.bytes.len() as u64 > SHORT {
            self.objects.put(upload.id, judged.bytes.clone()).await.map_err(|error| {
                tracing::error!(%error, "media cannot be stored");
                Refusal::new(Code::Unavailable, "media cannot be stored now")
            })?;
        }
        let made = judged.made();
        let ended = self.uploads.end(upload.id, Ok(made), unix_millis()).await;
        if matches!(ended, Err(UploadError::NoSuch | UploadError::Expired)) {
            // It was collected meanwhile, and nobody else would find the object.
            if let Err(error) = self.objects.remove(upload.id).await {
                tracing::error!(%error, id = %upload.id, "an object that nothing knows of stays in the store");
            }
        }
        Ok(ended?)
    }
}

/// Whether it is looked at in less time than a thread takes.
fn is_short(declared: &Declared) -> bool {
    declared.kind.is_audio() && declared.bytes <= AT_ONCE
}

fn stops(_: AcquireError) -> Refusal {
    Refusal::new(Code::Unavailable, "the server stops")
}

fn no_thread(error: std::io::Error) -> Refusal {
    tracing::error!(%error, "no thread to look at an upload");
    Refusal::new(Code::Unavailable, "the upload cannot be looked at now")
}

/// What an upload is that is whole.
struct Judged {
    /// As they are to be kept.
    bytes: Bytes,
    /// But for its id.
    media: v1::Media,
    /// Of an image.
    thumbnail: Bytes,
}

impl Judged {
    fn made(self) -> Made {
        let content = if self.bytes.len() as u64 <= SHORT { self.bytes } else { Bytes::new() };
        Made { media: self.media, thumbnail: self.thumbnail, content }
    }
}

/// What the parts are, merged; or the final refusal that they get.
fn judge(mut bytes: Bytes, declared: &Declared, strips_metadata: bool) -> Result<Judged, Code> {
    if digest(&bytes) != declared.sha256.0 {
        return Err(Code::BadDigest);
    }
    let (kind, media) = (declared.kind, v1::Media { r#type: declared.kind.media_type().into(), ..Default::default() });
    if kind.is_audio() {
        let Heard { duration_ms, waveform } = audio::hear(&bytes, kind).map_err(refused)?;
        let media = v1::Media { bytes: declared.bytes, duration_ms, waveform, ..media };
        return Ok(Judged { bytes, media, thumbnail: Bytes::new() });
    }
    let Looked { width, height, thumbhash, thumbnail } = image::look(&bytes, kind).map_err(refused)?;
    if strips_metadata && let Cow::Owned(stripped) = strip::stripped(&bytes, kind).map_err(refused)? {
        bytes = stripped.into();
    }
    let media = v1::Media { bytes: bytes.len() as u64, width, height, thumbhash, ..media };
    Ok(Judged { bytes, media, thumbnail })
}

/// The SHA-256.
fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut digest = sha2::Sha256::new();
    let mut pieces = bytes.chunks(AT_ONCE as usize).peekable();
    while let Some(piece) = pieces.next() {
        digest.update(piece);
        if pieces.peek().is_some() {
            apart::give_way();
        }
    }
    digest.finalize().into()
}

fn refused(bad: impl std::fmt::Display) -> Code {
    tracing::debug!(%bad, "an upload is not what it was said to be");
    Code::BadMedia
}

/// What is said of a clip: the size of its chunks is not the client's to choose.
fn declared(clip: &v1::MediaBegin) -> Result<Declared, Refusal> {
    let declared = Declared::new(&v1::MediaBegin { part_bytes: limits::CHUNK_BYTES, ..clip.clone() })?;
    if declared.kind.is_audio() { Ok(declared) } else { Err(Refusal::new(Code::BadMedia, "a clip is audio")) }
}

/// The answer to the client.
fn told(upload: &Upload) -> Result<v1::MediaUpload, Refusal> {
    let (parts, part_bytes) = (upload.declared.parts(), upload.declared.part_bytes);
    let told = v1::MediaUpload { id: upload.id.to_string(), part_bytes, parts, ..Default::default() };
    match &upload.state {
        State::Open(there) => {
            let (left, missing) = (there.left(), there.missing(limits::MISSING_RUNS));
            Ok(v1::MediaUpload { left, missing, ..told })
        }
        State::Complete(Made { media, thumbnail, .. }) => {
            Ok(v1::MediaUpload { media: Some(media.clone()), thumbnail: thumbnail.to_vec(), ..told })
        }
        State::Failed(Code::BadDigest) => {
            Err(Refusal::new(Code::BadDigest, "the parts do not have the SHA-256 that was said: begin anew"))
        }
        State::Failed(code) => {
            let (kind, most) = (upload.declared.kind, image::MAX_PIXELS);
            let or = if kind.is_audio() {
                "or lasts over ten minutes".to_owned()
            } else {
                format!("or has over {most} pixels, or takes too much to decode")
            };
            Err(Refusal::new(*code, format!("is not whole as {}, {or}", kind.media_type())))
        }
    }
}

fn complete(state: State) -> Result<Made, Refusal> {
    match state {
        State::Complete(made) => Ok(made),
        State::Open(_) | State::Failed(_) => Err(no_such()),
    }
}

fn no_such() -> Refusal {
    Refusal::new(Code::NoSuchMedia, "no such upload or media")
}

fn unreadable(error: &ObjectError) -> Refusal {
    tracing::error!(%error, "media cannot be read");
    Refusal::new(Code::Unavailable, "media cannot be read now")
}
