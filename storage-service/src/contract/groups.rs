//! Groups: who makes, changes and leaves them, who gets what, and what is refused.

use tern_proto::v1::entry::Body;
use tern_proto::{ConversationId, limits, v1};

use super::Place;
use super::history::{
    change, commit, conversation, delivered, device, group_text, group_with, members, messages, raised, read, receipts,
    refusal, refused, sent, seqs, standing, text, timelines, user,
};
use crate::{Content, Op, Outcome, Recipient, Storage};

/// The message that makes a group is its first: all members get it, with what has happened.
pub async fn making_a_group_tells_its_members(place: &dyn Place) {
    let store = place.open().await;
    let made = sent(&*store, change("alice/d1", 7, None, "Friends", &["bob", "carol"], &[])).await;
    assert!(made.conversation.is_group());
    assert_eq!(made.conversation, ConversationId::of_group(made.server_msg_id));
    assert_eq!((made.seq, made.owed.len()), (1, 3));
    let happened =
        v1::GroupChange { title: Some("Friends".into()), add: vec!["bob".into(), "carol".into()], remove: Vec::new() };
    for reader in ["alice/d2", "bob/d1", "carol/d1"] {
        match timelines(&*store, &device(reader)).await.remove(0).body {
            Some(Body::Message(message)) => {
                assert_eq!((&message.from[..], &message.text[..], message.seq), ("alice", "", 1), "{reader}");
                assert_eq!((message.conversation.as_str(), message.client_msg_id), (made.conversation.as_str(), 7));
                assert_eq!(message.change.as_ref(), Some(&happened), "{reader}");
            }
            other => panic!("{reader}: {other:?}"),
        }
    }
    assert!(
        matches!(timelines(&*store, &device("alice/d1")).await.remove(0).body, Some(Body::Stub(stub)) if stub.seq == 1)
    );
    let group = standing(&*store, &made.conversation).await;
    assert_eq!((group.title.as_str(), group.owner, group.seq), ("Friends", Some(user("alice")), 1));
    assert_eq!(members(&*store, &made.conversation).await, ["alice", "bob", "carol"]);
    assert!(group.members.iter().all(|member| (member.joined, member.read, member.delivered) == (1, 0, 0)));
}

/// Whoever sends, each member gets every message, in one order.
pub async fn a_text_reaches_every_member_in_order(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob", "carol"]).await;
    for (id, from) in [(2, "alice/d1"), (1, "bob/d1"), (1, "carol/d1"), (2, "bob/d1")] {
        let sent = sent(&*store, group_text(from, id, &group, from)).await;
        let mut owed: Vec<String> = sent.owed.iter().map(ToString::to_string).collect();
        owed.sort();
        assert_eq!((sent.conversation, owed), (group.clone(), vec!["alice".into(), "bob".into(), "carol".into()]));
    }
    let line = |seq, text: &str| (group.to_string(), seq, text.to_owned());
    let all = [line(1, ""), line(2, "alice/d1"), line(3, "bob/d1"), line(4, "carol/d1"), line(5, "bob/d1")];
    for reader in ["alice/d2", "bob/d2", "carol/d2"] {
        assert_eq!(messages(&*store, reader).await, all, "{reader}");
    }
    assert_eq!(messages(&*store, "bob/d1").await[2].2, "stub");
}

/// And nothing before.
pub async fn a_member_sees_from_the_message_that_added_it(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    sent(&*store, group_text("bob/d1", 1, &group, "before")).await;
    let added = sent(&*store, change("bob/d1", 2, Some(&group), "", &["carol"], &[])).await;
    assert_eq!((added.seq, added.owed.len()), (3, 3));
    sent(&*store, group_text("carol/d1", 1, &group, "after")).await;
    assert_eq!(seqs(&*store, "carol/d2", &group).await, [3, 4]);
    assert_eq!(seqs(&*store, "alice/d2", &group).await, [1, 2, 3, 4]);
    let carol = standing(&*store, &group).await.members.remove(2);
    assert_eq!((carol.joined, carol.read, carol.delivered, carol.last_sent), (3, 2, 2, 4));
}

/// Whoever leaves, or is made to, gets that and nothing more.
pub async fn the_removal_is_the_last_that_the_removed_gets(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob", "carol"]).await;
    let removal = sent(&*store, change("alice/d1", 2, Some(&group), "", &[], &["bob"])).await;
    assert_eq!(removal.owed.len(), 3);
    let leaving = sent(&*store, change("carol/d1", 1, Some(&group), "", &[], &["carol"])).await;
    assert_eq!(leaving.owed.len(), 2);
    assert_eq!(sent(&*store, group_text("alice/d1", 3, &group, "alone")).await.owed[..], [user("alice")]);
    assert_eq!(seqs(&*store, "bob/d1", &group).await, [1, 2]);
    assert_eq!(seqs(&*store, "carol/d2", &group).await, [1, 2, 3]);
    assert_eq!(members(&*store, &group).await, ["alice"]);
    for gone in ["bob/d1", "carol/d1"] {
        assert_eq!(refusal(&*store, group_text(gone, 9, &group, "hello?")).await, v1::Code::NotAMember);
    }
}

/// The group goes to who joined first of those who stay; a group may become empty.
pub async fn the_owner_moves_on(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["carol", "bob"]).await;
    sent(&*store, change("alice/d1", 2, Some(&group), "", &["abe"], &["alice"])).await;
    assert_eq!(standing(&*store, &group).await.owner, Some(user("carol")));
    assert_eq!(members(&*store, &group).await, ["carol", "bob", "abe"]);
    sent(&*store, change("carol/d1", 1, Some(&group), "", &[], &["carol", "bob"])).await;
    assert_eq!(standing(&*store, &group).await.owner, Some(user("abe")));
    sent(&*store, change("abe/d1", 1, Some(&group), "", &[], &["abe"])).await;
    let empty = standing(&*store, &group).await;
    assert_eq!((empty.owner, empty.members.len(), empty.seq), (None, 0, 4));
    assert_eq!(refusal(&*store, group_text("abe/d1", 2, &group, "x")).await, v1::Code::NotAMember);
}

/// Any member adds; only the owner removes others.
pub async fn only_the_owner_removes_others(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob", "carol"]).await;
    let push = change("bob/d1", 1, Some(&group), "Mine", &["dan"], &["carol"]);
    assert_eq!(refusal(&*store, push).await, v1::Code::NotAllowed);
    let standing = standing(&*store, &group).await;
    assert_eq!((standing.seq, standing.title.as_str(), standing.members.len()), (1, "", 3), "nothing of it happened");
    assert_eq!(seqs(&*store, "carol/d1", &group).await, [1]);
    sent(&*store, change("bob/d1", 2, Some(&group), "Ours", &["dan"], &["zoe"])).await;
    sent(&*store, change("alice/d1", 2, Some(&group), "", &[], &["carol", "bob"])).await;
    assert_eq!(members(&*store, &group).await, ["alice", "dan"]);
}

/// What is there already, or is not, does nothing and is not told.
pub async fn only_what_really_changes_is_told(place: &dyn Place) {
    let store = place.open().await;
    let made = sent(&*store, change("alice/d1", 1, None, "", &["bob", "alice", "bob"], &["zoe"])).await;
    let group = made.conversation;
    let nothing = change("bob/d1", 1, Some(&group), "", &["alice", "bob"], &["zoe", "yan"]);
    assert_eq!(sent(&*store, nothing).await.seq, 2);
    sent(&*store, change("alice/d1", 2, Some(&group), "T", &["bob", "carol", "carol"], &["bob", "bob", "dan"])).await;
    let told: Vec<v1::GroupChange> = super::history::past(&*store, &group, (0, u64::MAX), 10)
        .await
        .messages
        .into_iter()
        .map(|message| message.change.expect("a change"))
        .collect();
    let happened = |title: Option<&str>, add: &[&str], remove: &[&str]| v1::GroupChange {
        title: title.map(str::to_owned),
        add: add.iter().map(ToString::to_string).collect(),
        remove: remove.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(
        told,
        [happened(None, &["bob"], &[]), happened(None, &[], &[]), happened(Some("T"), &["carol"], &["bob"])]
    );
    assert_eq!(members(&*store, &group).await, ["alice", "carol"]);
}

/// At 200 it is full; then nobody of the change is added.
pub async fn a_group_is_full(place: &dyn Place) {
    let store = place.open().await;
    let names: Vec<String> = (1..=limits::MEMBERS).map(|n| format!("user{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(refusal(&*store, change("alice/d1", 1, None, "", &names, &[])).await, v1::Code::GroupFull);
    let made = sent(&*store, change("alice/d1", 2, None, "", &names[..limits::MEMBERS - 2], &[])).await;
    let group = made.conversation;
    assert_eq!(made.owed.len(), limits::MEMBERS - 1);
    let two = change("user1/d1", 1, Some(&group), "", &["bob", "carol"], &[]);
    assert_eq!(refusal(&*store, two).await, v1::Code::GroupFull);
    assert_eq!(sent(&*store, change("user1/d1", 2, Some(&group), "", &["bob"], &[])).await.owed.len(), limits::MEMBERS);
    assert_eq!(refusal(&*store, change("bob/d1", 1, Some(&group), "", &["carol"], &[])).await, v1::Code::GroupFull);
    let swapped = sent(&*store, change("alice/d1", 3, Some(&group), "", &["carol"], &["bob"])).await;
    assert_eq!((swapped.seq, swapped.owed.len()), (3, limits::MEMBERS + 1), "who goes and who comes both get it");
    assert_eq!(members(&*store, &group).await.len(), limits::MEMBERS);
}

/// Who is not in the group cannot tell whether there is one.
pub async fn a_stranger_is_refused(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    let nowhere = conversation("g/18446744073709551615");
    assert_eq!(store.conversation(&nowhere).await, Ok(None));
    for (id, of) in [(10, &group), (20, &nowhere), (30, &conversation("eve:zoe"))] {
        assert_eq!(refusal(&*store, group_text("eve/d1", id, of, "hi")).await, v1::Code::NotAMember, "{of}");
        let join = change("eve/d1", id + 1, Some(of), "", &["eve"], &[]);
        assert_eq!(refusal(&*store, join).await, v1::Code::NotAMember, "{of}");
    }
    for of in [&group, &nowhere] {
        assert_eq!(commit(&*store, read("eve/d1", of.as_str(), 1)).await, Outcome::NotAMember);
        assert!(raised(&*store, delivered("eve/d1", 0, of.as_str(), 1)).await.is_empty());
    }
    assert_eq!(timelines(&*store, &device("eve/d1")).await, []);
    assert_eq!(seqs(&*store, "bob/d1", &group).await, [1]);
}

/// A refusal stands under its id, also when the same would be allowed by now.
pub async fn a_refusal_of_the_state_is_remembered(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    let hello = group_text("carol/d1", 1, &group, "hello");
    let push = change("bob/d1", 1, Some(&group), "", &[], &["alice"]);
    assert_eq!(refusal(&*store, hello.clone()).await, v1::Code::NotAMember);
    assert_eq!(refusal(&*store, push.clone()).await, v1::Code::NotAllowed);
    sent(&*store, change("alice/d1", 2, Some(&group), "", &["carol"], &["alice"])).await;
    assert_eq!(standing(&*store, &group).await.owner, Some(user("bob")));
    assert_eq!(refusal(&*store, hello).await, v1::Code::NotAMember);
    assert_eq!(refusal(&*store, push).await, v1::Code::NotAllowed);
    assert_eq!(commit(&*store, group_text("carol/d1", 1, &group, "hallo")).await, Outcome::Conflict);
    assert_eq!(commit(&*store, change("bob/d1", 1, Some(&group), "", &[], &["carol"])).await, Outcome::Conflict);
    assert_eq!(sent(&*store, group_text("carol/d1", 2, &group, "hello")).await.seq, 3);
}

/// By what was asked for, whatever of it happened, and whatever has become of the group since.
pub async fn a_resend_of_a_change_gets_the_first_answer(place: &dyn Place) {
    let store = place.open().await;
    let make = || change("alice/d1", 1, None, "A", &["bob", "bob"], &[]);
    let made = sent(&*store, make()).await;
    let group = made.conversation.clone();
    let ask = || change("bob/d1", 1, Some(&group), "", &["alice", "carol"], &["zoe"]);
    let asked = sent(&*store, ask()).await;
    sent(&*store, change("alice/d1", 2, Some(&group), "", &[], &["bob", "carol"])).await;
    assert_eq!(sent(&*store, make()).await, made.repeated());
    assert_eq!(sent(&*store, ask()).await, asked.repeated(), "though bob is in it no more");
    for other in [
        change("bob/d1", 1, Some(&group), "", &["carol"], &[]),
        change("bob/d1", 1, None, "", &["alice", "carol"], &["zoe"]),
        group_text("bob/d1", 1, &group, "hi"),
        text("bob/d1", 1, "alice", "hi"),
        refused("bob/d1", 1, 9),
    ] {
        assert_eq!(commit(&*store, other).await, Outcome::Conflict);
    }
    assert_eq!(seqs(&*store, "alice/d2", &group).await, [1, 2, 3]);
    assert_eq!(messages(&*store, "alice/d2").await.len(), 3, "no second group");
}

/// An id of a device is used once, wherever the message goes.
pub async fn ids_are_shared_by_all_conversations(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    let first = sent(&*store, group_text("bob/d1", 5, &group, "hi")).await;
    assert_eq!(sent(&*store, group_text("bob/d1", 5, &group, "hi")).await, first.repeated());
    for other in [text("bob/d1", 5, "alice", "hi"), change("bob/d1", 5, Some(&group), "hi", &[], &[])] {
        assert_eq!(commit(&*store, other).await, Outcome::Conflict);
    }
    sent(&*store, text("bob/d1", 6, "alice", "hi")).await;
    assert_eq!(commit(&*store, group_text("bob/d1", 6, &group, "hi")).await, Outcome::Conflict);
    assert_eq!(seqs(&*store, "alice/d1", &group).await, [1, 2]);
}

/// A content that a later release refuses is still the one that was stored.
pub async fn what_was_stored_is_not_refused_afterwards(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    for (id, op) in [(2, text("alice/d1", 2, "bob", "hi")), (3, change("alice/d1", 3, Some(&group), "T", &[], &[]))] {
        let first = sent(&*store, op.clone()).await;
        let Op::Send { content, .. } = op else { panic!("a send") };
        assert_eq!(sent(&*store, refused("alice/d1", id, content.hash())).await, first.repeated());
        assert_eq!(commit(&*store, refused("alice/d1", id, content.hash() ^ 1)).await, Outcome::Conflict);
    }
    let to = Recipient::User(user("bob"));
    let hash = Content::Text { to, text: "hi".into(), media: None }.hash();
    assert_eq!(commit(&*store, refused("alice/d1", 4, hash)).await, Outcome::Refused(v1::Code::EmptyText));
    assert_eq!(refusal(&*store, text("alice/d1", 4, "bob", "hi")).await, v1::Code::EmptyText);
}

/// Who joins again sees from there, as if for the first time.
pub async fn who_joins_again_sees_from_there(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    sent(&*store, group_text("bob/d1", 1, &group, "one")).await;
    raised(&*store, read("bob/d1", group.as_str(), 2)).await;
    sent(&*store, change("bob/d1", 2, Some(&group), "", &[], &["bob"])).await;
    sent(&*store, group_text("alice/d1", 2, &group, "missed")).await;
    assert_eq!(commit(&*store, read("bob/d1", group.as_str(), 3)).await, Outcome::NotAMember);
    sent(&*store, change("alice/d1", 3, Some(&group), "", &["bob"], &[])).await;
    sent(&*store, group_text("alice/d1", 4, &group, "again")).await;
    assert_eq!(seqs(&*store, "bob/d2", &group).await, [1, 2, 3, 5, 6]);
    let bob = standing(&*store, &group).await.members.remove(1);
    assert_eq!((bob.joined, bob.last_sent, bob.read, bob.delivered), (5, 0, 4, 4));
    assert_eq!(raised(&*store, read("alice/d1", group.as_str(), 6)).await, ["alice"], "what bob sent was before");
}

/// Members come and go within one commit: each message goes to who is there at its place in the order.
pub async fn each_message_goes_to_who_is_there_then(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    let outcomes = store
        .commit(vec![
            change("alice/d1", 2, Some(&group), "", &["carol"], &["bob"]),
            group_text("alice/d1", 3, &group, "without bob"),
            group_text("bob/d1", 1, &group, "too late"),
            change("carol/d1", 1, Some(&group), "", &["bob"], &["carol"]),
            group_text("bob/d1", 2, &group, "without carol"),
            read("carol/d1", group.as_str(), 1),
            read("bob/d1", group.as_str(), 5),
        ])
        .await;
    let owed = |outcome: &Outcome| match outcome {
        Outcome::Sent(sent) => sent.owed.len(),
        _ => 0,
    };
    assert_eq!(outcomes.iter().map(owed).collect::<Vec<usize>>(), [3, 2, 0, 3, 2, 0, 0]);
    assert_eq!(outcomes[2], Outcome::Refused(v1::Code::NotAMember));
    assert_eq!(outcomes[5], Outcome::NotAMember);
    assert_eq!(seqs(&*store, "alice/d2", &group).await, [1, 2, 3, 4, 5]);
    assert_eq!(seqs(&*store, "bob/d2", &group).await, [1, 2, 4, 5]);
    assert_eq!(seqs(&*store, "carol/d2", &group).await, [2, 3, 4]);
}

/// What a reader's mark tells, without versions.
async fn held(store: &dyn Storage, reader: &str) -> Vec<(String, v1::ReceiptKind, u64)> {
    receipts(store, reader).await.into_iter().map(|(_, member, kind, seq)| (member, kind, seq)).collect()
}

/// Of the newly read messages; the others are not disturbed.
pub async fn a_read_reaches_the_authors(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob", "carol", "dan"]).await;
    sent(&*store, group_text("bob/d1", 1, &group, "two")).await;
    sent(&*store, group_text("carol/d1", 1, &group, "three")).await;
    assert_eq!(raised(&*store, read("dan/d1", group.as_str(), 2)).await, ["alice", "bob", "carol", "dan"]);
    assert_eq!(raised(&*store, read("dan/d2", group.as_str(), 3)).await, ["carol", "dan"]);
    assert!(raised(&*store, read("dan/d1", group.as_str(), 1)).await.is_empty());
    assert_eq!(commit(&*store, read("dan/d1", group.as_str(), 4)).await, Outcome::BeyondHead);
    let of_dan = |seq| [("dan".to_owned(), v1::ReceiptKind::Read, seq)];
    assert_eq!(held(&*store, "alice/d1").await, of_dan(2));
    assert_eq!(held(&*store, "bob/d1").await, of_dan(2));
    assert_eq!(held(&*store, "carol/d1").await, of_dan(3));
    assert_eq!(held(&*store, "dan/d1").await, of_dan(3));
    let dan = standing(&*store, &group).await.members.remove(3);
    assert_eq!((dan.read, dan.delivered), (3, 3));
}

/// It is a position that can be asked for, and no entry.
pub async fn delivered_is_a_position_only(place: &dyn Place) {
    let store = place.open().await;
    let group = group_with(&*store, &["bob"]).await;
    sent(&*store, group_text("alice/d1", 2, &group, "hi")).await;
    let mut both = delivered("bob/d1", 0, group.as_str(), 2);
    sent(&*store, text("carol/d1", 1, "bob", "hi")).await;
    if let Op::Delivered { positions, .. } = &mut both {
        positions.push((conversation("bob:carol"), 1));
    }
    assert_eq!(raised(&*store, both).await, ["carol"]);
    for reader in ["alice/d1", "bob/d1"] {
        assert_eq!(held(&*store, reader).await, [], "{reader}");
    }
    let position = |group: crate::Conversation| group.members[1].delivered;
    assert_eq!(position(standing(&*store, &group).await), 2);
    raised(&*store, delivered("bob/d1", 0, group.as_str(), 1)).await;
    assert_eq!(position(standing(&*store, &group).await), 2, "never back");
    raised(&*store, delivered("bob/d1", 0, group.as_str(), 9)).await;
    assert_eq!(position(standing(&*store, &group).await), 2, "not beyond the head");
}
