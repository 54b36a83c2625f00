//! What the handles of a client and its driver share: the store, the queries, the wake-ups, the status, the events.

use tokio::sync::{Notify, broadcast, watch};

use crate::message::Event;
use crate::queries::Queries;
use crate::session::BACKLOG;
use crate::status::Status;
use crate::store::worker::Worker;
use crate::store::{Store, StoreError};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Worker,
    pub(crate) queries: Queries,
    /// Messages, read marks, queries or confirmations came.
    pub(crate) wake: Notify,
    /// Entries came.
    pub(crate) arrived: Notify,
    pub(crate) status: watch::Sender<Status>,
    /// Whoever lags loses events, not states.
    pub(crate) events: broadcast::Sender<Event>,
}

impl Shared {
    /// Runs a call that changes the outbox or the inbox, and counts again on the store's thread, so that the counts appear in
    /// the order of the changes.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let status = self.status.clone();
        let change = move |store: &mut Store| {
            let result = call(store)?;
            let (sending, failed) = store.open_messages()?;
            let (refused, unconfirmed) = (store.refused(), store.backlog()?);
            status.send_modify(|status| {
                (status.sending, status.failed) = (sending, failed);
                (status.refused, status.unconfirmed) = (refused, unconfirmed);
            });
            Ok(result)
        };
        self.store.call(change).await
    }

    /// Tells of an event; nobody has to listen.
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Whether the application has fallen so far behind that nothing more is fetched.
    pub(crate) fn is_full(&self) -> bool {
        self.status.borrow().unconfirmed >= BACKLOG
    }
}
