//! The thread that owns the store: SQLite blocks, and the caller's runtime must not.

use tokio::sync::{mpsc, oneshot};

use super::{Store, StoreError};

/// Calls that may wait; a caller beyond them waits for its place.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Store) + Send>;

enum Order {
    Run(Job),
    Close(oneshot::Sender<()>),
}

/// A handle to the thread. The thread ends with [`Worker::close`] or with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    orders: mpsc::Sender<Order>,
}

impl Worker {
    /// Gives the store to a thread of its own.
    pub(crate) fn start(mut store: Store) -> std::io::Result<Worker> {
        let (orders, mut inbox) = mpsc::channel(QUEUE);
        let run = move || {
            while let Some(order) = inbox.blocking_recv() {
                match order {
                    Order::Run(job) => job(&mut store),
                    Order::Close(done) => {
                        drop(store);
                        // The closer may have stopped waiting.
                        let _ = done.send(());
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new().name("tern-client-store".to_owned()).spawn(run)?;
        Ok(Worker { orders })
    }

    /// Runs a call on the thread. It is carried out even if the caller stops waiting.
    ///
    /// # Errors
    /// The call's, or [`StoreError::Closed`].
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |store| {
            // The caller may have stopped waiting.
            let _ = done.send(call(store));
        });
        self.orders.send(Order::Run(job)).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Closes the store and unlocks its directory; later calls get [`StoreError::Closed`].
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.orders.send(Order::Close(done)).await.is_ok() {
            // An error means that it is closed already.
            let _ = closed.await;
        }
    }
}
