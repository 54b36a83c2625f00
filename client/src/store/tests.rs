//! What the store keeps across a kill: dropping it without ceremony and opening it again.

use tempfile::TempDir;
use tern_proto::{Key, UserId, v1};

use super::{OPEN, OpenError, Store, StoreError};
use crate::backoff::ATTEMPTS;
use crate::checked::{BadChange, BadText};
use crate::message::{EntryBody, MessageState, Sent};

struct Device {
    directory: TempDir,
    store: Option<Store>,
}

impl Device {
    fn new() -> Device {
        let directory = TempDir::new().unwrap();
        let store = Store::open(directory.path(), &user("alice"), false).unwrap();
        Device { directory, store: Some(store) }
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    fn killed(&mut self) -> &mut Store {
        self.store = None;
        self.store = Some(Store::open(self.directory.path(), &user("alice"), false).unwrap());
        self.store()
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn texts(to: &str, texts: &[&str]) -> Vec<v1::OutMessage> {
    let message = |text: &&str| v1::OutMessage { to: to.into(), text: text.to_string(), ..Default::default() };
    texts.iter().map(message).collect()
}

fn change(to: &str, title: &str, add: &[&str]) -> v1::OutMessage {
    let add = add.iter().map(|user| user.to_string()).collect();
    let change = v1::GroupChange { title: Some(title.into()), add, remove: Vec::new() };
    v1::OutMessage { to: to.into(), change: Some(change), ..Default::default() }
}

fn message(version: u64, server_msg_id: u64) -> v1::Entry {
    let message = v1::Message {
        from: "bob".into(),
        conversation: "alice:bob".into(),
        seq: version,
        server_msg_id,
        client_msg_id: version,
        text: format!("text {server_msg_id}"),
        time_ms: 0,
        change: None,
        media: None,
    };
    v1::Entry { class: 1, version, body: Some(v1::entry::Body::Message(message)) }
}

fn stub(version: u64, client_msg_id: u64) -> v1::Entry {
    let stub = v1::Stub { client_msg_id, server_msg_id: 900, conversation: "alice:bob".into(), seq: 7, time_ms: 5 };
    v1::Entry { class: 1, version, body: Some(v1::entry::Body::Stub(stub)) }
}

fn receipt(version: u64, kind: v1::ReceiptKind, seq: u64) -> v1::Entry {
    let (conversation, member) = ("alice:bob".into(), "bob".into());
    let receipt = v1::Receipt { conversation, member, kind: kind.into(), seq, time_ms: 0 };
    v1::Entry { class: 2, version, body: Some(v1::entry::Body::Receipt(receipt)) }
}

fn accepted(id: u64, seq: u64) -> v1::SendResult {
    v1::SendResult {
        client_msg_id: id,
        server_msg_id: 100 + id,
        conversation: "alice:bob".into(),
        seq,
        ..v1::SendResult::default()
    }
}

fn refused(id: u64, code: v1::Code) -> v1::SendResult {
    v1::SendResult { client_msg_id: id, code: code.into(), ..v1::SendResult::default() }
}

fn state(store: &Store, id: u64) -> MessageState {
    store.outgoing(id).unwrap().unwrap().state
}

fn ids(store: &Store) -> Vec<u64> {
    store.take(0, 100).unwrap().iter().map(|entry| entry.message().unwrap().server_msg_id).collect()
}

#[test]
fn a_directory_is_one_device_of_one_user_and_one_process() {
    let mut device = Device::new();
    let id = device.store().device().to_owned();
    assert_eq!(id.len(), 32);
    assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let path = device.directory.path().to_owned();
    assert!(matches!(Store::open(&path, &user("alice"), false), Err(OpenError::InUse(_))));
    assert_eq!(device.killed().device(), id);
    device.store = None;
    assert!(
        matches!(Store::open(&path, &user("bob"), false), Err(OpenError::OtherUser { owner, .. }) if owner == "alice")
    );
    assert_ne!(Device::new().store().device(), id);
}

#[test]
fn the_outbox_survives_a_kill_in_id_order_and_ids_are_never_used_again() {
    let mut device = Device::new();
    assert_eq!(device.store().enqueue(&texts("bob", &["a", "b"]), Some((0, "note 1"))).unwrap(), [1, 2]);
    let store = device.killed();
    assert_eq!(store.enqueue(&texts("bob", &["c"]), Some((1, "note 2"))).unwrap(), [3]);
    let batch = store.batch().unwrap().messages;
    assert_eq!(
        batch.iter().map(|m| (m.client_msg_id, m.text.as_str())).collect::<Vec<_>>(),
        [(1, "a"), (2, "b"), (3, "c")]
    );
    assert_eq!(store.notes().unwrap(), ["note 1", "note 2"]);
    store.enqueue(&[], Some((0, "note 3"))).unwrap();
    assert_eq!(store.notes().unwrap(), ["note 3"], "later ones are forgotten");
    store.clear_notes().unwrap();
    assert!(store.notes().unwrap().is_empty());

    store.settle(&[accepted(1, 1), accepted(2, 2), accepted(3, 3)]).unwrap();
    let store = device.killed();
    assert!(store.batch().unwrap().messages.is_empty());
    assert!(matches!(state(store, 2), MessageState::Sent(sent) if sent.server_msg_id == 102));
    store.go_on_above(40).unwrap();
    store.go_on_above(7).unwrap();
    assert_eq!(device.killed().enqueue(&texts("bob", &["d"]), None).unwrap(), [41]);
}

#[test]
fn a_batch_fits_a_packet() {
    let mut device = Device::new();
    let store = device.store();
    let long = "x".repeat(16 * 1024);
    store.enqueue(&texts("bob", &[long.as_str(); 5]), None).unwrap();
    assert_eq!(store.batch().unwrap().messages.len(), 3);
    let messages = store.batch().unwrap().messages;
    let body = v1::SendRequest { messages, ..Default::default() };
    assert!(prost::Message::encoded_len(&body) <= tern_proto::limits::PACKET_BYTES - 16);

    let store = &mut *device.store();
    store.settle(&(1..=5).map(|id| accepted(id, id)).collect::<Vec<_>>()).unwrap();
    store.enqueue(&texts("bob", &["y"; 300]), None).unwrap();
    assert_eq!(store.batch().unwrap().messages.len(), 256);
}

#[test]
fn what_cannot_be_sent_does_not_enter_the_outbox() {
    let mut device = Device::new();
    let store = device.store();
    let enqueue = |store: &mut Store, text: &str| store.enqueue(&texts("bob", &["ok", text]), None);
    assert!(matches!(enqueue(store, ""), Err(StoreError::BadText(BadText::Empty))));
    assert!(matches!(enqueue(store, &"x".repeat(16_385)), Err(StoreError::BadText(BadText::TooLong(16_385)))));
    let twice = store.enqueue(&[change("g/7", "", &["bob", "bob"])], None);
    assert!(matches!(twice, Err(StoreError::BadChange(BadChange::Twice(user))) if user == "bob"));
    assert!(store.batch().unwrap().messages.is_empty(), "all or none");
    store.enqueue(&texts("bob", &["x"; OPEN]), None).unwrap();
    assert!(matches!(store.enqueue(&texts("bob", &["x"]), None), Err(StoreError::OutboxFull)));
    store.settle(&[accepted(1, 1)]).unwrap();
    store.enqueue(&texts("bob", &["x"]), None).unwrap();
}

#[test]
fn attempts_are_bounded_and_a_resend_starts_again() {
    let mut device = Device::new();
    device.store().enqueue(&texts("bob", &["a", "b"]), None).unwrap();
    for attempt in 1..ATTEMPTS {
        let changes = match attempt % 3 {
            0 => device.store().unanswered(&[1], "lost"),
            1 => device.store().unreachable("down"),
            _ => device.killed().settle(&[refused(1, v1::Code::Unavailable), refused(2, v1::Code::OutcomeUnknown)]),
        };
        assert_eq!(changes.unwrap(), [], "attempt {attempt}");
    }
    let failed = MessageState::Failed("down".to_owned());
    let changes = device.store().unreachable("down").unwrap();
    assert_eq!(changes, [(1, failed.clone()), (2, failed.clone())], "the second was tried less often and may not pass");
    let store = device.killed();
    assert_eq!((state(store, 1), state(store, 2)), (failed.clone(), failed));
    assert_eq!(store.open_messages().unwrap(), (0, 2));
    assert!(store.batch().unwrap().messages.is_empty());

    assert!(store.resend(1).unwrap());
    assert!(!store.resend(1).unwrap(), "only what failed");
    assert_eq!(store.batch().unwrap().messages[0].client_msg_id, 1);
    assert_eq!(store.unreachable("down").unwrap().len(), 0, "it has all its attempts again");
}

#[test]
fn a_message_that_was_tried_before_says_so() {
    let mut device = Device::new();
    device.store().enqueue(&texts("bob", &["a", "b"]), None).unwrap();
    let again = |store: &Store| store.batch().unwrap().messages.iter().map(|message| message.again).collect::<Vec<_>>();
    assert_eq!(again(device.store()), [false, false]);
    device.store().unanswered(&[1], "lost").unwrap();
    assert_eq!(again(device.killed()), [true, false]);
}

#[test]
fn what_waits_behind_a_failed_message_fails_with_it_and_all_are_resent_in_order() {
    type Fail = fn(&mut Store) -> Result<Vec<(u64, MessageState)>, StoreError>;
    let ways: [Fail; 3] = [
        |store| store.unanswered(&[2, 3], "lost"),
        |store| store.settle(&[refused(2, v1::Code::Busy), accepted(3, 1)]),
        |store| store.unreachable("down"),
    ];
    for way in ways {
        let mut device = Device::new();
        device.store().enqueue(&texts("bob", &["a", "b", "c"]), None).unwrap();
        device.store().settle(&[accepted(1, 1)]).unwrap();
        for _ in 1..ATTEMPTS {
            way(device.store()).unwrap();
        }
        device.store().enqueue(&texts("bob", &["d", "e"]), Some((0, "note"))).unwrap();
        let failed: Vec<u64> = way(device.store()).unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!((failed[0], failed.last()), (2, Some(&5)));
        let store = device.killed();
        assert_eq!(store.open_messages().unwrap(), (0, failed.len()), "nothing is left that could pass");
        assert!(matches!(store.enqueue(&texts("bob", &["f"]), Some((1, "note"))), Err(StoreError::BehindFailed)));
        assert_eq!(store.enqueue(&texts("carol", &["typed afterwards"]), None).unwrap(), [6]);

        assert_eq!(store.resend_all(Some(&user("carol").into())).unwrap(), [] as [u64; 0], "hers has not failed");
        assert_eq!(store.resend_all(Some(&user("bob").into())).unwrap(), failed);
        let batch: Vec<u64> = store.batch().unwrap().messages.iter().map(|message| message.client_msg_id).collect();
        assert_eq!(batch, [failed, vec![6]].concat());
        assert_eq!(store.resend_all(None).unwrap(), [] as [u64; 0]);
    }
}

#[test]
fn final_refusals_end_a_message_and_unknown_codes_do_not() {
    let mut device = Device::new();
    let store = device.store();
    store.enqueue(&texts("bob", &["a", "b"]), None).unwrap();
    let unknown = v1::SendResult { client_msg_id: 2, code: 9_999, ..v1::SendResult::default() };
    let changes = store.settle(&[refused(1, v1::Code::Conflict), unknown]).unwrap();
    assert_eq!(changes, [(1, MessageState::Refused(v1::Code::Conflict))]);
    assert_eq!(state(store, 2), MessageState::Sending);
    assert_eq!(state(device.killed(), 1), MessageState::Refused(v1::Code::Conflict));
}

#[test]
fn a_page_is_applied_once_and_handed_out_until_it_is_confirmed() {
    let mut device = Device::new();
    let key = Key::at(7, [12, 0]);
    device.store().apply(&[message(11, 500), message(12, 501)], &key).unwrap();
    let store = device.killed();
    assert_eq!(store.key().unwrap(), Some(key));
    assert_eq!(ids(store), [500, 501]);
    let first = store.take(0, 1).unwrap();
    store.confirm(&[first[0].number]).unwrap();

    let store = device.killed();
    assert_eq!(ids(store), [501], "only what is not confirmed");
    store.replace_key(&Key::oldest(8)).unwrap();
    store.apply(&[message(1, 500), message(2, 501), message(3, 502)], &Key::at(8, [3, 0])).unwrap();
    assert_eq!(ids(store), [501, 502], "after a replaced key the processed ones are skipped");
}

#[test]
fn a_server_that_was_made_anew_may_use_the_ids_again() {
    let mut device = Device::new();
    let store = device.store();
    store.apply(&[message(1, 500)], &Key::at(7, [1, 0])).unwrap();
    let mut other = message(1, 500);
    if let Some(v1::entry::Body::Message(message)) = &mut other.body {
        message.time_ms = 1_700_000_000_000;
    }
    store.replace_key(&Key::oldest(8)).unwrap();
    store.apply(std::slice::from_ref(&other), &Key::at(8, [1, 0])).unwrap();
    assert_eq!(ids(store), [500, 500], "it is another message");
    store.replace_key(&Key::oldest(8)).unwrap();
    store.apply(&[other], &Key::at(8, [1, 0])).unwrap();
    assert_eq!(ids(store), [500, 500], "and now that is known too");
}

#[test]
fn confirming_the_last_entry_does_not_hide_the_next() {
    let mut device = Device::new();
    let store = device.store();
    store.apply(&[message(1, 500)], &Key::at(7, [1, 0])).unwrap();
    let seen = store.take(0, 10).unwrap()[0].number;
    store.confirm(&[seen]).unwrap();
    store.apply(&[message(2, 501)], &Key::at(7, [2, 0])).unwrap();
    assert_eq!(store.take(seen, 10).unwrap().len(), 1);
}

#[test]
fn a_stub_closes_the_message_whose_acknowledgement_was_lost() {
    let mut device = Device::new();
    let store = device.store();
    store.enqueue(&texts("bob", &["a"]), None).unwrap();
    for _ in 0..ATTEMPTS {
        store.unreachable("down").unwrap();
    }
    let applied = store.apply(&[stub(5, 1)], &Key::at(7, [5, 0])).unwrap();
    let sent = Sent { server_msg_id: 900, conversation: "alice:bob".into(), seq: 7, time_ms: 5 };
    assert_eq!(applied.closed, [(1, MessageState::Sent(sent))]);
    assert_eq!(store.open_messages().unwrap(), (0, 0));
    assert_eq!(store.backlog().unwrap(), 0, "a stub is nothing for the application");
}

#[test]
fn receipts_raise_states_and_old_ones_are_skipped() {
    let mut device = Device::new();
    let store = device.store();
    store.enqueue(&texts("bob", &["a", "b"]), None).unwrap();
    // A receipt may come before the answer.
    store.apply(&[receipt(1, v1::ReceiptKind::Delivered, 2)], &Key::at(7, [0, 1])).unwrap();
    store.settle(&[accepted(1, 1), accepted(2, 2)]).unwrap();
    let applied = store.apply(&[receipt(2, v1::ReceiptKind::Read, 1)], &Key::at(7, [0, 2])).unwrap();
    assert_eq!(applied.receipts.len(), 1);
    assert!(matches!(state(store, 1), MessageState::Read(_)));
    assert!(matches!(state(device.killed(), 2), MessageState::Delivered(_)));
    let again = device.store().apply(&[receipt(3, v1::ReceiptKind::Read, 1)], &Key::at(7, [0, 3])).unwrap();
    assert!(again.receipts.is_empty());
    assert_eq!(device.store().backlog().unwrap(), 2);
}

#[test]
fn damaged_entries_are_handed_out_and_unknown_ones_are_not() {
    let mut device = Device::new();
    let store = device.store();
    let damaged = v1::Damaged { conversation: "alice:bob".into(), seq: 3 };
    let entries = [
        v1::Entry { class: 1, version: 1, body: Some(v1::entry::Body::Damaged(damaged.clone())) },
        v1::Entry { class: 1, version: 2, body: None },
        v1::Entry { class: 77, ..message(3, 500) },
    ];
    let applied = store.apply(&entries, &Key::at(7, [3, 0])).unwrap();
    assert_eq!(applied.unreadable, 3, "all are counted");
    let taken = store.take(0, 10).unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].version, &taken[0].body), (1, &EntryBody::Damaged(damaged)));
}

#[test]
fn a_hole_is_handed_out_and_counted() {
    let mut device = Device::new();
    let hole = v1::Hole { reason: v1::HoleReason::Cap.into(), count: 12 };
    let entry = v1::Entry { class: 1, version: 9, body: Some(v1::entry::Body::Hole(hole)) };
    let applied = device.store().apply(&[entry, message(10, 500)], &Key::at(7, [10, 0])).unwrap();
    assert_eq!((applied.missing, applied.unreadable), (12, 0));
    let taken = device.killed().take(0, 10).unwrap();
    assert_eq!((taken[0].version, &taken[0].body), (9, &EntryBody::Hole(hole)));
    assert_eq!(taken[1].version, 10);
}

#[test]
fn changes_of_groups_wait_among_the_texts_and_survive_a_kill() {
    let mut device = Device::new();
    device.store().enqueue(&[change("", "Trip", &["bob", "carol"])], None).unwrap();
    device.store().enqueue(&texts("g/7", &["hello"]), None).unwrap();
    device.store().enqueue(&[change("g/7", "", &["dave"])], None).unwrap();
    let store = device.killed();
    let sent: Vec<_> = store.batch().unwrap().messages;
    let with_id = |id, message| v1::OutMessage { client_msg_id: id, ..message };
    assert_eq!(sent[0], with_id(1, change("", "Trip", &["bob", "carol"])));
    assert_eq!(sent[1], with_id(2, texts("g/7", &["hello"]).remove(0)));
    assert_eq!(sent[2], with_id(3, change("g/7", "", &["dave"])));

    let made = v1::SendResult { conversation: "g/7".into(), ..accepted(1, 1) };
    store.settle(&[made, refused(3, v1::Code::NotAMember)]).unwrap();
    assert!(matches!(state(store, 1), MessageState::Sent(sent) if sent.conversation == "g/7"));
    assert_eq!(state(store, 3), MessageState::Refused(v1::Code::NotAMember));
    let outgoing = store.outgoing(1).unwrap().unwrap();
    assert_eq!((outgoing.to.as_str(), outgoing.change), ("", change("", "Trip", &["bob", "carol"]).change));
}

#[test]
fn a_batch_of_changes_fits_a_packet() {
    let mut device = Device::new();
    let users: Vec<String> = (0..200).map(|n| format!("{n:064}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let store = device.store();
    store.enqueue(&vec![change("g/7", &"t".repeat(128), &users); 8], None).unwrap();
    let messages = store.batch().unwrap().messages;
    assert_eq!(messages.len(), 4);
    let body = v1::SendRequest { messages, ..Default::default() };
    assert!(prost::Message::encoded_len(&body) <= tern_proto::limits::PACKET_BYTES - 16);
}

#[test]
fn a_clip_goes_alone_and_from_where_it_has_come() {
    let mut device = Device::new();
    let store = device.store();
    let whole = v1::Chunk {
        clip: Some(v1::MediaBegin { sha256: "ab".into(), ..Default::default() }),
        index: 0,
        bytes: vec![1; 5_000],
    };
    let clip = v1::OutMessage { to: "bob".into(), chunk: Some(whole), ..Default::default() };
    let text = v1::OutMessage { to: "bob".into(), text: "hi".into(), ..Default::default() };
    store.enqueue(&[text.clone(), clip.clone(), text], None).unwrap();
    let batch = store.batch().unwrap();
    assert_eq!((batch.messages.len(), batch.clip), (1, None));
    let result = |id, code: v1::Code| v1::SendResult { client_msg_id: id, code: code.into(), ..Default::default() };
    store.settle(&[result(1, v1::Code::Ok)]).unwrap();
    store.clip_stored(2, 3).unwrap();
    let store = device.killed();
    let batch = store.batch().unwrap();
    let clip_of = batch.clip.unwrap();
    assert_eq!((batch.messages.len(), batch.messages[0].chunk.clone()), (1, None));
    assert_eq!((clip_of.bytes.len(), clip_of.stored, clip_of.begin.sha256.as_str()), (5_000, 3, "ab"));
    store.settle(&[result(2, v1::Code::UploadIncomplete)]).unwrap();
    assert_eq!(store.batch().unwrap().clip.unwrap().stored, 0, "all of it again");
    for _ in 1..ATTEMPTS - 1 {
        store.clip_stored(2, 3).unwrap();
        store.settle(&[result(2, v1::Code::UploadIncomplete)]).unwrap();
    }
    assert_eq!(store.batch().unwrap().messages.len(), 1, "the last attempt");
    store.settle(&[result(2, v1::Code::Ok)]).unwrap();
    assert_eq!(store.batch().unwrap().messages[0].text, "hi");
    let none = v1::OutMessage { chunk: Some(v1::Chunk::default()), ..clip };
    assert!(matches!(store.enqueue(&[none], None), Err(StoreError::BadClip)));
}

#[test]
fn a_directory_of_the_first_format_is_taken_over() {
    let mut device = Device::new();
    device.store().enqueue(&texts("bob", &["a"]), None).unwrap();
    device.store().apply(&[message(1, 500)], &Key::at(7, [1, 0])).unwrap();
    let before = "ALTER TABLE outbox DROP COLUMN change; ALTER TABLE processed DROP COLUMN time_ms;
        ALTER TABLE outbox DROP COLUMN media; ALTER TABLE outbox DROP COLUMN clip_begin;
        ALTER TABLE outbox DROP COLUMN clip; ALTER TABLE outbox DROP COLUMN clip_stored; PRAGMA user_version = 1";
    device.store().db.execute_batch(before).unwrap();
    let store = device.killed();
    store.replace_key(&Key::oldest(8)).unwrap();
    store.apply(&[message(1, 500), message(2, 501)], &Key::at(8, [2, 0])).unwrap();
    assert_eq!(ids(store), [500, 501], "the first one was processed");
    store.enqueue(&[change("g/7", "", &["bob"])], None).unwrap();
    let batch = device.killed().batch().unwrap();
    assert_eq!(
        (batch.messages[0].text.as_str(), &batch.messages[0].change, batch.messages[1].client_msg_id),
        ("a", &None, 2)
    );
    assert!(batch.messages[1].change.is_some());
}

#[test]
fn read_marks_wait_for_the_server_and_never_go_back() {
    let mut device = Device::new();
    device.store().want_read("alice:bob", 5).unwrap();
    device.store().want_read("alice:bob", 3).unwrap();
    let store = device.killed();
    assert_eq!(store.next_read().unwrap(), Some(("alice:bob".to_owned(), 5)));
    store.want_read("alice:bob", 6).unwrap();
    store.read_done("alice:bob", 5).unwrap();
    assert_eq!(
        store.next_read().unwrap(),
        Some(("alice:bob".to_owned(), 6)),
        "a newer mark is not answered by an older"
    );
    store.read_done("alice:bob", 6).unwrap();
    assert_eq!(store.next_read().unwrap(), None);
}

#[test]
fn a_peek_leaves_nothing_behind() {
    let mut device = Device::new();
    device.store().apply(&[message(1, 500)], &Key::at(7, [1, 0])).unwrap();
    device.store = None;
    let path = device.directory.path().to_owned();
    let mut peek = Store::open(&path, &user("alice"), true).unwrap();
    assert_eq!(ids(&peek), [500], "what is not confirmed is there for a peek too");
    peek.apply(&[message(1, 500), message(2, 501)], &Key::at(7, [2, 0])).unwrap();
    assert_eq!(ids(&peek), [500, 501]);
    assert!(matches!(peek.enqueue(&texts("bob", &["a"]), None), Err(StoreError::Peeking)));
    let number = peek.take(0, 1).unwrap()[0].number;
    peek.confirm(&[number]).unwrap();
    let id = peek.device().to_owned();
    drop(peek);

    let store = device.killed();
    assert_eq!((store.device(), store.key().unwrap()), (id.as_str(), Some(Key::at(7, [1, 0]))));
    assert_eq!(ids(store), [500]);
}
