//! The short link: the same requests over HTTP, as JSON and as packets.

use std::net::SocketAddr;

use bytes::BytesMut;
use tern_gateway::Settings;
use tern_proto::packet::{Packet, decode};
use tern_proto::{Command, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench::{Bench, token};
use crate::peer::{PATIENCE, key, packet, send, sync};

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_slice(&self.body).unwrap()
    }

    fn packets(&self) -> Vec<Packet> {
        assert_eq!(self.status, 200, "{self:?}");
        let mut input = BytesMut::from(&self.body[..]);
        let packets = std::iter::from_fn(|| decode(&mut input).unwrap()).collect();
        assert!(input.is_empty());
        packets
    }
}

/// Sends the head, with the length and the end of it added, and the body; reads until the server closes.
pub(crate) async fn ask(address: SocketAddr, head: &str, body: &[u8]) -> Response {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{head}\r\nhost: tern\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut response = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut response)).await.expect("no response came").unwrap();
    let end = response.windows(4).position(|window| window == b"\r\n\r\n").expect("a response") + 4;
    let head = String::from_utf8(response[..end].to_vec()).unwrap();
    Response { status: head[9..12].parse().unwrap(), head: head.to_lowercase(), body: response[end..].to_vec() }
}

fn head(user: &str, device: &str, path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nauthorization: Bearer {}\r\ntern-device: {device}", token(user))
}

pub(crate) async fn ask_json(address: SocketAddr, user: &str, device: &str, path: &str, body: &str) -> Response {
    ask(address, &head(user, device, path), body.as_bytes()).await
}

pub(crate) async fn ask_packets(address: SocketAddr, user: &str, body: &[u8]) -> Response {
    ask(address, &head(user, "d1", "/v1/packets"), body).await
}

// Invariant 10.
#[tokio::test]
async fn all_three_ways_give_the_same_results() {
    let requests = [
        packet(Command::Send, 1, &send(1..=2)),
        packet(Command::Sync, 2, &sync(0)),
        packet(Command::Sync, 3, &v1::SyncRequest { limit: 1, ..sync(1) }),
        packet(Command::Check, 4, &v1::CheckRequest { key: Some(key(1)), ..Default::default() }),
        packet(Command::Ack, 5, &v1::AckRequest { key: Some(key(1)) }),
        packet(Command::Ack, 6, &v1::AckRequest::default()),
        packet(Command::Read, 7, &v1::ReadRequest { conversation: "alice:bob".into(), seq: 101 }),
        packet(Command::Heartbeat, 8, &()),
    ];
    let long = Bench::start();
    let mut peer = long.enter("bob", "d1").await;
    let mut over_tcp = Vec::new();
    for request in &requests {
        peer.write(request).await;
        over_tcp.push(peer.next().await.unwrap());
    }
    let packets = Bench::start();
    assert_eq!(ask_packets(packets.http, "bob", &requests.concat()).await.packets(), over_tcp);

    let json = Bench::start();
    let message =
        r#"{"messages":[{"clientMsgId":"1","to":"bob","text":"hi"},{"clientMsgId":2,"to":"bob","text":"hi"}]}"#;
    let key = r#"{"epoch":"9","classes":[{"class":1,"version":"0"},{"class":2}]}"#;
    for (path, body, packet) in
        [("/v1/send", message.to_owned(), &over_tcp[0]), ("/v1/sync", format!(r#"{{"key":{key}}}"#), &over_tcp[1])]
    {
        let response = ask_json(json.http, "bob", "d1", path, &body).await;
        assert_eq!(response.status, 200, "{response:?}");
        let want = match packet.command {
            command if command == Command::Send.reply() => to_json::<v1::SendReply>(packet),
            _ => to_json::<v1::SyncReply>(packet),
        };
        assert_eq!(response.json(), want);
    }
}

fn to_json<M: prost::Message + Default + serde::Serialize>(packet: &Packet) -> serde_json::Value {
    serde_json::to_value(M::decode(packet.body.clone()).unwrap()).unwrap()
}

#[tokio::test]
async fn hello_is_optional_and_displaces_nothing() {
    let bench = Bench::start();
    let mut peer = bench.enter("bob", "d1").await;
    let response = ask_json(bench.http, "bob", "d1", "/v1/hello", r#"{"protocol":1}"#).await;
    let json = response.json();
    assert_eq!((json["user"].as_str(), json.get("session")), (Some("bob"), None));
    assert_eq!(json["keyOrder"], "KEY_ORDER_START");
    let body = packet(Command::Hello, 3, &v1::HelloRequest { protocol: 1, ..Default::default() });
    let packets = ask_packets(bench.http, "bob", &[body.clone(), body].concat()).await.packets();
    assert_eq!(packets.iter().map(|p| p.command).collect::<Vec<_>>(), [Command::Hello.reply(); 2]);
    peer.quiet().await;
}

#[tokio::test]
async fn who_asks_has_to_be_told() {
    let bench = Bench::start();
    let good = token("bob");
    for (head, status, code) in [
        ("tern-device: d1".to_owned(), 401, "CODE_BAD_TOKEN"),
        ("authorization: Bearer x\r\ntern-device: d1".to_owned(), 401, "CODE_BAD_TOKEN"),
        (format!("authorization: Basic {good}\r\ntern-device: d1"), 401, "CODE_BAD_TOKEN"),
        (format!("authorization: Bearer {good}"), 400, "CODE_BAD_DEVICE"),
        (format!("authorization: Bearer {good}\r\ntern-device: a/b"), 400, "CODE_BAD_DEVICE"),
    ] {
        for path in ["/v1/sync", "/v1/packets"] {
            let response = ask(bench.http, &format!("POST {path} HTTP/1.1\r\n{head}"), b"").await;
            assert_eq!((response.status, response.json()["code"].as_str()), (status, Some(code)), "{head}");
        }
    }
    assert_eq!(bench.service.calls("sync"), []);
}

#[tokio::test]
async fn a_refusal_is_a_status_and_an_error_as_json() {
    let bench = Bench::start();
    let body = r#"{"conversation":"alice:bob","seq":101}"#;
    let response = ask_json(bench.http, "bob", "d1", "/v1/read", body).await;
    let want = serde_json::json!({"code": "CODE_BEYOND_HEAD", "message": "beyond", "command": 1004});
    assert_eq!((response.status, response.json()), (400, want));
    assert!(!response.head.contains("retry-after"));
    bench.service.go_away(true);
    let response = ask_json(bench.http, "bob", "d1", "/v1/sync", "{}").await;
    assert_eq!((response.status, response.json()["retryAfterMs"].as_u64()), (503, Some(1500)));
    assert!(response.head.contains("retry-after: 2\r\n"), "rounded up: {}", response.head);
}

#[tokio::test]
async fn json_that_is_not_understood_is_explained() {
    let bench = Bench::start();
    for (body, hint) in [("{", "EOF"), (r#"{"limitt":1}"#, "`limitt`"), (r#"{"limit":"many"}"#, "line 1 column")] {
        let response = ask_json(bench.http, "bob", "d1", "/v1/sync", body).await;
        let json = response.json();
        assert_eq!((response.status, json["code"].as_str()), (400, Some("CODE_BAD_BODY")));
        assert!(json["message"].as_str().unwrap().contains(hint), "{json}");
    }
}

#[tokio::test]
async fn packets_that_are_broken_end_the_body_with_an_error_packet() {
    let bench = Bench::start();
    let beat = packet(Command::Heartbeat, 1, &());
    let mut broken = beat.clone();
    broken[5] = 17;
    let mut giant = beat.clone();
    giant[0] = 1;
    let tails: [(&[u8], v1::Code); 3] =
        [(&broken, v1::Code::BadHeader), (&giant, v1::Code::PacketTooLarge), (&beat[..15], v1::Code::BadHeader)];
    for (tail, code) in tails {
        let packets = ask_packets(bench.http, "bob", &[&beat, tail].concat()).await.packets();
        assert_eq!((packets.len(), packets[0].command), (2, Command::Heartbeat.reply()));
        let error = <v1::Error as prost::Message>::decode(packets[1].body.clone()).unwrap();
        assert_eq!((packets[1].sequence, error.code()), (0, code));
    }
    assert_eq!(ask_packets(bench.http, "bob", b"").await.packets(), []);
}

#[tokio::test]
async fn the_answers_to_one_body_are_bounded() {
    let bench = Bench::start();
    for _ in 0..60 {
        bench.service.commit_quietly("bob", &"x".repeat(1000));
    }
    let body: Vec<u8> = (1..=40).flat_map(|sequence| packet(Command::Sync, sequence, &sync(0))).collect();
    let packets = ask_packets(bench.http, "bob", &body).await.packets();
    assert_eq!(packets.len(), 40, "every request has its answer");
    assert!(packets.iter().any(|p| p.command == Command::Sync.reply()));
    let last = <v1::Error as prost::Message>::decode(packets[39].body.clone()).unwrap();
    assert_eq!(last.code(), v1::Code::Busy);
    assert!(last.retry_after_ms > 0);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let bench = Bench::start();
    let fits = vec![b' '; 262_144 - 2];
    let response = ask(bench.http, &head("bob", "d1", "/v1/sync"), &[b"{", &fits[..], b"}"].concat()).await;
    assert_eq!(response.status, 200);
    for path in ["/v1/sync", "/v1/packets"] {
        let response = ask(bench.http, &head("bob", "d1", path), &vec![b' '; 262_145]).await;
        assert_eq!((response.status, response.json()["code"].as_str()), (413, Some("CODE_PACKET_TOO_LARGE")));
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_told_in_json() {
    let bench = Bench::start();
    for (line, status) in [("GET /nothing", 404), ("GET /v1/sync", 405), ("POST /v1/heartbeat", 404)] {
        let response = ask(bench.http, &format!("{line} HTTP/1.1"), b"").await;
        assert_eq!((response.status, response.json()["code"].as_str()), (status, Some("CODE_UNKNOWN_COMMAND")));
    }
}

#[tokio::test]
async fn health_and_readiness() {
    let bench = Bench::start();
    let health = ask(bench.http, "GET /healthz HTTP/1.1", b"").await;
    assert_eq!((health.status, health.text()), (200, "ok"));
    assert_eq!(ask(bench.http, "GET /readyz HTTP/1.1", b"").await.status, 200);
    bench.service.go_away(true);
    let ready = ask(bench.http, "GET /readyz HTTP/1.1", b"").await;
    assert_eq!((ready.status, ready.json()["message"].as_str()), (503, Some("away")));
    assert_eq!(bench.service.calls("ready").len(), 2, "it asks the service, and nothing else of it");
    assert_eq!(ask(bench.http, "GET /healthz HTTP/1.1", b"").await.status, 200);
}

#[tokio::test]
async fn one_connection_too_many_is_told() {
    let bench = Bench::with(Settings { max_short_links: 1, ..Settings::default() });
    let mut first = TcpStream::connect(bench.http).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: tern\r\n\r\n").await.unwrap();
    first.read_exact(&mut [0; 12]).await.unwrap();
    let mut second = TcpStream::connect(bench.http).await.unwrap();
    let mut response = String::new();
    second.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 429 ") && response.contains("CODE_TOO_MANY_REQUESTS"), "{response}");
}
