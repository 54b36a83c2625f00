//! What every Tern process does before it is itself: settings, logs, the clock, planted faults. No domain noun.

pub mod clock;
pub mod planted;
