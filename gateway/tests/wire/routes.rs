//! One of several gateways: how hints are led to it, and what becomes of a device that comes elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tern_proto::{Command, UserId, v1};
use tern_sync::routes::Memory;
use tern_sync::{Device, GatewayId, Held, Kept, Route, Routes as _, Standing};

use crate::bench::{Bench, LIFETIME, token};
use crate::peer::{PATIENCE, Peer, hello, key};

const GATEWAY: u64 = 0xa;
const OTHER: u64 = 0xb;

fn routes() -> Arc<Memory> {
    Arc::new(Memory::new(LIFETIME))
}

fn bob(device: &str) -> Device {
    Device { user: UserId::new("bob").unwrap(), id: device.parse().unwrap() }
}

/// Until the routes of bob lead there.
async fn lead_to(routes: &Memory, wanted: &[u64]) {
    let began = Instant::now();
    loop {
        let found = routes.gateways(&[bob("d1").user]).await.unwrap();
        let found: Vec<u64> = found.into_iter().flatten().map(GatewayId::number).collect();
        if found == wanted {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{found:?} and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A link of bob's whose hello is held.
async fn before_its_hello_is_judged(bench: &Bench) -> Peer {
    bench.service.hold("hello");
    let mut peer = bench.connect().await;
    peer.ask(Command::Hello, 1, &hello(&token("bob"), "d1")).await;
    bench.service.reached("hello", 1).await;
    peer
}

/// How many routes of waits were in these calls.
fn waits(bench: &Bench, calls: &str) -> usize {
    told(bench, calls, 1)
}

/// How many routes of sessions were in the calls to keep some.
fn sessions(bench: &Bench) -> usize {
    told(bench, "keep", 0)
}

fn told(bench: &Bench, calls: &str, is_wait: u64) -> usize {
    bench.service.calls(calls).into_iter().flat_map(|call| call.ids).filter(|of| *of == is_wait).count()
}

/// A link of the device that has just come elsewhere.
async fn keep(routes: &Memory, route: Route) -> (Held, Option<Route>) {
    let undated = Kept { device: bob("d1"), route, age: Duration::ZERO, came: None };
    let (Held { came, .. }, _) = routes.keep(std::slice::from_ref(&undated)).await.unwrap()[0];
    routes.keep(&[Kept { came, ..undated }]).await.unwrap()[0]
}

/// The device comes to another gateway. The route whose place that takes.
async fn come_elsewhere(routes: &Memory) -> (Route, Route) {
    let route = Route { gateway: GatewayId::of(OTHER), link: 1, is_wait: false };
    // The old link's route is entered right behind its hello.
    lead_to(routes, &[GATEWAY]).await;
    loop {
        if let (_, Some(former)) = keep(routes, route).await {
            return (former, route);
        }
        routes.leave(&[(bob("d1"), route)]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn is_displaced(peer: &mut Peer) {
    assert_eq!(peer.go_away().await.reason(), v1::GoAwayReason::Displaced);
    peer.closed().await;
}

#[tokio::test]
async fn a_link_has_a_route_before_its_hello_is_judged_and_until_it_ends() {
    let routes = routes();
    let bench = Bench::routed(GATEWAY, routes.clone());
    let mut peer = before_its_hello_is_judged(&bench).await;
    lead_to(&routes, &[GATEWAY]).await;
    bench.service.release("hello");
    let _: v1::HelloReply = peer.reply(Command::Hello, 1).await;
    // Longer than it is kept: it is renewed.
    tokio::time::sleep(LIFETIME).await;
    lead_to(&routes, &[GATEWAY]).await;
    drop(peer);
    lead_to(&routes, &[]).await;
}

#[tokio::test]
async fn a_hello_that_is_refused_leaves_no_route() {
    let routes = routes();
    let bench = Bench::routed(GATEWAY, routes.clone());
    bench.service.go_away(true);
    let mut peer = bench.connect().await;
    peer.ask(Command::Hello, 1, &hello(&token("bob"), "d1")).await;
    bench.service.reached("leave", 1).await;
    lead_to(&routes, &[]).await;
}

#[tokio::test]
async fn a_check_has_a_route_while_it_waits() {
    let routes = routes();
    let bench = Bench::routed(GATEWAY, routes.clone());
    let mut peer = bench.enter("bob", "d1").await;
    let check = v1::CheckRequest { key: Some(key(0)), wait_ms: 60_000, ..Default::default() };
    peer.ask(Command::Check, 2, &check).await;
    bench.service.reached("check", 1).await;
    // The first was that of the hello.
    assert_eq!(waits(&bench, "keep"), 2, "before it is asked");
    bench.service.commit("bob", "1");
    peer.expect(Command::Notify.number(), 0).await;
    let _: v1::CheckReply = peer.reply(Command::Check, 2).await;
    bench.service.reached("leave", 2).await;
    assert_eq!(waits(&bench, "leave"), 2);
    lead_to(&routes, &[GATEWAY]).await;
}

/// displaced-session: the word of it reaches the old link by its number, and never the new one.
#[tokio::test]
async fn a_link_that_was_displaced_elsewhere_is_told() {
    let routes = routes();
    let bench = Bench::routed(GATEWAY, routes.clone());
    let mut peer = bench.enter("bob", "d1").await;
    let (old, _) = come_elsewhere(&routes).await;
    // A word about another link of the device is not for this one.
    bench.service.displace(&bob("d1"), Route { link: old.link + 1, ..old });
    peer.quiet().await;
    bench.service.displace(&bob("d1"), old);
    is_displaced(&mut peer).await;
    bench.service.reached("leave", 2).await;
    lead_to(&routes, &[OTHER]).await;
}

/// If the word of it was lost, the renewal tells.
#[tokio::test]
async fn a_link_that_was_displaced_unheard_is_told_by_its_renewal() {
    let routes = routes();
    let bench = Bench::routed(GATEWAY, routes.clone());
    let mut peer = bench.enter("bob", "d1").await;
    come_elsewhere(&routes).await;
    is_displaced(&mut peer).await;
}

/// redis-wiped: a route that was lost comes back, and its link looks for what it has missed.
#[tokio::test]
async fn a_link_whose_route_was_lost_looks_for_what_it_has_missed() {
    let routes = routes();
    let bench = Bench::routed(GATEWAY, routes.clone());
    let mut peer = bench.enter("bob", "d1").await;
    assert_eq!(peer.sync(2, 0).await, 0);
    let (own, elsewhere) = come_elsewhere(&routes).await;
    routes.leave(&[(bob("d1"), elsewhere)]).await.unwrap();
    bench.service.commit_quietly("bob", "missed");
    let delta = peer.delta().await;
    assert_eq!(delta.entries.len(), 1);
    lead_to(&routes, &[own.gateway.number()]).await;
}

/// A hello that was late, with the end of its link right behind it, takes no place: the device may be on another link by then.
#[tokio::test]
async fn a_hello_whose_client_has_gone_displaces_nobody() {
    let routes = routes();
    let bench = Bench::routed(GATEWAY, routes.clone());
    let peer = before_its_hello_is_judged(&bench).await;
    drop(peer);
    let elsewhere = Route { gateway: GatewayId::of(OTHER), link: 1, is_wait: false };
    keep(&routes, elsewhere).await;
    // The end of the link has to be there before the outcome of the hello.
    tokio::time::sleep(Duration::from_millis(100)).await;
    bench.service.release("hello");
    bench.service.reached("leave", 1).await;
    lead_to(&routes, &[OTHER]).await;
    assert_eq!(keep(&routes, elsewhere).await.0.standing, Standing::Stands);
}

/// displaced-session: what is said of a link comes late, and the device is on another one by then, which stays.
#[tokio::test]
async fn a_word_of_an_old_link_that_was_held_up_displaces_nobody() {
    let routes = routes();
    let bench = Bench::routed(GATEWAY, routes.clone());
    let mut peer = before_its_hello_is_judged(&bench).await;
    bench.service.hold("keep");
    bench.service.release("hello");
    let _: v1::HelloReply = peer.reply(Command::Hello, 1).await;
    let began = Instant::now();
    while sessions(&bench) == 0 {
        assert!(began.elapsed() < PATIENCE, "nothing is said of the session");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let elsewhere = Route { gateway: GatewayId::of(OTHER), link: 1, is_wait: false };
    keep(&routes, elsewhere).await;
    bench.service.release("keep");
    is_displaced(&mut peer).await;
    lead_to(&routes, &[OTHER]).await;
}

/// A hello that came while nobody could date it: its link is dated when somebody can, and has a route then.
#[tokio::test]
async fn a_link_that_came_undated_is_dated_later() {
    let routes = routes();
    let bench = Bench::routed(GATEWAY, routes.clone());
    bench.service.go_away(true);
    let mut peer = before_its_hello_is_judged(&bench).await;
    lead_to(&routes, &[]).await;
    bench.service.go_away(false);
    bench.service.release("hello");
    let _: v1::HelloReply = peer.reply(Command::Hello, 1).await;
    // Something may have been missed.
    peer.expect(Command::Notify.number(), 0).await;
    come_elsewhere(&routes).await;
    is_displaced(&mut peer).await;
}
