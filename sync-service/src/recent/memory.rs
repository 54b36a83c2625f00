//! All of it in the memory of this process: what the others are measured against.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tern_proto::UserId;
use tern_proto::key::{CLASSES, Version};
use tokio::time::Instant;

use super::{Confirmed, Look, Name, RESULTS, Recent, Risen, Stored};
use crate::{Away, Device};

/// What one process has committed. It forgets nothing, so it is for tests.
pub struct Memory {
    began: Instant,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    heads: HashMap<(UserId, u64), [Option<Version>; CLASSES]>,
    /// When it was confirmed, and what the device had acknowledged.
    devices: HashMap<(Device, u64), (u64, [Version; CLASSES])>,
    /// When it was stored.
    stored: HashMap<Name, (Instant, Stored)>,
}

impl Memory {
    /// Nothing yet.
    pub fn new() -> Memory {
        Memory { began: Instant::now(), known: Mutex::default() }
    }

    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Known {
    fn raise(&mut self, user: &UserId, epoch: u64, class: usize, version: Version) {
        let head = &mut self.heads.entry((user.clone(), epoch)).or_default()[class];
        *head = (*head).max(Some(version));
    }
}

#[async_trait]
impl Recent for Memory {
    async fn raise(&self, risen: &[Risen]) -> Result<(), Away> {
        let mut known = self.known();
        for Risen { user, epoch, class, version } in risen {
            known.raise(user, *epoch, *class as usize, *version);
        }
        Ok(())
    }

    async fn confirm(&self, confirmed: &[Confirmed]) -> Result<(), Away> {
        let mut known = self.known();
        for Confirmed { device, epoch, heads, acked, at } in confirmed {
            heads.iter().enumerate().for_each(|(class, head)| known.raise(&device.user, *epoch, class, *head));
            known.devices.insert((device.clone(), *epoch), (*at, *acked));
        }
        Ok(())
    }

    async fn look(&self, device: &Device, epoch: u64, lately: Duration) -> Result<Look, Away> {
        let (now, known) = (self.began.elapsed().as_millis() as u64, self.known());
        let heads = known.heads.get(&(device.user.clone(), epoch)).copied().unwrap_or_default();
        let counts = |at: u64| now.checked_sub(at).is_some_and(|age| age < lately.as_millis() as u64);
        let acked = known.devices.get(&(device.clone(), epoch)).filter(|(at, _)| counts(*at));
        Ok(Look { heads, acked: acked.map(|(_, acked)| *acked), now })
    }

    async fn remember(&self, stored: &[(Name, Stored)]) -> Result<(), Away> {
        let now = Instant::now();
        self.known().stored.extend(stored.iter().cloned().map(|(name, stored)| (name, (now, stored))));
        Ok(())
    }

    async fn recall(&self, names: &[Name]) -> Result<Vec<Option<Stored>>, Away> {
        let known = self.known();
        let of = |name: &Name| known.stored.get(name).filter(|(since, _)| since.elapsed() < RESULTS);
        Ok(names.iter().map(|name| of(name).map(|(_, stored)| stored.clone())).collect())
    }
}
