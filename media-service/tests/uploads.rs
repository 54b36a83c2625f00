//! The contract of uploads, on every implementation.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use tern_media::contract::{self, Opened};
use tern_media::uploads::local::Local;
use tern_media::uploads::reference::Reference;
use tern_media::uploads::{LIFETIME, Uploads};
use tern_runtime::queue::Meters;

struct InMemory(Arc<Reference>);

impl Opened for InMemory {
    fn open(&self) -> impl Future<Output = Arc<dyn Uploads>> + Send {
        let uploads = self.0.clone() as Arc<dyn Uploads>;
        async move { uploads }
    }
}

struct OnDisk {
    directory: tempfile::TempDir,
}

impl OnDisk {
    fn path(&self) -> PathBuf {
        self.directory.path().join("media")
    }
}

impl Opened for OnDisk {
    async fn open(&self) -> Arc<dyn Uploads> {
        let path = self.path();
        Arc::new(Local::open(&path, LIFETIME, &Meters::default()).expect("the directory opens"))
    }
}

#[tokio::test]
async fn the_reference_keeps_the_contract() {
    contract::all(|| InMemory(Arc::new(Reference::new(LIFETIME)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_one_keeps_the_contract() {
    contract::all(|| OnDisk { directory: tempfile::tempdir().expect("a directory") }).await;
}
