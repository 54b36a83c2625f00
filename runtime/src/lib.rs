//! What every Tern process does before it is itself: settings, logs, shutdown, the clock, descriptors, the frame of a service's main, metrics, traces, queues for lanes, planted faults. No domain noun.

pub mod clock;
pub mod descriptors;
pub mod logs;
pub mod metrics;
pub mod planted;
pub mod queue;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod traces;
pub mod watch;
