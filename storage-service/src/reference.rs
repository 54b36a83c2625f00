//! The executable specification of [`Storage`]: in memory, one lock around plain maps, as plain as possible.
//!
//! Where the words of the trait leave a question open, this is the answer; the suite in [`crate::contract`] holds every engine
//! against it. It is for tests: it keeps everything, forgets everything when dropped, and is quick enough.
//!
//! `state` is what is kept and what each op does to it; `conversation` is who is in one and what was said there; `timeline` is what a user reads.

mod conversation;
mod retention;
mod state;
mod timeline;

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tern_proto::{ConversationId, MediaId, UserId};

use crate::{
    Conversation, Device, DeviceState, Durability, History, HistoryRequest, Listed, Op, Outcome, Page, PageRequest,
    Retained, Storage, Unavailable,
};
pub use retention::Rules;
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

    /// Keeps entries by other rules than production.
    pub fn with_rules(self, rules: Rules) -> Reference {
        self.state().rules = rules;
        self
    }

    /// The store's epoch.
    pub fn epoch(&self) -> u64 {
        self.state().epoch
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

    async fn highest_client_msg_id(&self, device: &Device) -> Result<u64, Unavailable> {
        Ok(self.state().highest_client_msg_id(device))
    }

    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable> {
        Ok(self.state().underived(after, limit))
    }

    async fn conversations(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<Listed>, Unavailable> {
        Ok(self.state().conversations(user, after, limit))
    }

    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, Unavailable> {
        Ok(self.state().conversation(id))
    }

    async fn history(&self, request: HistoryRequest) -> Result<History, Unavailable> {
        Ok(self.state().history(&request))
    }

    async fn references(
        &self,
        media: MediaId,
        reader: Option<&UserId>,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<(ConversationId, u64)>, Unavailable> {
        Ok(self.state().references(media, reader, after, limit))
    }

    async fn retain(&self, now_ms: i64) -> Result<Retained, Unavailable> {
        Ok(self.state().retain(now_ms))
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    fn durability(&self) -> Durability {
        Durability::Disk
    }
}
