//! Groups: made and changed by messages, hinted to whoever has them, read and delivered by member.

use tern_proto::v1::entry::Body;
use tern_proto::v1::{Code, ReceiptKind};
use tern_proto::{limits, v1};
use tern_storage::{Content, Op};
use tern_sync::SyncApi;

use super::stage::{Stage, add, asking, device, message, remove};

/// The messages of a timeline: (seq, text).
async fn messages(stage: &Stage, of: &str) -> Vec<(u64, String)> {
    let entries = stage.peek(of, None).await.entries;
    let line = |entry: v1::Entry| match entry.body? {
        Body::Message(message) => Some((message.seq, message.text)),
        _ => None,
    };
    entries.into_iter().filter_map(line).collect()
}

/// (user, delivered, read) of each member.
fn positions(reply: &v1::MembersReply) -> Vec<(&str, u64, u64)> {
    reply.members.iter().map(|member| (member.user.as_str(), member.delivered_seq, member.read_seq)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_makes_a_group_and_every_member_has_it() {
    let stage = Stage::new();
    let asked = v1::GroupChange { title: Some("trip".into()), ..add(&["bob", "carol"]) };
    let made = stage.change("alice/d1", 1, "", asked.clone()).await;
    assert_eq!((made.code(), made.seq), (Code::Ok, 1));
    assert_eq!(made.conversation, format!("g/{}", made.server_msg_id));
    assert_eq!(stage.take_hints(), ["alice but d1", "bob", "carol"]);
    for of in ["alice/d2", "bob/d1", "carol/d1"] {
        match &stage.peek(of, None).await.entries[..] {
            [v1::Entry { body: Some(Body::Message(first)), .. }] => {
                assert_eq!((first.change.as_ref(), first.text.as_str()), (Some(&asked), ""), "{of}");
            }
            other => panic!("{of}: {other:?}"),
        }
    }
    let own = stage.peek("alice/d1", None).await.entries;
    assert!(
        matches!(&own[..], [v1::Entry { body: Some(Body::Stub(stub)), .. }] if stub.conversation == made.conversation)
    );
    assert_eq!(stage.change("alice/d1", 1, "", asked).await, made, "a resend is not a second group");
    assert!(stage.take_hints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn long_texts_are_told_of_and_left_to_a_look() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob", "carol"]).await;
    stage.take_hints();
    stage.take_news();
    let batch = vec![
        message(2, &group, &"one".repeat(1000)),
        message(3, "bob", &"to you alone".repeat(1000)),
        message(4, &group, &"two".repeat(1000)),
        message(5, "dave", &"hi".repeat(1000)),
        message(6, &group, ""),
    ];
    let results = stage.service.send(&device("alice/d1"), batch).await;
    let codes: Vec<Code> = results.iter().map(v1::SendResult::code).collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::Ok, Code::Ok, Code::EmptyText]);
    assert_eq!((results[0].seq, results[2].seq), (2, 3));
    let mut hinted = stage.take_hints();
    hinted.dedup();
    assert_eq!(hinted, ["alice but d1", "bob", "carol", "dave"]);
    let news = stage.take_news();
    assert_eq!((news.len(), news.iter().filter(|news| news.body.is_some()).count()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_gets_that_as_the_last() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob", "carol"]).await;
    stage.send("alice/d1", 2, &group, "all").await;
    stage.take_hints();
    assert_eq!(stage.change("alice/d1", 3, &group, remove(&["bob"])).await.code(), Code::Ok);
    assert_eq!(stage.take_hints(), ["alice but d1", "bob", "carol"]);
    stage.send("carol/d1", 1, &group, "without bob").await;
    assert_eq!(stage.take_hints(), ["alice", "carol but d1"]);
    let seqs = |messages: Vec<(u64, String)>| messages.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>();
    assert_eq!(seqs(messages(&stage, "bob/d1").await), [1, 2, 3]);
    assert_eq!(seqs(messages(&stage, "alice/d2").await), [1, 2, 3, 4]);
    let refused = stage.service.send(&device("bob/d1"), vec![message(1, &group, "still here?")]).await;
    assert_eq!(refused[0].code(), Code::NotAMember);
    assert!(stage.take_hints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_bad_change_is_refused_for_good() {
    let stage = Stage::new();
    stage.storage.take_commits();
    let bad = add(&["bob", "bob"]);
    for _ in 0..2 {
        assert_eq!(stage.change("alice/d1", 1, "", bad.clone()).await.code(), Code::BadChange);
    }
    assert_eq!(stage.change("alice/d1", 1, "", add(&["bob"])).await.code(), Code::Conflict, "a new id it must be");
    let ops: Vec<Op> = stage.storage.take_commits().into_iter().flatten().collect();
    let stored = |op: &Op| matches!(op, Op::Send { content: Content::Refused { code: Code::BadChange, .. }, .. });
    assert_eq!((ops.len(), ops.iter().filter(|op| stored(op)).count()), (3, 2));
    let text_beside = v1::OutMessage { text: "hi".into(), ..asking(2, "", add(&["bob"])) };
    let to_a_user = asking(3, "bob", add(&["carol"]));
    let results = stage.service.send(&device("alice/d1"), vec![text_beside, to_a_user]).await;
    assert_eq!([results[0].code(), results[1].code()], [Code::BadChange; 2]);
    assert!(stage.take_hints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_members_forbid_is_refused() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob", "carol"]).await;
    stage.take_hints();
    for (from, id, to, change, code) in [
        ("bob/d1", 1, group.as_str(), remove(&["carol"]), Code::NotAllowed),
        ("eve/d1", 1, group.as_str(), add(&["eve"]), Code::NotAMember),
        ("alice/d1", 2, "g/999999", add(&["eve"]), Code::NotAMember),
    ] {
        for _ in 0..2 {
            assert_eq!(stage.change(from, id, to, change.clone()).await.code(), code, "{from}");
        }
    }
    let crowd: Vec<String> = (0..limits::MEMBERS).map(|n| format!("u{n}")).collect();
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
    assert_eq!(stage.change("alice/d1", 3, &group, add(&crowd)).await.code(), Code::GroupFull);
    assert_eq!(stage.members("alice/d1", &group).await.unwrap().members.len(), 3, "nobody was added");
    assert!(stage.take_hints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_members_mark_a_group_as_read() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob", "carol"]).await;
    stage.send("carol/d1", 1, &group, "hi").await;
    stage.storage.take_commits();
    for (by, of) in [("eve/d1", group.as_str()), ("bob/d1", "g/999999"), ("bob/d1", "g/01")] {
        assert_eq!(stage.read(by, of, 1).await, Err(Code::NotAMember), "{by} {of}");
    }
    assert!(stage.storage.take_commits().is_empty(), "nothing is kept for a stranger");
    assert_eq!(stage.read("bob/d1", &group, 3).await, Err(Code::BeyondHead));
    assert!(stage.read("bob/d1", &group, 2).await.is_ok());
    stage.change("alice/d1", 2, &group, remove(&["bob"])).await;
    assert_eq!(stage.read("bob/d1", &group, 3).await, Err(Code::NotAMember), "no longer");
}

#[tokio::test(start_paused = true)]
async fn a_read_tells_the_authors_of_what_is_newly_read() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob", "carol", "dave"]).await;
    stage.send("carol/d1", 1, &group, "hi").await;
    stage.take_hints();
    stage.read("bob/d1", &group, 2).await.unwrap();
    assert_eq!(stage.take_hints(), ["alice", "bob but d1", "carol"], "dave has sent nothing");
    for (of, receipts) in [("alice/d1", 1), ("bob/d2", 1), ("carol/d1", 1), ("dave/d1", 0)] {
        let want = vec![("bob".to_owned(), ReceiptKind::Read, 2); receipts];
        assert_eq!(stage.receipts(of).await, want, "{of}");
    }
    assert_eq!(positions(&stage.members("dave/d1", &group).await.unwrap())[1], ("bob", 2, 2));
}

#[tokio::test(start_paused = true)]
async fn delivered_is_a_position_and_no_entry() {
    let stage = Stage::new();
    let group = stage.group("alice/d1", 1, &["bob", "carol"]).await;
    let first = stage.head("bob/d1").await;
    stage.send("alice/d1", 2, &group, "hi").await;
    stage.send("bob/d1", 1, &group, "ho").await;
    stage.take_hints();

    stage.ack("bob/d1", first).await;
    stage.service.quiet().await;
    let reply = stage.members("carol/d1", &group).await.unwrap();
    assert_eq!(positions(&reply), [("alice", 0, 0), ("bob", 1, 0), ("carol", 0, 0)], "a change counts like a text");
    stage.ack("bob/d1", stage.head("bob/d1").await).await;
    stage.service.quiet().await;
    let reply = stage.members("carol/d1", &group).await.unwrap();
    assert_eq!(positions(&reply), [("alice", 0, 0), ("bob", 2, 0), ("carol", 0, 0)], "not one's own messages");
    for of in ["alice/d1", "bob/d1", "carol/d1"] {
        assert_eq!(stage.receipts(of).await, [], "{of}");
    }
    assert!(stage.take_hints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_push_carries_what_a_group_owes() {
    let stage = Stage::new();
    let start = stage.head("bob/d1").await;
    let group = stage.group("alice/d1", 1, &["bob"]).await;
    stage.send("bob/d1", 1, &group, "mine").await;
    match stage.service.push(&device("bob/d1"), &start).await.unwrap() {
        tern_sync::Pushed::Delta(entries, _) => {
            assert!(matches!(&entries[0].body, Some(Body::Message(first)) if first.change.is_some()));
            assert!(matches!(&entries[1].body, Some(Body::Stub(_))));
        }
        other => panic!("{other:?}"),
    }
}
