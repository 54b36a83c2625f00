//! What every Tern process does before it is itself: settings, logs, shutdown, the clock, descriptors, planted faults. No domain noun.

pub mod clock;
pub mod descriptors;
pub mod logs;
pub mod planted;
pub mod settings;
pub mod shutdown;
