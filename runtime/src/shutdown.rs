//! When to stop. Everything that serves holds a [`Stop`]; one [`Stopper`] or the process's signals set it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The exit code after a second signal: 128 and the number of SIGINT, as a shell reports it.
const INTERRUPTED: i32 = 130;

/// The stop token: set once, never unset; cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Sets its [`Stop`]; dropping it does so too, so that nothing serves without somebody who can end it.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// A token, and what sets it.
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

/// A token that SIGTERM and SIGINT set. A second signal ends the process at once, without a drain.
///
/// # Errors
/// The operating system refused the signal handlers.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn on_signal() -> io::Result<Stop> {
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stopper, stop) = channel();
    tokio::spawn(obey(stopper, terminate, interrupt));
    Ok(stop)
}

async fn obey(stopper: Stopper, mut terminate: Signal, mut interrupt: Signal) {
    next(&mut terminate, &mut interrupt).await;
    tracing::info!("stopping; a second signal stops at once");
    stopper.stop();
    next(&mut terminate, &mut interrupt).await;
    tracing::warn!("second signal: leaving without a drain");
    std::process::exit(INTERRUPTED);
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
}

impl Stop {
    /// Returns once the token is set; at once if it is already. Safe to drop and call again.
    pub async fn stopped(&self) {
        // An error means that the stopper is gone, which is a stop as well.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
    }

    /// Whether the token is set.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl Stopper {
    /// Sets the token. Again is a no-op.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future);
    }

    #[test]
    fn every_clone_hears_of_the_stop_before_and_after_it() {
        block_on(async {
            let (stopper, stop) = channel();
            let clone = stop.clone();
            assert!(!stop.is_stopped());
            let waiting = tokio::spawn(async move { clone.stopped().await });
            tokio::task::yield_now().await;
            stopper.stop();
            waiting.await.unwrap();
            stop.stopped().await;
            assert!(stop.is_stopped());
        });
    }

    #[test]
    fn a_dropped_stopper_is_a_stop() {
        block_on(async {
            let (stopper, stop) = channel();
            drop(stopper);
            stop.stopped().await;
            assert!(stop.is_stopped());
        });
    }
}
