//! The model: what every implementation of [`Uploads`] must do, in memory and in plain words.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tern_proto::v1::Code;
use tern_proto::{MediaId, UserId};

use super::{Made, Quota, Result, State, Upload, UploadError, Uploads};
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
    fenced: bool,
}

/// Whether an upload that nothing refers to has outlived its time.
pub(super) fn has_outlived(id: MediaId, lifetime: Duration, now_ms: i64) -> bool {
    let lifetime_ms = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
    id.began_ms().saturating_add(lifetime_ms) <= now_ms
}

/// How it is told that an id is not known: it was removed, if it is older than anything lives without being referred to.
pub(super) fn unknown(id: MediaId, lifetime: Duration, now_ms: i64) -> UploadError {
    if has_outlived(id, lifetime, now_ms) { UploadError::Expired } else { UploadError::NoSuch }
}

/// Whether a user who has so much may begin another upload.
pub(super) fn check_quota(declared: &Declared, quota: &Quota, (open, total): (u64, u64)) -> Result<()> {
    let refuse = |why: String| Err(UploadError::Quota(why));
    if declared.bytes > quota.bytes {
        refuse(format!("{} bytes are more than {}", declared.bytes, quota.bytes))
    } else if open >= quota.open {
        refuse(format!("{open} uploads are under way: complete some first, or wait until they expire"))
    } else if total.saturating_add(declared.bytes) > quota.total_bytes {
        refuse(format!("{total} bytes are stored already, and there may be {}", quota.total_bytes))
    } else {
        Ok(())
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

    fn outlived(&self, known: &Known, now_ms: i64) -> bool {
        known.fenced || has_outlived(known.upload.id, self.lifetime, now_ms)
    }
}

#[async_trait]
impl Uploads for Reference {
    async fn begin(&self, owner: &UserId, declared: &Declared, quota: &Quota, now_ms: i64) -> Result<Upload> {
        let mut all = self.all();
        let of_user = || all.values().filter(|known| known.upload.owner == *owner);
        let same = |known: &&Known| {
            let other = Declared { part_bytes: declared.part_bytes, ..known.upload.declared };
            other == *declared && !matches!(known.upload.state, State::Failed(_)) && !self.outlived(known, now_ms)
        };
        if let Some(known) = of_user().find(same) {
            return Ok(known.upload.clone());
        }
        let counted = |known: &&Known| !matches!(known.upload.state, State::Failed(_));
        let open = of_user().filter(|known| matches!(known.upload.state, State::Open(_))).count() as u64;
        let total = of_user().filter(counted).map(|known| known.upload.declared.bytes).sum();
        check_quota(declared, quota, (open, total))?;
        let id = MediaId::new(now_ms, all.len() as u128);
        let state = State::Open(Parts::none_of(declared.parts()));
        let upload = Upload { id, owner: owner.clone(), declared: *declared, state };
        all.insert(id, Known { upload: upload.clone(), parts: BTreeMap::new(), fenced: false });
        Ok(upload)
    }

    async fn look(&self, id: MediaId, now_ms: i64) -> Result<Upload> {
        let all = self.all();
        match all.get(&id) {
            Some(known) if self.outlived(known, now_ms) => Err(UploadError::Expired),
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
        if self.outlived(known, now_ms) {
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

    async fn end(&self, id: MediaId, became: std::result::Result<Made, Code>) -> Result<Upload> {
        let mut all = self.all();
        let known = all.get_mut(&id).ok_or(UploadError::NoSuch)?;
        if matches!(known.upload.state, State::Open(_)) {
            known.upload.state = match became {
                Ok(made) => State::Complete(made),
                Err(code) => State::Failed(code),
            };
            known.parts.clear();
        }
        Ok(known.upload.clone())
    }

    async fn expired(&self, now_ms: i64, limit: usize) -> Result<Vec<MediaId>> {
        let mut all = self.all();
        let outlived = all.values_mut().filter(|known| self.outlived(known, now_ms)).take(limit);
        let told = outlived.map(|known| {
            known.fenced = true;
            known.upload.id
        });
        Ok(told.collect())
    }

    async fn remove(&self, id: MediaId) -> Result<()> {
        self.all().remove(&id);
        Ok(())
    }
}
