//! What the table says of one upload.

use std::error::Error;
use std::time::Duration;

use bytes::BytesMut;
use prost::Message as _;
use tern_postgres::Failure;
use tern_proto::v1::{self, Code};
use tern_proto::{MediaId, UserId};
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::declared::{Declared, Sha256};
use crate::parts::Parts;
use crate::uploads::{Made, State, Upload, UploadError, counted, fenced, unknown};

/// In the place of the time at which it has outlived its own.
pub(super) const FENCED: i64 = 0;

/// An id as it is stored: 16 bytes, whose order is that of the ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key([u8; 16]);

impl Key {
    pub(super) fn of(id: MediaId) -> Key {
        Key(id.as_u128().to_be_bytes())
    }

    /// From a column.
    pub(super) fn read(bytes: &[u8]) -> Result<Key, Failure> {
        bytes.try_into().map(Key).map_err(|_| Failure::Damaged("the id of an upload"))
    }

    pub(super) fn id(self) -> MediaId {
        MediaId::from_u128(u128::from_be_bytes(self.0))
    }
}

impl ToSql for Key {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.as_slice().to_sql(kind, out)
    }

    accepts!(BYTEA);
    to_sql_checked!();
}

/// A row.
pub(super) struct Row {
    pub upload: Upload,
    /// Parts that are not there, while it is open.
    pub missing: u32,
    pub due_ms: i64,
}

impl Row {
    /// # Errors
    /// [`Failure::Damaged`]: also where a later release has stored a kind that this one does not know.
    pub(super) fn read(row: &tokio_postgres::Row) -> Result<Row, Failure> {
        let damaged = || Failure::Damaged("an upload");
        let number = |column: &str| u32::try_from(row.get::<_, i32>(column)).map_err(|_| damaged());
        let declared = Declared {
            bytes: u64::try_from(row.get::<_, i64>("bytes")).map_err(|_| damaged())?,
            sha256: Sha256(row.get::<_, &[u8]>("sha256").try_into().map_err(|_| damaged())?),
            kind: row.get::<_, &str>("kind").parse().map_err(|_| damaged())?,
            part_bytes: number("part_bytes")?,
        };
        let missing = number("missing")?;
        let (media, failed): (Option<&[u8]>, Option<i32>) = (row.get("media"), row.get("failed"));
        let state = match (media, failed) {
            (Some(media), _) => {
                let bytes = |column| row.get::<_, Option<Vec<u8>>>(column).unwrap_or_default().into();
                let media = v1::Media::decode(media).map_err(|_| damaged())?;
                State::Complete(Made { media, thumbnail: bytes("thumbnail"), content: bytes("content") })
            }
            (None, Some(code)) => State::Failed(Code::try_from(code).map_err(|_| damaged())?),
            (None, None) => State::Open(parts(&declared, missing, row.get("parts"))),
        };
        let owner = UserId::new(row.get::<_, &str>("user_id")).map_err(|_| damaged())?;
        let upload = Upload { id: Key::read(row.get("id"))?.id(), owner, declared, state };
        Ok(Row { upload, missing, due_ms: row.get("due_ms") })
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.upload.state, State::Open(_))
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.upload.state, State::Complete(_))
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.due_ms == FENCED
    }

    /// Whether nobody gets it any more.
    pub(super) fn is_over(&self, now_ms: i64) -> bool {
        !self.is_complete() && self.due_ms <= now_ms
    }

    /// Whether whoever begins it again goes on with it.
    ///
    /// # Errors
    /// It is complete, and being looked for what refers to it: what is begun anew meanwhile would be the same under another id.
    pub(super) fn can_be_gone_on_with(&self, now_ms: i64) -> Result<bool, UploadError> {
        if self.is_fenced() && self.is_complete() {
            return Err(fenced());
        }
        Ok(!self.is_over(now_ms))
    }

    /// What it counts of its owner's quota: open uploads, bytes.
    pub(super) fn usage(&self) -> (i64, i64) {
        let has_failed = matches!(self.upload.state, State::Failed(_));
        (self.is_open().into(), counted(self.upload.declared.bytes, has_failed).cast_signed())
    }
}

/// Without a list, none or all of them.
fn parts(declared: &Declared, missing: u32, there: Option<Vec<i32>>) -> Parts {
    let mut parts = Parts::none_of(declared.parts());
    match there {
        _ if missing == 0 => (0..declared.parts()).for_each(|index| parts.insert(index)),
        Some(there) => there.into_iter().for_each(|index| parts.insert(index.cast_unsigned())),
        None => {}
    }
    parts
}

/// What is told of an upload that was looked for.
pub(super) fn judge_look(
    row: Option<Row>,
    id: MediaId,
    lifetime: Duration,
    now_ms: i64,
) -> Result<Upload, UploadError> {
    match row {
        Some(row) if row.is_over(now_ms) => Err(UploadError::Expired),
        Some(row) => Ok(row.upload),
        None => Err(unknown(id, lifetime, now_ms)),
    }
}

/// What is complete and can be referred to.
pub(super) fn judge_lease(row: Option<Row>, id: MediaId, lifetime: Duration, now_ms: i64) -> Result<Row, UploadError> {
    match row {
        Some(row) if !row.is_complete() => Err(UploadError::NoSuch),
        Some(row) if row.is_fenced() => Err(fenced()),
        Some(row) => Ok(row),
        None => Err(unknown(id, lifetime, now_ms)),
    }
}
