//! The seam between the media service and the gateway.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tern_proto::{MediaId, Refusal, UserId, v1};

/// Media that can be fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// Whose upload it was.
    pub owner: UserId,
    /// What it is.
    pub media: v1::Media,
    /// A JPEG; empty if it is audio.
    pub thumbnail: Bytes,
    /// All bytes, if they are few: then [`MediaApi::read`] need not be asked for them.
    pub content: Bytes,
    /// What is told of it to who is not to learn whether there is anything under its id: the same as if there were nothing.
    pub as_nothing: Refusal,
}

/// What the media service does for the gateway. Who asks has been authenticated; whether an owner is meant is judged here, whether a reader may
/// fetch is the caller's to judge.
#[async_trait]
pub trait MediaApi: Send + Sync + 'static {
    /// Begins an upload, or finds the one that is there.
    ///
    /// # Errors
    /// A [`Refusal`]: what breaks a limit or the quota, or a retryable one.
    async fn begin(&self, user: &UserId, request: v1::MediaBegin) -> Result<v1::MediaUpload, Refusal>;

    /// Stores a part; durable when this returns. Tells how many are missing then: with none, the upload is to be completed, or has ended already.
    ///
    /// # Errors
    /// A [`Refusal`].
    async fn part(&self, user: &UserId, id: MediaId, index: u32, crc32: u32, bytes: Bytes) -> Result<u32, Refusal>;

    /// Where an upload stands.
    ///
    /// # Errors
    /// A [`Refusal`]; a final one of the upload is told here too.
    async fn upload(&self, user: &UserId, id: MediaId) -> Result<v1::MediaUpload, Refusal>;

    /// Merges the parts and looks at what they are; may be repeated.
    ///
    /// # Errors
    /// A [`Refusal`]: parts are missing, it is refused for ever, or a retryable one.
    async fn complete(&self, user: &UserId, id: MediaId) -> Result<v1::MediaUpload, Refusal>;

    /// Stores chunks of clips, which are begun if need be; durable when this returns. It completes nothing, and tells of some clips how far they are stored. Why a chunk
    /// is not, [`MediaApi::clip`] tells.
    async fn chunks(&self, user: &UserId, chunks: Vec<v1::Chunk>) -> Vec<v1::ChunksStored>;

    /// The clip that was declared so, completed if that has not happened, with its lease renewed: a message that is stored soon may refer to it.
    ///
    /// # Errors
    /// A [`Refusal`]: chunks are missing, it is refused for ever, or a retryable one.
    async fn clip(&self, user: &UserId, clip: v1::MediaBegin) -> Result<v1::Media, Refusal>;

    /// Media that is complete, with its lease renewed: a message that is stored soon may refer to it.
    ///
    /// # Errors
    /// A [`Refusal`]: there is none, or a retryable one.
    async fn lease(&self, id: MediaId) -> Result<v1::Media, Refusal>;

    /// Media that is complete.
    ///
    /// # Errors
    /// A [`Refusal`]: there is none, or a retryable one.
    async fn open(&self, id: MediaId) -> Result<Opened, Refusal>;

    /// The bytes of media that was opened without its content, of a range that is not empty and lies within them.
    ///
    /// # Errors
    /// A retryable [`Refusal`], also while they come.
    async fn read(&self, id: MediaId, range: Range<u64>)
    -> Result<BoxStream<'static, Result<Bytes, Refusal>>, Refusal>;
}
