//! Parts: what a lane finds waiting is one transaction.
//!
//! ```text
//! flight 1  BEGIN, the uploads (locked)
//! flight 2  the parts that are not there yet
//! flight 3  the others, to be compared; how many are missing now; COMMIT
//! ```
//!
//! The lock of an upload keeps it open to the end, and makes the count of what is missing exact: of two replicas that store the last two parts at the same time, the second
//! sees that none is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use tern_postgres::Failure;
use tern_proto::{MediaId, UserId};
use tern_runtime::planted::{self, Fault};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::connection::Connection;
use super::lane::{Lane, Stopped, Work};
use super::row::{Key, Row};
use crate::uploads::{Result, UploadError, unknown};

/// Bytes of parts that one transaction stores, but for the last part of it.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A part on its way.
pub(super) struct Part {
    pub owner: UserId,
    pub id: MediaId,
    pub index: u32,
    pub bytes: Bytes,
    pub now_ms: i64,
    pub answer: oneshot::Sender<Result<u32>>,
    /// Given back when it is told.
    pub _room: OwnedSemaphorePermit,
}

/// Stores parts and tells.
pub(super) async fn store(lane: &mut Lane, mut parts: Vec<Part>) {
    // Who has gone meanwhile was told nothing, and sends it again.
    parts.retain(|part| !part.answer.is_closed());
    while !parts.is_empty() {
        let rest = parts.split_off(fitting(&parts));
        let lifetime = lane.lifetime();
        let answers = match lane.tried(&Put { parts: &parts, lifetime }).await {
            Ok(answers) => answers,
            Err(stopped) => vec![Err(stopped.into()); parts.len()],
        };
        for (part, answer) in parts.into_iter().zip(answers) {
            // Whoever asked may have gone; the part stands all the same.
            let _ = part.answer.send(answer);
        }
        parts = rest;
    }
}

/// How many of them go in one transaction: at least one.
fn fitting(parts: &[Part]) -> usize {
    let mut bytes = 0;
    let fit = parts.iter().take_while(|part| {
        let fits = bytes < BATCH_BYTES;
        bytes += part.bytes.len();
        fits
    });
    fit.count()
}

/// The transaction.
struct Put<'a> {
    parts: &'a [Part],
    lifetime: Duration,
}

/// What a batch has parts of: nothing in the place of a row that is damaged, which fails its own parts only.
type Uploads = HashMap<Key, Option<Row>>;

/// Where a part stands.
type Place = (Key, u32);

/// What is known of the parts of a batch.
struct Known {
    uploads: Uploads,
    /// What stands at each place that the batch has a part for.
    standing: HashMap<Place, Bytes>,
    /// Where nothing stood before.
    new: BTreeSet<Place>,
}

impl Work for Put<'_> {
    type Told = Vec<Result<u32>>;

    async fn run(&self, on: &Connection) -> std::result::Result<Self::Told, Stopped> {
        let sql = &on.statements;
        let uploads = self.lock(on).await?;
        // Of several parts for a place the first is the one.
        let mut wanted: BTreeMap<Place, &Bytes> = BTreeMap::new();
        for part in self.parts.iter().filter(|part| self.judge(part, &uploads) == Ok(true)) {
            wanted.entry(part.place()).or_insert(&part.bytes);
        }
        if wanted.is_empty() {
            on.commit().await?;
            let known = Known { uploads, standing: HashMap::new(), new: BTreeSet::new() };
            return Ok(self.answers(known));
        }
        let (ids, indexes) = columns(wanted.keys());
        let bytes: Vec<&[u8]> = wanted.values().map(|bytes| &bytes[..]).collect();
        let mut new = BTreeSet::new();
        for row in on.rows(&sql.insert_parts, [&ids, &indexes, &bytes]).await? {
            new.insert(place(&row)?);
        }

        let (old_ids, old_indexes) = columns(wanted.keys().filter(|place| !new.contains(*place)));
        let mut counts: BTreeMap<Key, i32> = BTreeMap::new();
        new.iter().for_each(|(id, _)| *counts.entry(*id).or_default() += 1);
        let (ids, counts): (Vec<Key>, Vec<i32>) = counts.into_iter().unzip();
        let look = async {
            if old_ids.is_empty() { Ok(Vec::new()) } else { on.rows(&sql.parts, [&old_ids, &old_indexes]).await }
        };
        let count = async { if ids.is_empty() { Ok(0) } else { on.execute(&sql.count_parts, [&ids, &counts]).await } };
        let end = async {
            let is_lost = planted::active(Fault::PartRolledBack) && fastrand::u8(0..8) == 0;
            if is_lost { on.client.batch_execute("ROLLBACK").await } else { on.commit().await }
        };
        let (old, counted, committed) = tokio::join!(biased; look, count, end);
        let old = old?;
        counted?;
        committed?;

        let mut standing: HashMap<Place, Bytes> = new.iter().map(|place| (*place, wanted[place].clone())).collect();
        for row in old {
            standing.insert(place(&row)?, Bytes::copy_from_slice(row.get(2)));
        }
        Ok(self.answers(Known { uploads, standing, new }))
    }
}

impl Put<'_> {
    /// Flight 1.
    async fn lock(&self, on: &Connection) -> std::result::Result<Uploads, Failure> {
        let ids: BTreeSet<Key> = self.parts.iter().map(|part| Key::of(part.id)).collect();
        let ids = Vec::from_iter(ids);
        let (begun, rows) = tokio::join!(
            biased;
            on.begin(),
            on.rows(&on.statements.lock_uploads, [&ids]),
        );
        begun?;
        let read = |row: &tokio_postgres::Row| {
            let key = Key::read(row.get("id"))?;
            let row = Row::read(row).inspect_err(|failure| tracing::error!(%failure, id = %key.id(), "not stored"));
            Ok((key, row.ok()))
        };
        rows?.iter().map(read).collect()
    }

    /// Whether it is a part of an upload that is open; else nothing is stored.
    fn judge(&self, part: &Part, uploads: &Uploads) -> Result<bool> {
        let found = uploads.get(&Key::of(part.id)).ok_or_else(|| unknown(part.id, self.lifetime, part.now_ms))?;
        let row = found.as_ref().ok_or_else(damaged)?;
        if row.upload.owner != part.owner {
            return Err(UploadError::NoSuch);
        }
        if row.is_over(part.now_ms) {
            return Err(UploadError::Expired);
        }
        if row.is_open() {
            let checked = row.upload.declared.check_part(part.index, part.bytes.len());
            checked.map_err(|bad| UploadError::Part(bad.message))?;
        }
        Ok(row.is_open())
    }

    /// One for each part, as if they had come one after the other: so only one of them is the last.
    fn answers(&self, known: Known) -> Vec<Result<u32>> {
        let Known { uploads, standing, mut new } = known;
        let missing = |(id, row): (&Key, &Option<Row>)| Some((*id, row.as_ref()?.missing));
        let mut left: HashMap<Key, u32> = uploads.iter().filter_map(missing).collect();
        let answer = |part: &Part| {
            if !self.judge(part, &uploads)? {
                return Ok(0);
            }
            if *standing.get(&part.place()).ok_or_else(damaged)? != part.bytes {
                return Err(UploadError::Conflict(part.index));
            }
            let left = left.get_mut(&Key::of(part.id)).ok_or_else(damaged)?;
            if new.remove(&part.place()) {
                *left = left.checked_sub(1).ok_or_else(damaged)?;
            }
            Ok(*left)
        };
        self.parts.iter().map(answer).collect()
    }
}

fn damaged() -> UploadError {
    UploadError::Unavailable("what the database holds of it makes no sense".into())
}

impl Part {
    fn place(&self) -> Place {
        (Key::of(self.id), self.index)
    }
}

/// From the columns upload, index.
fn place(row: &tokio_postgres::Row) -> std::result::Result<Place, Failure> {
    Ok((Key::read(row.get(0))?, row.get::<_, i32>(1).cast_unsigned()))
}

/// Places as two columns.
fn columns<'a>(places: impl Iterator<Item = &'a Place>) -> (Vec<Key>, Vec<i32>) {
    places.map(|(id, index)| (*id, index.cast_signed())).unzip()
}
