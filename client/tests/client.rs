#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
//! The whole client against a server that misbehaves, over real sockets.

mod fake;

use std::time::Duration;

use fake::{Fake, HttpSends};
use tempfile::TempDir;
use tern_client::{
    Client, ClientOptions, EntryBody, Event, Inbox, Link, LinkState, MessageState, QueryError, Receive, Recipient,
    Status, Stop, StoreError, Token,
};
use tern_proto::{Command, ConversationId, Key, UserId, v1};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

fn options(fake: &Fake, data: &TempDir) -> ClientOptions {
    let alice = UserId::new("alice").unwrap();
    let mut options = ClientOptions::new(data.path(), alice, Token::fixed("JWT".to_owned()));
    options.long_link = fake.long_link.to_string();
    options.http = fake.http.to_string();
    options
}

fn bob() -> UserId {
    UserId::new("bob").unwrap()
}

async fn open(fake: &Fake, data: &TempDir) -> (Client, Inbox) {
    Client::open(options(fake, data)).await.unwrap()
}

async fn until(client: &Client, what: &str, wanted: impl FnMut(&Status) -> bool) {
    let mut status = client.status();
    let reached = timeout(PATIENCE, status.wait_for(wanted)).await.map(|reached| reached.is_ok());
    assert!(reached == Ok(true), "never: {what}; {:?}", client.status().borrow());
}

async fn next_text(inbox: &mut Inbox) -> String {
    let entry = timeout(PATIENCE, inbox.next()).await.expect("an entry").unwrap().unwrap();
    let text = entry.message().unwrap().text.clone();
    inbox.confirm(&[entry]).await.unwrap();
    text
}

#[tokio::test]
async fn a_lost_acknowledgement_means_the_same_id_again_before_anything_new() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.state().swallow = 2;
    let (client, _inbox) = open(&fake, &data).await;
    let mut events = client.events();
    let first = client.send(&bob(), "one").await.unwrap();
    fake.until("the first is stored", |state| state.stored.len() == 1).await;
    let second = client.send(&bob(), "two").await.unwrap();
    until(&client, "all are acknowledged", |status| status.sending == 0).await;
    assert_eq!(fake.state().order, [first, second]);
    assert!(fake.state().count_all(Command::Send) >= 3);
    assert!(matches!(client.outcome(first).await.unwrap(), Some(MessageState::Sent(sent)) if sent.seq == first));
    assert!(matches!(events.recv().await, Ok(Event::Message { id, state: MessageState::Sent(_) }) if id == first));
    client.close().await;
}

/// On either link. What was answered is settled before it is looked for what is to be sent next.
#[tokio::test]
async fn what_is_answered_is_sent_once() {
    for long_link in [true, false] {
        let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
        fake.state().refuse_long = !long_link;
        let (client, _inbox) = open(&fake, &data).await;
        for text in ["one", "two", "three"] {
            client.send(&bob(), text).await.unwrap();
            until(&client, "it is acknowledged", |status| status.sending == 0).await;
        }
        client.mark_read(&ConversationId::new("alice:bob").unwrap(), 1).await.unwrap();
        fake.until("the mark has come", |state| state.count_all(Command::Read) > 0).await;
        client.close().await;
        let sends = fake.state().count_all(Command::Send);
        assert_eq!((sends, fake.state().count_all(Command::Read)), (3, 1), "long link: {long_link}");
    }
}

#[tokio::test]
async fn a_reconnect_presents_the_key_and_resumes_the_outbox() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    let (client, mut inbox) = open(&fake, &data).await;
    fake.arrive(1, "first");
    until(&client, "it is up", |status| status.link == LinkState::Up(Link::Tcp)).await;
    fake.push(Command::Notify, &());
    assert_eq!(next_text(&mut inbox).await, "first");
    let acknowledged = Some(v1::SyncKey::from(&Key::at(7, [1, 0])));
    // By an ack, or by the sync that the hint caused.
    fake.until("the entry is acknowledged", |state| {
        state.last(Command::Ack).is_some_and(|ack: v1::AckRequest| ack.key == acknowledged)
            || state.last(Command::Sync).is_some_and(|sync: v1::SyncRequest| sync.key == acknowledged)
    })
    .await;

    fake.state().refuse_long = true;
    fake.cut();
    until(&client, "it is off the long link", |status| status.link != LinkState::Up(Link::Tcp)).await;
    fake.arrive(2, "second");
    client.send_all(&bob(), vec!["a".into(), "b".into()]).await.unwrap();
    fake.state().refuse_long = false;
    until(&client, "it is back", |status| status.link == LinkState::Up(Link::Tcp) && status.sending == 0).await;
    assert_eq!(next_text(&mut inbox).await, "second");
    assert_eq!(fake.state().order, [1, 2]);
    let hello: v1::HelloRequest = fake.state().last(Command::Hello).unwrap();
    assert!(Key::from(&hello.key.unwrap()).versions[0] >= Some(1));
    client.close().await;
}

#[tokio::test]
async fn a_delta_from_another_key_means_a_sync_and_doubles_nothing() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.arrive(1, "first");
    let (client, mut inbox) = open(&fake, &data).await;
    assert_eq!(next_text(&mut inbox).await, "first");
    let key = |version| Some(v1::SyncKey::from(&Key::at(7, [version, 0])));
    let second = fake.arrive(2, "second");
    let delta = v1::Delta { before: key(1), entries: vec![second], after: key(2) };
    fake.push(Command::Delta, &delta);
    assert_eq!(next_text(&mut inbox).await, "second");
    assert_eq!(fake.state().count("long", Command::Sync), 1, "a delta at the key needs no sync");

    fake.push(Command::Delta, &delta);
    fake.arrive(3, "third");
    let fourth = fake.arrive(4, "fourth");
    fake.push(Command::Delta, &v1::Delta { before: key(3), entries: vec![fourth], after: key(4) });
    assert_eq!(next_text(&mut inbox).await, "third");
    assert_eq!(next_text(&mut inbox).await, "fourth");
    assert!(fake.state().count("long", Command::Sync) > 1);
    assert!(inbox.try_next().await.unwrap().is_none());
    client.close().await;
}

#[tokio::test]
async fn the_short_link_carries_everything_while_the_long_one_is_down() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.state().refuse_long = true;
    fake.arrive(1, "first");
    let (client, mut inbox) = open(&fake, &data).await;
    client.send(&bob(), "over HTTP").await.unwrap();
    until(&client, "it falls back", |status| status.link == LinkState::Up(Link::Http)).await;
    until(&client, "it is sent", |status| status.sending == 0).await;
    assert_eq!(next_text(&mut inbox).await, "first");
    fake.arrive(2, "by the long poll");
    assert_eq!(next_text(&mut inbox).await, "by the long poll");
    assert!(fake.state().count("http", Command::Send) >= 1);

    fake.state().refuse_long = false;
    until(&client, "it goes back", |status| status.link == LinkState::Up(Link::Tcp)).await;
    client.mark_read(&ConversationId::new("alice:bob").unwrap(), 2).await.unwrap();
    fake.until("the mark is taken", |state| {
        state.last::<v1::ReadRequest>(Command::Read).is_some_and(|read| read.seq == 2)
    })
    .await;
    client.close().await;
}

#[tokio::test]
async fn the_long_link_is_taken_when_the_short_one_breaks_under_a_send() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.state().refuse_long = true;
    let (client, _inbox) = open(&fake, &data).await;
    until(&client, "it falls back", |status| status.link == LinkState::Up(Link::Http)).await;
    fake.state().http_sends = HttpSends::Held;
    let id = client.send(&bob(), "held").await.unwrap();
    fake.until("the send is under way", |state| state.held > 0).await;
    fake.state().refuse_long = false;
    fake.until("the long link is dialled", |state| state.taken_long > 0).await;
    // Until the client has the link as well: it is not used before the send has ended.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fake.state().count("long", Command::Hello), 0);
    fake.state().http_sends = HttpSends::Cut;
    until(&client, "it is sent", |status| status.link == LinkState::Up(Link::Tcp) && status.sending == 0).await;
    assert_eq!(fake.state().order, [id]);
    assert_eq!(fake.state().taken_long, 1, "the link that was dialled is the one in use");
    client.close().await;
}

#[tokio::test]
async fn the_short_link_alone_is_enough() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    let mut http = options(&fake, &data);
    http.link = Link::Http;
    let (client, mut inbox) = Client::open(http).await.unwrap();
    client.send_all(&bob(), vec!["x".into(); 300]).await.unwrap();
    fake.arrive(1, "first");
    assert_eq!(next_text(&mut inbox).await, "first");
    until(&client, "all are sent", |status| status.sending == 0 && status.caught_up).await;
    assert!(fake.state().order.iter().copied().eq(1..=300));
    assert_eq!(fake.state().count("long", Command::Hello), 0);
    client.close().await;
}

#[tokio::test]
async fn what_was_not_confirmed_comes_again_and_nothing_else() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    for version in 1..=3 {
        fake.arrive(version, &format!("text {version}"));
    }
    let (client, mut inbox) = open(&fake, &data).await;
    assert_eq!(next_text(&mut inbox).await, "text 1");
    let unconfirmed = inbox.next().await.unwrap().unwrap();
    assert_eq!(unconfirmed.message().unwrap().text, "text 2");
    client.close().await;

    let (client, mut inbox) = open(&fake, &data).await;
    assert_eq!(next_text(&mut inbox).await, "text 2");
    assert_eq!(next_text(&mut inbox).await, "text 3");
    until(&client, "it is caught up", |status| status.caught_up && status.unconfirmed == 0).await;
    client.close().await;
}

#[tokio::test]
async fn a_peek_sees_the_same_twice() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.arrive(1, "first");
    for _ in 0..2 {
        let mut peek = options(&fake, &data);
        peek.receive = Receive::Peek;
        let (client, mut inbox) = Client::open(peek).await.unwrap();
        assert_eq!(next_text(&mut inbox).await, "first");
        until(&client, "it is caught up", |status| status.caught_up).await;
        client.close().await;
    }
    assert!(fake.state().last::<v1::AckRequest>(Command::Ack).is_none());
    assert!(fake.state().last::<v1::SyncRequest>(Command::Sync).unwrap().peek);
}

#[tokio::test]
async fn a_displaced_client_does_not_come_back() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    let (client, mut inbox) = open(&fake, &data).await;
    until(&client, "it is up", |status| status.link == LinkState::Up(Link::Tcp)).await;
    fake.push(Command::GoAway, &v1::GoAway { reason: v1::GoAwayReason::Displaced.into(), retry_after_ms: 0 });
    until(&client, "it stops", |status| status.stopped() == Some(&Stop::Displaced)).await;
    assert_eq!(inbox.next().await.unwrap(), None);
    assert_eq!(fake.state().count_all(Command::Hello), 1);
    client.close().await;
}

#[tokio::test]
async fn nobody_waits_for_a_client_whose_task_has_died() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    let mut broken = options(&fake, &data);
    broken.token = Token::provider(|| panic!("no token"));
    let (client, mut inbox) = Client::open(broken).await.unwrap();
    let id = client.send(&bob(), "later").await.unwrap();
    assert_eq!(timeout(PATIENCE, inbox.next()).await.unwrap().unwrap(), None);
    assert_eq!(client.settled(id).await.unwrap(), Some(MessageState::Sending));
    assert_eq!(client.status().borrow().stopped(), Some(&Stop::Died));
    assert!(client.conversations().await.is_err());
    client.close().await;
}

#[tokio::test]
async fn a_refused_token_stops_the_client_and_keeps_the_outbox() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.state().refuse_hello = Some(v1::Code::BadToken);
    let (client, _inbox) = open(&fake, &data).await;
    let id = client.send(&bob(), "later").await.unwrap();
    let refused = Stop::Refused { code: v1::Code::BadToken, message: "because".to_owned() };
    until(&client, "it stops", |status| status.stopped() == Some(&refused)).await;
    client.close().await;

    fake.state().refuse_hello = None;
    let (client, _inbox) = open(&fake, &data).await;
    until(&client, "it is sent", |status| status.sending == 0).await;
    assert_eq!(fake.state().order, [id]);
    client.close().await;
}

#[tokio::test]
async fn the_token_of_another_user_stops_the_client_on_both_links() {
    for link in [Link::Tcp, Link::Http] {
        let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
        fake.state().other_user = Some("carol");
        let mut alice = options(&fake, &data);
        alice.link = link;
        let user = alice.user.clone();
        let (client, _inbox) = Client::open(alice).await.unwrap();
        client.send(&bob(), "not in carol's name").await.unwrap();
        let other = Stop::OtherUser { token: "carol".to_owned(), user };
        assert_eq!(other.to_string(), "the token is for carol, not alice");
        until(&client, "it stops", |status| status.stopped() == Some(&other)).await;
        let requests: Vec<_> = fake.state().requests.iter().map(|(_, packet)| packet.known_command()).collect();
        assert_eq!(requests, [Some(Command::Hello)]);
        client.close().await;
    }
}

#[tokio::test]
async fn failed_messages_are_resent_in_order_before_anything_new() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    let (client, _inbox) = open(&fake, &data).await;
    client.close().await;
    // All attempts of a long outage, without its waits.
    let db = rusqlite::Connection::open(data.path().join("client.sqlite")).unwrap();
    let fill = "INSERT INTO outbox (id, recipient, text, state, reason)
        WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 600) SELECT id, 'bob', 'x', 3, 'down' FROM n";
    db.execute_batch(&format!("{fill}; UPDATE me SET last_id = 600")).unwrap();
    drop(db);

    let (client, _inbox) = open(&fake, &data).await;
    until(&client, "it is caught up", |status| status.caught_up).await;
    let noted = client.send_noted(&bob(), vec!["new".into()], 0, "note".into()).await;
    assert!(matches!(noted, Err(StoreError::BehindFailed)));
    client.close().await;
    assert!(fake.state().order.is_empty(), "nothing goes before the user decides");

    let mut again = options(&fake, &data);
    again.resend_failed = true;
    let (client, _inbox) = Client::open(again).await.unwrap();
    client.send_noted(&bob(), vec!["new".into()], 0, "note".into()).await.unwrap();
    until(&client, "all are sent", |status| status.sending == 0).await;
    assert!(fake.state().order.iter().copied().eq(1..=601));
    client.close().await;
}

#[tokio::test]
async fn ids_go_on_above_what_the_server_has_seen() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.state().stored.insert(41, v1::OutMessage::default());
    let (client, _inbox) = open(&fake, &data).await;
    until(&client, "it is caught up", |status| status.caught_up).await;
    assert_eq!(client.send(&bob(), "new").await.unwrap(), 42);
    client.close().await;
}

fn group() -> ConversationId {
    ConversationId::new("g/1").unwrap()
}

#[tokio::test]
async fn a_group_is_made_and_changed_through_the_outbox() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.state().swallow = 2;
    let (client, _inbox) = open(&fake, &data).await;
    let made = client.create_group(Some("Trip"), &[bob()]).await.unwrap();
    let state = timeout(PATIENCE, client.settled(made)).await.unwrap().unwrap();
    assert!(matches!(state, Some(MessageState::Sent(sent)) if sent.conversation == "g/1"), "a lost answer comes again");
    client.send(Recipient::Group(group()), "hello").await.unwrap();
    client.add(&group(), &[UserId::new("carol").unwrap()]).await.unwrap();
    client.remove(&group(), &[bob()]).await.unwrap();
    let left = client.leave(&group()).await.unwrap();
    until(&client, "all are sent", |status| status.sending == 0).await;

    assert_eq!(fake.state().order, [1, 2, 3, 4, 5]);
    let stored: Vec<_> = fake.state().stored.values().cloned().collect();
    let to: Vec<_> = stored.iter().map(|message| message.to.as_str()).collect();
    assert_eq!(to, ["", "g/1", "g/1", "g/1", "g/1"]);
    let changes: Vec<_> = stored.into_iter().filter_map(|message| message.change).collect();
    assert_eq!((changes[0].title.as_deref(), &changes[0].add[..]), (Some("Trip"), &["bob".to_owned()][..]));
    assert_eq!(
        (&changes[1].add[0], &changes[2].remove[0], &changes[3].remove[0]),
        (&"carol".into(), &"bob".into(), &"alice".into())
    );
    assert_eq!(client.outbox(10).await.unwrap().last().unwrap().id, left);
    client.close().await;
}

#[tokio::test]
async fn a_refusal_is_counted_as_soon_as_nothing_is_sending() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.state().refuse_sends = Some(v1::Code::NotAMember);
    let (client, _inbox) = open(&fake, &data).await;
    for count in 1..=20 {
        let id = client.send(Recipient::Group(group()), "hello").await.unwrap();
        let mut refused = None;
        until(&client, "it is settled", |status| {
            refused = (status.sending == 0).then_some(status.refused);
            refused.is_some()
        })
        .await;
        assert_eq!(refused, Some(count));
        let state = client.settled(id).await.unwrap();
        assert_eq!(state, Some(MessageState::Refused(v1::Code::NotAMember)));
    }
    client.close().await;
}

#[tokio::test]
async fn changes_and_holes_come_with_the_messages() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    let hole = v1::Hole { reason: v1::HoleReason::Window.into(), count: 12 };
    fake.enter(1, v1::entry::Body::Hole(hole));
    let change = v1::GroupChange { add: vec!["alice".into()], ..Default::default() };
    let joined = v1::Message { server_msg_id: 7, change: Some(change.clone()), ..Default::default() };
    fake.enter(2, v1::entry::Body::Message(joined));
    fake.arrive(3, "behind them");
    let (client, mut inbox) = open(&fake, &data).await;
    let first = inbox.next().await.unwrap().unwrap();
    assert_eq!(first.body, EntryBody::Hole(hole));
    let second = inbox.next().await.unwrap().unwrap();
    assert_eq!(second.message().unwrap().change, Some(change));
    inbox.confirm(&[first, second]).await.unwrap();
    assert_eq!(next_text(&mut inbox).await, "behind them");
    until(&client, "it is counted", |status| status.missing == 12 && status.unreadable == 0).await;
    client.close().await;
}

fn listed(name: &str) -> v1::Conversation {
    v1::Conversation { name: name.into(), title: format!("about {name}"), ..Default::default() }
}

#[tokio::test]
async fn a_list_has_all_its_pages_and_history_goes_back() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.state().conversations = ["alice:bob", "alice:carol", "g/1", "g/2", "g/3"].map(listed).to_vec();
    let message = |seq| v1::Message { conversation: "g/1".into(), seq, ..Default::default() };
    fake.state().history = (1..=5).map(message).collect();
    let (client, _inbox) = open(&fake, &data).await;
    let names: Vec<_> = client.conversations().await.unwrap().into_iter().map(|found| found.name).collect();
    assert_eq!(names, ["alice:bob", "alice:carol", "g/1", "g/2", "g/3"]);
    assert_eq!(fake.state().count_all(Command::Conversations), 3);

    let newest = client.history(&group(), 0, 2).await.unwrap();
    let seqs = |page: &v1::HistoryReply| page.messages.iter().map(|message| message.seq).collect::<Vec<_>>();
    assert_eq!((seqs(&newest), newest.more), (vec![4, 5], true));
    let older = client.history(&group(), 4, 10_000).await.unwrap();
    assert_eq!((seqs(&older), older.more), (vec![1, 2, 3], false));
    let asked: v1::HistoryRequest = fake.state().last(Command::History).unwrap();
    assert_eq!(asked.limit, 1_000, "the server takes no more");

    let members = client.members(&group()).await.unwrap();
    assert_eq!((members.title.as_str(), members.members[0].user.as_str()), ("about g/1", "alice"));
    client.close().await;
}

#[tokio::test]
async fn queries_are_asked_again_on_whichever_link_there_is() {
    let (fake, data) = (Fake::start().await, TempDir::new().unwrap());
    fake.state().conversations = vec![listed("g/1")];
    let (client, _inbox) = open(&fake, &data).await;
    until(&client, "it is up", |status| status.link == LinkState::Up(Link::Tcp)).await;
    (fake.state().refuse_long, fake.state().cutting, fake.state().unavailable) = (true, 1, 1);
    let members = timeout(PATIENCE, client.members(&group())).await.unwrap().unwrap();
    assert_eq!(members.title, "about g/1");
    assert_eq!(fake.state().count("long", Command::Members), 1, "its link was cut");
    assert_eq!(fake.state().count("http", Command::Members), 2, "unavailable at first");

    let other = ConversationId::new("g/2").unwrap();
    let refused = QueryError::Refused { code: v1::Code::NotAMember, message: "because".into() };
    assert_eq!(client.members(&other).await, Err(refused));
    let stopped = client.clone();
    client.close().await;
    assert_eq!(stopped.members(&other).await, Err(QueryError::Stopped(Stop::Closed)));
}
