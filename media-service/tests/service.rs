//! The media service over the model of uploads and over the real one, with objects in a directory.

#![allow(clippy::unwrap_used, reason = "these are tests, their support included")]

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use image::{ImageFormat, Rgb, RgbImage};
use sha2::Digest as _;
use tern_media::objects::Objects;
use tern_media::setup::Media;
use tern_media::uploads::local::Local;
use tern_media::uploads::{LIFETIME, Quota, Uploads};
use tern_media::{MediaApi, MediaService, References, step};
use tern_proto::v1::{Chunk, Code, MediaBegin, MediaUpload};
use tern_proto::{MediaId, Refusal, UserId};
use tern_runtime::clock::unix_millis;
use tern_runtime::queue::Meters;

/// A service in a directory of its own.
struct Bench {
    directory: tempfile::TempDir,
    service: Arc<MediaService>,
    uploads: Arc<dyn Uploads>,
    objects: Objects,
}

impl Bench {
    fn start() -> Bench {
        Bench::with(false)
    }

    fn with(strips_metadata: bool) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let uploads: Arc<dyn Uploads> = Arc::new(Local::open(directory.path(), LIFETIME, &Meters::default()).unwrap());
        let objects = Objects::in_directory(directory.path()).unwrap();
        let quota = Quota { bytes: 1_000_000, open: 8, total_bytes: 10_000_000 };
        let settings = Media { quota, lifetime: LIFETIME, strips_metadata };
        let service = MediaService::new(uploads.clone(), objects.clone(), &settings, 2);
        Bench { service, uploads, objects, directory }
    }

    fn objects(&self) -> PathBuf {
        self.directory.path().join("media")
    }

    async fn begin(&self, user: &str, whole: &[u8]) -> (MediaId, MediaUpload) {
        let upload = self.service.begin(&user_id(user), request(whole)).await.unwrap();
        (upload.id.parse().unwrap(), upload)
    }

    async fn part(&self, user: &str, id: MediaId, index: u32, whole: &[u8]) -> Result<MediaUpload, Refusal> {
        let bytes = Bytes::copy_from_slice(whole.chunks(1024).nth(index as usize).unwrap());
        match self.service.part(&user_id(user), id, index, crc32fast::hash(&bytes), bytes).await? {
            0 => self.service.complete(&user_id(user), id).await,
            left => Ok(MediaUpload { id: id.to_string(), left, ..MediaUpload::default() }),
        }
    }

    /// Brings all parts and gives the answer to the last one.
    async fn put_all(&self, user: &str, whole: &[u8]) -> Result<MediaUpload, Refusal> {
        let (id, upload) = self.begin(user, whole).await;
        for index in 0..upload.parts - 1 {
            self.part(user, id, index, whole).await.unwrap();
        }
        self.part(user, id, upload.parts - 1, whole).await
    }

    async fn fetch(&self, id: MediaId, range: std::ops::Range<u64>) -> Vec<u8> {
        let content = self.service.open(id).await.unwrap().content;
        if !content.is_empty() {
            return content[range.start as usize..range.end as usize].to_vec();
        }
        let bytes = self.service.read(id, range).await.unwrap();
        bytes.try_collect::<Vec<Bytes>>().await.unwrap().concat()
    }
}

fn user_id(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn request(whole: &[u8]) -> MediaBegin {
    let digest = sha2::Sha256::digest(whole);
    let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    MediaBegin { bytes: whole.len() as u64, sha256, r#type: "image/png".into(), part_bytes: 1024 }
}

/// A picture that does not become small.
fn picture(seed: u8) -> Vec<u8> {
    let image = RgbImage::from_fn(120, 80, |x, y| Rgb([(x * y) as u8 ^ seed, (x * 37 + y * 91) as u8, (x ^ y) as u8]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Code {
    result.unwrap_err().code
}

// Invariant 14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_order_repetition_and_concurrency_give_the_same_bytes_once() {
    let bench = Arc::new(Bench::start());
    let whole = Arc::new(picture(1));
    let (id, upload) = bench.begin("alice", &whole).await;
    assert!(upload.parts > 8 && upload.left == upload.parts && upload.media.is_none());
    let tasks: Vec<_> = (0..4u64)
        .map(|task| {
            let (bench, whole) = (bench.clone(), whole.clone());
            tokio::spawn(async move {
                let mut order: Vec<u32> = (0..upload.parts).collect();
                fastrand::Rng::with_seed(task).shuffle(&mut order);
                let mut last = MediaUpload::default();
                for index in order {
                    let answer = bench.part("alice", id, index, &whole).await.unwrap();
                    if answer.media.is_some() {
                        last = answer;
                    }
                }
                last
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    let media = answers[0].media.clone().expect("the image is made");
    assert_eq!((&media.id[..], media.width, media.height), (&id.to_string()[..], 120, 80));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "all get the same");
    let again = bench.service.complete(&user_id("alice"), id).await.unwrap();
    assert_eq!((again.media, again.thumbnail), (Some(media.clone()), answers[0].thumbnail.clone()));
    assert_eq!(bench.fetch(id, 0..whole.len() as u64).await, *whole);
    assert_eq!(bench.fetch(id, 10..20).await, whole[10..20]);
    let opened = bench.service.open(id).await.unwrap();
    assert_eq!((opened.owner.as_str(), opened.media), ("alice", media));
    // A digest that is there costs no part.
    let (same, upload) = bench.begin("alice", &whole).await;
    assert!(same == id && upload.left == 0 && upload.media.is_some());
    let (other, upload) = bench.begin("bob", &whole).await;
    assert!(other != id && upload.media.is_none(), "what others have is nobody's business");
}

#[tokio::test]
async fn what_is_not_whole_is_not_completed() {
    let bench = Bench::start();
    let whole = picture(1);
    let (id, upload) = bench.begin("alice", &whole).await;
    let alice = user_id("alice");
    bench.part("alice", id, 1, &whole).await.unwrap();
    assert_eq!(code(bench.service.complete(&alice, id).await), Code::UploadIncomplete);
    let told = bench.service.upload(&alice, id).await.unwrap();
    assert_eq!((told.left, told.missing.len(), told.missing[1].first), (upload.parts - 1, 2, 2));
    let torn = Bytes::from(vec![1; 1024]);
    assert_eq!(code(bench.service.part(&alice, id, 0, 7, torn).await), Code::BadPart);
    let other = Bytes::from(vec![1; 1024]);
    let crc32 = crc32fast::hash(&other);
    assert_eq!(code(bench.service.part(&alice, id, 1, crc32, other).await), Code::PartConflict);
    assert_eq!(code(bench.service.open(id).await), Code::NoSuchMedia);
}

#[tokio::test]
async fn a_stranger_learns_nothing() {
    let bench = Bench::start();
    let whole = picture(1);
    let (id, _) = bench.begin("alice", &whole).await;
    let eve = user_id("eve");
    let refused = [
        code(bench.part("eve", id, 0, &whole).await),
        code(bench.service.upload(&eve, id).await),
        code(bench.service.complete(&eve, id).await),
    ];
    assert_eq!(refused, [Code::NoSuchMedia; 3]);
}

#[tokio::test]
async fn what_is_refused_for_ever_can_be_begun_anew() {
    let bench = Bench::start();
    let (whole, alice) = (picture(1), user_id("alice"));
    let lying = MediaBegin { sha256: "00".repeat(32), ..request(&whole) };
    let upload = bench.service.begin(&alice, lying.clone()).await.unwrap();
    let id: MediaId = upload.id.parse().unwrap();
    let mut last = Ok(MediaUpload::default());
    for index in 0..upload.parts {
        last = bench.part("alice", id, index, &whole).await;
    }
    assert_eq!(code(last), Code::BadDigest);
    assert_eq!(code(bench.service.complete(&alice, id).await), Code::BadDigest);
    assert_eq!(code(bench.part("alice", id, 0, &whole).await), Code::BadDigest);
    assert_ne!(bench.service.begin(&alice, lying).await.unwrap().id, upload.id);

    let truncated = &whole[..whole.len() / 2];
    assert_eq!(code(bench.put_all("alice", truncated).await), Code::BadMedia);
    let jpeg = MediaBegin { r#type: "image/jpeg".into(), ..request(&whole) };
    let id: MediaId = bench.service.begin(&alice, jpeg).await.unwrap().id.parse().unwrap();
    let mut last = Ok(MediaUpload::default());
    for index in 0..upload.parts {
        last = bench.part("alice", id, index, &whole).await;
    }
    assert_eq!(code(last), Code::BadMedia);
    assert!(bench.put_all("alice", &whole).await.unwrap().media.is_some());
}

#[tokio::test]
async fn metadata_stays_or_goes_as_it_is_set() {
    let plain = picture(1);
    // A text, between the head of the image and the rest of it.
    let text = b"\0\0\0\x0btEXtGPS\0secret!";
    let crc32 = crc32fast::hash(&text[4..]).to_be_bytes();
    let tagged = [&plain[..33], text, &crc32, &plain[33..]].concat();
    for (strips, kept) in [(false, &tagged), (true, &plain)] {
        let bench = Bench::with(strips);
        let media = bench.put_all("alice", &tagged).await.unwrap().media.unwrap();
        assert_eq!(media.bytes, kept.len() as u64);
        assert_eq!(&bench.fetch(media.id.parse().unwrap(), 0..media.bytes).await, kept);
        assert!(bench.begin("alice", &tagged).await.1.media.is_some(), "it is known by what was sent");
    }
}

/// So many frames of AMR at 12.2 kbit/s.
fn clip(frames: usize) -> Vec<u8> {
    [b"#!AMR\n".to_vec(), [&[0x3c][..], &[7; 31]].concat().repeat(frames)].concat()
}

fn declared(whole: &[u8]) -> MediaBegin {
    MediaBegin { r#type: "audio/amr".into(), part_bytes: 0, ..request(whole) }
}

// Invariant 14.
#[tokio::test]
async fn chunks_become_a_clip_once_in_whatever_order() {
    let bench = Bench::start();
    let (alice, whole) = (user_id("alice"), clip(500));
    let chunks: Vec<&[u8]> = whole.chunks(1536).collect();
    let bring = async |index: usize| {
        let chunk = Chunk { clip: Some(declared(&whole)), index: index as u32, bytes: chunks[index].to_vec() };
        bench.service.chunks(&alice, vec![chunk]).await.first().map(|told| told.chunks)
    };
    assert_eq!(chunks.len(), 11);
    for index in [1, 2, 3, 4, 5, 6] {
        assert_eq!(bring(index).await, None);
    }
    assert_eq!(bring(7).await, Some(0), "the first is missing");
    assert_eq!(code(bench.service.clip(&alice, declared(&whole)).await), Code::UploadIncomplete);
    bring(0).await;
    assert_eq!(bring(7).await, Some(8));
    for index in [10, 9, 8] {
        bring(index).await;
    }
    let opened = bench.service.clip(&alice, declared(&whole)).await.unwrap();
    assert_eq!((opened.duration_ms, opened.bytes, opened.width), (10_000, whole.len() as u64, 0));
    let id: MediaId = opened.id.parse().unwrap();
    assert!(bench.service.open(id).await.unwrap().thumbnail.is_empty());
    assert_eq!(bring(7).await, Some(11), "one that comes late");
    assert_eq!(bench.service.clip(&alice, declared(&whole)).await.unwrap(), opened);
    assert_eq!(bench.fetch(id, 0..whole.len() as u64).await, whole);
    assert_eq!(code(bench.service.clip(&user_id("bob"), declared(&whole)).await), Code::UploadIncomplete);
}

#[tokio::test]
async fn a_clip_that_is_none_is_refused() {
    let bench = Bench::start();
    let alice = user_id("alice");
    let say = async |whole: &[u8], clip: MediaBegin| {
        for (index, bytes) in whole.chunks(1536).enumerate() {
            let chunk = Chunk { clip: Some(clip.clone()), index: index as u32, bytes: bytes.to_vec() };
            assert!(bench.service.chunks(&alice, vec![chunk]).await.is_empty());
        }
        code(bench.service.clip(&alice, clip).await)
    };
    let whole = clip(3);
    let cut = &whole[..whole.len() - 1];
    assert_eq!(say(cut, declared(cut)).await, Code::BadMedia);
    assert_eq!(say(&whole, MediaBegin { sha256: "00".repeat(32), ..declared(&whole) }).await, Code::BadDigest);
    let silk = MediaBegin { r#type: "audio/silk".into(), ..declared(&whole) };
    assert_eq!(say(&whole, silk).await, Code::BadMedia);
    let image = MediaBegin { r#type: "image/png".into(), ..declared(&whole) };
    assert_eq!(say(&whole, image).await, Code::BadMedia);
    assert_eq!(say(&whole, MediaBegin { bytes: 0, ..declared(&whole) }).await, Code::BadBody);
    assert_eq!(say(&whole, MediaBegin { bytes: 1_000_001, ..declared(&whole) }).await, Code::MediaQuota);
    let beyond = Chunk { clip: Some(declared(&whole)), index: u32::MAX, bytes: vec![1; 1536] };
    bench.service.chunks(&alice, vec![beyond]).await;
    assert_eq!(code(bench.service.clip(&alice, declared(&whole)).await), Code::UploadIncomplete);
}

#[tokio::test]
async fn a_short_clip_that_comes_as_a_whole_has_no_file_of_its_own() {
    let bench = Bench::start();
    let (alice, whole) = (user_id("alice"), clip(90));
    let chunk = |index: usize| {
        let bytes = whole.chunks(1536).nth(index).unwrap().to_vec();
        Chunk { clip: Some(declared(&whole)), index: index as u32, bytes }
    };
    bench.service.chunks(&alice, vec![chunk(1), chunk(0), chunk(1)]).await;
    let files = |name: &str| fs::read_dir(bench.directory.path().join(name)).unwrap().count();
    assert_eq!((files("parts"), files("media")), (0, 0));
    let media = bench.service.clip(&alice, declared(&whole)).await.unwrap();
    let opened = bench.service.open(media.id.parse().unwrap()).await.unwrap();
    assert_eq!((media.duration_ms, opened.content.to_vec()), (1_800, whole.clone()));
    assert_eq!(opened.media, media);
    // One that is refused is told so, though nothing is stored of it as a whole.
    let lying = MediaBegin { sha256: "00".repeat(32), ..declared(&whole) };
    let lie = |index| Chunk { clip: Some(lying.clone()), ..chunk(index) };
    bench.service.chunks(&alice, vec![lie(0), lie(1)]).await;
    assert_eq!(code(bench.service.clip(&alice, lying.clone()).await), Code::BadDigest);
}

#[tokio::test]
async fn an_object_store_that_is_down_delays_and_loses_nothing() {
    let bench = Bench::start();
    let whole = picture(1);
    let (objects, away) = (bench.objects(), bench.directory.path().join("away"));
    let _ = fs::rename(&objects, &away);
    fs::write(&objects, b"in the way").unwrap();
    let refused = bench.put_all("alice", &whole).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    assert!(!refused.retry_after.is_zero());
    fs::remove_file(&objects).unwrap();
    let (id, _) = bench.begin("alice", &whole).await;
    let completed = bench.service.complete(&user_id("alice"), id).await.unwrap();
    assert!(completed.media.is_some());
    assert_eq!(bench.fetch(id, 0..whole.len() as u64).await, whole);
}

/// What messages are about; `None` if that cannot be told.
struct About(Option<Vec<MediaId>>);

#[async_trait]
impl References for About {
    async fn refers(&self, id: MediaId) -> Result<bool, Refusal> {
        let known = self.0.as_ref().ok_or_else(|| Refusal::new(Code::Unavailable, "storage is away"))?;
        Ok(known.contains(&id))
    }
}

#[tokio::test]
async fn what_nothing_refers_to_is_collected_and_nothing_else() {
    let bench = Bench::start();
    let (kept, orphan, open) = (picture(1), picture(2), picture(3));
    for whole in [&kept, &orphan] {
        bench.put_all("alice", whole).await.unwrap();
    }
    let ids = [bench.begin("alice", &kept).await.0, bench.begin("alice", &orphan).await.0];
    let (open_id, _) = bench.begin("alice", &open).await;
    bench.part("alice", open_id, 0, &open).await.unwrap();
    let collect = async |about: About, now_ms| step(&*bench.uploads, &bench.objects, &about, now_ms).await;
    let about = || About(Some(vec![ids[0]]));
    let day_ms = LIFETIME.as_millis() as i64;
    let (now, later) = (unix_millis(), unix_millis() + day_ms + 60_000);
    assert_eq!(collect(about(), now).await.unwrap(), 0);
    assert!(collect(About(None), later).await.is_err());
    assert_eq!(bench.fetch(ids[0], 0..kept.len() as u64).await, kept, "it is served while nobody knows");
    assert_eq!(bench.fetch(ids[1], 0..orphan.len() as u64).await, orphan);
    collect(about(), later).await.unwrap();
    assert_eq!(bench.fetch(ids[0], 0..kept.len() as u64).await, kept);
    assert_eq!(bench.service.open(ids[0]).await.unwrap().media.id, ids[0].to_string());
    assert!(bench.service.read(ids[1], 0..1).await.is_err(), "its object is gone");
    for gone in [ids[1], open_id] {
        assert!(matches!(code(bench.service.open(gone).await), Code::MediaExpired | Code::NoSuchMedia));
        assert!(bench.service.lease(gone).await.is_err());
    }
    assert!(bench.service.lease(ids[0]).await.is_ok());
    assert_eq!(collect(about(), later).await.unwrap(), 0);
    let files = fs::read_dir(bench.directory.path().join("parts")).unwrap().count();
    assert_eq!(files, 0);
    assert_eq!(collect(About(Some(Vec::new())), later + 9 * day_ms).await.unwrap(), 0, "what is kept is kept for good");
    assert_eq!(bench.fetch(ids[0], 0..kept.len() as u64).await, kept);
}
