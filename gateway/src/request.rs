//! Requests and replies in both their forms: packets with protobuf bodies, and JSON. What is valid is decided here.

use std::fmt::Display;
use std::time::Duration;

use bytes::BytesMut;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tern_proto::packet::{Packet, PacketError, encode_message};
use tern_proto::{Command, limits, v1};
use tern_sync::Refusal;

/// A valid request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    Heartbeat,
    Hello(v1::HelloRequest),
    Sync(v1::SyncRequest),
    Send(v1::SendRequest),
    Check(v1::CheckRequest),
    Ack(v1::AckRequest),
    Read(v1::ReadRequest),
    Conversations(v1::ConversationsRequest),
    History(v1::HistoryRequest),
    Members(v1::MembersRequest),
}

/// What a packet of a client is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Taken {
    Request(Request),
    /// One-way: it has no reply.
    Chunk(v1::Chunk),
}

impl Taken {
    /// Decodes the body that belongs to the packet's command.
    pub(crate) fn from_packet(packet: &Packet) -> Result<Taken, Refusal> {
        match packet.known_command() {
            Some(Command::Chunk) => from_protobuf(&packet.body).map(Taken::Chunk),
            _ => Request::from_packet(packet).map(Taken::Request),
        }
    }
}

/// The reply to the request of the same name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Heartbeat,
    Hello(v1::HelloReply),
    Sync(v1::SyncReply),
    Send(v1::SendReply),
    Check(v1::CheckReply),
    Ack(v1::AckReply),
    Read(v1::ReadReply),
    Conversations(v1::ConversationsReply),
    History(v1::HistoryReply),
    Members(v1::MembersReply),
}

/// What a request came to.
pub(crate) type Answer = Result<Reply, Refusal>;

impl Request {
    fn from_packet(packet: &Packet) -> Result<Request, Refusal> {
        let body = &packet.body[..];
        let request = match packet.known_command() {
            Some(Command::Heartbeat) => Request::Heartbeat,
            Some(Command::Hello) => Request::Hello(from_protobuf(body)?),
            Some(Command::Sync) => Request::Sync(from_protobuf(body)?),
            Some(Command::Send) => Request::Send(from_protobuf(body)?),
            Some(Command::Check) => Request::Check(from_protobuf(body)?),
            Some(Command::Ack) => Request::Ack(from_protobuf(body)?),
            Some(Command::Read) => Request::Read(from_protobuf(body)?),
            Some(Command::Conversations) => Request::Conversations(from_protobuf(body)?),
            Some(Command::History) => Request::History(from_protobuf(body)?),
            Some(Command::Members) => Request::Members(from_protobuf(body)?),
            _ => return Err(refusal(v1::Code::UnknownCommand, format!("no command {}", packet.command))),
        };
        request.valid()
    }

    /// Decodes the JSON form; nothing at all counts as a request without fields.
    pub(crate) fn from_json(command: Command, body: &[u8]) -> Result<Request, Refusal> {
        let body = if body.is_empty() { b"{}" } else { body };
        let request = match command {
            Command::Hello => Request::Hello(from_json(body)?),
            Command::Sync => Request::Sync(from_json(body)?),
            Command::Send => Request::Send(from_json(body)?),
            Command::Check => Request::Check(from_json(body)?),
            Command::Ack => Request::Ack(from_json(body)?),
            Command::Read => Request::Read(from_json(body)?),
            Command::Conversations => Request::Conversations(from_json(body)?),
            Command::History => Request::History(from_json(body)?),
            Command::Members => Request::Members(from_json(body)?),
            _ => return Err(refusal(v1::Code::UnknownCommand, format!("{command:?} has no JSON form"))),
        };
        request.valid()
    }

    /// Its command.
    pub(crate) fn command(&self) -> Command {
        match self {
            Request::Heartbeat => Command::Heartbeat,
            Request::Hello(_) => Command::Hello,
            Request::Sync(_) => Command::Sync,
            Request::Send(_) => Command::Send,
            Request::Check(_) => Command::Check,
            Request::Ack(_) => Command::Ack,
            Request::Read(_) => Command::Read,
            Request::Conversations(_) => Command::Conversations,
            Request::History(_) => Command::History,
            Request::Members(_) => Command::Members,
        }
    }

    fn valid(self) -> Result<Request, Refusal> {
        match &self {
            Request::Hello(hello) if hello.protocol != 1 => {
                let message = format!("protocol {} is not spoken here, only 1", hello.protocol);
                Err(refusal(v1::Code::UnsupportedProtocol, message))
            }
            Request::Hello(hello) if hello.client_name.len() > limits::CLIENT_NAME_BYTES => {
                Err(bad_body(format!("client_name is over {} bytes", limits::CLIENT_NAME_BYTES)))
            }
            Request::Send(send) if send.messages.len() > limits::SEND_MESSAGES => {
                Err(bad_body(format!("{} messages are more than {}", send.messages.len(), limits::SEND_MESSAGES)))
            }
            Request::Conversations(list) => within(list.limit, limits::LIST).map(|()| self),
            Request::History(page) => within(page.limit, limits::PAGE_ENTRIES).map(|()| self),
            _ => Ok(self),
        }
    }
}

impl Reply {
    /// The JSON form.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        match self {
            Reply::Heartbeat => b"{}".to_vec(),
            Reply::Hello(reply) => json(reply),
            Reply::Sync(reply) => json(reply),
            Reply::Send(reply) => json(reply),
            Reply::Check(reply) => json(reply),
            Reply::Ack(reply) => json(reply),
            Reply::Read(reply) => json(reply),
            Reply::Conversations(reply) => json(reply),
            Reply::History(reply) => json(reply),
            Reply::Members(reply) => json(reply),
        }
    }

    fn put(&self, out: &mut BytesMut, sequence: u32) {
        match self {
            Reply::Heartbeat => Packet::empty(Command::Heartbeat.reply(), sequence).encode(out),
            Reply::Hello(reply) => encode_message(out, Command::Hello.reply(), sequence, reply),
            Reply::Sync(reply) => encode_message(out, Command::Sync.reply(), sequence, reply),
            Reply::Send(reply) => encode_message(out, Command::Send.reply(), sequence, reply),
            Reply::Check(reply) => encode_message(out, Command::Check.reply(), sequence, reply),
            Reply::Ack(reply) => encode_message(out, Command::Ack.reply(), sequence, reply),
            Reply::Read(reply) => encode_message(out, Command::Read.reply(), sequence, reply),
            Reply::Conversations(reply) => encode_message(out, Command::Conversations.reply(), sequence, reply),
            Reply::History(reply) => encode_message(out, Command::History.reply(), sequence, reply),
            Reply::Members(reply) => encode_message(out, Command::Members.reply(), sequence, reply),
        }
    }
}

/// Appends the reply packet or the error packet in its place; `command` is the number that came with the request. What is wrong with a chunk, its message is told.
pub(crate) fn put_answer(out: &mut BytesMut, command: u32, sequence: u32, answer: &Answer) {
    match answer {
        Err(refused) if command == Command::Chunk.number() && !refused.code.closes_link() => {}
        Ok(reply) => reply.put(out, sequence),
        Err(refusal) => encode_message(out, Command::Error.number(), sequence, &error(refusal, command)),
    }
}

/// Appends what is told of chunks that are stored.
pub(crate) fn put_stored(out: &mut BytesMut, stored: &[v1::ChunksStored]) {
    stored.iter().for_each(|stored| encode_message(out, Command::ChunksStored.number(), 0, stored));
}

/// Appends an error packet that concerns the link, not a request.
pub(crate) fn put_link_error(out: &mut BytesMut, refusal: &Refusal) {
    encode_message(out, Command::Error.number(), 0, &error(refusal, 0));
}

/// The body of an error packet, and of an HTTP error.
pub(crate) fn error(refusal: &Refusal, command: u32) -> v1::Error {
    v1::Error {
        code: refusal.code.into(),
        message: refusal.message.clone(),
        retry_after_ms: millis(refusal.retry_after),
        command,
    }
}

/// A refusal that a retry does not help.
pub(crate) fn refusal(code: v1::Code, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into(), retry_after: Duration::ZERO }
}

/// A refusal of what was too much at once.
pub(crate) fn busy(message: impl Into<String>) -> Refusal {
    Refusal { code: v1::Code::Busy, message: message.into(), retry_after: Duration::from_secs(1) }
}

/// A refusal of one connection more.
pub(crate) fn too_many(retry_after: Duration) -> Refusal {
    Refusal { code: v1::Code::TooManyRequests, message: "too many connections".into(), retry_after }
}

/// A refusal of bytes that are no packet.
pub(crate) fn bad_packet(error: PacketError) -> Refusal {
    let code = match error {
        PacketError::TooLarge(_) => v1::Code::PacketTooLarge,
        PacketError::HeaderLength(_) | PacketError::Version(_) | PacketError::TooSmall(_) => v1::Code::BadHeader,
    };
    refusal(code, error.to_string())
}

/// Milliseconds as the wire has them.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The JSON form of a message.
pub(crate) fn json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("every message with known enum values has a JSON form")
}

fn from_protobuf<M: Message + Default>(body: &[u8]) -> Result<M, Refusal> {
    M::decode(body).map_err(bad_body)
}

/// A message from its JSON form; nothing at all is the message with its default values.
pub(crate) fn from_json<M: DeserializeOwned>(body: &[u8]) -> Result<M, Refusal> {
    serde_json::from_slice(body).map_err(bad_body)
}

fn within(limit: u32, most: usize) -> Result<(), Refusal> {
    if limit as usize <= most { Ok(()) } else { Err(bad_body(format!("a limit of {limit} is over {most}"))) }
}

fn bad_body(why: impl Display) -> Refusal {
    refusal(v1::Code::BadBody, why.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn code(result: Result<Request, Refusal>) -> v1::Code {
        result.unwrap_err().code
    }

    #[test]
    fn both_forms_decode_to_the_same_request() {
        let body = v1::ReadRequest { conversation: "alice:bob".into(), seq: 3 };
        let packet = Packet::new(Command::Read.number(), 7, &body);
        let json = br#"{"conversation":"alice:bob","seq":"3"}"#;
        assert_eq!(Request::from_packet(&packet), Ok(Request::Read(body.clone())));
        assert_eq!(Request::from_json(Command::Read, json), Ok(Request::Read(body)));
        assert_eq!(Request::from_json(Command::Sync, b""), Ok(Request::Sync(v1::SyncRequest::default())));
    }

    #[test]
    fn what_does_not_decode_or_breaks_a_limit_is_refused() {
        let packet =
            |command: u32, body: &'static [u8]| Packet { command, sequence: 1, body: Bytes::from_static(body) };
        assert_eq!(code(Request::from_packet(&packet(237, &[0xff]))), v1::Code::BadBody);
        assert_eq!(code(Request::from_packet(&packet(9999, &[]))), v1::Code::UnknownCommand);
        assert_eq!(code(Request::from_packet(&packet(Command::Delta.number(), &[]))), v1::Code::UnknownCommand);
        assert_eq!(code(Request::from_packet(&packet(1001, &[0x08, 2]))), v1::Code::UnsupportedProtocol);
        let many = |count| v1::SendRequest { messages: vec![v1::OutMessage::default(); count], ..Default::default() };
        assert!(Request::Send(many(limits::SEND_MESSAGES)).valid().is_ok());
        assert_eq!(code(Request::Send(many(limits::SEND_MESSAGES + 1)).valid()), v1::Code::BadBody);
        let name = v1::HelloRequest { protocol: 1, client_name: "x".repeat(65), ..Default::default() };
        assert_eq!(code(Request::Hello(name).valid()), v1::Code::BadBody);
        let list = |limit| Request::Conversations(v1::ConversationsRequest { limit, ..Default::default() });
        let page = |limit| Request::History(v1::HistoryRequest { limit, ..Default::default() });
        for valid in [list(0), list(100), page(0), page(1_000)] {
            assert!(valid.clone().valid().is_ok(), "{valid:?}");
        }
        for over in [list(101), list(u32::MAX), page(1_001)] {
            assert_eq!(code(over.clone().valid()), v1::Code::BadBody, "{over:?}");
        }
    }

    #[test]
    fn a_json_field_that_is_not_known_is_named() {
        let refused = Request::from_json(Command::Sync, br#"{"kee":{}}"#).unwrap_err();
        assert_eq!(refused.code, v1::Code::BadBody);
        assert!(refused.message.contains("`kee`") && refused.message.contains("`key`"), "{}", refused.message);
    }
}
