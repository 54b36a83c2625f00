//! What an operator sets about what is kept, and the passes that see to it; for every binary that has an engine in it.

use std::sync::Arc;
use std::time::Duration;

use tern_runtime::clock::unix_millis;
use tern_runtime::settings::Settings;
use tern_runtime::shutdown::Stop;

use crate::embedded::Options;
use crate::{Durability, Storage};

const MIB: u64 = 1024 * 1024;
const DURABILITIES: [(&str, Durability); 2] = [("disk", Durability::Disk), ("os", Durability::Os)];

/// Reads what an acknowledgement is to prove.
pub fn durability(from: &mut Settings) -> Durability {
    from.one_of("storage.durability", &DURABILITIES, Durability::Disk)
}

/// What the store keeps for how long.
#[derive(Debug, PartialEq, Eq)]
pub struct Keep {
    /// Acknowledged entries stay for so long, and at least as long as results.
    pub history: Duration,
    /// A device silent for longer holds nothing back.
    pub device_silence: Duration,
    /// Results of sends.
    pub results: Duration,
    /// Entries of one user.
    pub max_user_entries: u64,
    /// Bytes of the entries of one user.
    pub max_user_bytes: u64,
    /// Between two looks at what may go.
    pub retain_every: Duration,
}

impl Keep {
    /// Reads the settings of the section `storage` that every engine has.
    pub fn read(from: &mut Settings) -> Keep {
        let default = Options::new("");
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
        let mut time = |name, default| from.duration(name, default, second..=day * 3650);
        let (history, device_silence) =
            (time("storage.history", default.history), time("storage.device_silence", default.device_silence));
        Keep {
            history,
            device_silence,
            results: from.duration("storage.keep_results", default.keep_results, second..=day * 30),
            max_user_entries: from.number("storage.max_user_entries", default.max_entries, 100..=1_000_000_000),
            max_user_bytes: from.number("storage.max_user_bytes", default.max_bytes, MIB..=1 << 40),
            retain_every: from.duration("storage.retain_every", Duration::from_secs(60), second..=day),
        }
    }
}

/// Lets the store look again and again, until the stop, for what it need not keep any more.
pub async fn retain(store: Arc<dyn Storage>, every: Duration, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(every) => {}
        }
        // One call gives back a part; where there was one there may be another.
        let mut more = true;
        while more && !stop.is_stopped() {
            more = match store.retain(unix_millis()).await {
                Ok(retained) => retained.freed > 0,
                Err(error) => {
                    tracing::warn!(%error, "nothing was given back; it is tried again");
                    false
                }
            };
        }
    }
}
