//! A future that is seen through to its end even if whoever waits for it goes away.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

/// Runs in its caller's task, without the cost of one of its own; dropped before its end, it goes on in a new one.
pub(crate) struct Seen<T: Send + 'static>(Option<BoxFuture<'static, T>>);

impl<T: Send + 'static> Seen<T> {
    /// Sees `work` through. Needs a Tokio runtime.
    pub(crate) fn through(work: impl Future<Output = T> + Send + 'static) -> Seen<T> {
        Seen(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for Seen<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.0 else { return Poll::Pending };
        let done = work.as_mut().poll(context);
        if done.is_ready() {
            self.0 = None;
        }
        done
    }
}

impl<T: Send + 'static> Drop for Seen<T> {
    fn drop(&mut self) {
        // Without a runtime the process is about to end, and nobody is left to be told.
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}
