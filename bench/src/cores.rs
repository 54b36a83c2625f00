//! Which core is whose: the server on one and the clients on another, so that neither takes the other's time.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The core of each side; `None` where there is only one for both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cores(Option<Sides>);

#[derive(Clone, Copy, Debug)]
struct Sides {
    server: usize,
    clients: usize,
}

impl Cores {
    /// The first two cores that this process may use.
    pub(crate) fn split() -> Cores {
        let allowed = sched_getaffinity(None).ok();
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_some_and(|set| set.is_set(*core)));
        Cores(cores.next().zip(cores.next()).map(|(server, clients)| Sides { server, clients }))
    }

    /// Keeps the calling thread, and every thread and process that it starts from now on, on the clients' core.
    pub(crate) fn pin_clients(self) {
        self.pin(|sides| sides.clients);
    }

    /// Runs `start`, which starts a process, so that the process stays on the server's core: it inherits that from this thread.
    pub(crate) fn on_server_core<R>(self, start: impl FnOnce() -> R) -> R {
        self.pin(|sides| sides.server);
        let started = start();
        self.pin_clients();
        started
    }

    fn pin(self, side: fn(&Sides) -> usize) {
        let Some(sides) = &self.0 else { return };
        let mut set = CpuSet::new();
        set.set(side(sides));
        if let Err(error) = sched_setaffinity(None, &set) {
            eprintln!("bench: not pinned to a core: {error}");
        }
    }
}
