//! Hints over NATS: to whom, and what becomes of them when it fails.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tern_proto::v1::{self, entry::Body};
use tern_proto::{DeviceId, UserId};
use tern_runtime::shutdown::{self, Stopper};
use tern_sync::remote::{Bus, Fanout, Servers, hear};
use tern_sync::routes::Memory;
use tern_sync::{Device, GatewayId, Hints, News, Placed, Recent, Route, recent};

use crate::contract::{LIFETIME, device, keep, link, young};
use crate::servers::{self, PATIENCE, user};

/// What one gateway hears.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Hints for Heard {
    fn owed(&self, user: &UserId, except: Option<&Device>) {
        let except = except.map(|device| format!(" but {}", device.id)).unwrap_or_default();
        self.say(format!("owed {user}{except}"));
    }

    fn news(&self, news: News) {
        let users: Vec<String> = news.places.iter().map(|placed| placed.user.to_string()).collect();
        self.say(format!("news {}", users.join(" ")));
    }

    fn displaced(&self, device: &Device, route: Route) {
        self.say(format!("displaced {}/{} {}", device.user, device.id, route.link));
    }

    fn missed(&self) {
        self.say("missed".into());
    }

    fn is_wanted(&self, user: &UserId) -> bool {
        user.as_str() != "stranger"
    }
}

impl Heard {
    fn say(&self, said: String) {
        self.0.lock().unwrap().push(said);
    }

    /// Until it was heard; what was heard till then, without that something was missed.
    async fn until(&self, wanted: &str) -> Vec<String> {
        let began = Instant::now();
        loop {
            let heard = self.0.lock().unwrap().clone();
            if heard.iter().any(|said| said == wanted) {
                return heard.into_iter().filter(|said| said != "missed").collect();
            }
            assert!(began.elapsed() < PATIENCE, "{wanted} is not in {heard:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Gateway {
    id: GatewayId,
    heard: Arc<Heard>,
    _stopper: Stopper,
}

/// TLS, with the certificate of an authority that has to be named.
#[tokio::test]
async fn over_tls() {
    let (server, authority) = servers::nats_with_tls();
    let url = server.url.replace("nats://", "tls://");
    let (heard, (_stopper, stop)) = (Arc::new(Heard::default()), shutdown::channel());
    let servers: Servers = url.parse().unwrap();
    let bus = Bus::connect(servers.trusting(Some(authority)), "test").await.unwrap();
    tokio::spawn(hear(Arc::new(bus), GatewayId::of(0xa), heard.clone(), stop));
    heard.until("missed").await;
}

async fn bus(urls: &str) -> Arc<Bus> {
    Arc::new(Bus::connect(urls.parse().unwrap(), "test").await.unwrap())
}

async fn gateway(urls: &str, id: u64) -> Gateway {
    let (id, heard) = (GatewayId::of(id), Arc::new(Heard::default()));
    let (stopper, stop) = shutdown::channel();
    tokio::spawn(hear(bus(urls).await, id, heard.clone(), stop));
    heard.until("missed").await;
    // The subscription may be a moment behind the connection.
    tokio::time::sleep(Duration::from_millis(250)).await;
    Gateway { id, heard, _stopper: stopper }
}

fn news(of: &[&str]) -> News {
    let place = |name: &&str| Placed { user: user(name), epoch: 1, before: 2, version: 3 };
    let by = Device { user: user(of[0]), id: DeviceId::new("d1").unwrap() };
    News { by, body: Some(Body::Message(v1::Message::default())), places: of.iter().map(place).collect(), trace: None }
}

#[tokio::test]
async fn hints_go_to_exactly_the_gateways_that_hold_the_user() {
    let server = servers::nats();
    let routes = Arc::new(Memory::new(LIFETIME));
    let (a, b) = (gateway(&server.url, 0xa).await, gateway(&server.url, 0xb).await);
    let recent = Arc::new(recent::Memory::new());
    keep(&*routes, young(&device("alice/phone"), link(0xa, 1))).await;
    keep(&*routes, young(&device("bob/phone"), link(0xb, 1))).await;
    keep(&*routes, young(&device("carol/phone"), link(0xa, 2))).await;
    keep(&*routes, young(&device("carol/laptop"), link(0xb, 2))).await;
    let fanout = Fanout::new(bus(&server.url).await, routes, recent.clone());
    // Until the publisher is connected.
    let began = Instant::now();
    while a.heard.0.lock().unwrap().len() < 2 {
        assert!(began.elapsed() < PATIENCE);
        fanout.owed(&user("alice"), Some(&device("alice/phone")));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fanout.news(news(&["alice", "stranger"]));
    fanout.news(news(&["bob", "carol"]));
    fanout.owed(&user("nobody"), None);
    fanout.displaced(&device("carol/phone"), link(0xa, 2));
    fanout.owed(&user("alice"), None);
    fanout.owed(&user("bob"), None);
    let mut of_a = a.heard.until("owed alice").await;
    of_a.retain(|said| said != "owed alice but phone");
    assert_eq!(of_a, ["news alice", "news bob carol", "owed alice", "displaced carol/phone 2"]);
    assert_eq!(b.heard.until("owed bob").await, ["news bob carol", "owed bob"]);
    assert_ne!(a.id, b.id);
    // Whoever has no link has heads that rise too.
    let stranger = device("stranger/phone");
    let receipt = Some(Body::Receipt(v1::Receipt::default()));
    fanout.news(News { body: receipt, ..news(&["stranger"]) });
    let began = Instant::now();
    while recent.look(&stranger, 1, LIFETIME).await.unwrap().heads != [Some(3), Some(3)] {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What was lost while NATS was away is looked for when it is back.
#[tokio::test]
async fn a_gateway_hears_that_it_may_have_missed_something() {
    let mut server = servers::nats();
    let a = gateway(&server.url, 0xa).await;
    a.heard.0.lock().unwrap().clear();
    server.kill();
    server.start_again();
    a.heard.until("missed").await;
}

/// One of three NATS servers dies: hints go on over the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_nats_servers_dies() {
    let mut servers = servers::nats_cluster();
    let urls = servers.iter().map(|server| server.url.as_str()).collect::<Vec<_>>().join(",");
    let routes = Arc::new(Memory::new(Duration::from_secs(600)));
    let a = gateway(&urls, 0xa).await;
    keep(&*routes, young(&device("alice/phone"), link(0xa, 1))).await;
    let fanout = Fanout::new(bus(&urls).await, routes, Arc::new(recent::Memory::new()));
    for server in &mut servers {
        server.kill();
        a.heard.0.lock().unwrap().clear();
        let began = Instant::now();
        while !a.heard.0.lock().unwrap().iter().any(|said| said == "owed alice") {
            assert!(began.elapsed() < PATIENCE, "nothing is heard without {}", server.url);
            fanout.owed(&user("alice"), None);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server.start_again();
    }
}
