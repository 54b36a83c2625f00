//! What every keeper of routes promises; what those promise that keep what was committed lately is in `recent`.

use std::time::Duration;

use tern_sync::in_redis::{Redis, Target};
use tern_sync::routes::Memory;
use tern_sync::{Away, Came, Device, GatewayId, Held, Kept, Route, Routes, Standing};

use crate::recent;
use crate::servers::{self, user};

/// Short, so that the end of it can be waited for.
pub(crate) const LIFETIME: Duration = Duration::from_secs(3);
const GATEWAYS: [u64; 2] = [0xa, 0xb];

pub(crate) fn device(name: &str) -> Device {
    let (user_name, id) = name.split_once('/').unwrap();
    Device { user: user(user_name), id: id.parse().unwrap() }
}

pub(crate) fn link(gateway: u64, link: u64) -> Route {
    Route { gateway: GatewayId::of(gateway), link, is_wait: false }
}

/// A link that is as young as can be.
pub(crate) fn young(device: &Device, route: Route) -> Kept {
    Kept { device: device.clone(), route, age: Duration::ZERO, came: None }
}

fn aged(device: &Device, route: Route, age: Duration) -> Kept {
    Kept { age, ..young(device, route) }
}

/// Keeps one route, which is dated if need be.
pub(crate) async fn keep(routes: &dyn Routes, kept: Kept) -> (Standing, Option<Route>) {
    match routes.keep(std::slice::from_ref(&kept)).await.unwrap()[0] {
        (Held { standing: Standing::Undated, came }, None) => keep_dated(routes, Kept { came, ..kept }).await,
        (Held { standing, .. }, former) => (standing, former),
    }
}

/// Keeps them all, which are dated first.
pub(crate) async fn keep_all(routes: &dyn Routes, all: &[Kept]) -> Result<(), Away> {
    let held = routes.keep(all).await?;
    let dated = |(kept, (held, _)): (&Kept, &(Held, _))| Kept { came: held.came, ..kept.clone() };
    let dated: Vec<Kept> = all.iter().zip(&held).map(dated).collect();
    routes.keep(&dated).await.map(drop)
}

/// When its link came.
async fn date(routes: &dyn Routes, kept: &Kept) -> Option<Came> {
    routes.keep(std::slice::from_ref(kept)).await.unwrap()[0].0.came
}

async fn keep_dated(routes: &dyn Routes, kept: Kept) -> (Standing, Option<Route>) {
    let (Held { standing, .. }, former) = routes.keep(&[kept]).await.unwrap()[0];
    (standing, former)
}

const NEW: (Standing, Option<Route>) = (Standing::New, None);
const STANDS: (Standing, Option<Route>) = (Standing::Stands, None);
const DISPLACED: (Standing, Option<Route>) = (Standing::Displaced, None);
const UNDATED: (Standing, Option<Route>) = (Standing::Undated, None);

async fn gateways(routes: &dyn Routes, of: &str) -> Vec<u64> {
    let found = routes.gateways(&[user(of)]).await.unwrap();
    found.into_iter().flatten().map(GatewayId::number).collect()
}

async fn holds(routes: &dyn Routes) {
    leads_to_every_gateway(routes).await;
    displaced_session(routes).await;
    a_word_of_an_old_link_that_was_held_up_displaces_nobody(routes).await;
    the_earlier_date_is_right(routes).await;
    waits_stand_side_by_side(routes).await;
    ends_by_itself(routes).await;
}

async fn leads_to_every_gateway(routes: &dyn Routes) {
    let (phone, laptop, other) = (device("alice/phone"), device("alice/laptop"), device("bob/phone"));
    let all = [young(&phone, link(0xa, 1)), young(&laptop, link(0xb, 1)), young(&other, link(0xb, 2))];
    for expected in [NEW, STANDS] {
        for kept in &all {
            assert_eq!(keep(routes, kept.clone()).await, expected);
        }
    }
    let found = routes.gateways(&[user("alice"), user("nobody"), user("bob")]).await.unwrap();
    let number = |all: Vec<GatewayId>| all.into_iter().map(GatewayId::number).collect();
    let numbers: Vec<Vec<u64>> = found.into_iter().map(number).collect();
    assert_eq!(numbers, [GATEWAYS.to_vec(), vec![], vec![0xb]]);
    routes.leave(&[(phone, link(0xa, 1)), (other, link(0xb, 2))]).await.unwrap();
    assert_eq!((gateways(routes, "alice").await, gateways(routes, "bob").await), (vec![0xb], vec![]));
    routes.leave(&[(laptop, link(0xb, 1))]).await.unwrap();
    assert!(gateways(routes, "alice").await.is_empty());
}

/// The younger link has the place, whoever speaks last; and the late cleanup of the old one never removes the new one.
async fn displaced_session(routes: &dyn Routes) {
    let phone = device("carol/phone");
    let (old, new) = (link(0xa, 7), link(0xb, 3));
    let second = Duration::from_secs(1);
    assert_eq!(keep(routes, aged(&phone, old, second * 5)).await, NEW);
    assert_eq!(keep(routes, aged(&phone, new, second)).await, (Standing::New, Some(old)));
    assert_eq!(keep(routes, aged(&phone, old, second * 5)).await, DISPLACED);
    assert_eq!(keep(routes, aged(&phone, new, second)).await, STANDS);
    routes.leave(&[(phone.clone(), old)]).await.unwrap();
    assert_eq!(gateways(routes, "carol").await, [0xb]);
    // The same gateway and another link is another route.
    let third = link(0xb, 4);
    assert_eq!(keep(routes, young(&phone, third)).await, (Standing::New, Some(new)));
    routes.leave(&[(phone.clone(), new)]).await.unwrap();
    assert_eq!(gateways(routes, "carol").await, [0xb]);
    // Everything was lost, and the old one is the first to come back.
    routes.leave(&[(phone.clone(), third)]).await.unwrap();
    assert_eq!(keep(routes, aged(&phone, old, second * 9)).await, NEW);
    assert_eq!(keep(routes, aged(&phone, third, second * 4)).await, (Standing::New, Some(old)));
    routes.leave(&[(phone, third)]).await.unwrap();
}

/// displaced-session: what is said of a link before its hello is answered dates it, however late anything else that was said of it comes.
async fn a_word_of_an_old_link_that_was_held_up_displaces_nobody(routes: &dyn Routes) {
    let phone = device("grace/phone");
    let (old, new) = (young(&phone, link(0xa, 1)), young(&phone, link(0xb, 1)));
    let came = date(routes, &Kept { route: Route { is_wait: true, ..old.route }, ..old.clone() }).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(keep(routes, new.clone()).await, NEW);
    tokio::time::sleep(Duration::from_millis(20)).await;
    // It was said when the link had just come.
    assert_eq!(keep_dated(routes, Kept { came, ..old.clone() }).await, DISPLACED);
    assert_eq!(keep(routes, Kept { age: Duration::from_millis(20), ..new.clone() }).await, STANDS);
    let wait = Route { is_wait: true, ..old.route };
    routes.leave(&[(phone.clone(), new.route), (phone, wait)]).await.unwrap();
}

/// A long link without a date has no place; of two dates the earlier one is right: a word was late, or the clock was set back.
async fn the_earlier_date_is_right(routes: &dyn Routes) {
    let (phone, route, second) = (device("heidi/phone"), link(0xa, 1), Duration::from_secs(1));
    let of_age = |age, came| Kept { came, ..aged(&phone, route, age) };
    assert_eq!(keep_dated(routes, of_age(second, None)).await, UNDATED);
    assert!(gateways(routes, "heidi").await.is_empty());
    let came = date(routes, &of_age(second, None)).await.unwrap();
    let hour = 3_600_000_000;
    let too_late = Came::of(came.micros() + hour);
    let (held, _) = routes.keep(&[of_age(second * 60, too_late)]).await.unwrap()[0];
    assert!(held.standing == Standing::New && held.came.unwrap() < came, "{held:?} and not before {came:?}");
    // The word is late, or the clock was set forward.
    for came in [Some(came), Came::of(came.micros() - hour)] {
        let (held, _) = routes.keep(&[of_age(Duration::ZERO, came)]).await.unwrap()[0];
        assert_eq!(held, Held { standing: Standing::Stands, came });
    }
    routes.leave(&[(phone.clone(), route)]).await.unwrap();
}

async fn waits_stand_side_by_side(routes: &dyn Routes) {
    let phone = device("dave/phone");
    let wait = |gateway, number| Route { is_wait: true, ..link(gateway, number) };
    for route in [link(0xa, 1), wait(0xa, 1), wait(0xb, 1), wait(0xb, 2)] {
        assert_eq!(keep(routes, young(&phone, route)).await, NEW);
    }
    routes.leave(&[(phone.clone(), wait(0xb, 2)), (phone.clone(), link(0xa, 1))]).await.unwrap();
    assert_eq!(gateways(routes, "dave").await, GATEWAYS);
    routes.leave(&[(phone.clone(), wait(0xb, 1))]).await.unwrap();
    assert_eq!(gateways(routes, "dave").await, [0xa]);
    routes.leave(&[(phone, wait(0xa, 1))]).await.unwrap();
}

/// half-open: the routes of a gateway that was killed are gone within their lifetime, also where another device of the user is kept.
async fn ends_by_itself(routes: &dyn Routes) {
    let (phone, laptop, other) = (device("erin/phone"), device("erin/laptop"), device("frank/phone"));
    keep(routes, young(&phone, link(0xa, 1))).await;
    keep(routes, young(&laptop, link(0xb, 1))).await;
    keep(routes, young(&other, link(0xa, 2))).await;
    for _ in 0..4 {
        tokio::time::sleep(LIFETIME / 4).await;
        assert_eq!(keep(routes, young(&laptop, link(0xb, 1))).await, STANDS);
    }
    assert_eq!((gateways(routes, "erin").await, gateways(routes, "frank").await), (vec![0xb], vec![]));
    // A hello after the death of the old gateway displaces nobody.
    assert_eq!(keep(routes, young(&phone, link(0xb, 5))).await, NEW);
    // What was late stands again, unless a younger one has come meanwhile.
    assert_eq!(keep(routes, aged(&other, link(0xa, 2), LIFETIME)).await, NEW);
    assert_eq!(keep(routes, aged(&phone, link(0xa, 1), LIFETIME)).await, DISPLACED);
    routes.leave(&[(phone, link(0xb, 5)), (laptop, link(0xb, 1)), (other, link(0xa, 2))]).await.unwrap();
}

#[tokio::test]
async fn in_memory() {
    holds(&Memory::new(LIFETIME)).await;
    recent::holds(&tern_sync::recent::Memory::new()).await;
}

#[tokio::test]
async fn in_redis() {
    let server = servers::redis();
    let routes = Redis::new(Target::one(&server.url, None).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
    recent::holds(&routes).await;
    for key in server.cli(&["KEYS", "*"]).lines() {
        let left: i64 = server.cli(&["PTTL", key]).parse().unwrap();
        assert!(left > 0 && key.starts_with("tern:{"), "{key} is kept for {left}");
    }
}

/// A user who may do no more than Tern needs.
#[tokio::test]
async fn as_a_user_of_redis_with_few_rights() {
    let server = servers::redis();
    let rights = "ACL SETUSER tern on >little ~tern:* +@connection +hvals +hget +hmget +hset +hdel +hgetall +get +psetex +pexpire +time +evalsha +script|load";
    server.cli(&rights.split(' ').collect::<Vec<_>>());
    let url = server.url.replace("redis://", "redis://tern:little@");
    let routes = Redis::new(Target::one(&url, None).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
    recent::holds(&routes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_of_redis() {
    let cluster = servers::redis_cluster();
    let routes = Redis::new(Target::cluster(&cluster.urls(), None).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
    recent::holds(&routes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_master_that_sentinels_know() {
    let servers = servers::redis_sentinels();
    let routes = Redis::new(Target::sentinel(&servers.urls(), servers::MASTER, None).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
    recent::holds(&routes).await;
}

#[tokio::test]
async fn over_tls() {
    let (server, authority) = servers::redis_with_tls();
    let url = server.url.replace("redis://", "rediss://");
    let authority = std::fs::read(authority).unwrap();
    let routes = Redis::new(Target::one(&url, Some(&authority)).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
    recent::holds(&routes).await;
    let distrustful = Redis::new(Target::one(&url, None).unwrap(), LIFETIME);
    tokio::time::sleep(LIFETIME / 2).await;
    assert!(distrustful.gateways(&[user("alice")]).await.is_err());
}
