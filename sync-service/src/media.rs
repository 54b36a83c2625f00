//! Media that messages are about: who may refer to it, and who may fetch it.
//!
//! Who has uploaded it may; and who may see a message that is about it. Before a message is stored its media's lease is renewed, so that what is acknowledged
//! can be fetched.

use futures_util::future;
use tern_media::MediaApi;
use tern_proto::v1::{self, Code, OutMessage};
use tern_proto::{MediaId, Refusal, UserId};
use tern_storage::{Storage, Unavailable};

/// What the messages are about, by their places: `None` where that is nothing, or need not be known any more. Else the media, [`Code::NoSuchMedia`], or a
/// retryable code.
pub(crate) async fn of(
    (media, storage): (Option<&dyn MediaApi>, &dyn Storage),
    sender: &UserId,
    messages: &[OutMessage],
    is_known: impl Fn(usize) -> bool,
) -> Vec<Option<Result<v1::Media, Code>>> {
    if !messages.iter().any(is_about_media) {
        return vec![None; messages.len()];
    }
    let about = messages.iter().enumerate().map(|(place, message)| {
        let asked = is_about_media(message) && !is_known(place);
        async move {
            match &message.chunk {
                _ if !asked => None,
                Some(chunk) if message.media.is_empty() => Some(clip(media, sender, chunk).await),
                _ => Some(referred((media, storage), sender, &message.media).await),
            }
        }
    });
    future::join_all(about).await
}

/// Whether the message is about anything.
pub(crate) fn is_about_media(message: &OutMessage) -> bool {
    !message.media.is_empty() || message.chunk.is_some()
}

/// The clip that a message of this sender is about.
async fn clip(media: Option<&dyn MediaApi>, sender: &UserId, chunk: &v1::Chunk) -> Result<v1::Media, Code> {
    let Some(media) = media else { return Err(Code::NoSuchMedia) };
    let clip = media.clip(sender, chunk.clip.clone().unwrap_or_default()).await;
    clip.map_err(|refused| match refused.code {
        code @ (Code::UploadIncomplete | Code::BadDigest | Code::MediaQuota) => code,
        // Its time was over just before its last chunk: its client brings all of them again.
        Code::NoSuchMedia | Code::MediaExpired => Code::UploadIncomplete,
        code if code.is_retryable() => Code::Unavailable,
        _ => Code::BadMedia,
    })
}

/// The media that a message of this sender may be about.
async fn referred(
    (media, storage): (Option<&dyn MediaApi>, &dyn Storage),
    sender: &UserId,
    id: &str,
) -> Result<v1::Media, Code> {
    let (Some(media), Ok(id)) = (media, id.parse()) else { return Err(Code::NoSuchMedia) };
    let retryable = |refused: Refusal| if refused.code.is_retryable() { Code::Unavailable } else { Code::NoSuchMedia };
    let owner = media.open(id).await.map_err(retryable)?.owner;
    if owner != *sender && !sees(storage, sender, id).await.map_err(|_| Code::Unavailable)? {
        return Err(Code::NoSuchMedia);
    }
    // The last thing before the commit, and only for who may.
    media.lease(id).await.map_err(retryable)
}

/// Whether the user may see a message that is about the media.
pub(crate) async fn sees(storage: &dyn Storage, user: &UserId, media: MediaId) -> Result<bool, Unavailable> {
    Ok(!storage.references(media, Some(user), None, 1).await?.is_empty())
}

/// Whether any message is about the media.
pub(crate) async fn is_referred_to(storage: &dyn Storage, media: MediaId) -> Result<bool, Unavailable> {
    Ok(!storage.references(media, None, None, 1).await?.is_empty())
}
