//! The client's end of a long link.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use prost::Message;
use tern_proto::packet::{Packet, decode};
use tern_proto::{Command, Key, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench::token;
use crate::service::EPOCH;

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    input: BytesMut,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Peer {
        Peer { stream: TcpStream::connect(address).await.unwrap(), input: BytesMut::new() }
    }

    pub(crate) async fn greet(&mut self, user: &str, device: &str) -> v1::HelloReply {
        self.ask(Command::Hello, 1, &hello(&token(user), device)).await;
        self.reply(Command::Hello, 1).await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, command: Command, sequence: u32, body: &impl Message) {
        self.write(&packet(command, sequence, body)).await;
    }

    /// The next packet; `None` if the server closed the link.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        let read = async {
            loop {
                if let Some(packet) = decode(&mut self.input).unwrap() {
                    return Some(packet);
                }
                if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                    assert!(self.input.is_empty(), "the link ended within a packet");
                    return None;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("no packet came")
    }

    pub(crate) async fn expect(&mut self, command: u32, sequence: u32) -> Packet {
        let packet = self.next().await.expect("the link was closed");
        assert_eq!((packet.command, packet.sequence), (command, sequence), "{packet:?}");
        packet
    }

    pub(crate) async fn reply<M: Message + Default>(&mut self, command: Command, sequence: u32) -> M {
        M::decode(self.expect(command.reply(), sequence).await.body).unwrap()
    }

    pub(crate) async fn error(&mut self, sequence: u32) -> v1::Error {
        v1::Error::decode(self.expect(Command::Error.number(), sequence).await.body).unwrap()
    }

    pub(crate) async fn go_away(&mut self) -> v1::GoAway {
        v1::GoAway::decode(self.expect(Command::GoAway.number(), 0).await.body).unwrap()
    }

    pub(crate) async fn delta(&mut self) -> v1::Delta {
        v1::Delta::decode(self.expect(Command::Delta.number(), 0).await.body).unwrap()
    }

    pub(crate) async fn closed(&mut self) {
        assert_eq!(self.next().await, None);
    }

    /// What was written before is dealt with, and nothing else came: the next packet is the heartbeat's reply.
    pub(crate) async fn quiet(&mut self) {
        self.ask(Command::Heartbeat, 99, &()).await;
        self.expect(Command::Heartbeat.reply(), 99).await;
    }

    /// Syncs from the version on; the version after the page.
    pub(crate) async fn sync(&mut self, sequence: u32, from: u64) -> u64 {
        self.ask(Command::Sync, sequence, &sync(from)).await;
        let reply: v1::SyncReply = self.reply(Command::Sync, sequence).await;
        at(&reply.key)
    }
}

pub(crate) fn packet(command: Command, sequence: u32, body: &impl Message) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    Packet::new(command.number(), sequence, body).encode(&mut bytes);
    bytes.to_vec()
}

pub(crate) fn hello(token: &str, device: &str) -> v1::HelloRequest {
    v1::HelloRequest { protocol: 1, token: token.into(), device_id: device.into(), ..Default::default() }
}

pub(crate) fn sync(from: u64) -> v1::SyncRequest {
    v1::SyncRequest { key: Some(key(from)), ..Default::default() }
}

pub(crate) fn send(ids: std::ops::RangeInclusive<u64>) -> v1::SendRequest {
    let message = |id| v1::OutMessage { client_msg_id: id, to: "bob".into(), text: "hi".into(), ..Default::default() };
    v1::SendRequest { messages: ids.map(message).collect(), ..Default::default() }
}

pub(crate) fn key(version: u64) -> v1::SyncKey {
    (&Key::at(EPOCH, [version, 0])).into()
}

/// The version of class 1 in the key.
pub(crate) fn at(key: &Option<v1::SyncKey>) -> u64 {
    Key::from(key.as_ref().expect("a key")).versions[0].expect("class 1")
}
