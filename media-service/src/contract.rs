//! What every implementation of [`Uploads`] must do. Each function is one promise; the crate's tests run all of them on each implementation.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tern_proto::v1::{Code, MissingParts};
use tern_proto::{MediaId, UserId, v1};

use crate::declared::{Declared, Kind, Sha256};
use crate::uploads::{LEAST, Made, Quota, State, Upload, UploadError, Uploads};

/// A time at which the tests begin.
const NOW: i64 = 1_764_000_000_000;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Opens the implementation, with [`crate::uploads::LIFETIME`]: empty the first time; again gives what is durable, as another process would find it.
pub trait Opened: Send + Sync {
    /// Opens it, and again.
    fn open(&self) -> impl Future<Output = Arc<dyn Uploads>> + Send;
}

fn quota() -> Quota {
    Quota { bytes: 100_000, open: 3, total_bytes: 250_000 }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a user name")
}

fn declared(name: u8, bytes: u64) -> Declared {
    Declared { bytes, sha256: Sha256([name; 32]), kind: Kind::Png, part_bytes: 1024 }
}

/// The bytes that the tests have for a part.
fn part(declared: &Declared, index: u32) -> Bytes {
    let range = declared.range(index);
    range.map(|at| (at % 251) as u8 ^ declared.sha256.0[0]).collect()
}

fn whole(declared: &Declared) -> Bytes {
    (0..declared.parts()).flat_map(|index| part(declared, index)).collect()
}

fn made(upload: &Upload) -> Made {
    let media = v1::Media { id: upload.id.to_string(), bytes: upload.declared.bytes, ..Default::default() };
    Made { media, thumbnail: Bytes::from_static(b"thumb"), content: Bytes::from_static(b"content") }
}

async fn begin(uploads: &Arc<dyn Uploads>, owner: &str, declared: &Declared) -> Upload {
    uploads.begin(&user(owner), declared, &quota(), NOW).await.expect("an upload begins")
}

async fn put(uploads: &Arc<dyn Uploads>, upload: &Upload, index: u32) -> u32 {
    let bytes = part(&upload.declared, index);
    uploads.put(&upload.owner, upload.id, index, bytes, NOW).await.expect("a part is stored")
}

async fn put_all(uploads: &Arc<dyn Uploads>, upload: &Upload) {
    for index in 0..upload.declared.parts() {
        put(uploads, upload, index).await;
    }
}

fn missing(upload: &Upload) -> Vec<(u32, u32)> {
    let State::Open(parts) = &upload.state else { panic!("{upload:?}") };
    parts.missing(9).into_iter().map(|MissingParts { first, last }| (first, last)).collect()
}

/// Runs every promise.
pub async fn all<O: Opened>(fresh: impl Fn() -> O) {
    parts_in_any_order_give_the_whole(&fresh()).await;
    a_part_again_is_harmless_and_other_bytes_are_a_conflict(&fresh()).await;
    what_was_answered_is_there_after_a_restart(&fresh()).await;
    an_upload_is_found_by_who_has_what(&fresh()).await;
    the_first_end_counts(&fresh()).await;
    what_failed_is_begun_anew(&fresh()).await;
    a_stranger_finds_nothing(&fresh()).await;
    nobody_has_more_than_the_quota(&fresh()).await;
    small_ones_count_too(&fresh()).await;
    what_is_made_at_once_is_complete_from_the_start(&fresh()).await;
    what_has_outlived_its_time_is_told_until_it_is_removed(&fresh()).await;
    what_is_not_complete_is_over_at_its_time(&fresh()).await;
    a_lease_keeps_what_is_complete(&fresh()).await;
    what_is_completed_late_has_its_lifetime_before_it(&fresh()).await;
    what_is_fenced_has_its_name_until_it_is_removed(&fresh()).await;
    concurrent_parts_are_all_there(&fresh()).await;
    of_two_other_parts_at_once_one_is_stored(&fresh()).await;
}

async fn parts_in_any_order_give_the_whole(opened: &impl Opened) {
    let uploads = opened.open().await;
    let upload = begin(&uploads, "alice", &declared(1, 5_000)).await;
    assert_eq!(missing(&upload), [(0, 4)]);
    for (index, left) in [(4, 4), (0, 3), (2, 2), (1, 1)] {
        assert_eq!(put(&uploads, &upload, index).await, left);
    }
    assert_eq!(missing(&uploads.look(upload.id, NOW).await.expect("it is there")), [(3, 3)]);
    assert!(uploads.bytes(upload.id).await.is_err(), "a part is missing");
    assert_eq!(put(&uploads, &upload, 3).await, 0);
    assert_eq!(uploads.bytes(upload.id).await.expect("all are there"), whole(&upload.declared));
}

async fn a_part_again_is_harmless_and_other_bytes_are_a_conflict(opened: &impl Opened) {
    let uploads = opened.open().await;
    let upload = begin(&uploads, "alice", &declared(1, 2_500)).await;
    assert_eq!((put(&uploads, &upload, 1).await, put(&uploads, &upload, 1).await), (2, 2));
    let other = Bytes::from(vec![7; 1024]);
    let conflict = uploads.put(&upload.owner, upload.id, 1, other, NOW).await;
    assert_eq!(conflict, Err(UploadError::Conflict(1)));
    for (index, bytes) in [(0, 1023), (0, 0), (2, 1024), (3, 452), (u32::MAX, 1024)] {
        let refused = uploads.put(&upload.owner, upload.id, index, vec![0; bytes].into(), NOW).await;
        assert!(matches!(refused, Err(UploadError::Part(_))), "{index} {bytes}: {refused:?}");
    }
    put_all(&uploads, &upload).await;
    assert_eq!(uploads.bytes(upload.id).await.expect("all are there"), whole(&upload.declared));
}

async fn what_was_answered_is_there_after_a_restart(opened: &impl Opened) {
    let uploads = opened.open().await;
    let open = begin(&uploads, "alice", &declared(1, 2_500)).await;
    put(&uploads, &open, 2).await;
    let done = begin(&uploads, "alice", &declared(2, 900)).await;
    put_all(&uploads, &done).await;
    uploads.end(done.id, Ok(made(&done)), NOW).await.expect("it ends");
    let failed = begin(&uploads, "alice", &declared(3, 900)).await;
    uploads.end(failed.id, Err(Code::BadMedia), NOW).await.expect("it ends");
    drop(uploads);

    let uploads = opened.open().await;
    assert_eq!(missing(&begin(&uploads, "alice", &open.declared).await), [(0, 1)]);
    let other = uploads.put(&open.owner, open.id, 2, vec![9; 452].into(), NOW).await;
    assert_eq!(other, Err(UploadError::Conflict(2)));
    put_all(&uploads, &open).await;
    assert_eq!(uploads.bytes(open.id).await.expect("all are there"), whole(&open.declared));
    let done_again = uploads.look(done.id, NOW).await.expect("it is there");
    assert_eq!(done_again.state, State::Complete(made(&done)));
    assert_eq!(uploads.look(failed.id, NOW).await.expect("it is there").state, State::Failed(Code::BadMedia));
}

async fn an_upload_is_found_by_who_has_what(opened: &impl Opened) {
    let uploads = opened.open().await;
    let first = begin(&uploads, "alice", &declared(1, 5_000)).await;
    put(&uploads, &first, 0).await;
    let other_parts = Declared { part_bytes: 2048, ..first.declared };
    let again = begin(&uploads, "alice", &other_parts).await;
    assert_eq!((again.id, again.declared, missing(&again)), (first.id, first.declared, vec![(1, 4)]));
    let others = [
        begin(&uploads, "bob", &first.declared).await,
        begin(&uploads, "alice", &declared(2, 5_000)).await,
        begin(&uploads, "alice", &declared(1, 5_001)).await,
    ];
    assert!(others.iter().all(|other| other.id != first.id && missing(other) == [(0, 4)]), "{others:?}");
    put_all(&uploads, &first).await;
    uploads.end(first.id, Ok(made(&first)), NOW).await.expect("it ends");
    assert_eq!(begin(&uploads, "alice", &other_parts).await.state, State::Complete(made(&first)));
}

async fn the_first_end_counts(opened: &impl Opened) {
    let uploads = opened.open().await;
    let upload = begin(&uploads, "alice", &declared(1, 900)).await;
    put_all(&uploads, &upload).await;
    let ended = uploads.end(upload.id, Ok(made(&upload)), NOW).await.expect("it ends");
    let late = Made { thumbnail: Bytes::from_static(b"late"), ..made(&upload) };
    for late in [Ok(late), Err(Code::BadDigest)] {
        assert_eq!(uploads.end(upload.id, late, NOW).await.expect("it has ended"), ended);
    }
    assert_eq!(ended.state, State::Complete(made(&upload)));
    assert_eq!(put(&uploads, &upload, 0).await, 0, "a late part is as harmless as a part again");
    assert!(uploads.bytes(upload.id).await.is_err(), "its parts are gone");
    let unknown = uploads.end(MediaId::new(NOW, 77), Err(Code::BadMedia), NOW).await;
    assert_eq!(unknown, Err(UploadError::NoSuch));
}

async fn what_failed_is_begun_anew(opened: &impl Opened) {
    let uploads = opened.open().await;
    let failed = begin(&uploads, "alice", &declared(1, 900)).await;
    uploads.end(failed.id, Err(Code::BadDigest), NOW).await.expect("it ends");
    let anew = begin(&uploads, "alice", &failed.declared).await;
    assert!(anew.id != failed.id && missing(&anew) == [(0, 0)]);
    assert_eq!(uploads.look(failed.id, NOW).await.expect("it is there").state, State::Failed(Code::BadDigest));
}

async fn what_is_made_at_once_is_complete_from_the_start(opened: &impl Opened) {
    let uploads = opened.open().await;
    let (alice, short) = (user("alice"), declared(1, 2_000));
    let made = |content: &'static [u8]| Made { content: content.into(), ..Made::default() };
    let make = async |declared: &Declared, content| uploads.make(&alice, declared, &quota(), made(content), NOW).await;
    let upload = make(&short, b"first").await.expect("it is made");
    let State::Complete(Made { media, content, .. }) = &upload.state else { panic!("{upload:?}") };
    assert_eq!((&media.id, &content[..]), (&upload.id.to_string(), &b"first"[..]));
    assert_eq!(make(&short, b"second").await.expect("it is found"), upload);
    assert_eq!(uploads.put(&alice, upload.id, 0, part(&short, 0), NOW).await, Ok(0));
    assert!(uploads.bytes(upload.id).await.is_err(), "it has no parts");
    drop(uploads);
    let uploads = opened.open().await;
    assert_eq!(begin(&uploads, "alice", &short).await, upload);
    assert_eq!(uploads.lease(upload.id, NOW).await.expect("it is complete"), upload);
    // What was begun before stays as it is.
    let begun = begin(&uploads, "alice", &declared(2, 2_000)).await;
    assert_eq!(put(&uploads, &begun, 1).await, 1);
    let found = uploads.make(&alice, &begun.declared, &quota(), made(b"third"), NOW).await.expect("it is found");
    assert_eq!((found.id, missing(&found)), (begun.id, vec![(0, 0)]));
    // It counts by its bytes, and not as one that is under way, of which there are as many as may be.
    begin(&uploads, "alice", &declared(3, 1)).await;
    begin(&uploads, "alice", &declared(4, 1)).await;
    for name in 10..48 {
        uploads.make(&alice, &declared(name, 6_000), &quota(), made(b""), NOW).await.expect("there is room");
    }
    let over = uploads.make(&alice, &declared(50, 7_000), &quota(), made(b""), NOW).await;
    assert!(matches!(over, Err(UploadError::Quota(_))), "{over:?}");
    let lapsed = uploads.lapsed(NOW + DAY, 100).await.expect("they can be told");
    assert_eq!(lapsed.len(), 42);
}

async fn small_ones_count_too(opened: &impl Opened) {
    let uploads = opened.open().await;
    let may_be = quota().total_bytes / LEAST;
    for name in 0..may_be {
        let upload = begin(&uploads, "alice", &declared(name as u8, 10)).await;
        let became = if name % 2 == 0 { Ok(made(&upload)) } else { Err(Code::BadMedia) };
        uploads.end(upload.id, became, NOW).await.expect("it ends");
    }
    let over = uploads.begin(&user("alice"), &declared(200, 10), &quota(), NOW).await;
    assert!(matches!(over, Err(UploadError::Quota(_))), "{over:?}");
    for upload in uploads.lapsed(NOW + DAY, 100).await.expect("they can be told") {
        uploads.remove(upload.id).await.expect("it is removed");
    }
    begin(&uploads, "alice", &declared(200, 100_000)).await;
}

async fn a_stranger_finds_nothing(opened: &impl Opened) {
    let uploads = opened.open().await;
    let upload = begin(&uploads, "alice", &declared(1, 900)).await;
    let foreign = uploads.put(&user("eve"), upload.id, 0, part(&upload.declared, 0), NOW).await;
    assert_eq!(foreign, Err(UploadError::NoSuch));
    assert_eq!(missing(&uploads.look(upload.id, NOW).await.expect("it is there")), [(0, 0)]);
    let never = MediaId::new(NOW, 123);
    assert_eq!(uploads.look(never, NOW).await, Err(UploadError::NoSuch));
    assert_eq!(uploads.put(&upload.owner, never, 0, Bytes::new(), NOW).await, Err(UploadError::NoSuch));
    assert_eq!(uploads.look(never, NOW + DAY).await, Err(UploadError::Expired), "it may have been");
}

async fn nobody_has_more_than_the_quota(opened: &impl Opened) {
    let uploads = opened.open().await;
    let refused = async |declared: Declared| {
        let begun = uploads.begin(&user("alice"), &declared, &quota(), NOW).await;
        matches!(begun, Err(UploadError::Quota(_)))
    };
    assert!(refused(declared(9, 100_001)).await, "too large");
    let first = begin(&uploads, "alice", &declared(1, 100_000)).await;
    let second = begin(&uploads, "alice", &declared(2, 100_000)).await;
    assert!(refused(declared(3, 50_001)).await, "too much in all");
    let third = begin(&uploads, "alice", &declared(3, 50_000)).await;
    assert!(refused(declared(4, 1)).await, "too many");
    assert_eq!(begin(&uploads, "alice", &first.declared).await.id, first.id, "what is there costs nothing");
    begin(&uploads, "bob", &declared(4, 1)).await;
    uploads.end(second.id, Err(Code::BadMedia), NOW).await.expect("it ends");
    let fourth = begin(&uploads, "alice", &declared(4, 90_000)).await;
    uploads.end(third.id, Ok(made(&third)), NOW).await.expect("it ends");
    begin(&uploads, "alice", &declared(5, 1)).await;
    assert!(refused(declared(6, 1)).await, "the complete one counts by its bytes, and the open ones are three");
    uploads.end(fourth.id, Ok(made(&fourth)), NOW).await.expect("it ends");
    assert!(refused(declared(6, 1)).await, "too much in all");
}

async fn what_has_outlived_its_time_is_told_until_it_is_removed(opened: &impl Opened) {
    let uploads = opened.open().await;
    let open = begin(&uploads, "alice", &declared(1, 900)).await;
    let done = begin(&uploads, "alice", &declared(2, 900)).await;
    uploads.end(done.id, Ok(made(&done)), NOW).await.expect("it ends");
    let failed = begin(&uploads, "alice", &declared(3, 900)).await;
    uploads.end(failed.id, Err(Code::BadMedia), NOW).await.expect("it ends");
    let late = uploads.begin(&user("alice"), &declared(4, 900), &quota(), NOW + HOUR).await.expect("it begins");
    assert_eq!(lapsed(&uploads, NOW + DAY - 1).await, []);
    assert_eq!(uploads.lapsed(NOW + DAY, 2).await.map(|told| told.len()), Ok(2));
    let mut all = vec![open.id, done.id, failed.id];
    all.sort_unstable();
    assert_eq!(lapsed(&uploads, NOW + DAY).await, all);
    for over in [open.id, failed.id] {
        assert_eq!(uploads.look(over, NOW).await, Err(UploadError::Expired), "fenced, whatever the clock says");
    }
    assert!(uploads.look(done.id, NOW + DAY).await.is_ok(), "something may refer to it");
    assert!(matches!(uploads.lease(done.id, NOW).await, Err(UploadError::Unavailable(_))));
    let part_of_it = uploads.put(&open.owner, open.id, 0, part(&open.declared, 0), NOW).await;
    assert_eq!(part_of_it, Err(UploadError::Expired));
    drop(uploads);
    let uploads = opened.open().await;
    assert_eq!(lapsed(&uploads, NOW).await, all, "also to the next process");
    for id in all {
        uploads.remove(id).await.expect("it is removed");
        uploads.remove(id).await.expect("again is harmless");
        assert_eq!(uploads.look(id, NOW + DAY).await, Err(UploadError::Expired));
    }
    assert_eq!(lapsed(&uploads, NOW + DAY).await, []);
    assert!(uploads.look(late.id, NOW + DAY).await.is_ok());
    let anew = uploads.begin(&user("alice"), &declared(2, 900), &quota(), NOW + DAY).await.expect("it begins");
    assert!(anew.id != done.id && missing(&anew) == [(0, 0)]);
    let largest = uploads.begin(&user("alice"), &declared(5, 100_000), &quota(), NOW + DAY).await;
    assert!(largest.is_ok(), "what is removed counts no more: {largest:?}");
}

async fn what_is_not_complete_is_over_at_its_time(opened: &impl Opened) {
    let uploads = opened.open().await;
    let open = begin(&uploads, "alice", &declared(1, 900)).await;
    put(&uploads, &open, 0).await;
    assert!(uploads.look(open.id, NOW + DAY - 1).await.is_ok());
    assert_eq!(uploads.look(open.id, NOW + DAY).await, Err(UploadError::Expired));
    let late = uploads.put(&open.owner, open.id, 0, part(&open.declared, 0), NOW + DAY).await;
    assert_eq!(late, Err(UploadError::Expired));
    let anew = uploads.begin(&user("alice"), &open.declared, &quota(), NOW + DAY).await.expect("it begins");
    assert!(anew.id != open.id && missing(&anew) == [(0, 0)]);
}

async fn a_lease_keeps_what_is_complete(opened: &impl Opened) {
    let uploads = opened.open().await;
    let open = begin(&uploads, "alice", &declared(1, 900)).await;
    assert_eq!(uploads.lease(open.id, NOW).await, Err(UploadError::NoSuch));
    assert_eq!(uploads.lease(MediaId::new(NOW, 9), NOW).await, Err(UploadError::NoSuch));
    assert_eq!(uploads.lease(MediaId::new(NOW, 9), NOW + DAY).await, Err(UploadError::Expired));
    let done = begin(&uploads, "alice", &declared(2, 900)).await;
    let done = uploads.end(done.id, Ok(made(&done)), NOW).await.expect("it ends");
    assert_eq!(uploads.lease(done.id, NOW + 20 * HOUR).await, Ok(done.clone()));
    assert_eq!(lapsed(&uploads, NOW + 32 * HOUR - 1).await, [open.id], "half of the lifetime is certain");
    assert_eq!(uploads.lease(done.id, NOW + 40 * HOUR).await, Ok(done.clone()));
    drop(uploads);
    let uploads = opened.open().await;
    assert_eq!(lapsed(&uploads, NOW + 52 * HOUR - 1).await, [open.id], "also to the next process");
    let begun = uploads.begin(&user("alice"), &done.declared, &quota(), NOW + 60 * HOUR).await;
    assert_eq!(begun, Ok(done.clone()));
    assert_eq!(lapsed(&uploads, NOW + 72 * HOUR - 1).await, [open.id], "to begin again is to go on with it");
    let mut both = vec![open.id, done.id];
    both.sort_unstable();
    assert_eq!(lapsed(&uploads, NOW + 200 * HOUR).await, both);
    uploads.keep(done.id).await.expect("it is kept");
    assert_eq!(lapsed(&uploads, NOW + 200 * HOUR).await, [open.id]);
    assert_eq!(uploads.lease(done.id, NOW + 201 * HOUR).await, Ok(done.clone()));
    assert_eq!(lapsed(&uploads, NOW + 9_000 * HOUR).await, [open.id], "what is referred to stays for good");
    uploads.keep(MediaId::new(NOW, 9)).await.expect("what is not there needs no keeping");
}

async fn what_is_completed_late_has_its_lifetime_before_it(opened: &impl Opened) {
    let uploads = opened.open().await;
    let upload = begin(&uploads, "alice", &declared(1, 900)).await;
    let late = begin(&uploads, "alice", &declared(2, 900)).await;
    let ended = uploads.end(upload.id, Ok(made(&upload)), NOW + 23 * HOUR).await.expect("it ends");
    assert_eq!(lapsed(&uploads, NOW + 47 * HOUR - 1).await, [late.id]);
    assert_eq!(lapsed(&uploads, NOW + 47 * HOUR).await.len(), 2);
    // Whoever was still making the image of one that is fenced comes too late.
    assert_eq!(uploads.end(late.id, Ok(made(&late)), NOW + 47 * HOUR).await, Err(UploadError::Expired));
    assert_eq!(uploads.end(upload.id, Err(Code::BadMedia), NOW + 47 * HOUR).await, Ok(ended), "it has ended before");
}

/// Or a message that is sent again, about a clip, would be about another one.
async fn what_is_fenced_has_its_name_until_it_is_removed(opened: &impl Opened) {
    let uploads = opened.open().await;
    let open = begin(&uploads, "alice", &declared(1, 900)).await;
    let done = begin(&uploads, "alice", &declared(2, 900)).await;
    let done = uploads.end(done.id, Ok(made(&done)), NOW).await.expect("it ends");
    let again = async |declared| uploads.begin(&user("alice"), declared, &quota(), NOW + DAY).await;
    for _ in 0..2 {
        assert_eq!(lapsed(&uploads, NOW + DAY).await.len(), 2);
        assert!(matches!(again(&done.declared).await, Err(UploadError::Unavailable(_))));
        let made = uploads.make(&user("alice"), &done.declared, &quota(), made(&done), NOW + DAY).await;
        assert!(matches!(made, Err(UploadError::Unavailable(_))), "{made:?}");
        uploads.keep(done.id).await.expect("it is kept");
        assert_eq!(again(&done.declared).await, Ok(done.clone()));
        uploads.keep(done.id).await.expect("it is kept");
        // Only what nobody refers to is ever fenced again.
        assert_eq!(lapsed(&uploads, i64::MAX).await.len(), 2);
    }
    let anew = again(&open.declared).await.expect("it begins");
    assert!(anew.id != open.id && missing(&anew) == [(0, 0)], "what is not complete is over");
    uploads.remove(done.id).await.expect("it is removed");
    let anew = again(&done.declared).await.expect("it begins");
    assert!(anew.id != done.id && missing(&anew) == [(0, 0)]);
    uploads.remove(open.id).await.expect("it is removed");
    uploads.remove(done.id).await.expect("what is removed needs no removing");
    assert_eq!(again(&done.declared).await.map(|again| again.id), Ok(anew.id), "the name belongs to the later one");
}

/// What has outlived its time, in order.
async fn lapsed(uploads: &Arc<dyn Uploads>, now_ms: i64) -> Vec<MediaId> {
    let mut ids: Vec<_> =
        uploads.lapsed(now_ms, 9).await.expect("it is told").into_iter().map(|upload| upload.id).collect();
    ids.sort_unstable();
    ids
}

async fn concurrent_parts_are_all_there(opened: &impl Opened) {
    let uploads = opened.open().await;
    let upload = begin(&uploads, "alice", &declared(1, 90_000)).await;
    let parts = upload.declared.parts();
    let tasks: Vec<_> = (0..8u32)
        .map(|task| {
            let (uploads, upload) = (uploads.clone(), upload.clone());
            tokio::spawn(async move {
                // Each part is brought by two of them.
                for index in (0..parts).filter(|index| index % 4 == task % 4) {
                    put(&uploads, &upload, index).await;
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(30), task).await.expect("no task hangs").expect("no task fails");
    }
    assert_eq!(missing(&uploads.look(upload.id, NOW).await.expect("it is there")), []);
    assert_eq!(uploads.bytes(upload.id).await.expect("all are there"), whole(&upload.declared));
}

async fn of_two_other_parts_at_once_one_is_stored(opened: &impl Opened) {
    let uploads = opened.open().await;
    for name in 1..=3 {
        let upload = begin(&uploads, &format!("user-{name}"), &declared(name, 1024)).await;
        let put = |byte: u8| uploads.put(&upload.owner, upload.id, 0, vec![byte; 1024].into(), NOW);
        let (one, other) = tokio::join!(put(1), put(2));
        let first = match (one, other) {
            (Ok(0), Err(UploadError::Conflict(0))) => 1,
            (Err(UploadError::Conflict(0)), Ok(0)) => 2,
            both => panic!("{both:?}"),
        };
        assert_eq!(uploads.bytes(upload.id).await, Ok(vec![first; 1024].into()));
    }
}
