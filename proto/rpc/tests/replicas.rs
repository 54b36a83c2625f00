//! Calls find the replicas that answer, and only those: idle-stale, half-open, rolling restarts.

// What fails here fails the test.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tern_rpc::tonic::service::Routes;
use tern_rpc::tonic::{self, Response, Status, async_trait};
use tern_rpc::v1::sync_client::SyncClient;
use tern_rpc::v1::sync_server::{Sync as Service, SyncServer};
use tern_rpc::v1::{AskReply, AskRequest};
use tern_rpc::{Failed, Replicas, Serving, serve};
use tern_runtime::shutdown::{self, Stopper};
use tern_runtime::traces::Traces;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Counts what it is told, and takes its time.
struct Counting(Arc<AtomicUsize>);

#[async_trait]
impl Service for Counting {
    async fn ask(&self, _: tonic::Request<AskRequest>) -> Result<Response<AskReply>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(Response::new(AskReply::default()))
    }
}

struct Server {
    port: u16,
    calls: Arc<AtomicUsize>,
    stopper: Stopper,
    task: JoinHandle<Result<(), String>>,
}

impl Server {
    async fn start(port: u16) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls = Arc::new(AtomicUsize::new(0));
        let routes = Routes::new(SyncServer::new(Counting(calls.clone())));
        let (stopper, stop) = shutdown::channel();
        let task = tokio::spawn(serve(listener, routes, Serving::default(), stop));
        Server { port, calls, stopper, task }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

fn replicas(ports: &[u16]) -> Replicas {
    let places: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    Replicas::of("sync", places.join(",").parse().unwrap())
}

async fn call(replicas: &Replicas) -> Result<(), Failed> {
    let asked = async |channel, request| SyncClient::new(channel).ask(request).await;
    replicas.call(Duration::from_secs(8), AskRequest::default(), &Traces::default(), asked).await.map(drop)
}

/// Calls for so long; how long the slowest took.
async fn calls_for(replicas: &Replicas, time: Duration) -> Duration {
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < time {
        let one = Instant::now();
        call(replicas).await.unwrap();
        slowest = slowest.max(one.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_spread_and_a_dead_replica_fails_none() {
    let (a, b) = (Server::start(0).await, Server::start(0).await);
    let replicas = replicas(&[a.port, b.port]);
    calls_for(&replicas, Duration::from_secs(1)).await;
    assert!(a.calls() > 10 && b.calls() > 10, "{} and {}", a.calls(), b.calls());
    b.task.abort();
    let before = a.calls();
    calls_for(&replicas, Duration::from_secs(2)).await;
    assert!(a.calls() > before + 50);
}

/// The headers of a call have a limit; what is traced must not make it fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_with_very_many_traced_requests_goes_through() {
    let server = Server::start(0).await;
    let replicas = replicas(&[server.port]);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().ok();
    let traces = Traces::of(std::iter::repeat_n(trace, 1000));
    let asked = async |channel, request| SyncClient::new(channel).ask(request).await;
    replicas.call(Duration::from_secs(8), AskRequest::default(), &traces, asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_stay_at_home_while_it_is_well() {
    let servers = [Server::start(0).await, Server::start(0).await];
    let all = replicas(&[servers[0].port, servers[1].port]);
    calls_for(&all, Duration::from_secs(1)).await;
    let homes = [all.at_home(0), all.at_home(1), all.at_home(2)];
    let before = [servers[0].calls(), servers[1].calls()];
    for home in homes.iter().cycle().take(30) {
        call(home).await.unwrap();
    }
    let mut calls = [servers[0].calls() - before[0], servers[1].calls() - before[1]];
    calls.sort_unstable();
    assert_eq!(calls, [10, 20]);
    servers[0].task.abort();
    for home in homes.iter().cycle().take(30) {
        call(home).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_comes_up_gets_its_share() {
    let a = Server::start(0).await;
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let replicas = replicas(&[a.port, port]);
    calls_for(&replicas, Duration::from_millis(500)).await;
    let late = Server::start(port).await;
    let began = Instant::now();
    while late.calls() < 10 {
        assert!(began.elapsed() < Duration::from_secs(10), "new replicas get traffic within 10 s");
        call(&replicas).await.unwrap();
    }
}

/// A listener in front of a server that forwards until the switch is set, and then holds everything back without closing.
async fn hole(to: u16) -> (u16, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (switch, seen) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut seen = seen.clone();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                let forwards = async {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                };
                tokio::select! {
                    biased;
                    _ = seen.wait_for(|held| *held) => {}
                    () = forwards => return,
                }
                std::future::pending::<()>().await;
            });
        }
    });
    (port, switch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_holed_replica_is_left_within_two_seconds() {
    let (a, b) = (Server::start(0).await, Server::start(0).await);
    let (port, switch) = hole(b.port).await;
    let replicas = replicas(&[a.port, port]);
    calls_for(&replicas, Duration::from_secs(1)).await;
    assert!(b.calls() > 0);
    switch.send_replace(true);
    // The calls that were under way when it fell silent wait until its connection is given up; the next ones do not.
    let slowest = calls_for(&replicas, Duration::from_secs(3)).await;
    assert!(slowest < Duration::from_millis(2_500), "{slowest:?}");
    assert!(calls_for(&replicas, Duration::from_secs(3)).await < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_is_left_before_it_ends() {
    let (a, b) = (Server::start(0).await, Server::start(0).await);
    let replicas = replicas(&[a.port, b.port]);
    calls_for(&replicas, Duration::from_millis(600)).await;
    b.stopper.stop();
    assert!(calls_for(&replicas, Duration::from_secs(2)).await < Duration::from_secs(1));
    let ended = tokio::time::timeout(Duration::from_secs(5), b.task).await;
    ended.expect("those who follow its health do not hold it up").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_replica_nothing_was_begun() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let replicas = replicas(&[port]);
    let asked = async |channel, request| SyncClient::new(channel).ask(request).await;
    let failed = replicas.call(Duration::from_millis(300), AskRequest::default(), &Traces::default(), asked).await;
    assert!(matches!(failed, Err(Failed::Nobody("sync"))));
}

/// A peer that keeps a connection open and says nothing does not hold up the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_does_not_hold_up_the_stop() {
    let a = Server::start(0).await;
    let _silent = TcpStream::connect(("127.0.0.1", a.port)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    a.stopper.stop();
    tokio::time::timeout(Duration::from_secs(12), a.task).await.expect("it ends").unwrap().unwrap();
}
