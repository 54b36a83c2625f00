//! The model: what every implementation of [`Uploads`] must do, in memory and in plain words.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tern_proto::v1::Code;
use tern_proto::{MediaId, UserId};

use super::{Made, Quota, Result, State, Upload, UploadError, Uploads, check_quota, counted, fenced, millis, unknown};
use crate::declared::Declared;
use crate::parts::Parts;

/// Uploads in memory; nothing is durable.
pub struct Reference {
    lifetime: Duration,
    all: Mutex<BTreeMap<MediaId, Known>>,
}

struct Known {
    upload: Upload,
    /// By index.
    parts: BTreeMap<u32, Bytes>,
    due_ms: i64,
    fenced: bool,
}

impl Known {
    fn is_complete(&self) -> bool {
        matches!(self.upload.state, State::Complete(_))
    }

    fn has_lapsed(&self, now_ms: i64) -> bool {
        self.fenced || self.due_ms <= now_ms
    }

    /// Whether nobody gets it any more.
    fn is_over(&self, now_ms: i64) -> bool {
        !self.is_complete() && self.has_lapsed(now_ms)
    }
}

impl Reference {
    /// An empty one, where what is not referred to lives for so long.
    pub fn new(lifetime: Duration) -> Reference {
        Reference { lifetime, all: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<MediaId, Known>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_add(millis(self.lifetime))
    }
}

impl Reference {
    /// Finds the upload of this name or makes one, which may be complete from the start.
    fn find_or_make(
        &self,
        (owner, declared): (&UserId, &Declared),
        quota: &Quota,
        made: Option<Made>,
        now_ms: i64,
    ) -> Result<Upload> {
        let mut all = self.all();
        let same = |known: &Known| {
            let other = Declared { part_bytes: declared.part_bytes, ..known.upload.declared };
            let is_over = known.is_over(now_ms);
            other == *declared && !matches!(known.upload.state, State::Failed(_)) && !is_over
        };
        let is_own = |known: &&mut Known| known.upload.owner == *owner;
        if let Some(known) = all.values_mut().filter(is_own).find(|known| same(known)) {
            if known.is_complete() && known.fenced {
                return Err(fenced());
            }
            if known.is_complete() {
                known.due_ms = known.due_ms.max(self.due_ms(now_ms));
            }
            return Ok(known.upload.clone());
        }
        let of_user = || all.values().filter(|known| known.upload.owner == *owner);
        let is_open = |known: &&Known| matches!(known.upload.state, State::Open(_));
        // What is complete from the start is never under way.
        let open = if made.is_some() { 0 } else { of_user().filter(is_open).count() as u64 };
        let total = of_user()
            .map(|Known { upload, .. }| counted(upload.declared.bytes, matches!(upload.state, State::Failed(_))))
            .sum();
        check_quota(declared, quota, (open, total))?;
        let id = MediaId::new(now_ms, all.len() as u128);
        let state = match made {
            Some(made) => State::Complete(made.under(id)),
            None => State::Open(Parts::none_of(declared.parts())),
        };
        let upload = Upload { id, owner: owner.clone(), declared: *declared, state };
        let due_ms = self.due_ms(now_ms);
        all.insert(id, Known { upload: upload.clone(), parts: BTreeMap::new(), due_ms, fenced: false });
        Ok(upload)
    }
}

#[async_trait]
impl Uploads for Reference {
    async fn begin(&self, owner: &UserId, declared: &Declared, quota: &Quota, now_ms: i64) -> Result<Upload> {
        self.find_or_make((owner, declared), quota, None, now_ms)
    }

    async fn make(
        &self,
        owner: &UserId,
        declared: &Declared,
        quota: &Quota,
        made: Made,
        now_ms: i64,
    ) -> Result<Upload> {
        self.find_or_make((owner, declared), quota, Some(made), now_ms)
    }

    async fn look(&self, id: MediaId, now_ms: i64) -> Result<Upload> {
        let all = self.all();
        match all.get(&id) {
            Some(known) if known.is_over(now_ms) => Err(UploadError::Expired),
            Some(known) => Ok(known.upload.clone()),
            None => Err(unknown(id, self.lifetime, now_ms)),
        }
    }

    async fn put(&self, owner: &UserId, id: MediaId, index: u32, bytes: Bytes, now_ms: i64) -> Result<u32> {
        let mut all = self.all();
        let Some(known) = all.get_mut(&id) else { return Err(unknown(id, self.lifetime, now_ms)) };
        if known.upload.owner != *owner {
            return Err(UploadError::NoSuch);
        }
        if known.is_over(now_ms) {
            return Err(UploadError::Expired);
        }
        let State::Open(parts) = &mut known.upload.state else { return Ok(0) };
        known.upload.declared.check_part(index, bytes.len()).map_err(|bad| UploadError::Part(bad.message))?;
        match known.parts.get(&index) {
            Some(stored) if *stored != bytes => return Err(UploadError::Conflict(index)),
            Some(_) => {}
            None => {
                known.parts.insert(index, bytes);
                parts.insert(index);
            }
        }
        Ok(parts.left())
    }

    async fn bytes(&self, id: MediaId) -> Result<Bytes> {
        let all = self.all();
        let known = all.get(&id).ok_or(UploadError::NoSuch)?;
        match &known.upload.state {
            State::Open(parts) if parts.left() == 0 => Ok(known.parts.values().flatten().copied().collect()),
            _ => Err(UploadError::NoSuch),
        }
    }

    async fn end(&self, id: MediaId, became: std::result::Result<Made, Code>, now_ms: i64) -> Result<Upload> {
        let mut all = self.all();
        let due_ms = self.due_ms(now_ms);
        let known = all.get_mut(&id).ok_or(UploadError::NoSuch)?;
        if known.fenced && !known.is_complete() {
            return Err(UploadError::Expired);
        }
        if matches!(known.upload.state, State::Open(_)) {
            known.upload.state = match became {
                Ok(made) => {
                    known.due_ms = due_ms;
                    State::Complete(made)
                }
                Err(code) => State::Failed(code),
            };
            known.parts.clear();
        }
        Ok(known.upload.clone())
    }

    async fn lease(&self, id: MediaId, now_ms: i64) -> Result<Upload> {
        let mut all = self.all();
        let known = all.get_mut(&id).ok_or_else(|| unknown(id, self.lifetime, now_ms))?;
        match (known.is_complete(), known.fenced) {
            (true, true) => Err(fenced()),
            (true, false) => {
                known.due_ms = known.due_ms.max(self.due_ms(now_ms));
                Ok(known.upload.clone())
            }
            (false, _) => Err(UploadError::NoSuch),
        }
    }

    async fn lapsed(&self, now_ms: i64, limit: usize) -> Result<Vec<Upload>> {
        let mut all = self.all();
        let lapsed = all.values_mut().filter(|known| known.has_lapsed(now_ms)).take(limit);
        let told = lapsed.map(|known| {
            known.fenced = true;
            known.upload.clone()
        });
        Ok(told.collect())
    }

    async fn keep(&self, id: MediaId) -> Result<()> {
        if let Some(known) = self.all().get_mut(&id) {
            (known.fenced, known.due_ms) = (false, i64::MAX);
        }
        Ok(())
    }

    async fn remove(&self, id: MediaId) -> Result<()> {
        self.all().remove(&id);
        Ok(())
    }
}
