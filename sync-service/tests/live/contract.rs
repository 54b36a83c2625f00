//! What every keeper of routes promises.

use std::time::Duration;

use tern_sync::routes::{Memory, Redis, Target};
use tern_sync::{Device, GatewayId, Route, Routes, Standing};

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

async fn gateways(routes: &dyn Routes, of: &str) -> Vec<u64> {
    let found = routes.gateways(&[user(of)]).await.unwrap();
    found.into_iter().flatten().map(GatewayId::number).collect()
}

async fn holds(routes: &dyn Routes) {
    leads_to_every_gateway(routes).await;
    displaced_session(routes).await;
    waits_stand_side_by_side(routes).await;
    ends_by_itself(routes).await;
}

async fn leads_to_every_gateway(routes: &dyn Routes) {
    let (phone, laptop) = (device("alice/phone"), device("alice/laptop"));
    assert_eq!(routes.enter(&phone, link(0xa, 1)).await, Ok(None));
    assert_eq!(routes.enter(&laptop, link(0xb, 1)).await, Ok(None));
    assert_eq!(routes.enter(&device("bob/phone"), link(0xb, 2)).await, Ok(None));
    let found = routes.gateways(&[user("alice"), user("nobody"), user("bob")]).await.unwrap();
    let numbers: Vec<Vec<u64>> =
        found.into_iter().map(|all| all.into_iter().map(GatewayId::number).collect()).collect();
    assert_eq!(numbers, [GATEWAYS.to_vec(), vec![], vec![0xb]]);
    routes.leave(&[(phone, link(0xa, 1)), (device("bob/phone"), link(0xb, 2))]).await.unwrap();
    assert_eq!((gateways(routes, "alice").await, gateways(routes, "bob").await), (vec![0xb], vec![]));
    routes.leave(&[(laptop, link(0xb, 1))]).await.unwrap();
    assert!(gateways(routes, "alice").await.is_empty());
}

/// The late cleanup of an old link never removes the new one; nor does its renewal.
async fn displaced_session(routes: &dyn Routes) {
    let phone = device("carol/phone");
    let (old, new) = (link(0xa, 7), link(0xb, 3));
    routes.enter(&phone, old).await.unwrap();
    assert_eq!(routes.enter(&phone, new).await, Ok(Some(old)));
    assert_eq!(routes.enter(&phone, new).await, Ok(None), "it does not displace itself");
    let renewed = routes.renew(&[(phone.clone(), old), (phone.clone(), new)]).await;
    assert_eq!(renewed, Ok(vec![Standing::Displaced, Standing::Stands]));
    routes.leave(&[(phone.clone(), old)]).await.unwrap();
    assert_eq!(gateways(routes, "carol").await, [0xb]);
    // The same gateway and another link is another route.
    let third = link(0xb, 4);
    assert_eq!(routes.enter(&phone, third).await, Ok(Some(new)));
    routes.leave(&[(phone.clone(), new)]).await.unwrap();
    assert_eq!(gateways(routes, "carol").await, [0xb]);
    routes.leave(&[(phone, third)]).await.unwrap();
}

async fn waits_stand_side_by_side(routes: &dyn Routes) {
    let phone = device("dave/phone");
    let wait = |gateway, number| Route { is_wait: true, ..link(gateway, number) };
    for route in [link(0xa, 1), wait(0xa, 1), wait(0xb, 1), wait(0xb, 2)] {
        assert_eq!(routes.enter(&phone, route).await, Ok(None));
    }
    routes.leave(&[(phone.clone(), wait(0xb, 2)), (phone.clone(), link(0xa, 1))]).await.unwrap();
    assert_eq!(gateways(routes, "dave").await, GATEWAYS);
    routes.leave(&[(phone.clone(), wait(0xb, 1))]).await.unwrap();
    assert_eq!(gateways(routes, "dave").await, [0xa]);
    routes.leave(&[(phone, wait(0xa, 1))]).await.unwrap();
}

/// half-open: the routes of a gateway that was killed are gone within their lifetime, also where another device of the user is renewed.
async fn ends_by_itself(routes: &dyn Routes) {
    let (phone, laptop) = (device("erin/phone"), device("erin/laptop"));
    routes.enter(&phone, link(0xa, 1)).await.unwrap();
    routes.enter(&laptop, link(0xb, 1)).await.unwrap();
    routes.enter(&device("frank/phone"), link(0xa, 2)).await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(LIFETIME / 4).await;
        assert_eq!(routes.renew(&[(laptop.clone(), link(0xb, 1))]).await, Ok(vec![Standing::Stands]));
    }
    assert_eq!((gateways(routes, "erin").await, gateways(routes, "frank").await), (vec![0xb], vec![]));
    // A hello after the death of the old gateway displaces nobody.
    assert_eq!(routes.enter(&phone, link(0xb, 5)).await, Ok(None));
    // What was late stands again, unless it was displaced meanwhile.
    let late = routes.renew(&[(device("frank/phone"), link(0xa, 2)), (phone.clone(), link(0xa, 1))]).await;
    assert_eq!(late, Ok(vec![Standing::Restored, Standing::Displaced]));
    routes
        .leave(&[(phone, link(0xb, 5)), (laptop, link(0xb, 1)), (device("frank/phone"), link(0xa, 2))])
        .await
        .unwrap();
}

#[tokio::test]
async fn in_memory() {
    holds(&Memory::new(LIFETIME)).await;
}

#[tokio::test]
async fn in_redis() {
    let server = servers::redis();
    let routes = Redis::new(Target::one(&server.url, None).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
}

/// A user who may do no more than Tern needs.
#[tokio::test]
async fn as_a_user_of_redis_with_few_rights() {
    let server = servers::redis();
    let rights = "ACL SETUSER tern on >little ~tern:* +@connection +hvals +hget +hset +hdel +hgetall +pexpire +time +evalsha +script|load";
    server.cli(&rights.split(' ').collect::<Vec<_>>());
    let url = server.url.replace("redis://", "redis://tern:little@");
    let routes = Redis::new(Target::one(&url, None).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_of_redis() {
    let cluster = servers::redis_cluster();
    let routes = Redis::new(Target::cluster(&cluster.urls(), None).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_master_that_sentinels_know() {
    let servers = servers::redis_sentinels();
    let routes = Redis::new(Target::sentinel(&servers.urls(), servers::MASTER, None).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
}

#[tokio::test]
async fn over_tls() {
    let (server, authority) = servers::redis_with_tls();
    let url = server.url.replace("redis://", "rediss://");
    let authority = std::fs::read(authority).unwrap();
    let routes = Redis::new(Target::one(&url, Some(&authority)).unwrap(), LIFETIME);
    servers::until_there(&routes).await;
    holds(&routes).await;
    let distrustful = Redis::new(Target::one(&url, None).unwrap(), LIFETIME);
    tokio::time::sleep(LIFETIME / 2).await;
    assert!(distrustful.gateways(&[user("alice")]).await.is_err());
}
