//! Looks: each is one statement, and so one snapshot.

use std::time::Duration;

use bytes::Bytes;
use tern_postgres::Failure;
use tern_proto::{MediaId, UserId};
use tokio::time::timeout;

use super::connection::Connection;
use super::lane::{ATTEMPT, Stopped, Work};
use super::row::{Key, Row};
use crate::declared::Declared;
use crate::uploads::UploadError;

/// Bytes of parts that are read with one statement.
const WINDOW: u32 = 4 * 1024 * 1024;

type Result<T> = std::result::Result<T, Stopped>;

/// An upload by its id.
pub(super) struct Find(pub MediaId);

impl Work for Find {
    type Told = Option<Row>;

    async fn run(&self, on: &Connection) -> Result<Option<Row>> {
        let row = on.row(&on.statements.upload, [&Key::of(self.0)]).await?;
        Ok(row.as_ref().map(Row::read).transpose()?)
    }
}

/// An upload by what was declared.
pub(super) struct FindNamed {
    pub owner: UserId,
    pub declared: Declared,
}

impl Work for FindNamed {
    type Told = Option<Row>;

    async fn run(&self, on: &Connection) -> Result<Option<Row>> {
        let Declared { sha256, kind, bytes, .. } = &self.declared;
        let (owner, kind, bytes) = (self.owner.as_str(), kind.media_type(), bytes.cast_signed());
        let row = on.row(&on.statements.named, [&owner, &&sha256.0[..], &bytes, &kind]).await?;
        Ok(row.as_ref().map(Row::read).transpose()?)
    }
}

/// All parts of an open upload as one. In windows: whoever ends it meanwhile takes the rest away, which is told.
pub(super) struct Whole(pub MediaId);

impl Work for Whole {
    type Told = Bytes;
    /// For the largest that may be set; each window has less.
    const LIMIT: Duration = Duration::from_secs(60);

    async fn run(&self, on: &Connection) -> Result<Bytes> {
        let id = Key::of(self.0);
        let found = timeout(ATTEMPT, Find(self.0).run(on)).await.map_err(|_| Failure::Late)??;
        let row = found.filter(|row| row.is_open() && !row.is_fenced() && row.missing == 0);
        let declared = row.ok_or(UploadError::NoSuch)?.upload.declared;
        let bytes = usize::try_from(declared.bytes).map_err(|_| Failure::Damaged("the bytes of an upload"))?;
        let mut whole = Vec::with_capacity(bytes);
        let step = (WINDOW / declared.part_bytes.max(1)).max(1);
        for first in (0..declared.parts()).step_by(step as usize) {
            let end = declared.parts().min(first.saturating_add(step));
            let read = append(on, id, first..end, &mut whole);
            timeout(ATTEMPT, read).await.map_err(|_| Failure::Late)??;
        }
        if whole.len() == bytes { Ok(whole.into()) } else { Err(Failure::Damaged("the parts of an upload").into()) }
    }
}

async fn append(on: &Connection, id: Key, window: std::ops::Range<u32>, whole: &mut Vec<u8>) -> Result<()> {
    let (first, end) = (window.start.cast_signed(), window.end.cast_signed());
    let rows = on.rows(&on.statements.read_parts, [&id, &first, &end]).await?;
    if rows.len() != window.len() {
        // They are dropped when it ends.
        return Err(UploadError::NoSuch.into());
    }
    rows.iter().for_each(|row| whole.extend_from_slice(row.get(1)));
    Ok(())
}

/// Whether the database answers.
pub(super) struct Ping;

impl Work for Ping {
    type Told = ();

    async fn run(&self, on: &Connection) -> Result<()> {
        Ok(on.client.batch_execute("SELECT 1").await?)
    }
}
