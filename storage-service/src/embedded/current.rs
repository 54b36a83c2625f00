//! The state that readers are given: replaced as a whole when the store has read itself anew.

use std::sync::{Arc, PoisonError, RwLock};

use super::Shared;

/// Holds what the writer and the readers share at the moment. A reader keeps what it took for the length of one request.
pub(super) struct Current(RwLock<Arc<Shared>>);

impl Current {
    pub(super) fn new(shared: Arc<Shared>) -> Current {
        Current(RwLock::new(shared))
    }

    pub(super) fn get(&self) -> Arc<Shared> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace(&self, shared: Arc<Shared>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = shared;
    }
}
