//! Messages, resends and refusals.

use tern_proto::v1;
use tern_proto::v1::entry::Body;

use super::Place;
use super::history::{NOW, at, commit, device, highest, messages, refused, sent, text, timelines};
use crate::Outcome;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// The recipient gets the message, so do the sender's other devices, and the sending device its stub.
pub async fn a_message_enters_both_timelines(place: &dyn Place) {
    let store = place.open().await;
    let sent = sent(&*store, text("alice/d1", 7, "bob", "hi")).await;
    assert_eq!((sent.conversation.as_str(), sent.seq, sent.time_ms), ("alice:bob", 1, NOW));

    let message = v1::Message {
        from: "alice".into(),
        conversation: "alice:bob".into(),
        seq: 1,
        server_msg_id: sent.server_msg_id,
        client_msg_id: 7,
        text: "hi".into(),
        time_ms: NOW,
        change: None,
        media: None,
    };
    let stub = v1::Stub {
        client_msg_id: 7,
        server_msg_id: sent.server_msg_id,
        conversation: "alice:bob".into(),
        seq: 1,
        time_ms: NOW,
    };
    for (reader, body) in [
        ("alice/d1", Body::Stub(stub)),
        ("alice/d2", Body::Message(message.clone())),
        ("bob/d1", Body::Message(message)),
    ] {
        let entries = timelines(&*store, &device(reader)).await;
        assert_eq!(entries.len(), 1, "{reader}");
        assert_eq!((entries[0].class, entries[0].body.as_ref()), (1, Some(&body)), "{reader}");
    }
}

/// A resend is never a second message and its answer never changes.
pub async fn a_resend_gets_the_first_answer(place: &dyn Place) {
    let store = place.open().await;
    let first = sent(&*store, text("alice/d1", 1, "bob", "hi")).await;
    sent(&*store, text("alice/d1", 2, "bob", "more")).await;
    for later in 1..3 {
        let again = sent(&*store, at(NOW + later, text("alice/d1", 1, "bob", "hi"))).await;
        assert_eq!(again, first.clone().repeated());
    }
    assert_eq!(messages(&*store, "bob/d1").await.len(), 2);

    let twice = store.commit(vec![text("alice/d1", 3, "bob", "x"), text("alice/d1", 3, "bob", "x")]).await;
    assert!(
        matches!(&twice[..], [Outcome::Sent(a), Outcome::Sent(b)] if a.owed.len() == 2 && b.owed.is_empty() && a.seq == b.seq)
    );
}

/// The same id with another text or recipient stores nothing and does not disturb the first.
pub async fn other_content_is_a_conflict(place: &dyn Place) {
    let store = place.open().await;
    let first = sent(&*store, text("alice/d1", 1, "bob", "hi")).await;
    for other in [text("alice/d1", 1, "bob", "ho"), text("alice/d1", 1, "carol", "hi"), refused("alice/d1", 1, 9)] {
        assert_eq!(commit(&*store, other).await, Outcome::Conflict);
    }
    assert_eq!(sent(&*store, text("alice/d1", 1, "bob", "hi")).await, first.repeated());
    assert_eq!(messages(&*store, "bob/d1").await.len(), 1);
    assert_eq!(messages(&*store, "carol/d1").await, []);
}

/// A final refusal holds its id: the same again is the same refusal, anything else a conflict, and there is no message.
pub async fn a_refusal_is_remembered(place: &dyn Place) {
    let store = place.open().await;
    for _ in 0..2 {
        assert_eq!(commit(&*store, refused("alice/d1", 1, 9)).await, Outcome::Refused(v1::Code::EmptyText));
    }
    assert_eq!(commit(&*store, refused("alice/d1", 1, 10)).await, Outcome::Conflict);
    assert_eq!(commit(&*store, text("alice/d1", 1, "bob", "hi")).await, Outcome::Conflict);
    assert_eq!(highest(&*store, "alice/d1").await, 1);
    assert_eq!(timelines(&*store, &device("alice/d1")).await, []);
}

/// An unseen id above the floor is new wherever it lies.
pub async fn ids_come_in_any_order(place: &dyn Place) {
    let store = place.open().await;
    for (seq, id) in [(1, 100), (2, 5), (3, u64::MAX), (4, 6)] {
        assert_eq!(sent(&*store, text("alice/d1", id, "bob", "hi")).await.seq, seq);
    }
    assert_eq!(highest(&*store, "alice/d1").await, u64::MAX);
    assert_eq!(highest(&*store, "alice/d2").await, 0);
}

/// An id belongs to a device of a user.
pub async fn each_device_names_its_own_messages(place: &dyn Place) {
    let store = place.open().await;
    for (seq, from) in [(1, "alice/d1"), (2, "alice/d2")] {
        let sent = sent(&*store, text(from, 1, "bob", "hi")).await;
        assert_eq!((sent.seq, sent.owed.len()), (seq, 2));
    }
    assert_eq!(sent(&*store, text("carol/d1", 1, "bob", "hi")).await.seq, 1, "another conversation");
    assert_eq!(messages(&*store, "bob/d1").await.len(), 3);
}

/// For seven days and an hour the answer is exact; later it may be forgotten, but the id is never new again.
pub async fn a_result_is_kept_and_then_never_doubled(place: &dyn Place) {
    let store = place.open().await;
    let first = sent(&*store, text("alice/d1", 10, "bob", "hi")).await;
    let hour = DAY_MS / 24;
    sent(&*store, at(NOW + 7 * DAY_MS + hour, text("alice/d1", 11, "bob", "a week later"))).await;
    let again = sent(&*store, at(NOW + 7 * DAY_MS + hour, text("alice/d1", 10, "bob", "hi"))).await;
    assert_eq!(again, first.clone().repeated());

    sent(&*store, at(NOW + 20 * DAY_MS, text("alice/d1", 12, "bob", "weeks later"))).await;
    match commit(&*store, at(NOW + 20 * DAY_MS, text("alice/d1", 10, "bob", "hi"))).await {
        Outcome::TooOld => {}
        other => assert_eq!(other, Outcome::Sent(first.repeated())),
    }
    assert_eq!(highest(&*store, "alice/d1").await, 12);
    assert_eq!(messages(&*store, "bob/d1").await.len(), 3);
}

/// Sequence numbers run from 1 without gaps, whoever sends; conflicts and refusals use none.
pub async fn both_sides_share_one_numbering(place: &dyn Place) {
    let store = place.open().await;
    assert_eq!(sent(&*store, text("alice/d1", 1, "bob", "a")).await.seq, 1);
    assert_eq!(sent(&*store, text("bob/d1", 1, "alice", "b")).await.seq, 2);
    commit(&*store, text("alice/d1", 1, "bob", "conflict")).await;
    commit(&*store, refused("alice/d1", 2, 1)).await;
    assert_eq!(sent(&*store, text("alice/d2", 1, "bob", "c")).await.seq, 3);
    assert_eq!(sent(&*store, text("bob/d1", 2, "carol", "x")).await.seq, 1);
    let line = |seq, text: &str| ("alice:bob".to_owned(), seq, text.to_owned());
    assert_eq!(messages(&*store, "alice/d3").await, [line(1, "a"), line(2, "b"), line(3, "c")]);
}

/// What is wrong with one op of a batch is told of that op alone.
pub async fn a_bad_op_fails_alone(place: &dyn Place) {
    let store = place.open().await;
    sent(&*store, text("alice/d1", 1, "bob", "hi")).await;
    let outcomes = store
        .commit(vec![
            text("alice/d1", 2, "bob", "two"),
            text("alice/d1", 1, "bob", "conflict"),
            super::history::read("carol/d1", "alice:bob", 1),
            super::history::read("bob/d1", "alice:bob", 99),
            text("alice/d1", 3, "bob", "three"),
        ])
        .await;
    assert!(
        matches!(
            &outcomes[..],
            [Outcome::Sent(two), Outcome::Conflict, Outcome::NotAMember, Outcome::BeyondHead, Outcome::Sent(three)]
                if (two.seq, three.seq) == (2, 3)
        ),
        "{outcomes:?}"
    );
}

/// Ops of one call are applied in their order: one sender's order is kept.
pub async fn a_batch_keeps_its_order(place: &dyn Place) {
    let store = place.open().await;
    let ids: Vec<u64> = (1..=256).rev().collect();
    let outcomes = store.commit(ids.iter().map(|id| text("alice/d1", *id, "bob", &id.to_string())).collect()).await;
    let seqs: Vec<u64> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Sent(sent) => sent.seq,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seqs, (1..=256).collect::<Vec<u64>>());
    let texts: Vec<String> = messages(&*store, "bob/d1").await.into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(texts, ids.iter().map(u64::to_string).collect::<Vec<String>>());
}
