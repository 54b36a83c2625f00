//! Objects in a bucket of a server that speaks S3, checks signatures and keeps what it has on disk.

#![allow(clippy::unwrap_used, reason = "these are tests, their support included")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use sha2::Digest as _;
use tern_media::objects::{Bucket, Objects};
use tern_media::setup::{Media, objects_in};
use tern_media::uploads::reference::Reference;
use tern_media::uploads::{LIFETIME, Quota, Uploads};
use tern_media::{MediaApi as _, MediaService};
use tern_proto::v1::{Code, MediaBegin};
use tern_proto::{MediaId, UserId};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

const KEY: (&str, &str) = ("tern", "a secret of the tests");

/// The server. What it has stays when it is stopped.
struct Store {
    directory: PathBuf,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Store {
    async fn start(directory: &Path) -> Store {
        Store::at(directory, "127.0.0.1:0".parse().unwrap()).await
    }

    async fn at(directory: &Path, address: SocketAddr) -> Store {
        std::fs::create_dir_all(directory.join("photos")).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(directory).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY.0, KEY.1));
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, service.build()));
        Store { directory: directory.to_owned(), address, serving }
    }

    /// Every connection is cut.
    async fn stop(self) -> (PathBuf, SocketAddr) {
        self.serving.abort();
        let _ = self.serving.await;
        (self.directory, self.address)
    }

    fn bucket(&self) -> Bucket {
        Bucket {
            endpoint: Some(format!("http://{}", self.address)),
            region: "us-east-1".into(),
            name: "photos".into(),
            access_key: KEY.0.into(),
            secret_key: KEY.1.into(),
        }
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let service = service.clone();
        connections.spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn read(objects: &Objects, id: MediaId, range: std::ops::Range<u64>) -> Option<Vec<u8>> {
    let bytes = objects.read(id, range).await.ok()?;
    bytes.try_collect::<Vec<Bytes>>().await.ok().map(|pieces| pieces.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_is_there_until_it_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(directory.path()).await;
    let objects = objects_in(&store.bucket()).await.unwrap();
    let id = MediaId::new(1_764_000_000_000, 7);
    let whole: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    objects.put(id, whole.clone().into()).await.unwrap();
    objects.put(id, whole.clone().into()).await.unwrap();
    assert_eq!(read(&objects, id, 0..3_000_000).await.as_deref(), Some(&whole[..]), "in several pieces");
    assert_eq!(read(&objects, id, 1_048_570..1_048_590).await.as_deref(), Some(&whole[1_048_570..1_048_590]));
    let store = {
        let (directory, address) = store.stop().await;
        assert_eq!(read(&objects, id, 0..10).await, None, "the server is away");
        Store::at(&directory, address).await
    };
    assert_eq!(read(&objects, id, 0..10).await.as_deref(), Some(&whole[..10]));
    objects.remove(id).await.unwrap();
    objects.remove(id).await.unwrap();
    assert_eq!(read(&objects, id, 0..10).await, None);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_cannot_be_used_is_told_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(directory.path()).await;
    let told = |error: Option<anyhow::Error>| error.map(|error| format!("{error:#}")).unwrap_or_default();
    let bad = Bucket { secret_key: "another".into(), ..store.bucket() };
    let refused = told(objects_in(&bad).await.err());
    assert!(refused.contains("media.s3_bucket") && !refused.contains("another"), "{refused}");
    assert!(!format!("{bad:?}").contains("another"));
    // One that is away is none of these.
    let bucket = store.bucket();
    store.stop().await;
    assert!(objects_in(&bucket).await.is_ok());
}

// Invariant 16.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_waits_for_a_bucket_that_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(directory.path()).await;
    let objects = objects_in(&store.bucket()).await.unwrap();
    let uploads: Arc<dyn Uploads> = Arc::new(Reference::new(LIFETIME));
    let quota = Quota { bytes: 1_000_000, open: 8, total_bytes: 10_000_000 };
    let settings = Media { quota, lifetime: LIFETIME, strips_metadata: false };
    let service = MediaService::new(uploads, objects, &settings, 2);
    let (directory, address) = store.stop().await;
    let pixel = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    let whole = [&pixel[..], &[7; 100_000]].concat();
    let sha256 = sha2::Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
    let (alice, bytes) = (UserId::new("alice").unwrap(), whole.len() as u64);
    let request = MediaBegin { bytes, sha256, r#type: "image/gif".into(), part_bytes: 65_536 };
    let id: MediaId = service.begin(&alice, request).await.unwrap().id.parse().unwrap();
    for (index, part) in whole.chunks(65_536).enumerate() {
        let crc32 = crc32fast::hash(part);
        service.part(&alice, id, index as u32, crc32, Bytes::copy_from_slice(part)).await.unwrap();
    }
    let refused = service.complete(&alice, id).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    let store = Store::at(&directory, address).await;
    assert!(service.complete(&alice, id).await.unwrap().media.is_some());
    let bytes = service.read(id, 0..bytes).await.unwrap().try_collect::<Vec<Bytes>>().await.unwrap();
    assert_eq!(bytes.concat(), whole);
    store.stop().await;
}
