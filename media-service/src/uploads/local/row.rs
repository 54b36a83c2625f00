//! What the catalog says of one upload.

use tern_proto::v1::{self, Code};
use tern_proto::{MediaId, UserId};

use crate::declared::{Declared, Kind, Sha256};
use crate::parts::Parts;
use crate::uploads::{Made, State, Upload, UploadError, counted, fenced};

/// A row, as protobuf.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Row {
    #[prost(string, tag = "1")]
    pub owner: String,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub sha256: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub kind: u32,
    #[prost(uint32, tag = "5")]
    pub part_bytes: u32,
    /// It has outlived its time, and it is being looked for what refers to it.
    #[prost(bool, tag = "6")]
    pub fenced: bool,
    /// Set once the upload is complete.
    #[prost(message, optional, tag = "7")]
    pub media: Option<v1::Media>,
    #[prost(bytes = "bytes", tag = "8")]
    pub thumbnail: bytes::Bytes,
    /// Set if it is refused for ever.
    #[prost(enumeration = "v1::Code", tag = "9")]
    pub failed: i32,
    /// When it has outlived its time, in Unix milliseconds.
    #[prost(int64, tag = "10")]
    pub due_ms: i64,
    #[prost(bytes = "bytes", tag = "11")]
    pub content: bytes::Bytes,
}

/// What counts of a user's uploads for the quota.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Usage {
    pub open: u64,
    pub bytes: u64,
}

impl Row {
    pub(super) fn new(owner: &UserId, declared: &Declared, due_ms: i64) -> Row {
        Row {
            due_ms,
            owner: owner.to_string(),
            bytes: declared.bytes,
            sha256: declared.sha256.0.to_vec(),
            kind: declared.kind as u32,
            part_bytes: declared.part_bytes,
            ..Row::default()
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.media.is_none() && self.failed() == Code::Ok
    }

    /// Whether nobody gets it any more.
    pub(super) fn is_over(&self, now_ms: i64) -> bool {
        self.media.is_none() && (self.fenced || self.due_ms <= now_ms)
    }

    /// Whether whoever begins it again goes on with it.
    ///
    /// # Errors
    /// It is complete, and being looked for what refers to it: what is begun anew meanwhile would be the same under another id.
    pub(super) fn can_be_gone_on_with(&self, now_ms: i64) -> Result<bool, UploadError> {
        if self.fenced && self.media.is_some() {
            return Err(fenced());
        }
        Ok(!self.is_over(now_ms))
    }

    /// What it counts.
    pub(super) fn usage(&self) -> Usage {
        Usage { open: self.is_open().into(), bytes: counted(self.bytes, self.failed() != Code::Ok) }
    }

    pub(super) fn end(&mut self, became: Result<Made, Code>) {
        match became {
            Ok(Made { media, thumbnail, content }) => {
                (self.media, self.thumbnail, self.content) = (Some(media), thumbnail, content);
            }
            Err(code) => self.set_failed(code),
        }
    }

    /// By this the upload is found when it is begun again.
    pub(super) fn name(&self) -> Vec<u8> {
        [&self.sha256[..], &self.bytes.to_be_bytes(), &self.kind.to_be_bytes()].concat()
    }

    /// `None` if the row is damaged. The parts of an open one are not told.
    pub(super) fn upload(&self, id: MediaId) -> Option<Upload> {
        let declared = Declared {
            bytes: self.bytes,
            sha256: Sha256(self.sha256.as_slice().try_into().ok()?),
            kind: Kind::ALL.into_iter().find(|kind| *kind as u32 == self.kind)?,
            part_bytes: self.part_bytes,
        };
        let state = match &self.media {
            Some(media) => {
                let (media, thumbnail, content) = (media.clone(), self.thumbnail.clone(), self.content.clone());
                State::Complete(Made { media, thumbnail, content })
            }
            None if self.is_open() => State::Open(Parts::none_of(declared.parts())),
            None => State::Failed(self.failed()),
        };
        Some(Upload { id, owner: UserId::new(&self.owner).ok()?, declared, state })
    }
}
