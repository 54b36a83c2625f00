//! The list of conversations, who is in one, and its history: for members only, and from where they joined.

use std::sync::atomic::Ordering;

use prost::Message;
use tern_proto::packet::HEADER_BYTES;
use tern_proto::v1::Code;
use tern_proto::{limits, v1};
use tern_sync::SyncApi;

use super::stage::{Stage, add, device, message, remove};

async fn list(stage: &Stage, of: &str, after: &str, limit: u32) -> Result<v1::ConversationsReply, Code> {
    let request = v1::ConversationsRequest { after: after.into(), limit };
    stage.service.conversations(&device(of), request).await.map_err(|refusal| refusal.code)
}

async fn history(stage: &Stage, by: &str, of: &str, before_seq: u64, limit: u32) -> Result<v1::HistoryReply, Code> {
    let request = v1::HistoryRequest { conversation: of.into(), before_seq, limit };
    stage.service.history(&device(by), request).await.map_err(|refusal| refusal.code)
}

fn seqs(reply: &v1::HistoryReply) -> Vec<u64> {
    reply.messages.iter().map(|message| message.seq).collect()
}

fn names(reply: &v1::ConversationsReply) -> Vec<&str> {
    reply.conversations.iter().map(|conversation| conversation.name.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_list_is_of_the_users_own_by_name_and_page_by_page() {
    let stage = Stage::new();
    for (id, to) in [(1, "eve"), (2, "bob"), (3, "carol")] {
        stage.send("alice/d1", id, to, "hi").await;
    }
    let group = stage.group("bob/d1", 1, &["alice"]).await;
    let left = stage.group("bob/d1", 2, &["alice"]).await;
    stage.change("alice/d1", 4, &left, remove(&["alice"])).await;
    stage.send("bob/d1", 3, "carol", "not alice's").await;

    let all = list(&stage, "alice/d1", "", 0).await.unwrap();
    assert_eq!((names(&all), all.more), (vec!["alice:bob", "alice:carol", "alice:eve", &group], false));
    let first = list(&stage, "alice/d1", "", 2).await.unwrap();
    assert_eq!((names(&first), first.more), (vec!["alice:bob", "alice:carol"], true));
    let rest = list(&stage, "alice/d1", "alice:carol", 2).await.unwrap();
    assert_eq!((names(&rest), rest.more), (vec!["alice:eve", &group], false), "a page that is full may be the last");
    let unknown = list(&stage, "alice/d1", "alice:dave", 1).await.unwrap();
    assert_eq!((names(&unknown), unknown.more), (vec!["alice:eve"], true), "behind a name, whether or not it is there");
    assert_eq!(list(&stage, "alice/d1", "nonsense", 0).await, Err(Code::BadBody));
    assert_eq!(names(&list(&stage, "zoe/d1", "", 0).await.unwrap()), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_list_ends_at_its_limit() {
    let stage = Stage::new();
    let batch = (1..=101).map(|id| message(id, &format!("u{id}"), "hi")).collect();
    stage.service.send(&device("alice/d1"), batch).await;
    for limit in [0, 100] {
        let reply = list(&stage, "alice/d1", "", limit).await.unwrap();
        assert_eq!((reply.conversations.len(), reply.more), (limits::LIST, true));
    }
}

#[tokio::test(start_paused = true)]
async fn unread_follows_from_positions() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob"]).await;
    for id in 2..=4 {
        stage.send("alice/d1", id, &group, "hi").await;
    }
    let unread = async |of: &str| {
        let reply = list(&stage, of, "", 0).await.unwrap();
        let listed = reply.conversations.into_iter().find(|listed| listed.name == group).unwrap();
        (listed.joined_seq, listed.read_seq, listed.unread)
    };
    assert_eq!(unread("bob/d1").await, (1, 0, 4));
    assert_eq!(unread("alice/d1").await, (1, 0, 0), "one's own are no news");
    stage.read("bob/d1", &group, 2).await.unwrap();
    assert_eq!(unread("bob/d1").await, (1, 2, 2));
    stage.send("bob/d1", 1, &group, "ho").await;
    assert_eq!(unread("bob/d1").await, (1, 2, 0), "who answers has seen what is above");
    assert_eq!(unread("alice/d1").await, (1, 0, 1));
    stage.change("bob/d1", 2, &group, add(&["carol"])).await;
    stage.send("bob/d1", 3, &group, "welcome").await;
    assert_eq!(unread("carol/d1").await, (6, 5, 2), "from the message that added her");
}

#[tokio::test(start_paused = true)]
async fn the_list_tells_title_head_and_members() {
    let stage = Stage::new();
    let titled = v1::GroupChange { title: Some("trip".into()), ..add(&["bob", "carol"]) };
    let made = stage.change("alice/d1", 1, "", titled).await;
    let last = stage.send("bob/d1", 1, &made.conversation, "hi").await;
    let reply = list(&stage, "carol/d1", "", 0).await.unwrap();
    let [listed] = &reply.conversations[..] else { panic!("{reply:?}") };
    assert_eq!((listed.title.as_str(), listed.seq, listed.members), ("trip", 2, 3));
    assert_eq!(listed.time_ms, last.time_ms);
}

#[tokio::test(start_paused = true)]
async fn history_goes_back_to_the_first_that_the_member_may_see() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob"]).await;
    stage.send("alice/d1", 2, &group, "before carol").await;
    stage.change("bob/d1", 1, &group, add(&["carol"])).await;
    for (id, text) in [(3, "four"), (4, "five")] {
        stage.send("alice/d1", id, &group, text).await;
    }
    let all = history(&stage, "alice/d1", &group, 0, 0).await.unwrap();
    assert_eq!((seqs(&all), all.more), (vec![1, 2, 3, 4, 5], false));
    assert_eq!(all.messages[1].text, "before carol", "one's own in full");
    assert_eq!(all.messages[2].change, Some(add(&["carol"])));
    let hers = history(&stage, "carol/d1", &group, 0, 0).await.unwrap();
    assert_eq!((seqs(&hers), hers.more), (vec![3, 4, 5], false), "from the message that added her");
    let page = history(&stage, "carol/d1", &group, 0, 2).await.unwrap();
    assert_eq!((seqs(&page), page.more), (vec![4, 5], true));
    let older = history(&stage, "carol/d1", &group, 4, 2).await.unwrap();
    assert_eq!((seqs(&older), older.more), (vec![3], false));
    for before in [1, 3] {
        let nothing = history(&stage, "carol/d1", &group, before, 0).await.unwrap();
        assert_eq!((seqs(&nothing), nothing.more), (vec![], false), "before {before}");
    }
    assert_eq!(
        seqs(&history(&stage, "carol/d1", &group, 99, 1).await.unwrap()),
        [5],
        "beyond the head is from the newest"
    );
    let heads = stage.state("carol/d1").await;
    assert_eq!((heads.known, heads.acked), (false, [0, 0]), "it acknowledges nothing");
}

#[tokio::test(start_paused = true)]
async fn strangers_are_told_nothing() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob"]).await;
    stage.send("alice/d1", 2, "bob", "hi").await;
    stage.change("bob/d1", 1, &group, remove(&["bob"])).await;
    let strange = [("eve/d1", group.as_str()), ("bob/d1", &group), ("eve/d1", "alice:bob"), ("alice/d1", "bob:alice")];
    for (by, of) in strange.into_iter().chain([("alice/d1", "g/999999"), ("alice/d1", "nonsense"), ("alice/d1", "")]) {
        assert_eq!(history(&stage, by, of, 0, 0).await, Err(Code::NotAMember), "{by} {of}");
        assert_eq!(stage.members(by, of).await, Err(Code::NotAMember), "{by} {of}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_who_have_no_messages_are_members_of_an_empty_conversation() {
    let stage = Stage::new();
    assert_eq!(history(&stage, "bob/d1", "alice:bob", 0, 0).await, Ok(v1::HistoryReply::default()));
    let reply = stage.members("bob/d1", "alice:bob").await.unwrap();
    let users: Vec<(&str, u64)> =
        reply.members.iter().map(|member| (member.user.as_str(), member.joined_seq)).collect();
    assert_eq!((users, reply.seq, reply.owner.as_str()), (vec![("alice", 1), ("bob", 1)], 0, ""));
    assert_eq!(names(&list(&stage, "bob/d1", "", 0).await.unwrap()), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn members_tells_how_far_each_has_come() {
    let stage = Stage::new();
    stage.send("alice/d1", 1, "bob", "hi").await;
    stage.read("bob/d1", "alice:bob", 1).await.unwrap();
    let pair = stage.members("alice/d1", "alice:bob").await.unwrap();
    let bob = v1::Member { user: "bob".into(), joined_seq: 1, delivered_seq: 1, read_seq: 1 };
    assert_eq!((pair.seq, pair.members.get(1)), (1, Some(&bob)));

    let titled = v1::GroupChange { title: Some("trip".into()), ..add(&["bob"]) };
    let group = stage.change("alice/d1", 2, "", titled).await.conversation;
    stage.change("bob/d1", 1, &group, add(&["carol"])).await;
    let reply = stage.members("carol/d1", &group).await.unwrap();
    assert_eq!((reply.title.as_str(), reply.owner.as_str(), reply.seq), ("trip", "alice", 2));
    let carol = v1::Member { user: "carol".into(), joined_seq: 2, delivered_seq: 1, read_seq: 1 };
    assert_eq!((reply.members.len(), &reply.members[2]), (3, &carol));
}

#[tokio::test(start_paused = true)]
async fn pages_of_history_fit_a_packet_and_end() {
    let stage = Stage::new();
    for id in 1..=60_u64 {
        let length = if id % 5 == 0 { limits::TEXT_BYTES } else { 1 + (id as usize * 97) % 900 };
        stage.send("alice/d1", id, "bob", &"x".repeat(length)).await;
    }
    let mut seen = Vec::new();
    let mut before = 0;
    loop {
        let reply = history(&stage, "bob/d1", "alice:bob", before, 0).await.unwrap();
        assert!(HEADER_BYTES + reply.encoded_len() <= limits::PACKET_BYTES);
        before = reply.messages[0].seq;
        seen.splice(0..0, seqs(&reply));
        if !reply.more {
            break;
        }
    }
    assert_eq!(seen, (1..=60).collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_fails_is_told_as_retryable() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob"]).await;
    stage.storage.down.store(true, Ordering::SeqCst);
    assert_eq!(list(&stage, "bob/d1", "", 0).await, Err(Code::Unavailable));
    for of in [group.as_str(), "alice:bob"] {
        assert_eq!(history(&stage, "bob/d1", of, 0, 0).await, Err(Code::Unavailable), "{of}");
        assert_eq!(stage.members("bob/d1", of).await, Err(Code::Unavailable), "{of}");
    }
    assert_eq!(stage.read("bob/d1", &group, 1).await, Err(Code::Unavailable));
}
