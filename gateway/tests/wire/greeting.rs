//! Hello, what comes before it, and displacement.

use std::time::Duration;

use tern_gateway::{Ending, Settings, mint};
use tern_proto::{Command, UserId, limits, v1};

use crate::bench::{Bench, SECRET, token};
use crate::http::ask;
use crate::peer::{hello, packet, send};

#[tokio::test]
async fn hello_tells_the_client_what_it_must_know() {
    let bench = Bench::start();
    bench.service.commit("alice", "waiting");
    let mut peer = bench.connect().await;
    let reply = peer.greet("alice", "d1").await;
    assert_eq!((reply.user.as_str(), reply.heartbeat_ms), ("alice", 120_000));
    assert!(reply.pending && reply.session != 0);
    assert_eq!((reply.key_order(), reply.durability()), (v1::KeyOrder::Start, v1::Durability::Disk));
    let told = reply.limits.unwrap();
    assert_eq!((told.packet_bytes, told.in_flight, told.send_messages), (65_536, 256, 256));
    assert_eq!(told.dedup_seconds, limits::DEDUP.as_secs());
    let other = bench.connect().await.greet("alice", "d2").await;
    assert_ne!(other.session, reply.session);
}

#[tokio::test]
async fn requests_behind_the_hello_wait_for_its_outcome() {
    let bench = Bench::start();
    bench.service.hold("hello");
    let mut peer = bench.connect().await;
    let segment = [
        packet(Command::Hello, 1, &hello(&token("alice"), "d1")),
        packet(Command::Send, 2, &send(1..=2)),
        packet(Command::Heartbeat, 3, &()),
    ];
    peer.write(&segment.concat()).await;
    bench.service.reached("hello", 1).await;
    assert_eq!(bench.service.calls("send"), []);
    bench.service.release("hello");
    let _: v1::HelloReply = peer.reply(Command::Hello, 1).await;
    peer.expect(Command::Heartbeat.reply(), 3).await;
    let reply: v1::SendReply = peer.reply(Command::Send, 2).await;
    assert_eq!(reply.results.len(), 2);
}

#[tokio::test]
async fn requests_behind_a_refused_hello_are_not_carried_out() {
    let bench = Bench::start();
    let mut peer = bench.connect().await;
    let segment = [packet(Command::Hello, 1, &hello("no token", "d1")), packet(Command::Send, 2, &send(1..=1))];
    peer.write(&segment.concat()).await;
    assert_eq!(peer.error(1).await.code(), v1::Code::BadToken);
    peer.closed().await;
    assert_eq!(bench.service.calls("send"), []);
}

#[tokio::test]
async fn anything_before_hello_closes() {
    let bench = Bench::start();
    for command in [Command::Heartbeat, Command::Sync] {
        let mut peer = bench.connect().await;
        peer.ask(command, 5, &()).await;
        let error = peer.error(5).await;
        assert_eq!((error.code(), error.command), (v1::Code::HelloRequired, command.number()));
        peer.closed().await;
    }
}

#[tokio::test]
async fn no_hello_in_time_closes() {
    assert_eq!(Settings::default().hello_wait, Duration::from_secs(10));
    let bench = Bench::with(Settings { hello_wait: Duration::from_millis(50), ..Settings::default() });
    let mut peer = bench.connect().await;
    // Half a header does not count.
    peer.write(&[0, 0, 0, 16]).await;
    assert_eq!(peer.error(0).await.code(), v1::Code::HelloTimeout);
    peer.closed().await;
    assert_eq!(bench.gateway.counters().ended(Ending::NoHello), 1);
}

#[tokio::test]
async fn hellos_that_are_not_accepted_say_why() {
    let bench = Bench::start();
    let alice = UserId::new("alice").unwrap();
    let foreign = mint(b"another", &alice, Duration::from_secs(600));
    let good = token("alice");
    let other_protocol = v1::HelloRequest { protocol: 2, ..hello(&good, "d1") };
    for (request, code) in [
        (hello("", "d1"), v1::Code::BadToken),
        (hello(&foreign, "d1"), v1::Code::BadToken),
        (hello(&good, "d/1"), v1::Code::BadDevice),
        (hello(&good, ""), v1::Code::BadDevice),
        (other_protocol, v1::Code::UnsupportedProtocol),
    ] {
        let mut peer = bench.connect().await;
        peer.ask(Command::Hello, 1, &request).await;
        let error = peer.error(1).await;
        assert_eq!(error.code(), code);
        assert!(!error.message.contains(&good));
        peer.closed().await;
    }
    assert_eq!(bench.service.calls("hello"), []);
}

#[tokio::test]
async fn an_expired_token_is_told_from_a_bad_one() {
    #[derive(serde::Serialize)]
    struct Claims {
        sub: &'static str,
        exp: u64,
    }
    let bench = Bench::start();
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    let claims = Claims { sub: "alice", exp: 1_500_000_000 };
    let expired = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let mut peer = bench.connect().await;
    peer.ask(Command::Hello, 1, &hello(&expired, "d1")).await;
    assert_eq!(peer.error(1).await.code(), v1::Code::TokenExpired);
    peer.closed().await;
    let head = format!("POST /v1/sync HTTP/1.1\r\nauthorization: Bearer {expired}\r\ntern-device: d1");
    let response = ask(bench.http, &head, b"").await;
    assert_eq!((response.status, response.text().contains("CODE_TOKEN_EXPIRED")), (401, true), "{response:?}");
}

#[tokio::test]
async fn a_hello_while_storage_is_away_may_be_repeated() {
    let bench = Bench::start();
    bench.service.go_away(true);
    let mut peer = bench.connect().await;
    peer.ask(Command::Hello, 1, &hello(&token("alice"), "d1")).await;
    let error = peer.error(1).await;
    assert_eq!((error.code(), error.retry_after_ms), (v1::Code::Unavailable, 1500));
    bench.service.go_away(false);
    peer.greet("alice", "d1").await;
}

#[tokio::test]
async fn a_second_hello_is_refused_and_the_link_stays() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    peer.ask(Command::Hello, 2, &hello(&token("alice"), "d1")).await;
    assert_eq!(peer.error(2).await.code(), v1::Code::SecondHello);
    peer.quiet().await;
}

// displaced-session: the old link's cleanup comes after the new one has registered and must not remove it.
#[tokio::test]
async fn a_new_link_displaces_the_old_one_and_gets_the_hints() {
    let bench = Bench::start();
    let mut old = bench.enter("bob", "d1").await;
    let mut other = bench.enter("bob", "d2").await;
    let mut new = bench.enter("bob", "d1").await;
    let told = old.go_away().await;
    assert_eq!((told.reason(), told.retry_after_ms), (v1::GoAwayReason::Displaced, 0));
    old.closed().await;
    drop(old);
    assert_eq!(bench.gateway.counters().ended(Ending::Displaced), 1);
    other.quiet().await;
    bench.service.commit("bob", "hi");
    new.expect(Command::Notify.number(), 0).await;
    other.expect(Command::Notify.number(), 0).await;
}

#[tokio::test]
async fn what_comes_during_the_hello_is_not_missed() {
    let bench = Bench::start();
    let mut peer = bench.connect().await;
    bench.service.hold("hello");
    peer.ask(Command::Hello, 1, &hello(&token("bob"), "d1")).await;
    bench.service.reached("hello", 1).await;
    bench.service.hint("bob");
    bench.service.release("hello");
    let _: v1::HelloReply = peer.reply(Command::Hello, 1).await;
    peer.expect(Command::Notify.number(), 0).await;
}

#[tokio::test]
async fn one_link_too_many_is_told() {
    let bench = Bench::with(Settings { max_links: 1, ..Settings::default() });
    let first = bench.enter("alice", "d1").await;
    let mut second = bench.connect().await;
    assert_eq!(second.error(0).await.code(), v1::Code::TooManyRequests);
    second.closed().await;
    drop(first);
}
