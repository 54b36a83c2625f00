//! The executable specification of [`Storage`]: in memory, one lock around plain maps, as plain as possible.
//!
//! Where the words of the trait leave a question open, this is the answer; the suite in [`crate::contract`] holds every engine
//! against it. It is for tests: it keeps everything, forgets everything when dropped, and is quick enough.
//!
//! `state` is what is kept and what each op does to it; `timeline` is what a user reads.

mod state;
mod timeline;

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::{Device, DeviceState, Durability, Op, Outcome, Page, PageRequest, Storage, Unavailable};
use state::State;

/// A store in memory.
pub struct Reference {
    state: Mutex<State>,
}

impl Reference {
    /// For how long production remembers results, in milliseconds: a day more than the published
    /// [`tern_proto::limits::DEDUP`].
    pub const KEEP_MS: i64 = 8 * 24 * 3600 * 1000;

    /// An empty store. The results of sends are forgotten once they are older than `keep_ms` milliseconds, by the times that
    /// the ops carry and not by a clock.
    pub fn new(epoch: u64, keep_ms: i64) -> Reference {
        Reference { state: Mutex::new(State::new(epoch, keep_ms)) }
    }

    /// No op leaves the state half done, so what a panicking test thread left behind is still good.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Reference {
    fn default() -> Reference {
        Reference::new(1, Reference::KEEP_MS)
    }
}

#[async_trait]
impl Storage for Reference {
    async fn commit(&self, ops: Vec<Op>) -> Vec<Outcome> {
        let mut state = self.state();
        ops.into_iter().map(|op| state.apply(op)).collect()
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Unavailable> {
        Ok(self.state().page(&request))
    }

    async fn device(&self, device: &Device) -> Result<DeviceState, Unavailable> {
        Ok(self.state().device(device))
    }

    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable> {
        Ok(self.state().underived(after, limit))
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    fn durability(&self) -> Durability {
        Durability::Disk
    }
}
