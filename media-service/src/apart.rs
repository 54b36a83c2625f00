//! Threads for what keeps the disk and the cores busy with media: they make way for all others, and no text waits for a place among them.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// By how much they make way.
const NICE: i32 = 10;

/// A runtime of its own. Clones share it; it ends with the last one, and leaves what is under way to itself.
#[derive(Clone)]
pub(crate) struct Apart {
    handle: Handle,
    _runtime: Arc<Owned>,
}

struct Owned(Option<Runtime>);

impl Apart {
    /// With so many threads that may block.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn new(threads: usize) -> io::Result<Apart> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(threads)
            .thread_name("tern-media")
            .on_thread_start(make_way)
            .build()?;
        let handle = runtime.handle().clone();
        Ok(Apart { handle, _runtime: Arc::new(Owned(Some(runtime))) })
    }

    /// Where to spawn what blocks, or a future that does.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Runs what keeps a core busy for long in a thread of its own. `None` if it panics.
///
/// # Errors
/// The system gives no thread.
pub(crate) async fn once<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Option<T>> {
    let (told, done) = oneshot::channel();
    let run = move || {
        make_way();
        // Whoever asked sees it through, so it is there.
        let _ = told.send(work());
    };
    std::thread::Builder::new().name("tern-media".into()).spawn(run)?;
    Ok(done.await.ok())
}

/// On Linux each thread has a niceness of its own. Without it the work is done all the same.
fn make_way() {
    let _ = rustix::process::nice(NICE);
}

/// Lets those go first that wait for this core: however much a thread makes way, the kernel leaves it there for milliseconds once it runs.
pub(crate) fn give_way() {
    std::thread::yield_now();
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It may be dropped where nothing may block.
            runtime.shutdown_background();
        }
    }
}
