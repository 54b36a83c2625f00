//! Clips in chunks, on both links.

use sha2::Digest as _;
use tern_proto::packet::{Packet, decode};
use tern_proto::{Command, v1};

use crate::bench::{Bench, token};
use crate::http::{ask, ask_json};
use crate::peer::{packet, send};

/// So many frames of AMR at 12.2 kbit/s: 20 ms and 32 bytes each.
fn clip(frames: usize) -> Vec<u8> {
    [b"#!AMR\n".to_vec(), [&[0x3c][..], &[7; 31]].concat().repeat(frames)].concat()
}

fn begin(whole: &[u8]) -> v1::MediaBegin {
    let sha256 = sha2::Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect();
    v1::MediaBegin { bytes: whole.len() as u64, sha256, r#type: "audio/amr".into(), ..Default::default() }
}

fn chunk(whole: &[u8], index: u32) -> v1::Chunk {
    let bytes = whole.chunks(1536).nth(index as usize).unwrap().to_vec();
    v1::Chunk { clip: Some(begin(whole)), index, bytes }
}

fn message(whole: &[u8], index: u32) -> v1::SendRequest {
    let mut request = send(1..=1);
    request.messages[0].chunk = Some(chunk(whole, index));
    request
}

/// What the short link tells of the upload.
async fn left(bench: &Bench, user: &str, whole: &[u8]) -> u64 {
    let body = serde_json::to_string(&begin(whole)).unwrap();
    let told = ask_json(bench.http, user, "d1", "/v1/media", &body).await;
    told.json()["left"].as_u64().unwrap_or(0)
}

// S12 of the protocol notes.
#[tokio::test]
async fn a_clip_of_two_seconds_is_three_packets() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    let whole = clip(90);
    let out = [packet(Command::Chunk, 0, &chunk(&whole, 0)), packet(Command::Send, 2, &message(&whole, 1))];
    // One byte in 20 is what the chunks cost beside their own.
    assert!(out.concat().len() < whole.len() * 21 / 20 + 100, "{}", out.concat().len());
    peer.write(&out.concat()).await;
    let reply: v1::SendReply = peer.reply(Command::Send, 2).await;
    assert_eq!(reply.results.len(), 1);
    peer.quiet().await;
    assert_eq!(left(&bench, "alice", &whole).await, 0, "both chunks were stored before the message was looked at");
    assert_eq!(left(&bench, "bob", &whole).await, 2, "a clip is its user's");
}

#[tokio::test]
async fn chunks_wait_for_no_message_and_come_in_any_order() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    let whole = clip(800);
    for index in [3, 1, 0, 1, 2, 4, 5, 6] {
        peer.ask(Command::Chunk, 0, &chunk(&whole, index)).await;
    }
    peer.quiet().await;
    peer.ask(Command::Chunk, 0, &chunk(&whole, 7)).await;
    let told = peer.expect(Command::ChunksStored.number(), 0).await;
    let told: v1::ChunksStored = prost::Message::decode(told.body).unwrap();
    assert_eq!((told.chunks, &told.sha256), (8, &begin(&whole).sha256));
    drop(peer);
    // The rest by another link.
    let mut peer = bench.enter("alice", "d2").await;
    assert_eq!(left(&bench, "alice", &whole).await, 17 - 8);
    let mut out: Vec<u8> = (8..16).flat_map(|index| packet(Command::Chunk, 0, &chunk(&whole, index))).collect();
    out.extend(packet(Command::Send, 2, &message(&whole, 16)));
    peer.write(&out).await;
    let stored = peer.expect(Command::ChunksStored.number(), 0).await;
    assert_eq!(<v1::ChunksStored as prost::Message>::decode(stored.body).unwrap().chunks, 17);
    let _: v1::SendReply = peer.reply(Command::Send, 2).await;
    assert_eq!(left(&bench, "alice", &whole).await, 0);
}

#[tokio::test]
async fn a_chunk_is_answered_by_nothing_whatever_is_wrong_with_it() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    let whole = clip(90);
    let broken = Packet { command: 1008, sequence: 5, body: vec![0xff].into() };
    let mut out = bytes::BytesMut::new();
    broken.encode(&mut out);
    peer.write(&out).await;
    for wrong in [
        v1::Chunk::default(),
        v1::Chunk { index: 7, ..chunk(&whole, 0) },
        v1::Chunk { bytes: vec![1; 1537], ..chunk(&whole, 0) },
        v1::Chunk { clip: Some(v1::MediaBegin { r#type: "image/png".into(), ..begin(&whole) }), ..chunk(&whole, 0) },
    ] {
        peer.ask(Command::Chunk, 6, &wrong).await;
    }
    peer.quiet().await;
    // Before hello it is as everything else.
    let mut stranger = bench.connect().await;
    stranger.ask(Command::Chunk, 0, &chunk(&whole, 0)).await;
    assert_eq!(stranger.error(0).await.code(), v1::Code::HelloRequired);
    stranger.closed().await;
}

// Invariant 10.
#[tokio::test]
async fn the_short_link_takes_them_too() {
    let bench = Bench::start();
    let whole = clip(90);
    let body = [packet(Command::Chunk, 0, &chunk(&whole, 0)), packet(Command::Send, 2, &message(&whole, 1))].concat();
    let head = format!("POST /v1/packets HTTP/1.1\r\nauthorization: Bearer {}\r\ntern-device: d1", token("alice"));
    let answer = ask(bench.http, &head, &body).await;
    let mut packets = bytes::BytesMut::from(&answer.body[..]);
    let only = decode(&mut packets).unwrap().unwrap();
    assert_eq!((only.command, only.sequence, packets.len()), (Command::Send.reply(), 2, 0));
    assert_eq!(left(&bench, "alice", &whole).await, 0);
    let spoken = serde_json::to_string(&message(&whole, 1)).unwrap();
    let answer = ask_json(bench.http, "bob", "d1", "/v1/send", &spoken).await;
    assert_eq!(answer.status, 200);
    assert_eq!(left(&bench, "bob", &whole).await, 1);
}
