//! Bytes as they may come: split, merged, broken.

use tern_gateway::Ending;
use tern_proto::{Command, v1};
use tokio::io::AsyncReadExt;

use crate::bench::{Bench, token};
use crate::peer::{hello, packet, send};

/// A heartbeat with sequence 7, and its reply, as `docs/protocol.md` shows them.
const HEARTBEAT: [u8; 16] = [0, 0, 0, 16, 0, 16, 0, 1, 0, 0, 0, 6, 0, 0, 0, 7];
const HEARTBEAT_REPLY: [u8; 16] = [0, 0, 0, 16, 0, 16, 0, 1, 0x3b, 0x9a, 0xca, 0x06, 0, 0, 0, 7];

#[tokio::test]
async fn a_heartbeat_costs_16_bytes_each_way() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    peer.write(&HEARTBEAT).await;
    let mut reply = [0; 16];
    peer.stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, HEARTBEAT_REPLY);
}

#[tokio::test]
async fn packets_may_share_a_segment() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    let segment: Vec<u8> = (10..200).flat_map(|sequence| packet(Command::Heartbeat, sequence, &())).collect();
    peer.write(&segment).await;
    for sequence in 10..200 {
        peer.expect(Command::Heartbeat.reply(), sequence).await;
    }
}

// Invariant 11.
#[tokio::test]
async fn packets_may_come_byte_by_byte() {
    let bench = Bench::start();
    let mut peer = bench.connect().await;
    peer.stream.set_nodelay(true).unwrap();
    let stream = [packet(Command::Hello, 1, &hello(&token("alice"), "d1")), packet(Command::Send, 2, &send(1..=2))];
    for byte in stream.concat() {
        peer.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    let _: v1::HelloReply = peer.reply(Command::Hello, 1).await;
    let reply: v1::SendReply = peer.reply(Command::Send, 2).await;
    assert_eq!(reply.results.len(), 2);
}

#[tokio::test]
async fn more_than_may_be_in_flight_is_read_later() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    bench.service.hold("read");
    let body = v1::ReadRequest { conversation: "alice:bob".into(), seq: 1 };
    let segment: Vec<u8> = (1..=1000).flat_map(|sequence| packet(Command::Read, sequence, &body)).collect();
    peer.write(&segment).await;
    bench.service.reached("read", 256).await;
    // The link is not being read: nothing more arrives, however long one waits.
    assert_eq!(bench.service.calls("read").len(), 256);
    bench.service.release("read");
    let mut answered: Vec<u32> = Vec::new();
    for _ in 0..1000 {
        let packet = peer.next().await.unwrap();
        assert_eq!(packet.command, Command::Read.reply());
        answered.push(packet.sequence);
    }
    answered.sort_unstable();
    assert_eq!(answered, (1..=1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_unknown_command_is_answered_and_the_link_stays() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    peer.write(&[0, 0, 0, 16, 0, 16, 0, 1, 0, 0, 0x27, 0x0f, 0, 0, 0, 8]).await;
    let error = peer.error(8).await;
    assert_eq!(
        (error.code(), error.command, error.message.as_str()),
        (v1::Code::UnknownCommand, 9999, "no command 9999")
    );
    // A server's own command is no request either.
    peer.write(&[0, 0, 0, 16, 0, 16, 0, 1, 0, 0, 0x04, 0x4d, 0, 0, 0, 9]).await;
    assert_eq!(peer.error(9).await.code(), v1::Code::UnknownCommand);
    peer.quiet().await;
}

#[tokio::test]
async fn a_body_that_does_not_decode_is_answered_and_the_link_stays() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    peer.write(&[0, 0, 0, 18, 0, 16, 0, 1, 0, 0, 0, 237, 0, 0, 0, 8, 0xff, 0xff]).await;
    let error = peer.error(8).await;
    assert_eq!((error.code(), error.command), (v1::Code::BadBody, 237));
    let many = v1::SendRequest { messages: vec![v1::OutMessage::default(); 257], ..Default::default() };
    peer.ask(Command::Send, 9, &many).await;
    assert_eq!(peer.error(9).await.code(), v1::Code::BadBody);
    assert_eq!(bench.service.calls("send"), []);
    peer.quiet().await;
}

#[tokio::test]
async fn a_refused_request_is_answered_and_the_link_stays() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    peer.ask(Command::Read, 4, &v1::ReadRequest { conversation: "alice:bob".into(), seq: 101 }).await;
    let error = peer.error(4).await;
    assert_eq!((error.code(), error.command), (v1::Code::BeyondHead, 1004));
    peer.quiet().await;
}

#[tokio::test]
async fn broken_headers_are_told_and_close_the_link() {
    let bench = Bench::start();
    let broken: [(&str, [u8; 16], v1::Code); 5] = [
        ("header length", [0, 0, 0, 16, 0, 17, 0, 1, 0, 0, 0, 6, 0, 0, 0, 7], v1::Code::BadHeader),
        ("version", [0, 0, 0, 16, 0, 16, 0, 2, 0, 0, 0, 6, 0, 0, 0, 7], v1::Code::BadHeader),
        ("too short", [0, 0, 0, 15, 0, 16, 0, 1, 0, 0, 0, 6, 0, 0, 0, 7], v1::Code::BadHeader),
        ("too long", [0, 1, 0, 1, 0, 16, 0, 1, 0, 0, 0, 6, 0, 0, 0, 7], v1::Code::PacketTooLarge),
        ("giant", [0xff, 0xff, 0xff, 0xff, 0, 16, 0, 1, 0, 0, 0, 6, 0, 0, 0, 7], v1::Code::PacketTooLarge),
    ];
    for (what, bytes, code) in broken {
        // Before hello and after it, and behind a good packet.
        let mut fresh = bench.connect().await;
        fresh.write(&bytes).await;
        assert_eq!(fresh.error(0).await.code(), code, "{what}");
        fresh.closed().await;
        let mut open = bench.enter("alice", "d1").await;
        open.write(&[HEARTBEAT, bytes].concat()).await;
        open.expect(Command::Heartbeat.reply(), 7).await;
        assert_eq!(open.error(0).await.code(), code, "{what}");
        open.closed().await;
    }
    assert_eq!(bench.gateway.counters().ended(Ending::BadPacket), 10);
}

// A reset in answer to what is still under way could take the error packet with it.
#[tokio::test]
async fn what_comes_behind_a_broken_packet_is_taken_and_not_answered_by_a_reset() {
    let bench = Bench::start();
    let mut peer = bench.connect().await;
    let mut flood = vec![0xff; 300_000];
    flood[..16].copy_from_slice(b"GET / HTTP/1.1\r\n");
    peer.write(&flood).await;
    assert_eq!(peer.error(0).await.code(), v1::Code::BadHeader);
    peer.closed().await;
    for _ in 0..3 {
        peer.write(&HEARTBEAT).await;
    }
}
