//! Threads for what keeps the disk and the cores busy with media: they make way for all others, and messages never wait for a place among them.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

/// By how much they make way.
pub(crate) const NICE: i32 = 10;

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
        let make_way = || {
            // On Linux each thread has a niceness of its own. Without it the work is done all the same.
            let _ = rustix::process::nice(NICE);
        };
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

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It may be dropped where nothing may block.
            runtime.shutdown_background();
        }
    }
}
