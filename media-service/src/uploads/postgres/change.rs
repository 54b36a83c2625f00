//! Changes of single uploads. Each is one transaction, of two flights: lock and look; write and commit.

use std::time::Duration;

use prost::Message as _;
use tern_postgres::Failure;
use tern_proto::v1::Code;
use tern_proto::{MediaId, UserId};

use super::connection::Connection;
use super::lane::{Stopped, Work};
use super::row::{FENCED, Key, Row, judge_lease};
use crate::declared::Declared;
use crate::parts::Parts;
use crate::uploads::{Made, Quota, State, Upload, UploadError, check_quota, counted};

/// What drops the parts of an upload may take so long: the server gives up then, too.
const DROP: Duration = Duration::from_secs(8);

type Result<T> = std::result::Result<T, Stopped>;

/// Finds the upload of this name or makes one.
pub(super) struct Begin {
    pub owner: UserId,
    pub declared: Declared,
    pub quota: Quota,
    pub now_ms: i64,
    /// Until when one that is made, or complete, lives.
    pub due_ms: i64,
    /// What one that is made is complete with from the start.
    pub made: Option<Made>,
}

impl Work for Begin {
    type Told = Upload;

    async fn run(&self, on: &Connection) -> Result<Upload> {
        let sql = &on.statements;
        let Declared { sha256, kind, .. } = &self.declared;
        let (owner, bytes, kind) = (self.owner.as_str(), self.declared.bytes.cast_signed(), kind.media_type());
        let sha256 = &sha256.0[..];
        let (begun, named, used) = tokio::join!(
            biased;
            on.begin(),
            on.row(&sql.lock_named, [&owner, &sha256, &bytes, &kind]),
            on.row(&sql.lock_owner, [&owner]),
        );
        begun?;
        let named = named?.as_ref().map(Row::read).transpose()?;
        let used = used?.ok_or(Failure::Damaged("the row of an owner"))?;
        let used = (used.get::<_, i64>(0).cast_unsigned(), used.get::<_, i64>(1).cast_unsigned());
        let over = match named {
            Some(row) if row.can_be_gone_on_with(self.now_ms)? => return self.go_on(row, on).await,
            over => over,
        };
        // What is complete from the start is never under way.
        let used = if self.made.is_some() { (0, used.1) } else { used };
        check_quota(&self.declared, &self.quota, used)?;

        let id = MediaId::new(self.now_ms, u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)));
        let (new, parts) = (Key::of(id), self.declared.parts().cast_signed());
        let part_bytes = self.declared.part_bytes.cast_signed();
        let forget = async {
            match &over {
                Some(over) => on.execute(&sql.forget_name, [&Key::of(over.upload.id)]).await,
                None => Ok(0),
            }
        };
        let insert =
            on.execute(&sql.insert_upload, [&new, &owner, &bytes, &sha256, &kind, &part_bytes, &parts, &self.due_ms]);
        let made = self.made.clone().map(|made| made.under(id));
        let open = i64::from(made.is_none());
        let counts = counted(self.declared.bytes, false).cast_signed();
        let complete = async {
            match &made {
                Some(made) => became(on, new, Ok(made), self.due_ms).await,
                None => Ok(0),
            }
        };
        let (forgotten, inserted, completed, added, committed) = tokio::join!(
            biased;
            forget,
            insert,
            complete,
            on.execute(&sql.count, [&owner, &open, &counts]),
            on.commit(),
        );
        forgotten?;
        inserted?;
        completed?;
        added?;
        committed?;
        let state = match made {
            Some(made) => State::Complete(made),
            None => State::Open(Parts::none_of(self.declared.parts())),
        };
        Ok(Upload { id, owner: self.owner.clone(), declared: self.declared, state })
    }
}

impl Begin {
    async fn go_on(&self, row: Row, on: &Connection) -> Result<Upload> {
        let id = Key::of(row.upload.id);
        let renew = async {
            match row.is_complete() {
                true => on.execute(&on.statements.renew, [&id, &self.due_ms]).await,
                false => Ok(0),
            }
        };
        let (renewed, committed) = tokio::join!(biased; renew, on.commit());
        renewed?;
        committed?;
        Ok(row.upload)
    }
}

/// Ends an open upload.
pub(super) struct End {
    pub id: MediaId,
    pub became: std::result::Result<Made, Code>,
    /// Until when what is complete lives.
    pub due_ms: i64,
}

impl Work for End {
    type Told = Upload;
    const LIMIT: Duration = DROP;

    async fn run(&self, on: &Connection) -> Result<Upload> {
        let sql = &on.statements;
        let id = Key::of(self.id);
        let row = lock(on, id).await?.ok_or(UploadError::NoSuch)?;
        if row.is_fenced() && !row.is_complete() {
            return Err(UploadError::Expired.into());
        }
        if !row.is_open() {
            on.commit().await?;
            return Ok(row.upload);
        }
        let (due_ms, state) = match &self.became {
            Ok(made) => (self.due_ms, State::Complete(made.clone())),
            Err(code) => (row.due_ms, State::Failed(*code)),
        };
        let before = row.usage();
        let ended = Row { upload: Upload { state, ..row.upload }, ..row };
        let (end, drop_parts, count, committed) = tokio::join!(
            biased;
            became(on, id, self.became.as_ref().map_err(|code| *code), due_ms),
            on.execute(&sql.delete_parts, [&id]),
            count(on, &ended.upload.owner, before, ended.usage()),
            on.commit(),
        );
        end?;
        drop_parts?;
        count?;
        committed?;
        Ok(ended.upload)
    }
}

/// Writes what became of an upload.
async fn became(
    on: &Connection,
    id: Key,
    became: std::result::Result<&Made, Code>,
    due_ms: i64,
) -> std::result::Result<u64, tokio_postgres::Error> {
    let (made, failed) = (became.ok(), became.err().map(|code| code as i32));
    let media = made.map(|made| made.media.encode_to_vec());
    let bytes = |bytes: fn(&Made) -> &[u8]| made.map(bytes).filter(|bytes| !bytes.is_empty());
    let (thumbnail, content) = (bytes(|made| &made.thumbnail), bytes(|made| &made.content));
    on.execute(&on.statements.end_upload, [&id, &media, &thumbnail, &content, &failed, &due_ms]).await
}

/// Removes an upload and its parts, whatever it is.
pub(super) struct Remove(pub MediaId);

impl Work for Remove {
    type Told = ();
    const LIMIT: Duration = DROP;

    async fn run(&self, on: &Connection) -> Result<()> {
        let sql = &on.statements;
        let id = Key::of(self.0);
        let Some(row) = lock(on, id).await? else {
            return Ok(on.commit().await?);
        };
        let (parts, upload, count, committed) = tokio::join!(
            biased;
            on.execute(&sql.delete_parts, [&id]),
            on.execute(&sql.delete_upload, [&id]),
            count(on, &row.upload.owner, row.usage(), (0, 0)),
            on.commit(),
        );
        parts?;
        upload?;
        count?;
        Ok(committed?)
    }
}

/// Renews the lease of what is complete.
pub(super) struct Renew {
    pub id: MediaId,
    pub now_ms: i64,
    pub due_ms: i64,
    pub lifetime: Duration,
}

impl Work for Renew {
    type Told = Upload;

    async fn run(&self, on: &Connection) -> Result<Upload> {
        let (id, sql) = (Key::of(self.id), &on.statements);
        on.execute(&sql.renew, [&id, &self.due_ms]).await?;
        // What is fenced stays as it is, and this look tells.
        let row = on.row(&sql.upload, [&id]).await?;
        let row = row.as_ref().map(Row::read).transpose()?;
        Ok(judge_lease(row, self.id, self.lifetime, self.now_ms)?.upload)
    }
}

/// Keeps what was fenced for good.
pub(super) struct Keep(pub MediaId);

impl Work for Keep {
    type Told = ();

    async fn run(&self, on: &Connection) -> Result<()> {
        on.execute(&on.statements.keep, [&Key::of(self.0), &i64::MAX]).await?;
        Ok(())
    }
}

/// Fences what has outlived its time. Each statement stands by itself: what one has fenced the next call tells.
pub(super) struct Fence {
    pub now_ms: i64,
    pub limit: i64,
}

impl Work for Fence {
    type Told = Vec<Upload>;

    async fn run(&self, on: &Connection) -> Result<Vec<Upload>> {
        let sql = &on.statements;
        let lapsed = on.rows(&sql.lapsed, [&self.now_ms, &self.limit]).await?;
        let ids: Vec<&[u8]> = lapsed.iter().map(|row| row.get(0)).collect();
        if lapsed.iter().any(|row| row.get::<_, i64>(1) != FENCED) {
            on.execute(&sql.fence, [&ids, &self.now_ms]).await?;
        }
        let mut told = Vec::with_capacity(ids.len());
        for row in on.rows(&sql.uploads, [&ids]).await? {
            match Row::read(&row) {
                Ok(row) if row.is_fenced() => told.push(row.upload),
                // Renewed between the looks.
                Ok(_) => {}
                // One that is damaged holds back no other.
                Err(failure) => {
                    let id = Key::read(row.get("id"))?.id();
                    tracing::error!(%failure, %id, "an upload is left as it is");
                }
            }
        }
        Ok(told)
    }
}

/// Begins a transaction that has the upload to itself.
async fn lock(on: &Connection, id: Key) -> Result<Option<Row>> {
    let sql = &on.statements;
    let (begun, upload) = tokio::join!(biased; on.begin(), on.row(&sql.lock_upload, [&id]));
    begun?;
    Ok(upload?.as_ref().map(Row::read).transpose()?)
}

/// What the owner of an upload has, where it counted `before` and counts `after`.
async fn count(
    on: &Connection,
    owner: &UserId,
    before: (i64, i64),
    after: (i64, i64),
) -> std::result::Result<(), tokio_postgres::Error> {
    let (sql, owner) = (&on.statements, owner.as_str());
    let (open, bytes) = (after.0 - before.0, after.1 - before.1);
    let (counted, forgotten) = tokio::join!(
        biased;
        on.execute(&sql.count, [&owner, &open, &bytes]),
        on.execute(&sql.forget_owner, [&owner]),
    );
    counted.and(forgotten).map(drop)
}
