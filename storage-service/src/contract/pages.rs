//! Pages: bounds, order, what is left out.

use prost::Message;
use tern_proto::key::Class;
use tern_proto::v1;

use super::Place;
use super::history::{device, page, raised, read, sent, text, timelines, versions};
use crate::{Page, PageRequest, Storage};

/// A page is never over its count, and `more` is exact at every split. same-millisecond: all of it was sent at one time, which is no part of a key.
pub async fn a_page_ends_at_its_entries(place: &dyn Place) {
    let store = place.open().await;
    for id in 1..=6 {
        sent(&*store, text("alice/d1", id, "bob", "hi")).await;
    }
    let bob = device("bob/d1");
    let all = versions(&*store, "bob/d1", Class::Messages).await;
    for size in 1..=7 {
        let mut above = 0;
        let mut seen = Vec::new();
        while seen.len() < all.len() {
            let page = page(&*store, &bob, [Some(above), None], size).await;
            let want: Vec<u64> = all[seen.len()..].iter().copied().take(size).collect();
            assert_eq!(page.entries.iter().map(|entry| entry.version).collect::<Vec<u64>>(), want);
            assert_eq!(page.heads, [all[5], 0]);
            seen.extend(want);
            above = seen[seen.len() - 1];
            assert_eq!(page.after, [Some(above), None]);
            assert_eq!(page.more, [seen.len() < all.len(), false], "pages of {size} after {}", seen.len());
        }
        let end = page(&*store, &bob, [Some(above), None], size).await;
        assert_eq!((end.entries.len(), end.after, end.more), (0, [Some(above), None], [false, false]));
    }
}

/// The bytes are those of the reply's repeated field; a single entry over them is handed out all the same.
pub async fn a_page_ends_at_its_bytes(place: &dyn Place) {
    let store = place.open().await;
    for (id, length) in [(1, 1), (2, 200), (3, 1), (4, 16_000), (5, 1)] {
        sent(&*store, text("alice/d1", id, "bob", &"x".repeat(length))).await;
    }
    let all = timelines(&*store, &device("bob/d1")).await;
    for (first, _) in all.iter().enumerate() {
        let above = if first == 0 { 0 } else { all[first - 1].version };
        for count in 1..=all.len() - first {
            let exact = bytes(&all[first..first + count]);
            let rest = first + count < all.len();
            let page = page_of_bytes(&*store, above, exact).await;
            assert_eq!((&page.entries[..], page.more), (&all[first..first + count], [rest, false]));
            let page = page_of_bytes(&*store, above, exact - 1).await;
            let fewer = (count - 1).max(1);
            assert_eq!(&page.entries[..], &all[first..first + fewer], "one byte less, and at least one entry");
            assert_eq!(page.more, [first + fewer < all.len(), false]);
        }
    }
}

async fn page_of_bytes(store: &dyn Storage, above: u64, max_bytes: usize) -> Page {
    let request =
        PageRequest { device: device("bob/d1"), above: [Some(above), None], max_entries: 100, max_bytes, texts: true };
    store.page(request).await.expect("available")
}

/// Measured by the codec itself.
pub(super) fn bytes(entries: &[v1::Entry]) -> usize {
    v1::SyncReply { entries: entries.to_vec(), ..v1::SyncReply::default() }.encoded_len()
}

/// Class 1 first; a page that it fills tells that class 2 has more.
pub async fn messages_come_before_receipts(place: &dyn Place) {
    let store = place.open().await;
    sent(&*store, text("alice/d1", 1, "bob", "hi")).await;
    raised(&*store, read("bob/d1", "alice:bob", 1)).await;
    sent(&*store, text("alice/d1", 2, "bob", "ho")).await;
    let alice = device("alice/d2");
    let whole = page(&*store, &alice, [Some(0), Some(0)], 10).await;
    assert_eq!(whole.entries.iter().map(|entry| entry.class).collect::<Vec<u32>>(), [1, 1, 2]);
    assert_eq!((whole.after, whole.more), (whole.heads.map(Some), [false, false]));
    for (size, classes, more) in [(1, vec![1], [true, true]), (2, vec![1, 1], [false, true])] {
        let page = page(&*store, &alice, [Some(0), Some(0)], size).await;
        assert_eq!(page.entries.iter().map(|entry| entry.class).collect::<Vec<u32>>(), classes);
        assert_eq!(page.more, more);
        assert_eq!(page.after[1], Some(0), "nothing of class 2 was handed out");
    }
}

/// A class that is not asked for is neither served nor counted.
pub async fn an_absent_class_is_left_out(place: &dyn Place) {
    let store = place.open().await;
    sent(&*store, text("alice/d1", 1, "bob", "hi")).await;
    raised(&*store, read("bob/d1", "alice:bob", 1)).await;
    let alice = device("alice/d2");
    let receipts = page(&*store, &alice, [None, Some(0)], 10).await;
    assert_eq!(receipts.entries.iter().map(|entry| entry.class).collect::<Vec<u32>>(), [2]);
    assert_eq!((receipts.after[0], receipts.more), (None, [false, false]));
    let nothing = page(&*store, &alice, [None, None], 10).await;
    assert_eq!((nothing.entries.len(), nothing.after, nothing.more), (0, [None, None], [false, false]));
    assert_eq!(nothing.heads, receipts.heads);
}

/// The presented key alone decides; reading consumes nothing.
pub async fn the_same_key_gets_the_same_page(place: &dyn Place) {
    let store = place.open().await;
    for id in 1..=3 {
        sent(&*store, text("alice/d1", id, "bob", "hi")).await;
    }
    let bob = device("bob/d1");
    let first = page(&*store, &bob, [Some(0), Some(0)], 10).await;
    assert_eq!(first.entries.len(), 3);
    assert_eq!(page(&*store, &bob, [Some(0), Some(0)], 10).await.entries, first.entries);
    super::history::commit(&*store, super::history::ack("bob/d1", first.after)).await;
    assert_eq!(page(&*store, &bob, [Some(0), Some(0)], 10).await.entries, first.entries, "acknowledged as well");
    sent(&*store, text("carol/d1", 1, "bob", "hi")).await;
    let longer = page(&*store, &bob, [Some(0), Some(0)], 10).await;
    assert_eq!(longer.entries[..3], first.entries[..]);
    assert_eq!(longer.entries.len(), 4);
}

/// Users whose names begin alike do not meet.
pub async fn nobody_reads_another_timeline(place: &dyn Place) {
    let store = place.open().await;
    sent(&*store, text("alice/d1", 1, "bob", "hi")).await;
    raised(&*store, read("bob/d1", "alice:bob", 1)).await;
    for stranger in ["carol/d1", "alic/d1", "alice2/d1", "bo/d1", "bob2/d1", "Bob/d1"] {
        assert_eq!(timelines(&*store, &device(stranger)).await, [], "{stranger}");
        assert_eq!(super::history::state(&*store, stranger).await.heads, [0, 0]);
    }
}
