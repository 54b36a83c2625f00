//! What is durable about uploads, but for the merged bytes: what was declared, which parts are there, what became of it.
//!
//! [`Uploads`] is the seam; `contract.rs` is the suite that every implementation must pass. [`local`] keeps a file for each upload and a
//! catalog beside them, for one process; [`postgres`] keeps all of it in a database, for any number of them; [`mod@reference`] is the model, in memory.

pub mod local;
pub mod postgres;
pub mod reference;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tern_proto::v1::Code;
use tern_proto::{MediaId, Refusal, UserId, v1};

use crate::declared::Declared;
use crate::parts::Parts;

/// What one user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of one upload.
    pub bytes: u64,
    /// Uploads that are not complete.
    pub open: u64,
    /// Bytes of all, those that are declared included; each has at least [`LEAST`].
    pub total_bytes: u64,
}

/// An upload, and what it has become.
#[derive(Clone, Debug, PartialEq)]
pub struct Upload {
    /// Also that of the media that it becomes.
    pub id: MediaId,
    /// Whose it is.
    pub owner: UserId,
    /// What was said of it.
    pub declared: Declared,
    /// Where it stands.
    pub state: State,
}

/// Where an upload stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// These parts are there; all of them, until the media is made.
    Open(Parts),
    /// The media.
    Complete(Made),
    /// Refused for ever.
    Failed(Code),
}

/// What was made of an upload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    /// As clients are told.
    pub media: v1::Media,
    /// A JPEG; of an image.
    pub thumbnail: Bytes,
    /// All bytes, if they are at most [`SHORT`]; else they are in the object store.
    pub content: Bytes,
}

/// Bytes of what is kept beside what is known of it: for a clip of a few seconds, an object of its own would cost many times what it has.
pub const SHORT: u64 = 16 * 1024;

/// Bytes that an upload counts at least, one that has failed included until it is removed: what is known of it takes room too, and a million tiny ones take gigabytes.
pub const LEAST: u64 = 4096;

/// How an operation fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// It never was, or is another user's.
    #[error("no such upload or media")]
    NoSuch,
    /// It was, and is removed.
    #[error("it has expired")]
    Expired,
    /// What the user may not have.
    #[error("{0}")]
    Quota(String),
    /// The part is there with other bytes.
    #[error("part {0} was stored with other bytes")]
    Conflict(u32),
    /// A part that cannot be.
    #[error("{0}")]
    Part(String),
    /// Nothing is known to be stored; the same may be tried again.
    #[error("media cannot be stored: {0}")]
    Unavailable(String),
}

impl From<UploadError> for Refusal {
    fn from(error: UploadError) -> Refusal {
        let code = match &error {
            UploadError::NoSuch => Code::NoSuchMedia,
            UploadError::Expired => Code::MediaExpired,
            UploadError::Quota(_) => Code::MediaQuota,
            UploadError::Conflict(_) => Code::PartConflict,
            UploadError::Part(_) => Code::BadPart,
            UploadError::Unavailable(_) => {
                // The reason is for the operator.
                return Refusal::new(Code::Unavailable, "media cannot be stored now");
            }
        };
        Refusal::new(code, error.to_string())
    }
}

/// How long an upload may take, and how long what no message refers to is kept, unless the operator says otherwise.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

type Result<T> = std::result::Result<T, UploadError>;

/// What is durable about uploads. All that is answered is on disk.
///
/// Rules for every implementation: an upload is named by its owner and what was declared; a part that was answered is there until the upload ends,
/// whatever process dies; of several completions the first counts, and all get its result.
#[async_trait]
pub trait Uploads: Send + Sync + 'static {
    /// The upload of this user that was declared so and has not failed, or a new one if the quota allows it. The lease of one that is complete is renewed.
    ///
    /// # Errors
    /// [`UploadError::Quota`], [`UploadError::Unavailable`], also while one that is complete is fenced.
    async fn begin(&self, owner: &UserId, declared: &Declared, quota: &Quota, now_ms: i64) -> Result<Upload>;

    /// As [`Uploads::begin`], but a new one is complete from the start: this was made of bytes that were all there. Its id is set here.
    ///
    /// # Errors
    /// As [`Uploads::begin`].
    async fn make(&self, owner: &UserId, declared: &Declared, quota: &Quota, made: Made, now_ms: i64)
    -> Result<Upload>;

    /// The upload, or what it has become. What is complete is told until it is removed.
    ///
    /// # Errors
    /// [`UploadError::NoSuch`], [`UploadError::Expired`], [`UploadError::Unavailable`].
    async fn look(&self, id: MediaId, now_ms: i64) -> Result<Upload>;

    /// Stores a part of an open upload of this user; again is harmless. Tells how many are left. A part of an upload that is complete or has failed
    /// stores nothing: the answer is 0, and [`Uploads::look`] tells the rest.
    ///
    /// # Errors
    /// Any but [`UploadError::Quota`].
    async fn put(&self, owner: &UserId, id: MediaId, index: u32, bytes: Bytes, now_ms: i64) -> Result<u32>;

    /// All bytes of an open upload that has all parts.
    ///
    /// # Errors
    /// [`UploadError::NoSuch`] if it is not open any more, [`UploadError::Unavailable`].
    async fn bytes(&self, id: MediaId) -> Result<Bytes>;

    /// Ends an open upload, by what was made of it or by a final refusal, and drops its parts; one that has ended stays as it is. Gives what it has become. What is complete
    /// has its whole lifetime before it.
    ///
    /// # Errors
    /// [`UploadError::NoSuch`], [`UploadError::Expired`] once it is fenced, [`UploadError::Unavailable`].
    async fn end(&self, id: MediaId, became: std::result::Result<Made, Code>, now_ms: i64) -> Result<Upload>;

    /// Renews the lease of what is complete: at least half of the lifetime from now on [`Uploads::lapsed`] does not tell it, so that a message that is about to be
    /// stored may refer to it.
    ///
    /// # Errors
    /// [`UploadError::NoSuch`] if it is not complete, [`UploadError::Expired`], [`UploadError::Unavailable`], also while it is fenced.
    async fn lease(&self, id: MediaId, now_ms: i64) -> Result<Upload>;

    /// What has outlived its time: at most `limit`. It is fenced: what is not complete is taken for expired by everybody from then on, and of what is
    /// complete no lease is renewed, and its name is kept from others. It stays listed until it is kept or removed.
    ///
    /// # Errors
    /// [`UploadError::Unavailable`].
    async fn lapsed(&self, now_ms: i64, limit: usize) -> Result<Vec<Upload>>;

    /// Keeps what [`Uploads::lapsed`] has told for good: something refers to it, and will.
    ///
    /// # Errors
    /// [`UploadError::Unavailable`].
    async fn keep(&self, id: MediaId) -> Result<()>;

    /// Removes what [`Uploads::lapsed`] has told; its object is gone already.
    ///
    /// # Errors
    /// [`UploadError::Unavailable`].
    async fn remove(&self, id: MediaId) -> Result<()>;
}

impl Made {
    /// The same under this id.
    fn under(self, id: MediaId) -> Made {
        Made { media: v1::Media { id: id.to_string(), ..self.media }, ..self }
    }
}

/// A duration as times are told.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How it is told that an id is not known: it was removed, if it is older than anything lives without being referred to.
pub(crate) fn unknown(id: MediaId, lifetime: Duration, now_ms: i64) -> UploadError {
    if id.began_ms().saturating_add(millis(lifetime)) <= now_ms { UploadError::Expired } else { UploadError::NoSuch }
}

/// How it is told that a lease cannot be renewed at this moment.
fn fenced() -> UploadError {
    UploadError::Unavailable("it is being looked for what refers to it".into())
}

/// The bytes that an upload counts.
fn counted(bytes: u64, has_failed: bool) -> u64 {
    if has_failed { LEAST } else { bytes.max(LEAST) }
}

/// Whether a user who has so much may begin another upload.
fn check_quota(declared: &Declared, quota: &Quota, (open, total): (u64, u64)) -> Result<()> {
    let refuse = |why: String| Err(UploadError::Quota(why));
    if declared.bytes > quota.bytes {
        refuse(format!("{} bytes are more than {}", declared.bytes, quota.bytes))
    } else if open >= quota.open {
        refuse(format!("{open} uploads are under way: complete some first, or wait until they expire"))
    } else if total.saturating_add(counted(declared.bytes, false)) > quota.total_bytes {
        refuse(format!("{total} bytes are stored already, and there may be {}", quota.total_bytes))
    } else {
        Ok(())
    }
}
