//! Clients that mean no good: rubbish in the bodies, sizes at their limits, half a packet, a reader that stops.

use std::time::Duration;

use bytes::BytesMut;
use prost::Message;
use tern_gateway::{Ending, Settings};
use tern_proto::packet::{HEADER_BYTES, Packet};
use tern_proto::{Command, limits, v1};
use tokio::time::{Instant, timeout};

use crate::bench::{Bench, token};
use crate::peer::{PATIENCE, Peer, hello, packet, send, sync};

/// No message's body: a number without an end, a length past the end, a field number 0, a wire type that does not exist.
const RUBBISH: [&[u8]; 4] = [&[0xff; 20], &[0x0a, 0x7f, 1], &[0x00, 0x01], &[0x0f]];

fn raw(command: Command, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    Packet { command: command.number(), sequence, body: body.to_vec().into() }.encode(&mut bytes);
    bytes.to_vec()
}

#[tokio::test]
async fn rubbish_in_the_body_of_any_request_is_answered_and_the_link_stays() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    let has_body = |command: &Command| command.is_request() && ![Command::Heartbeat, Command::Hello].contains(command);
    for command in Command::ALL.into_iter().filter(has_body) {
        for body in RUBBISH {
            peer.write(&raw(command, 7, body)).await;
            let error = peer.error(7).await;
            assert_eq!((error.code(), error.command), (v1::Code::BadBody, command.number()), "{body:?}");
        }
    }
    let calls = |name| bench.service.calls(name).len();
    let requests = ["send", "sync", "check", "ack", "read", "conversations", "history", "members"];
    assert_eq!(requests.map(calls), [0; 8]);
    peer.quiet().await;
}

#[tokio::test]
async fn a_hello_of_rubbish_is_answered_and_may_be_said_again() {
    let bench = Bench::start();
    let mut peer = bench.connect().await;
    for body in RUBBISH {
        peer.write(&raw(Command::Hello, 3, body)).await;
        assert_eq!(peer.error(3).await.code(), v1::Code::BadBody);
    }
    peer.greet("alice", "d1").await;
}

#[tokio::test]
async fn a_packet_of_64_kib_is_taken_and_one_byte_more_is_not() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    let mut largest = send(1..=1);
    largest.messages[0].text = "x".repeat(limits::PACKET_BYTES - HEADER_BYTES - 32);
    let missing = limits::PACKET_BYTES - HEADER_BYTES - largest.encoded_len();
    largest.messages[0].text.push_str(&"x".repeat(missing));
    let bytes = packet(Command::Send, 2, &largest);
    assert_eq!(bytes.len(), 65_536);
    peer.write(&bytes).await;
    let reply: v1::SendReply = peer.reply(Command::Send, 2).await;
    assert_eq!(reply.results.len(), 1);

    largest.messages[0].text.push('x');
    peer.write(&packet(Command::Send, 3, &largest)).await;
    assert_eq!(peer.error(0).await.code(), v1::Code::PacketTooLarge);
    peer.closed().await;
    assert_eq!(bench.service.calls("send").len(), 1);
}

/// Writes the pieces, each followed by a moment in which the server may answer, until it says that the hello took too long;
/// how many it took, and what came before.
async fn until_the_hello_is_late(peer: &mut Peer, pieces: impl Iterator<Item = Vec<u8>>) -> (usize, Vec<v1::Code>) {
    let mut answers = Vec::new();
    for (count, piece) in pieces.enumerate() {
        peer.write(&piece).await;
        while let Ok(answer) = timeout(Duration::from_millis(5), peer.next()).await {
            let answer = answer.expect("the link was closed without a word");
            assert_eq!(answer.command, Command::Error.number(), "after {count} pieces");
            let error = v1::Error::decode(answer.body).unwrap();
            if error.code() == v1::Code::HelloTimeout {
                return (count, answers);
            }
            answers.push(error.code());
        }
    }
    panic!("everything was taken: {answers:?}");
}

#[tokio::test]
async fn neither_drips_nor_refused_hellos_put_off_the_end_of_the_wait() {
    let bench = Bench::with(Settings { hello_wait: Duration::from_millis(200), ..Settings::default() });
    let whole = packet(Command::Hello, 1, &hello(&token(&"a".repeat(64)), &"d".repeat(64)));
    let bytes = whole.iter().map(|byte| vec![*byte]);
    let mut dripping = bench.connect().await;
    let (taken, answers) = until_the_hello_is_late(&mut dripping, bytes).await;
    assert!(taken > 1 && answers.is_empty());
    dripping.closed().await;

    let refused = (1..1000).map(|sequence| raw(Command::Hello, sequence, RUBBISH[0]));
    let mut knocking = bench.connect().await;
    let (_, answers) = until_the_hello_is_late(&mut knocking, refused).await;
    assert!(answers.len() > 1 && answers.iter().all(|code| *code == v1::Code::BadBody), "{answers:?}");
    knocking.closed().await;
    assert_eq!(bench.gateway.counters().ended(Ending::NoHello), 2);
}

// Half of what claims to be the largest packet is no reason to wait longer than for anything else.
#[tokio::test]
async fn half_a_packet_and_silence_is_silence() {
    let heartbeat = Duration::from_millis(100);
    let bench = Bench::with(Settings { heartbeat, ..Settings::default() });
    let start = Instant::now();
    let mut peer = bench.enter("alice", "d1").await;
    let whole = raw(Command::Send, 2, &[0; limits::PACKET_BYTES - HEADER_BYTES]);
    peer.write(&whole[..whole.len() / 2]).await;
    assert_eq!(peer.go_away().await.reason(), v1::GoAwayReason::Silent);
    assert!(start.elapsed() >= heartbeat * 5 / 2, "it was not yet silent for 2.5 intervals");
    peer.closed().await;
    assert_eq!((bench.gateway.counters().ended(Ending::Silent), bench.service.calls("send").len()), (1, 0));
}

// Invariant 13: who reads again in time finds whole packets and, as the last one, the reason.
#[tokio::test]
async fn a_reader_that_stops_is_cut_with_a_reason() {
    const ASKED: u32 = 1000;
    let bench = Bench::with(Settings { write_stall: Duration::from_millis(300), ..Settings::default() });
    for _ in 0..60 {
        bench.service.commit_quietly("bob", &"x".repeat(1000));
    }
    let mut peer = bench.enter("bob", "d1").await;
    let asks: Vec<u8> = (2..2 + ASKED).flat_map(|sequence| packet(Command::Sync, sequence, &sync(0))).collect();
    peer.write(&asks).await;
    let cut = async {
        while bench.gateway.counters().ended(Ending::Slow) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, cut).await.expect("the link was not cut");

    let mut pages = 0;
    let told = loop {
        let packet = peer.next().await.expect("a reason before the close");
        if packet.command == Command::GoAway.number() {
            break v1::GoAway::decode(packet.body).unwrap();
        }
        assert_eq!(packet.command, Command::Sync.reply());
        assert_eq!(v1::SyncReply::decode(packet.body).unwrap().entries.len(), 60);
        pages += 1;
    };
    assert_eq!(told.reason(), v1::GoAwayReason::Slow);
    peer.closed().await;
    assert!(pages < ASKED, "every page was made for a client that read none");
}
