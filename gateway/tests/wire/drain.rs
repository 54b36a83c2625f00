//! How links end from the server's side: the stop, silence, a client that does not read.

use std::time::{Duration, Instant};

use tern_gateway::{Ending, Settings};
use tern_proto::{Command, v1};
use tokio::net::TcpStream;

use crate::bench::Bench;
use crate::http::{ask, ask_json};
use crate::peer::{key, packet, send, sync};

// reconnect-storm: the clients of a gateway that stops come back at different times.
#[tokio::test]
async fn at_a_stop_every_link_is_told_when_to_come_back() {
    let bench = Bench::start();
    let mut peers = Vec::new();
    for device in 0..20 {
        peers.push(bench.enter("alice", &format!("d{device}")).await);
    }
    let mut silent = bench.connect().await;
    // The accept comes before the stop if a later connection was answered.
    peers.push(bench.enter("alice", "last").await);
    bench.stopper.stop();
    let mut waits = Vec::new();
    for mut peer in peers {
        let told = peer.go_away().await;
        assert_eq!(told.reason(), v1::GoAwayReason::Shutdown);
        assert!(told.retry_after_ms <= 5000);
        waits.push(told.retry_after_ms);
        peer.closed().await;
    }
    silent.go_away().await;
    silent.closed().await;
    drop(silent);
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 5, "the waits are spread: {waits:?}");
    let (gateway, long_link) = (bench.gateway.clone(), bench.long_link);
    bench.drained().await;
    assert!(TcpStream::connect(long_link).await.is_err(), "nobody listens any more");
    assert_eq!(gateway.counters().ended(Ending::Shutdown), 22);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_long_poll() {
    let bench = Bench::start();
    let waiting = tokio::spawn(ask_json(bench.http, "bob", "d1", "/v1/check", r#"{"waitMs": 60000}"#));
    bench.service.reached("check", 1).await;
    bench.stopper.stop();
    let response = waiting.await.unwrap();
    assert_eq!((response.status, response.text()), (200, "{}"));
    bench.drained().await;
}

#[tokio::test]
async fn while_a_link_drains_it_gets_its_answers_and_the_short_link_says_not_ready() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    bench.service.hold("send");
    peer.ask(Command::Send, 2, &send(1..=1)).await;
    bench.service.reached("send", 1).await;
    bench.stopper.stop();
    peer.go_away().await;
    let ready = ask(bench.http, "GET /readyz HTTP/1.1", b"").await;
    assert_eq!((ready.status, ready.text().contains("stopping")), (503, true), "{ready:?}");
    assert_eq!(ask_json(bench.http, "bob", "d1", "/v1/sync", "{}").await.status, 200);
    assert!(TcpStream::connect(bench.long_link).await.is_err(), "no new link");
    bench.service.release("send");
    let reply: v1::SendReply = peer.reply(Command::Send, 2).await;
    assert_eq!(reply.results.len(), 1);
    peer.closed().await;
    drop(peer);
    let http = bench.http;
    bench.drained().await;
    assert!(TcpStream::connect(http).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_displaced_link_gets_its_answers() {
    let bench = Bench::start();
    let mut old = bench.enter("alice", "d1").await;
    bench.service.hold("send");
    old.ask(Command::Send, 2, &send(1..=1)).await;
    bench.service.reached("send", 1).await;
    bench.enter("alice", "d1").await;
    assert_eq!(old.go_away().await.reason(), v1::GoAwayReason::Displaced);
    bench.service.release("send");
    let _: v1::SendReply = old.reply(Command::Send, 2).await;
    old.closed().await;
}

// The call never ends; the link does.
#[tokio::test]
async fn a_link_leaves_without_an_answer_that_does_not_come() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    bench.service.hold("send");
    peer.ask(Command::Send, 2, &send(1..=1)).await;
    bench.service.reached("send", 1).await;
    bench.stopper.stop();
    peer.go_away().await;
    peer.closed().await;
    drop(peer);
    bench.drained().await;
}

#[tokio::test]
async fn the_grace_bounds_the_drain() {
    let bench = Bench::with(Settings { drain_grace: Duration::from_millis(50), ..Settings::default() });
    bench.service.hold("ack");
    let body = r#"{"key": {"epoch": "9"}}"#;
    let waiting = tokio::spawn(ask_json(bench.http, "bob", "d1", "/v1/ack", body));
    bench.service.reached("ack", 1).await;
    bench.stopper.stop();
    let service = bench.service.clone();
    bench.drained().await;
    service.release("ack");
    assert_eq!(waiting.await.unwrap().status, 200);
}

// half-open: a client that is gone without a word does not count as present for ever.
#[tokio::test]
async fn a_silent_link_is_closed() {
    let heartbeat = Duration::from_millis(100);
    let bench = Bench::with(Settings { heartbeat, ..Settings::default() });
    let start = Instant::now();
    let mut silent = bench.enter("alice", "d1").await;
    assert_eq!(silent.go_away().await.reason(), v1::GoAwayReason::Silent);
    assert!(start.elapsed() >= heartbeat * 5 / 2, "it may be silent for 2.5 intervals");
    silent.closed().await;
    assert_eq!(bench.gateway.counters().ended(Ending::Silent), 1);
}

#[tokio::test]
async fn heartbeats_keep_a_link() {
    let bench = Bench::with(Settings { heartbeat: Duration::from_millis(200), ..Settings::default() });
    let mut peer = bench.enter("alice", "d1").await;
    let mut beats = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..10 {
        beats.tick().await;
        peer.quiet().await;
    }
    assert_eq!(bench.gateway.counters().ended(Ending::Silent), 0);
}

// Invariant 13, registry-stall: one link that does not move holds up no other and no memory. The server stops reading requests, and then gives the link up.
#[tokio::test]
async fn a_client_that_does_not_read_is_bounded_and_closed() {
    let bench = Bench::with(Settings { write_stall: Duration::from_millis(300), ..Settings::default() });
    for _ in 0..60 {
        bench.service.commit_quietly("bob", &"x".repeat(1000));
    }
    let peer = bench.enter("bob", "d1").await;
    let page = packet(Command::Sync, 2, &sync(0));
    // Far more pages than the buffers of both ends hold, each 60 kB; nobody reads them.
    let flood = async {
        loop {
            peer.stream.writable().await.unwrap();
            if peer.stream.try_write(&page).is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), flood).await.expect("the link was not closed");
    assert_eq!(bench.gateway.counters().ended(Ending::Slow), 1);
    let asked = bench.service.calls("sync").len();
    assert!(asked < 1000, "{asked} pages were made for a client that reads none");
}

#[tokio::test]
async fn a_device_is_gone_from_the_registry_when_its_link_ends() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    bob.sync(2, 0).await;
    drop(bob);
    // Comes back on a new link; the hints of the old one are nobody's.
    let mut again = bench.enter("bob", "d1").await;
    bench.service.commit("bob", "1");
    again.expect(Command::Notify.number(), 0).await;
    again.ask(Command::Ack, 3, &v1::AckRequest { key: Some(key(1)) }).await;
    let _: v1::AckReply = again.reply(Command::Ack, 3).await;
}
