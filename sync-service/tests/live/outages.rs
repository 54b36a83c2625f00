//! What becomes of routes when Redis forgets, dies, or does not answer.

use std::time::{Duration, Instant};

use tern_sync::in_redis::{Redis, Target};
use tern_sync::{Routes, Standing};

use crate::contract::{LIFETIME, device, keep, keep_all, link, young};
use crate::servers::{self, PATIENCE, until_there, user};

async fn routes_in(url: &str) -> Redis {
    let routes = Redis::new(Target::one(url, None).unwrap(), LIFETIME);
    until_there(&routes).await;
    routes
}

/// redis-wiped: what was lost stands again with the next renewal, which says that it was lost.
#[tokio::test]
async fn what_was_flushed_is_restored_by_the_renewal() {
    let server = servers::redis();
    let routes = routes_in(&server.url).await;
    let (phone, route) = (device("alice/phone"), link(0xa, 1));
    keep(&routes, young(&phone, route)).await;
    server.cli(&["FLUSHALL"]);
    assert_eq!(routes.gateways(&[user("alice")]).await, Ok(vec![vec![]]));
    assert_eq!(keep(&routes, young(&phone, route)).await, (Standing::New, None));
    assert_eq!(routes.gateways(&[user("alice")]).await, Ok(vec![vec![route.gateway]]));
}

#[tokio::test]
async fn a_redis_that_was_killed_is_away_and_comes_back_by_itself() {
    let mut server = servers::redis();
    let routes = routes_in(&server.url).await;
    server.kill();
    let began = Instant::now();
    while routes.gateways(&[user("alice")]).await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    server.start_again();
    until_there(&routes).await;
    // The scripts are gone too.
    assert_eq!(keep(&routes, young(&device("alice/phone"), link(0xa, 1))).await, (Standing::New, None));
}

/// While Redis does not answer nobody waits for it, but the first ones a little.
#[tokio::test]
async fn nobody_waits_for_a_redis_that_does_not_answer() {
    let server = servers::redis();
    let routes = routes_in(&server.url).await;
    server.signal("-STOP");
    let began = Instant::now();
    assert!(routes.gateways(&[user("alice")]).await.is_err());
    for _ in 0..1_000 {
        assert!(routes.keep(&[young(&device("alice/phone"), link(0xa, 1))]).await.is_err());
    }
    let took = began.elapsed();
    server.signal("-CONT");
    assert!(took < Duration::from_secs(4), "{took:?}");
    until_there(&routes).await;
}

/// A master of the cluster dies: its replica takes over, and what was not copied yet is restored by the renewal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_the_cluster_dies() {
    let mut cluster = servers::redis_cluster();
    let routes = Redis::new(Target::cluster(&cluster.urls(), None).unwrap(), LIFETIME);
    until_there(&routes).await;
    cluster.0[0].kill();
    let began = Instant::now();
    // Users of every part of the cluster.
    let links: Vec<_> = (0..32).map(|n| young(&device(&format!("user{n}/phone")), link(0xa, n))).collect();
    while let Err(away) = keep_all(&routes, &links).await {
        assert!(began.elapsed() < PATIENCE, "the cluster does not get well: {away}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let users: Vec<_> = links.iter().map(|kept| kept.device.user.clone()).collect();
    assert!(routes.gateways(&users).await.unwrap().iter().all(|gateways| gateways.len() == 1));
}

/// Sentinels promote the replica, which may lag: what it has not got is restored by the renewal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_promote_the_replica() {
    let mut servers = servers::redis_sentinels();
    let routes = Redis::new(Target::sentinel(&servers.urls(), servers::MASTER, None).unwrap(), LIFETIME);
    until_there(&routes).await;
    let (phone, route) = (device("alice/phone"), link(0xa, 1));
    keep(&routes, young(&phone, route)).await;
    servers.master.kill();
    let began = Instant::now();
    while keep_all(&routes, &[young(&phone, route)]).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "nobody is promoted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(routes.gateways(&[user("alice")]).await, Ok(vec![vec![route.gateway]]));
}
