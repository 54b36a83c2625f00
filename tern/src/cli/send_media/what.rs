//! What is sent, and how it gets to the server.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tern_client::{Client, Clip, Sent, UploadError};
use tern_media::declared::Kind;
use tern_proto::{ConversationId, v1};

use super::bar::Bar;
use super::files;

/// Bytes of an image beyond which no server can be set, and of a clip beyond which no outbox takes it.
const LARGEST_IMAGE: u64 = 256 * 1024 * 1024;
const LARGEST_CLIP: u64 = 32 * 1024 * 1024;

/// What a command sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// By parts over the short link, ahead of their messages.
    Images,
    /// With their messages, over the link of these.
    Audio,
}

/// A file that a message can be about.
pub(super) enum Begun {
    /// It is on the server.
    Uploaded(v1::Media),
    /// It goes with its message.
    Clip(Clip),
}

impl What {
    pub(super) fn command(self) -> &'static str {
        match self {
            What::Images => "send-image",
            What::Audio => "send-audio",
        }
    }

    pub(super) fn noun(self) -> &'static str {
        match self {
            What::Images => "image",
            What::Audio => "audio",
        }
    }

    pub(super) fn takes(self, kind: Kind) -> bool {
        kind.is_audio() == (self == What::Audio)
    }

    /// The file as it can be sent; or why it cannot, in words.
    pub(super) async fn begin(self, client: &Client, path: &Path) -> Result<Result<Begun, String>> {
        let Some(kind) = files::kind(path)?.filter(|kind| self.takes(*kind)) else {
            let kinds = Kind::ALL.into_iter().filter(|kind| self.takes(*kind)).map(Kind::media_type);
            return Ok(Err(format!("is none of {}", kinds.collect::<Vec<_>>().join(", "))));
        };
        let length = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
        let largest = if self == What::Images { LARGEST_IMAGE } else { LARGEST_CLIP };
        if length == 0 || length > largest {
            return Ok(Err(format!("has {length} bytes; 1 to {largest} are taken")));
        }
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        match self {
            What::Images => upload(client, path, kind, bytes).await,
            What::Audio => Ok(Ok(Begun::Clip(Clip { media_type: kind.media_type().to_owned(), bytes }))),
        }
    }
}

async fn upload(client: &Client, path: &Path, kind: Kind, bytes: Vec<u8>) -> Result<Result<Begun, String>> {
    let bar = Bar::new(path, bytes.len() as u64);
    let show = |there, parts| bar.show(there, parts);
    match client.uploads().upload(kind.media_type(), bytes.into(), show).await {
        Ok(upload) => {
            let media = upload.media.context("the server has not told what it has made of the image")?;
            Ok(Ok(Begun::Uploaded(media)))
        }
        Err(UploadError::Refused { code: v1::Code::BadMedia | v1::Code::MediaQuota, message }) => Ok(Err(message)),
        Err(error) => Err(error).with_context(|| format!("uploading {}", path.display())),
    }
}

impl Begun {
    /// By which a run knows again what an earlier one has sent.
    pub(super) fn name(&self) -> String {
        match self {
            Begun::Uploaded(media) => media.id.clone(),
            Begun::Clip(clip) => clip.sha256(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Begun::Uploaded(media) => media.bytes,
            Begun::Clip(clip) => clip.bytes.len() as u64,
        }
    }

    /// What the server has made of it, once the message is there.
    pub(super) async fn media(&self, client: &Client, sent: &Sent) -> Result<v1::Media> {
        if let Begun::Uploaded(media) = self {
            return Ok(media.clone());
        }
        let conversation = ConversationId::new(&sent.conversation).context("the server's name of the conversation")?;
        let history = client.history(&conversation, sent.seq + 1, 1).await.context("asking what has become of it")?;
        let message = history.messages.into_iter().find(|message| message.seq == sent.seq);
        message.and_then(|message| message.media).context("the server has not told what it has made of the clip")
    }
}
