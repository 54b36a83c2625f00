//! Lists of conversations, who is in them, and what was said there.

use tern_proto::{ConversationId, limits, v1};

use prost::Message;

use super::Place;
use super::history::{
    NOW, at, change, conversation, delivered, group_text, group_with, list, past, raised, read, sent, standing, text,
};
use crate::{HistoryRequest, Storage};

/// By name, and only those that the user is in and that have a message.
pub async fn a_list_has_what_the_user_is_in(place: &dyn Place) {
    let store = place.open().await;
    assert_eq!(list(&*store, "alice", None, 10).await, []);
    raised(&*store, read("alice/d1", "alice:dan", 0)).await;
    let group = group_with(&*store, &["bob"]).await;
    sent(&*store, text("alice/d1", 2, "zoe", "hi")).await;
    sent(&*store, at(NOW + 9, text("bob/d1", 1, "alice", "hi"))).await;
    let other = sent(&*store, change("bob/d1", 2, None, "Without", &["zoe"], &[])).await.conversation;
    assert_eq!(names(&*store, "alice").await, ["alice:bob", "alice:zoe", group.as_str()]);
    assert_eq!(names(&*store, "zoe").await, ["alice:zoe", other.as_str()]);
    assert_eq!(names(&*store, "dan").await, [""; 0]);

    let mut listed = list(&*store, "bob", None, 10).await;
    let pair = listed.remove(0);
    assert_eq!((pair.id.as_str(), pair.title.as_str(), pair.seq, pair.members), ("alice:bob", "", 1, 2));
    assert_eq!((pair.time_ms, pair.member.last_sent, pair.member.joined), (NOW + 9, 1, 1));
    let without = listed.into_iter().find(|listed| listed.id == other).expect("the group");
    assert_eq!((without.title.as_str(), without.seq, without.members), ("Without", 1, 2));
    assert_eq!(without.member.user.as_str(), "bob");
}

async fn names(store: &dyn Storage, of: &str) -> Vec<String> {
    list(store, of, None, 100).await.into_iter().map(|listed| listed.id.to_string()).collect()
}

/// Who leaves has it in the list no more, who joins again has it once.
pub async fn a_list_follows_the_members(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    for (id, is_in) in [(2, false), (3, true), (4, false)] {
        let (add, remove): (&[&str], &[&str]) = if is_in { (&["bob"], &[]) } else { (&[], &["bob"]) };
        sent(&*store, change("alice/d1", id, Some(&group), "", add, remove)).await;
        assert_eq!(list(&*store, "bob", None, 10).await.len(), usize::from(is_in), "after message {id}");
    }
    sent(&*store, change("alice/d1", 5, Some(&group), "", &[], &["alice"])).await;
    assert_eq!(names(&*store, "alice").await, [""; 0]);
}

/// Pages of any size, one behind the other, are the whole list.
pub async fn a_list_comes_in_pages(place: &dyn Place) {
    let store = place.open().await;
    for (id, to) in (1..).zip(["bob", "bobby", "carol", "dan", "eve"]) {
        sent(&*store, text("alice/d1", id, to, "hi")).await;
    }
    let group = sent(&*store, change("alice/d1", 6, None, "", &[], &[])).await.conversation;
    let left = sent(&*store, change("alice/d1", 7, None, "", &["bob"], &[])).await.conversation;
    sent(&*store, change("alice/d1", 8, Some(&left), "", &[], &["alice"])).await;
    let all = list(&*store, "alice", None, 100).await;
    let names: Vec<&str> = all.iter().map(|listed| listed.id.as_str()).collect();
    assert_eq!(names, ["alice:bob", "alice:bobby", "alice:carol", "alice:dan", "alice:eve", group.as_str()]);
    for size in 1..=7 {
        let mut paged = Vec::new();
        loop {
            let after = paged.last().map(|listed: &crate::Listed| listed.id.clone());
            let page = list(&*store, "alice", after.as_ref(), size).await;
            assert!(page.len() <= size);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, all, "pages of {size}");
    }
    let behind = list(&*store, "alice", Some(&conversation("alice:ca")), 2).await;
    assert_eq!(behind, all[2..4], "behind a name that is not there");
}

/// Each member's own, whoever asks; one of two is there without a message.
pub async fn positions_are_told(place: &dyn Place) {
    let store = place.open().await;
    let pair = conversation("alice:bob");
    let new = standing(&*store, &pair).await;
    let positions = |state: &crate::Conversation| {
        let members = state.members.iter();
        members.map(|member| (member.joined, member.last_sent, member.delivered, member.read)).collect::<Vec<_>>()
    };
    assert_eq!((new.seq, new.owner.clone(), positions(&new)), (0, None, vec![(1, 0, 0, 0); 2]));
    assert_eq!(new.members.iter().map(|member| member.user.as_str()).collect::<Vec<&str>>(), ["alice", "bob"]);
    for id in 1..=4 {
        sent(&*store, text("alice/d1", id, "bob", "hi")).await;
    }
    sent(&*store, at(NOW + 7, text("bob/d1", 1, "alice", "hi"))).await;
    raised(&*store, delivered("bob/d1", 0, "alice:bob", 4)).await;
    raised(&*store, read("bob/d1", "alice:bob", 2)).await;
    let told = standing(&*store, &pair).await;
    assert_eq!((told.seq, told.time_ms, positions(&told)), (5, NOW + 7, vec![(1, 4, 0, 0), (1, 5, 4, 2)]));
    let listed = list(&*store, "bob", None, 1).await.remove(0);
    assert_eq!(listed.member, told.members[1]);
}

/// All messages in full, the reader's own as well, whatever device asks.
pub async fn history_has_every_message_in_full(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    let first = sent(&*store, group_text("bob/d1", 8, &group, "mine")).await;
    sent(&*store, text("alice/d1", 2, "bob", "elsewhere")).await;
    sent(&*store, change("alice/d1", 3, Some(&group), "T", &[], &["bob"])).await;
    sent(&*store, group_text("alice/d1", 4, &group, "after bob")).await;
    let history = past(&*store, &group, (0, u64::MAX), 10).await;
    assert!(!history.more);
    let lines: Vec<(u64, &str, &str, bool)> = history
        .messages
        .iter()
        .map(|message| (message.seq, &message.from[..], &message.text[..], message.change.is_some()))
        .collect();
    let all =
        [(1, "alice", "", true), (2, "bob", "mine", false), (3, "alice", "", true), (4, "alice", "after bob", false)];
    assert_eq!(lines, all);
    let mine = v1::Message {
        from: "bob".into(),
        conversation: group.to_string(),
        seq: 2,
        server_msg_id: first.server_msg_id,
        client_msg_id: 8,
        text: "mine".into(),
        time_ms: NOW,
        change: None,
        media: None,
    };
    assert_eq!(history.messages[1], mine);
    assert_eq!(past(&*store, &conversation("alice:zoe"), (0, u64::MAX), 10).await, crate::History::default());
    assert_eq!(past(&*store, &conversation("g/7"), (0, u64::MAX), 10).await, crate::History::default());
}

async fn twenty(store: &dyn Storage) -> ConversationId {
    for id in 1..=20 {
        let (from, to) = if id % 3 == 0 { ("bob/d1", "alice") } else { ("alice/d1", "bob") };
        sent(store, text(from, id, to, &"x".repeat(id as usize))).await;
    }
    conversation("alice:bob")
}

/// The newest below `before` and not below `from`; `more` says that there are older ones.
pub async fn history_goes_back_page_by_page(place: &dyn Place) {
    let store = place.open().await;
    let pair = twenty(&*store).await;
    for (from, size) in [(0, 1), (0, 7), (1, 20), (6, 4), (20, 3), (21, 3)] {
        let mut before = u64::MAX;
        let mut seen: Vec<u64> = Vec::new();
        loop {
            let page = past(&*store, &pair, (from, before), size).await;
            let seqs: Vec<u64> = page.messages.iter().map(|message| message.seq).collect();
            assert!(seqs.is_sorted() && seqs.len() <= size);
            before = seqs.first().copied().unwrap_or(0);
            seen.splice(0..0, seqs);
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, (from.max(1)..=20).collect::<Vec<u64>>(), "from {from} in pages of {size}");
    }
    let middle = past(&*store, &pair, (5, 10), 3).await;
    assert_eq!(middle.messages.iter().map(|message| message.seq).collect::<Vec<u64>>(), [7, 8, 9]);
    assert!(middle.more);
    for nothing in [(0, 0), (0, 1), (9, 9), (9, 3), (u64::MAX, u64::MAX)] {
        assert_eq!(past(&*store, &pair, nothing, 3).await, crate::History::default(), "{nothing:?}");
    }
}

/// The bytes are those of the reply's repeated field; a single message over them is handed out all the same.
pub async fn history_ends_at_its_bytes(place: &dyn Place) {
    let store = place.open().await;
    let pair = twenty(&*store).await;
    let all = past(&*store, &pair, (0, u64::MAX), limits::PAGE_ENTRIES).await.messages;
    for count in 1..=all.len() {
        let newest = &all[all.len() - count..];
        let exact = v1::HistoryReply { messages: newest.to_vec(), more: false }.encoded_len();
        for (max_bytes, fit) in [(exact, count), (exact - 1, (count - 1).max(1))] {
            let request =
                HistoryRequest { conversation: pair.clone(), before: u64::MAX, from: 0, max_entries: 100, max_bytes };
            let page = store.history(request).await.expect("available");
            assert_eq!(page.messages, all[all.len() - fit..], "{max_bytes} bytes");
            assert_eq!(page.more, fit < all.len());
        }
    }
}
