//! What retention takes away, and what it leaves. The stores of these cases keep by [`RULES`].
//!
//! An engine may drop later than it could, since it gives room back in its own measures; so where a case is about age it asks for
//! *some* of what may go, and for *all* of what must stay.

use std::collections::BTreeSet;

use tern_proto::key::{Class, Version};
use tern_proto::v1;
use tern_proto::v1::entry::Body;

use super::Place;
use super::history::{
    NOW, ack, at, commit, delivered, device, group_text, group_with, page, sent, start, state, text, timelines,
};
use crate::reference::Rules;
use crate::{Outcome, Storage};

/// A day in milliseconds.
pub const DAY: i64 = 24 * 3600 * 1000;
/// The rules of the stores here. Results are kept for the 8 days of production.
pub const RULES: Rules =
    Rules { history_ms: 30 * DAY, device_silence_ms: 60 * DAY, max_entries: 400, max_bytes: 4 * 1024 * 1024 };
/// When what was sent at [`NOW`] is old.
const LATER: i64 = NOW + 31 * DAY;
/// What one window case sends: several times what an engine gives back at once.
const SENT: u64 = 100;
const LENGTH: usize = 12_000;

/// Alice writes to bob.
async fn fill(store: &dyn Storage, ids: std::ops::RangeInclusive<u64>, length: usize) {
    for id in ids {
        sent(store, text("alice/d1", id, "bob", &body(id, length))).await;
    }
}

fn body(id: u64, length: usize) -> String {
    format!("{id:>length$}")
}

/// The device acknowledges up to a version, at a time, and the receipts are derived.
async fn settle(store: &dyn Storage, of: &str, version: Version, time_ms: i64) {
    let acked = commit(store, at(time_ms, ack(of, [Some(version), None]))).await;
    assert!(matches!(acked, Outcome::Acked(state) if state.acked[0] >= version));
    let seq = 0;
    assert!(matches!(commit(store, at(time_ms, delivered(of, version, "alice:bob", seq))).await, Outcome::Raised(_)));
}

/// All of class 1 above a version, in order.
async fn entries(store: &dyn Storage, of: &str, above: Version) -> Vec<v1::Entry> {
    let (mut entries, mut above) = (Vec::new(), Some(above));
    loop {
        let page = page(store, &device(of), [above, None], 50).await;
        assert!(!page.entries.is_empty() || !page.more[0], "paging ends");
        entries.extend(page.entries);
        above = page.after[0];
        if !page.more[0] {
            assert_eq!(above, Some(page.heads[0]), "and at the head");
            return entries;
        }
    }
}

fn versions(entries: &[v1::Entry]) -> Vec<Version> {
    entries.iter().map(|entry| entry.version).collect()
}

fn hole(entry: &v1::Entry) -> Option<&v1::Hole> {
    match &entry.body {
        Some(Body::Hole(hole)) => Some(hole),
        _ => None,
    }
}

/// The rest is a tail of what there was, to the letter, without a hole. Gives how many are gone.
fn assert_tail(rest: &[v1::Entry], all: &[v1::Entry]) -> usize {
    let gone = all.len() - rest.len();
    assert!(rest == &all[gone..], "the oldest go first, and the others stay as they were");
    gone
}

/// Of a device whose key lies below what was dropped: a hole, and then what is kept.
async fn assert_hole(store: &dyn Storage, of: &str, all: &[v1::Entry], reason: v1::HoleReason) {
    let gone = assert_tail(&entries(store, of, 0).await, all);
    for known in 0..gone.saturating_sub(1) {
        let read = entries(store, of, all[known].version).await;
        let hole = hole(&read[0]).expect("a hole comes first");
        assert_eq!((read[0].version, hole.reason()), (all[gone - 1].version, reason));
        assert!(hole.count as usize >= gone - known - 1, "at most so many are missing");
        assert_eq!(versions(&read[1..]), versions(&all[gone..]));
    }
    let read = entries(store, of, all[gone - 1].version).await;
    assert_eq!(versions(&read), versions(&all[gone..]), "who has the last that was dropped misses nothing");
}

/// What is old and acknowledged goes, the oldest first.
pub async fn what_is_old_and_acknowledged_goes(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=SENT, LENGTH).await;
    let all = timelines(&*store, &device("bob/d1")).await;
    let head = all[all.len() - 1].version;
    settle(&*store, "bob/d1", head, LATER).await;
    let retained = store.retain(LATER).await.expect("available");
    let gone = assert_tail(&entries(&*store, "bob/d1", 0).await, &all);
    assert!(gone > 0);
    let of_alice = SENT as usize - entries(&*store, "alice/d2", 0).await.len();
    assert_eq!(retained.dropped, (gone + of_alice) as u64, "and alice has no device that is owed anything");
    assert_eq!(state(&*store, "bob/d1").await.heads[0], head, "versions do not go back");
    assert_hole(&*store, "bob/d1", &all, v1::HoleReason::Window).await;
    fill(&*store, SENT + 1..=SENT + 1, 1).await;
    let next = entries(&*store, "bob/d1", head).await;
    assert!(next.len() == 1 && next[0].version > head);
}

/// Nothing goes before the window has passed.
pub async fn what_is_young_stays(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=SENT, LENGTH).await;
    let all = timelines(&*store, &device("bob/d1")).await;
    settle(&*store, "bob/d1", all[all.len() - 1].version, NOW + 29 * DAY).await;
    assert_eq!(store.retain(NOW + 29 * DAY).await.expect("available").dropped, 0);
    assert_eq!(timelines(&*store, &device("bob/d1")).await, all);
}

/// However old: what one live device has not acknowledged stays for it, and so for all, and is read as it was.
pub async fn what_a_live_device_is_owed_stays(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=SENT, LENGTH).await;
    let all = timelines(&*store, &device("bob/d1")).await;
    let behind = 60;
    for pass in 1..=4 {
        let now = NOW + pass * 31 * DAY;
        settle(&*store, "bob/d1", all[behind - 1].version, now).await;
        settle(&*store, "bob/d2", all[all.len() - 1].version, now).await;
        store.retain(now).await.expect("available");
        let rest = entries(&*store, "bob/d1", 0).await;
        let gone = assert_tail(&rest, &all);
        assert!(gone > 0 && gone <= behind, "pass {pass}: {gone} are gone");
        assert!(entries(&*store, "bob/d1", all[behind - 1].version).await == all[behind..], "pass {pass}");
    }
}

/// What is acknowledged but not yet derived is owed to the derivation.
pub async fn what_is_not_derived_stays(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=SENT, LENGTH).await;
    let all = timelines(&*store, &device("bob/d1")).await;
    let head = all[all.len() - 1].version;
    commit(&*store, at(LATER, ack("bob/d1", [Some(head), None]))).await;
    store.retain(LATER).await.expect("available");
    assert!(timelines(&*store, &device("bob/d1")).await == all);
}

/// A device that was silent for too long holds nothing, and finds a hole.
pub async fn a_silent_device_holds_nothing(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=SENT, LENGTH).await;
    let all = timelines(&*store, &device("bob/d1")).await;
    settle(&*store, "bob/old", all[0].version, NOW).await;
    let now = NOW + 61 * DAY;
    settle(&*store, "bob/d1", all[all.len() - 1].version, now).await;
    store.retain(now).await.expect("available");
    assert!(assert_tail(&entries(&*store, "bob/d1", 0).await, &all) > 1);
    assert_hole(&*store, "bob/old", &all, v1::HoleReason::Window).await;
    assert_eq!(store.underived(None, 10).await, Ok(vec![]), "nothing is to be derived from what is gone");
}

/// A group's message stays for the member who is owed it, and leaves the others' timelines.
pub async fn members_keep_for_themselves(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob", "carol"]).await;
    for id in 2..=SENT {
        sent(&*store, group_text("alice/d1", id, &group, &body(id, LENGTH))).await;
    }
    let (bobs, carols) = (timelines(&*store, &device("bob/d1")).await, timelines(&*store, &device("carol/d1")).await);
    settle(&*store, "bob/d1", bobs[bobs.len() - 1].version, LATER).await;
    commit(&*store, at(LATER, start("carol/d1", v1::Start::Oldest))).await;
    store.retain(LATER).await.expect("available");
    assert!(assert_tail(&entries(&*store, "bob/d1", 0).await, &bobs) > 0);
    assert!(timelines(&*store, &device("carol/d1")).await == carols);
}

/// Too many entries: the oldest go, whoever is owed them, and nothing goes twice.
pub async fn too_many_entries_leave_a_hole(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=450, 10).await;
    let all = timelines(&*store, &device("bob/d1")).await;
    commit(&*store, start("bob/d1", v1::Start::Oldest)).await;
    assert_eq!(store.retain(NOW).await.expect("available").dropped, 2 * 70, "of bob and of alice");
    assert_eq!(entries(&*store, "bob/d1", 0).await.len(), 380);
    assert_hole(&*store, "bob/d1", &all, v1::HoleReason::Cap).await;
    assert_eq!(store.retain(NOW).await.expect("available").dropped, 0);
    fill(&*store, 451..=471, 10).await;
    assert_eq!(store.retain(NOW).await.expect("available").dropped, 2 * 21);
    assert_eq!(entries(&*store, "bob/d1", 0).await.len(), 380);
}

/// Too many bytes: the same.
pub async fn too_many_bytes_leave_a_hole(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=300, 16_000).await;
    let all = timelines(&*store, &device("bob/d1")).await;
    store.retain(NOW).await.expect("available");
    let kept = entries(&*store, "bob/d1", 0).await.len();
    assert!((230..=262).contains(&kept), "{kept}");
    assert_hole(&*store, "bob/d1", &all, v1::HoleReason::Cap).await;
}

/// Results are kept for their own time.
pub async fn results_outlive_their_entries(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=450, 10).await;
    let first = timelines(&*store, &device("bob/d1")).await[0].clone();
    store.retain(NOW).await.expect("available");
    assert_ne!(timelines(&*store, &device("bob/d1")).await[0], first);
    let Some(Body::Message(message)) = first.body else { panic!("a message") };
    let again = sent(&*store, text("alice/d1", 1, "bob", &body(1, 10))).await;
    assert_eq!((again.server_msg_id, again.seq), (message.server_msg_id, message.seq));
    assert!(again.owed.is_empty());
    assert_eq!(commit(&*store, text("alice/d1", 1, "bob", "other")).await, Outcome::Conflict);
}

/// A hole is acknowledged like any other entry, and so is what lies in it.
pub async fn a_hole_is_acknowledged(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=450, 10).await;
    let all = versions(&timelines(&*store, &device("bob/d1")).await);
    commit(&*store, ack("bob/d1", [Some(all[0]), None])).await;
    store.retain(NOW).await.expect("available");
    for (version, want) in [(all[3], all[3]), (all[3], all[3]), (all[69], all[69]), (all[5], all[69])] {
        commit(&*store, ack("bob/d1", [Some(version), None])).await;
        assert_eq!(state(&*store, "bob/d1").await.acked, [want, 0]);
    }
    assert_eq!(store.underived(None, 10).await, Ok(vec![]));
    assert_eq!(versions(&entries(&*store, "bob/d1", all[69]).await), all[70..]);
}

/// Who comes after a drop starts at the oldest kept, without a hole, or at the heads.
pub async fn a_new_device_starts_at_the_oldest_kept(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=450, 10).await;
    let all = versions(&timelines(&*store, &device("bob/d1")).await);
    store.retain(NOW).await.expect("available");
    assert_eq!(commit(&*store, start("bob/new", v1::Start::Oldest)).await, Outcome::Started([0, 0]));
    assert_eq!(versions(&entries(&*store, "bob/new", 0).await), all[70..]);
    let heads = [all[449], 0];
    assert_eq!(commit(&*store, start("bob/newer", v1::Start::Heads)).await, Outcome::Started(heads));
}

/// A reader in the middle of its pages goes on behind the hole, and misses nothing that is kept.
pub async fn pages_go_on_across_a_drop(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=450, 10).await;
    let bob = device("bob/d1");
    let all = versions(&timelines(&*store, &bob).await);
    let before = page(&*store, &bob, [Some(0), None], 20).await;
    store.retain(NOW).await.expect("available");
    let next = page(&*store, &bob, before.after, 20).await;
    assert_eq!(next.entries.len(), 20);
    assert!(hole(&next.entries[0]).is_some());
    assert_eq!(versions(&next.entries), all[69..89]);
    let one = page(&*store, &bob, before.after, 1).await;
    assert_eq!((versions(&one.entries), one.after[0], one.more[0]), (vec![all[69]], Some(all[69]), true));
    let seen: BTreeSet<Version> = versions(&entries(&*store, "bob/d1", all[19]).await).into_iter().collect();
    assert_eq!(seen, all[69..].iter().copied().collect());
}

/// The other class is left alone.
pub async fn receipts_stay(place: &dyn Place) {
    let store = place.open().await;
    fill(&*store, 1..=450, 10).await;
    super::history::raised(&*store, super::history::read("bob/d1", "alice:bob", 3)).await;
    let receipts = super::history::versions(&*store, "alice/d1", Class::Receipts).await;
    assert_eq!(receipts.len(), 1);
    store.retain(NOW + 400 * DAY).await.expect("available");
    assert_eq!(super::history::versions(&*store, "alice/d1", Class::Receipts).await, receipts);
}
