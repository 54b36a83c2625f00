//! The embedded engine passes the contract: as it is, with a checkpoint after every commit, and with its index rebuilt from the log.

use std::sync::Arc;

use async_trait::async_trait;
use tempfile::TempDir;
use tern_storage::Storage;
use tern_storage::contract::Place;
use tern_storage::embedded::{Embedded, Options};

/// A directory of its own, gone with the place.
struct Directory {
    dir: TempDir,
    checkpoint_bytes: u64,
    without_index: bool,
}

impl Directory {
    fn new(checkpoint_bytes: u64, without_index: bool) -> Directory {
        Directory { dir: tempfile::tempdir().expect("a directory"), checkpoint_bytes, without_index }
    }
}

#[async_trait]
impl Place for Directory {
    async fn open(&self) -> Arc<dyn Storage> {
        if self.without_index {
            let _ = std::fs::remove_file(self.dir.path().join("index.redb"));
        }
        let defaults = Options::new(self.dir.path());
        let options = Options { segment_bytes: 1024 * 1024, checkpoint_bytes: self.checkpoint_bytes, ..defaults };
        let store = Embedded::open(options).expect("the store opens");
        assert!(!store.recovered().new_epoch);
        Arc::new(store)
    }
}

mod as_it_is {
    mod running {
        tern_storage::contract_cases!(crate::Directory::new(32 * 1024 * 1024, false));
    }
    mod restarted {
        tern_storage::restart_cases!(crate::Directory::new(32 * 1024 * 1024, false));
    }
}

mod with_a_checkpoint_after_every_commit {
    mod running {
        tern_storage::contract_cases!(crate::Directory::new(1, false));
    }
    mod restarted {
        tern_storage::restart_cases!(crate::Directory::new(1, false));
    }
}

mod with_its_index_rebuilt {
    tern_storage::restart_cases!(crate::Directory::new(32 * 1024 * 1024, true));
}
