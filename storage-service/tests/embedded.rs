//! The embedded engine passes the contract: as it is, with a checkpoint after every commit, and with its index rebuilt from the log.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tern_storage::Storage;
use tern_storage::contract::Place;
use tern_storage::contract::retention::RULES;
use tern_storage::embedded::{Embedded, Options};

/// A directory of its own, gone with the place.
struct Directory {
    dir: TempDir,
    checkpoint_bytes: u64,
    without_index: bool,
    segment_bytes: u64,
}

impl Directory {
    fn new(checkpoint_bytes: u64, without_index: bool) -> Directory {
        let dir = tempfile::tempdir().expect("a directory");
        Directory { dir, checkpoint_bytes, without_index, segment_bytes: 1024 * 1024 }
    }

    fn of_small_segments(checkpoint_bytes: u64) -> Directory {
        Directory { segment_bytes: 128 * 1024, ..Directory::new(checkpoint_bytes, false) }
    }
}

#[async_trait]
impl Place for Directory {
    fn tells_places(&self) -> bool {
        false
    }

    async fn open(&self) -> Arc<dyn Storage> {
        if self.without_index {
            let _ = std::fs::remove_file(self.dir.path().join("index.redb"));
        }
        let millis = |millis: i64| Duration::from_millis(millis.unsigned_abs());
        let options = Options {
            segment_bytes: self.segment_bytes,
            checkpoint_bytes: self.checkpoint_bytes,
            history: millis(RULES.history_ms),
            device_silence: millis(RULES.device_silence_ms),
            max_entries: RULES.max_entries,
            max_bytes: RULES.max_bytes,
            ..Options::new(self.dir.path())
        };
        let store = Embedded::open(options).expect("the store opens");
        assert!(!store.recovered().new_epoch);
        Arc::new(store)
    }
}

mod as_it_is {
    mod running {
        tern_storage::contract_cases!(crate::Directory::new(32 * 1024 * 1024, false));
        tern_storage::retention_cases!(crate::Directory::of_small_segments(32 * 1024 * 1024));
    }
    mod restarted {
        tern_storage::restart_cases!(crate::Directory::new(32 * 1024 * 1024, false));
    }
}

mod with_a_checkpoint_after_every_commit {
    mod running {
        tern_storage::contract_cases!(crate::Directory::new(1, false));
        tern_storage::retention_cases!(crate::Directory::of_small_segments(1));
    }
    mod restarted {
        tern_storage::restart_cases!(crate::Directory::new(1, false));
    }
}

mod with_its_index_rebuilt {
    tern_storage::restart_cases!(crate::Directory::new(32 * 1024 * 1024, true));
}
