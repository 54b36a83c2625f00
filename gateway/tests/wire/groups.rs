//! The commands about groups and history, on both links.

use serde_json::json;
use tern_proto::{Command, v1};
use tokio::io::AsyncReadExt;

use crate::bench::Bench;
use crate::http::{ask_json, ask_packets};

/// A request and its reply as packets with sequence 7, its path, and both as JSON.
struct Exchange {
    request: &'static [u8],
    reply: &'static [u8],
    path: &'static str,
    json: &'static str,
    reply_json: serde_json::Value,
}

/// What the service answers is made of what it was asked: a byte that is taken for another shows.
fn exchanges() -> [Exchange; 3] {
    [
        Exchange {
            // after "g/7", limit 2
            request: b"\0\0\0\x17\0\x10\0\x01\0\0\x03\xed\0\0\0\x07\x0a\x03g/7\x10\x02",
            // one conversation: name "g/7", seq 2; more
            reply: b"\0\0\0\x1b\0\x10\0\x01\x3b\x9a\xcd\xed\0\0\0\x07\x0a\x07\x0a\x03g/7\x18\x02\x10\x01",
            path: "/v1/conversations",
            json: r#"{"after":"g/7","limit":2}"#,
            reply_json: json!({"conversations": [{"name": "g/7", "seq": "2"}], "more": true}),
        },
        Exchange {
            // conversation "g/7", before_seq 9, limit 3
            request: b"\0\0\0\x19\0\x10\0\x01\0\0\x03\xee\0\0\0\x07\x0a\x03g/7\x10\x09\x18\x03",
            // one message: conversation "g/7", seq 9, client_msg_id 3; more
            reply: b"\0\0\0\x1d\0\x10\0\x01\x3b\x9a\xcd\xee\0\0\0\x07\x0a\x09\x12\x03g/7\x18\x09\x28\x03\x10\x01",
            path: "/v1/history",
            json: r#"{"conversation":"g/7","beforeSeq":"9","limit":3}"#,
            reply_json: json!({"messages": [{"conversation": "g/7", "seq": "9", "clientMsgId": "3"}], "more": true}),
        },
        Exchange {
            // conversation "g/7"
            request: b"\0\0\0\x15\0\x10\0\x01\0\0\x03\xef\0\0\0\x07\x0a\x03g/7",
            // title "g/7", owner "bob", seq 5, one member: "bob", joined_seq 1, delivered_seq 2, read_seq 3
            reply: b"\0\0\0\x29\0\x10\0\x01\x3b\x9a\xcd\xef\0\0\0\x07\x0a\x03g/7\x12\x03bob\x18\x05\
                \x22\x0b\x0a\x03bob\x10\x01\x18\x02\x20\x03",
            path: "/v1/members",
            json: r#"{"conversation":"g/7"}"#,
            reply_json: json!({
                "title": "g/7", "owner": "bob", "seq": "5",
                "members": [{"user": "bob", "joinedSeq": "1", "deliveredSeq": "2", "readSeq": "3"}],
            }),
        },
    ]
}

#[tokio::test]
async fn each_command_byte_by_byte_on_the_long_link() {
    let bench = Bench::start();
    let mut peer = bench.enter("bob", "d1").await;
    for exchange in exchanges() {
        peer.write(exchange.request).await;
        let mut reply = vec![0; exchange.reply.len()];
        peer.stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply, exchange.reply, "{}", exchange.path);
    }
}

// Invariant 10.
#[tokio::test]
async fn each_command_on_the_short_link_as_packets_and_as_json() {
    let bench = Bench::start();
    for exchange in exchanges() {
        let response = ask_packets(bench.http, "bob", exchange.request).await;
        assert_eq!((response.status, &response.body[..]), (200, exchange.reply), "{}", exchange.path);
        let response = ask_json(bench.http, "bob", "d1", exchange.path, exchange.json).await;
        assert_eq!((response.status, response.json()), (200, exchange.reply_json), "{}", exchange.path);
    }
}

#[tokio::test]
async fn who_is_not_a_member_is_told_so() {
    let bench = Bench::start();
    let mut peer = bench.enter("bob", "d1").await;
    let history = v1::HistoryRequest { conversation: "g/8".into(), ..Default::default() };
    peer.ask(Command::History, 2, &history).await;
    let error = peer.error(2).await;
    assert_eq!((error.code(), error.command), (v1::Code::NotAMember, 1006));
    for (path, command) in [("/v1/history", 1006), ("/v1/members", 1007)] {
        let response = ask_json(bench.http, "bob", "d1", path, r#"{"conversation":"g/8"}"#).await;
        let want = json!({"code": "CODE_NOT_A_MEMBER", "message": "not yours", "command": command});
        assert_eq!((response.status, response.json()), (403, want), "{path}");
    }
    peer.quiet().await;
}

#[tokio::test]
async fn a_limit_over_that_of_the_protocol_is_refused() {
    let bench = Bench::start();
    let mut peer = bench.enter("bob", "d1").await;
    peer.ask(Command::Conversations, 2, &v1::ConversationsRequest { limit: 101, ..Default::default() }).await;
    assert_eq!(peer.error(2).await.code(), v1::Code::BadBody);
    peer.ask(Command::History, 3, &v1::HistoryRequest { limit: 1_001, ..Default::default() }).await;
    assert_eq!(peer.error(3).await.code(), v1::Code::BadBody);
    let response = ask_json(bench.http, "bob", "d1", "/v1/conversations", r#"{"limit":101}"#).await;
    assert_eq!((response.status, response.json()["code"].as_str()), (400, Some("CODE_BAD_BODY")));
    assert_eq!((bench.service.calls("conversations"), bench.service.calls("history")), (vec![], vec![]));
    peer.quiet().await;
}
