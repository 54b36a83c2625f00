//! The byte dumps of `docs/protocol.md` are what the codec writes, and the codec reads them back.
//!
//! They are in the corpora of the fuzz targets as well, as packets and as bodies.
//!
//! After a change: `TERN_UPDATE=1 cargo test -p tern-proto --test dumps` writes its last section anew, and what the corpora lack; read the difference.

use std::fmt::Write as _;
use std::path::Path;

use bytes::BytesMut;
use tern_proto::v1::{self, entry::Body};
use tern_proto::{Command, Packet, packet};

/// One dump: a title, who sends it, and the packet.
struct Dump {
    title: &'static str,
    packet: Packet,
}

fn dump(title: &'static str, command: u32, sequence: u32, body: &impl prost::Message) -> Dump {
    Dump { title, packet: Packet::new(command, sequence, body) }
}

fn key(epoch: u64, messages: u64, receipts: u64) -> Option<v1::SyncKey> {
    let position = |class, version| v1::Position { class, version };
    Some(v1::SyncKey { epoch, classes: vec![position(1, messages), position(2, receipts)] })
}

fn message() -> v1::Entry {
    let message = v1::Message {
        from: "alice".into(),
        conversation: "alice:bob".into(),
        seq: 1,
        server_msg_id: 4096,
        client_msg_id: 1,
        text: "hi".into(),
        time_ms: 1_700_000_000_000,
        change: None,
        media: None,
    };
    v1::Entry { class: 1, version: 4096, body: Some(Body::Message(message)) }
}

const GROUP: &str = "g/4608";
const DIGEST: &str = "689e263f10aba5ce94ab73ddd9858ca4ff04205256571880522aef2b8200467c";
const IMAGE: &str = "019ab1c2d3e4f5061728394a5b6c7d8e";

fn shown() -> v1::Message {
    v1::Message {
        from: "alice".into(),
        conversation: "alice:bob".into(),
        seq: 2,
        server_msg_id: 5000,
        client_msg_id: 3,
        text: String::new(),
        time_ms: 1_700_000_000_000,
        change: None,
        media: Some(v1::Media {
            id: IMAGE.into(),
            r#type: "image/jpeg".into(),
            bytes: 2_832_863,
            width: 4000,
            height: 3000,
            thumbhash: vec![0x1f, 0xf8, 0x01],
            ..Default::default()
        }),
    }
}

/// 20 milliseconds of silence, as AMR: a clip of one chunk.
fn chunk() -> v1::Chunk {
    let bytes = b"#!AMR\n\x7c".to_vec();
    let clip = v1::MediaBegin { bytes: 7, sha256: DIGEST.into(), r#type: "audio/amr".into(), ..Default::default() };
    v1::Chunk { clip: Some(clip), index: 0, bytes }
}

fn trip() -> v1::GroupChange {
    v1::GroupChange { title: Some("trip".into()), add: vec!["bob".into(), "carol".into()], remove: vec![] }
}

fn first_of_group() -> v1::Message {
    v1::Message {
        from: "alice".into(),
        conversation: GROUP.into(),
        seq: 1,
        server_msg_id: 4608,
        client_msg_id: 2,
        text: String::new(),
        time_ms: 1_700_000_000_000,
        change: Some(trip()),
        media: None,
    }
}

fn receipt(version: u64, kind: v1::ReceiptKind) -> v1::Entry {
    let receipt = v1::Receipt {
        conversation: "alice:bob".into(),
        member: "bob".into(),
        kind: kind.into(),
        seq: 1,
        time_ms: 1_700_000_000_000,
    };
    v1::Entry { class: 2, version, body: Some(Body::Receipt(receipt)) }
}

fn dumps() -> Vec<Dump> {
    let hello = v1::HelloRequest {
        protocol: 1,
        token: "JWT".into(),
        device_id: "d1".into(),
        client_name: "demo/1".into(),
        ..Default::default()
    };
    let hello_reply = v1::HelloReply {
        session: 1,
        user: "alice".into(),
        heartbeat_ms: 120_000,
        limits: Some(v1::Limits {
            packet_bytes: 65_536,
            text_bytes: 16_384,
            send_messages: 256,
            page_entries: 1_000,
            in_flight: 256,
            dedup_seconds: 604_800,
        }),
        durability: v1::Durability::Disk.into(),
        key_order: v1::KeyOrder::Start.into(),
        key: key(7, 0, 0),
        time_ms: 1_700_000_000_000,
        ..Default::default()
    };
    let send = v1::SendRequest {
        messages: vec![v1::OutMessage { client_msg_id: 1, to: "bob".into(), text: "hi".into(), ..Default::default() }],
        ..Default::default()
    };
    let sent = v1::SendReply {
        results: vec![v1::SendResult {
            client_msg_id: 1,
            server_msg_id: 4096,
            conversation: "alice:bob".into(),
            seq: 1,
            time_ms: 1_700_000_000_000,
            ..Default::default()
        }],
    };
    let conflict = v1::SendReply {
        results: vec![v1::SendResult { client_msg_id: 1, code: v1::Code::Conflict.into(), ..Default::default() }],
    };
    let stub = v1::Stub {
        client_msg_id: 1,
        server_msg_id: 4096,
        conversation: "alice:bob".into(),
        seq: 1,
        time_ms: 1_700_000_000_000,
    };
    let stub = v1::Entry { class: 1, version: 4096, body: Some(Body::Stub(stub)) };
    let error = v1::Error {
        code: v1::Code::UnknownCommand.into(),
        message: "no command 9999".into(),
        retry_after_ms: 0,
        command: 9999,
    };
    let made = v1::SendReply {
        results: vec![v1::SendResult {
            client_msg_id: 2,
            server_msg_id: 4608,
            conversation: GROUP.into(),
            seq: 1,
            time_ms: 1_700_000_000_000,
            ..Default::default()
        }],
    };
    let hole = v1::Entry {
        class: 1,
        version: 4096,
        body: Some(Body::Hole(v1::Hole { reason: v1::HoleReason::Cap.into(), count: 3 })),
    };
    let listed = v1::Conversation {
        name: GROUP.into(),
        title: "trip".into(),
        seq: 1,
        time_ms: 1_700_000_000_000,
        joined_seq: 1,
        read_seq: 0,
        unread: 1,
        members: 3,
    };
    let member =
        |user: &str, delivered_seq, read_seq| v1::Member { user: user.into(), joined_seq: 1, delivered_seq, read_seq };
    let away = v1::GoAway { reason: v1::GoAwayReason::Shutdown.into(), retry_after_ms: 2_500 };
    vec![
        Dump {
            title: "Heartbeat, client to server: the cheapest packet",
            packet: Packet::empty(Command::Heartbeat.number(), 1),
        },
        Dump { title: "Heartbeat, the reply", packet: Packet::empty(Command::Heartbeat.reply(), 1) },
        dump("Hello: alice's device d1 has no key yet", Command::Hello.number(), 2, &hello),
        dump("Hello, the reply: start at the oldest", Command::Hello.reply(), 2, &hello_reply),
        dump("Send: alice to bob", Command::Send.number(), 3, &send),
        dump("Send, the reply (a resend gets the same)", Command::Send.reply(), 3, &sent),
        dump("Send, the reply to the same id with another text: conflict", Command::Send.reply(), 4, &conflict),
        Dump { title: "Notify: bob is owed something", packet: Packet::empty(Command::Notify.number(), 0) },
        dump(
            "Sync: bob presents his start",
            Command::Sync.number(),
            3,
            &v1::SyncRequest { key: key(9, 0, 0), peek: false, limit: 0 },
        ),
        dump(
            "Sync, the reply: one message, nothing more",
            Command::Sync.reply(),
            3,
            &v1::SyncReply { entries: vec![message()], key: key(9, 4096, 0), ..Default::default() },
        ),
        dump("Ack: bob has applied it", Command::Ack.number(), 4, &v1::AckRequest { key: key(9, 4096, 0) }),
        dump("Ack, the reply", Command::Ack.reply(), 4, &v1::AckReply::default()),
        dump(
            "Delta to alice: her own stub and bob's delivered receipt",
            Command::Delta.number(),
            0,
            &v1::Delta {
                before: key(7, 0, 0),
                entries: vec![stub, receipt(4352, v1::ReceiptKind::Delivered)],
                after: key(7, 4096, 4352),
            },
        ),
        dump(
            "Read: bob has read up to 1",
            Command::Read.number(),
            5,
            &v1::ReadRequest { conversation: "alice:bob".into(), seq: 1 },
        ),
        dump("Read, the reply", Command::Read.reply(), 5, &v1::ReadReply {}),
        dump(
            "Check: alice asks, waiting up to 30 s",
            Command::Check.number(),
            6,
            &v1::CheckRequest { key: key(7, 4096, 4352), peek: false, wait_ms: 30_000 },
        ),
        dump(
            "Check, the reply: something is there",
            Command::Check.reply(),
            6,
            &v1::CheckReply { pending: true, ..Default::default() },
        ),
        dump(
            "Sync with a key ahead of the head, the reply: replace it",
            Command::Sync.reply(),
            7,
            &v1::SyncReply { key: key(9, 4096, 0), key_order: v1::KeyOrder::ReplaceAhead.into(), ..Default::default() },
        ),
        dump(
            "Send: alice makes a group with bob and carol",
            Command::Send.number(),
            8,
            &v1::SendRequest {
                messages: vec![v1::OutMessage { client_msg_id: 2, change: Some(trip()), ..Default::default() }],
                ..Default::default()
            },
        ),
        dump("Send, the reply: the group has a name", Command::Send.reply(), 8, &made),
        dump(
            "Sync, the reply: bob is in a group",
            Command::Sync.reply(),
            9,
            &v1::SyncReply {
                entries: vec![v1::Entry { class: 1, version: 4608, body: Some(Body::Message(first_of_group())) }],
                key: key(9, 4608, 0),
                ..Default::default()
            },
        ),
        dump(
            "Sync, the reply: a hole, three entries that the key had not covered are no longer kept",
            Command::Sync.reply(),
            10,
            &v1::SyncReply { entries: vec![hole], key: key(9, 4096, 0), ..Default::default() },
        ),
        dump(
            "Send: alice shows bob an image",
            Command::Send.number(),
            11,
            &v1::SendRequest {
                messages: vec![v1::OutMessage {
                    client_msg_id: 3,
                    to: "bob".into(),
                    media: IMAGE.into(),
                    ..Default::default()
                }],
                ..Default::default()
            },
        ),
        dump(
            "Sync, the reply: alice has shown bob an image",
            Command::Sync.reply(),
            11,
            &v1::SyncReply {
                entries: vec![v1::Entry { class: 1, version: 5000, body: Some(Body::Message(shown())) }],
                key: key(9, 5000, 0),
                ..Default::default()
            },
        ),
        dump("Chunk: of a clip, ahead of its message", Command::Chunk.number(), 0, &chunk()),
        dump(
            "Send: alice speaks to bob, in one chunk",
            Command::Send.number(),
            11,
            &v1::SendRequest {
                messages: vec![v1::OutMessage {
                    client_msg_id: 4,
                    to: "bob".into(),
                    chunk: Some(chunk()),
                    ..Default::default()
                }],
                ..Default::default()
            },
        ),
        dump(
            "Chunks-stored: the first eight chunks of a longer clip are on disk",
            Command::ChunksStored.number(),
            0,
            &v1::ChunksStored { sha256: DIGEST.into(), chunks: 8 },
        ),
        dump(
            "Conversations: bob asks for those behind the one with alice",
            Command::Conversations.number(),
            11,
            &v1::ConversationsRequest { after: "alice:bob".into(), limit: 0 },
        ),
        dump(
            "Conversations, the reply",
            Command::Conversations.reply(),
            11,
            &v1::ConversationsReply { conversations: vec![listed], more: false },
        ),
        dump(
            "History: bob asks for up to 50 messages below 2",
            Command::History.number(),
            12,
            &v1::HistoryRequest { conversation: GROUP.into(), before_seq: 2, limit: 50 },
        ),
        dump(
            "History, the reply: there are no older ones",
            Command::History.reply(),
            12,
            &v1::HistoryReply { messages: vec![first_of_group()], more: false },
        ),
        dump(
            "Members: bob asks who is in the group",
            Command::Members.number(),
            13,
            &v1::MembersRequest { conversation: GROUP.into() },
        ),
        dump(
            "Members, the reply: bob has it, carol does not",
            Command::Members.reply(),
            13,
            &v1::MembersReply {
                title: "trip".into(),
                owner: "alice".into(),
                seq: 1,
                members: vec![member("alice", 0, 0), member("bob", 1, 0), member("carol", 0, 0)],
            },
        ),
        dump("Error: an unknown command; the link stays", Command::Error.number(), 14, &error),
        dump("Go-away: the server stops, come back after 2.5 s", Command::GoAway.number(), 0, &away),
    ]
}

/// Sixteen bytes a line, the header on a line of its own.
fn render(packet: &Packet) -> String {
    let mut wire = BytesMut::new();
    packet.encode(&mut wire);
    let mut text = String::new();
    let (header, body) = wire.split_at(packet::HEADER_BYTES);
    let line = |text: &mut String, bytes: &[u8], comment: &str| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{}", format!("{:<48}{comment}", hex.join(" ")).trim_end()).expect("a string takes all");
    };
    let comment = format!("# {} bytes, command {}, sequence {}", wire.len(), packet.command, packet.sequence);
    line(&mut text, header, &comment);
    for bytes in body.chunks(16) {
        let ascii: String = bytes.iter().map(|&b| if (0x20..0x7f).contains(&b) { b as char } else { '.' }).collect();
        line(&mut text, bytes, &format!("# {ascii}"));
    }
    text
}

fn section() -> String {
    let mut text = String::new();
    for dump in dumps() {
        write!(text, "\n{}:\n\n```hex\n{}```\n", dump.title, render(&dump.packet)).expect("a string takes all");
    }
    text
}

const HEADING: &str =
    "Alice is on device `d1`, bob on `d2`. Each dump is whole packets; what is behind `#` is a comment.\n";

#[test]
fn the_dumps_of_the_protocol_page_are_what_the_codec_writes() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, after) = text.split_once(HEADING).expect("docs/protocol.md has its section of dumps");
    if std::env::var_os("TERN_UPDATE").is_some() {
        std::fs::write(&page, format!("{before}{HEADING}{}", section())).unwrap();
        return;
    }
    assert_eq!(after, section(), "the dumps are stale: TERN_UPDATE=1 cargo test -p tern-proto --test dumps");
}

#[test]
fn the_codec_reads_the_dumps_of_the_protocol_page() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let text = std::fs::read_to_string(page).unwrap();
    let want = dumps();
    let blocks: Vec<&str> = text.split("```hex\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), want.len());
    for (block, want) in blocks.into_iter().zip(want) {
        let hex = block.lines().flat_map(|line| line.split('#').next().unwrap().split_whitespace());
        let mut wire: BytesMut = hex.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let packet = packet::decode(&mut wire).unwrap().expect("a whole packet");
        assert_eq!(packet, want.packet, "{}", want.title);
        assert!(wire.is_empty());
    }
}

/// The name of a dump's file in a corpus.
fn file_name(title: &str) -> String {
    let words: Vec<&str> = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut name = words.join("-").to_ascii_lowercase();
    name.truncate(48);
    format!("dump-{}", name.trim_end_matches('-'))
}

#[test]
fn the_dumps_are_in_the_corpora() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for Dump { title, packet } in dumps() {
        let mut wire = BytesMut::new();
        packet.encode(&mut wire);
        let body = (!packet.body.is_empty()).then_some(("bodies", &packet.body[..]));
        for (target, bytes) in [("packet", &wire[..])].into_iter().chain(body) {
            let file = corpus.join(target).join(file_name(title));
            if std::env::var_os("TERN_UPDATE").is_some() {
                std::fs::write(&file, bytes).unwrap();
            }
            let kept = std::fs::read(&file).unwrap_or_default();
            assert!(kept == bytes, "{} is stale: TERN_UPDATE=1 cargo test -p tern-proto --test dumps", file.display());
        }
    }
}
