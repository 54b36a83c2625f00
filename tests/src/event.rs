//! What is recorded: requests, replies and what a device did with them. `docs/checker.md`, section 1.

use serde::{Deserialize, Serialize};
use tern_proto::{Command, Packet, v1};

/// One thing that a device did or saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Microseconds of the run: never late for an ask, never early for anything else.
    pub(crate) at: u64,
    /// Index in the roster of the history.
    pub(crate) device: usize,
    /// What happened.
    pub(crate) what: What,
}

/// What can happen. Asks and pushes are numbered by one counter of the device; a long link is named by the number of its first ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum What {
    /// A request is about to be written.
    Ask {
        /// Its number.
        n: u64,
        /// The link that it takes.
        via: Via,
        /// All of it but the token.
        request: Request,
    },
    /// The reply was read.
    Answer {
        /// The number of its ask.
        n: u64,
        /// All of it.
        reply: Reply,
    },
    /// A delta was read.
    Push {
        /// Its number.
        n: u64,
        /// The long link that brought it.
        link: u64,
        /// All of it.
        delta: v1::Delta,
    },
    /// A notify was read.
    Notify {
        /// The long link that brought it.
        link: u64,
    },
    /// The link was told that another one of its device has its place.
    Displaced {
        /// The long link.
        link: u64,
    },
    /// On a link on which a sync had ended a hint was waited for, once another user's message was accepted and while nothing was broken.
    Waited {
        /// The long link.
        link: u64,
        /// Whether one came.
        hinted: bool,
    },
    /// A page or delta was applied and the key stored.
    Applied {
        /// The number of the page's ask, or of the push.
        from: u64,
        /// The key that the device has now.
        key: v1::SyncKey,
    },
    /// An order about the key was carried out.
    Replaced {
        /// The key that the device has now.
        key: v1::SyncKey,
    },
    /// A step of the script that is run once for each kind of link.
    Twin {
        /// The name of the step.
        step: String,
        /// What came of it, without anything that differs from run to run.
        outcome: String,
    },
}

/// The link that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Via {
    /// A long link, by the number of its first ask.
    Long(u64),
    /// `POST /v1/packets`.
    Packets,
    /// The JSON paths.
    Json,
}

/// A request, as the wire has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub(crate) enum Request {
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

/// A reply, or the error in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub(crate) enum Reply {
    Hello(v1::HelloReply),
    Sync(v1::SyncReply),
    Send(v1::SendReply),
    Check(v1::CheckReply),
    Ack(v1::AckReply),
    Read(v1::ReadReply),
    Conversations(v1::ConversationsReply),
    History(v1::HistoryReply),
    Members(v1::MembersReply),
    Error(v1::Error),
}

/// What the server sent is not a reply to the request.
#[derive(Debug, thiserror::Error)]
#[error("not a reply to the request: {0}")]
pub(crate) struct BadReply(pub String);

impl Request {
    /// Its command.
    pub(crate) fn command(&self) -> Command {
        match self {
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

    /// The packet that carries it.
    pub(crate) fn packet(&self, sequence: u32) -> Packet {
        let command = self.command().number();
        match self {
            Request::Hello(body) => Packet::new(command, sequence, body),
            Request::Sync(body) => Packet::new(command, sequence, body),
            Request::Send(body) => Packet::new(command, sequence, body),
            Request::Check(body) => Packet::new(command, sequence, body),
            Request::Ack(body) => Packet::new(command, sequence, body),
            Request::Read(body) => Packet::new(command, sequence, body),
            Request::Conversations(body) => Packet::new(command, sequence, body),
            Request::History(body) => Packet::new(command, sequence, body),
            Request::Members(body) => Packet::new(command, sequence, body),
        }
    }

    /// The JSON path and body that carry it.
    ///
    /// # Errors
    /// The body has no JSON form.
    pub(crate) fn json(&self) -> Result<(&'static str, Vec<u8>), serde_json::Error> {
        Ok(match self {
            Request::Hello(body) => ("/v1/hello", serde_json::to_vec(body)?),
            Request::Sync(body) => ("/v1/sync", serde_json::to_vec(body)?),
            Request::Send(body) => ("/v1/send", serde_json::to_vec(body)?),
            Request::Check(body) => ("/v1/check", serde_json::to_vec(body)?),
            Request::Ack(body) => ("/v1/ack", serde_json::to_vec(body)?),
            Request::Read(body) => ("/v1/read", serde_json::to_vec(body)?),
            Request::Conversations(body) => ("/v1/conversations", serde_json::to_vec(body)?),
            Request::History(body) => ("/v1/history", serde_json::to_vec(body)?),
            Request::Members(body) => ("/v1/members", serde_json::to_vec(body)?),
        })
    }

    /// Reads the packet that answers it.
    ///
    /// # Errors
    /// The packet is neither its reply nor an error, or does not decode.
    pub(crate) fn reply(&self, packet: &Packet) -> Result<Reply, BadReply> {
        let bad = |error: prost::DecodeError| BadReply(error.to_string());
        if packet.command == Command::Error.number() {
            return Ok(Reply::Error(decode(packet).map_err(bad)?));
        }
        if packet.command != self.command().reply() {
            return Err(BadReply(format!("command {}", packet.command)));
        }
        Ok(match self {
            Request::Hello(_) => Reply::Hello(decode(packet).map_err(bad)?),
            Request::Sync(_) => Reply::Sync(decode(packet).map_err(bad)?),
            Request::Send(_) => Reply::Send(decode(packet).map_err(bad)?),
            Request::Check(_) => Reply::Check(decode(packet).map_err(bad)?),
            Request::Ack(_) => Reply::Ack(decode(packet).map_err(bad)?),
            Request::Read(_) => Reply::Read(decode(packet).map_err(bad)?),
            Request::Conversations(_) => Reply::Conversations(decode(packet).map_err(bad)?),
            Request::History(_) => Reply::History(decode(packet).map_err(bad)?),
            Request::Members(_) => Reply::Members(decode(packet).map_err(bad)?),
        })
    }

    /// Reads the JSON that answers it.
    ///
    /// # Errors
    /// The body is not the JSON of its reply or, with `ok` false, of an error.
    pub(crate) fn json_reply(&self, ok: bool, body: &[u8]) -> Result<Reply, BadReply> {
        let bad = |error: serde_json::Error| BadReply(error.to_string());
        if !ok {
            return Ok(Reply::Error(serde_json::from_slice(body).map_err(bad)?));
        }
        Ok(match self {
            Request::Hello(_) => Reply::Hello(serde_json::from_slice(body).map_err(bad)?),
            Request::Sync(_) => Reply::Sync(serde_json::from_slice(body).map_err(bad)?),
            Request::Send(_) => Reply::Send(serde_json::from_slice(body).map_err(bad)?),
            Request::Check(_) => Reply::Check(serde_json::from_slice(body).map_err(bad)?),
            Request::Ack(_) => Reply::Ack(serde_json::from_slice(body).map_err(bad)?),
            Request::Read(_) => Reply::Read(serde_json::from_slice(body).map_err(bad)?),
            Request::Conversations(_) => Reply::Conversations(serde_json::from_slice(body).map_err(bad)?),
            Request::History(_) => Reply::History(serde_json::from_slice(body).map_err(bad)?),
            Request::Members(_) => Reply::Members(serde_json::from_slice(body).map_err(bad)?),
        })
    }

    /// The key that it presents.
    pub(crate) fn key(&self) -> Option<&v1::SyncKey> {
        match self {
            Request::Hello(body) => body.key.as_ref(),
            Request::Sync(body) => body.key.as_ref(),
            Request::Check(body) => body.key.as_ref(),
            Request::Ack(body) => body.key.as_ref(),
            _ => None,
        }
    }

    /// Whether it can present a key.
    pub(crate) fn speaks_of_keys(&self) -> bool {
        matches!(self, Request::Hello(_) | Request::Sync(_) | Request::Check(_) | Request::Ack(_))
    }

    /// Whether it acknowledges the key that it presents.
    pub(crate) fn acknowledges(&self) -> bool {
        match self {
            Request::Hello(body) => !body.peek,
            Request::Sync(body) => !body.peek,
            Request::Check(body) => !body.peek,
            Request::Ack(_) => true,
            _ => false,
        }
    }
}

impl Reply {
    /// The order about the key and the key of the reply; `None` where the reply cannot carry one.
    pub(crate) fn order(&self) -> Option<(v1::KeyOrder, Option<&v1::SyncKey>)> {
        match self {
            Reply::Hello(body) => Some((body.key_order(), body.key.as_ref())),
            Reply::Sync(body) => Some((body.key_order(), body.key.as_ref())),
            Reply::Check(body) => Some((body.key_order(), body.key.as_ref())),
            Reply::Ack(body) => Some((body.key_order(), body.key.as_ref())),
            _ => None,
        }
    }
}

fn decode<M: prost::Message + Default>(packet: &Packet) -> Result<M, prost::DecodeError> {
    M::decode(packet.body.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_its_line() {
        let key = v1::SyncKey { epoch: 3, classes: vec![v1::Position { class: 1, version: u64::MAX }] };
        let request = Request::Sync(v1::SyncRequest { key: Some(key), peek: true, limit: 5 });
        let event = Event { at: 9, device: 2, what: What::Ask { n: 4, via: Via::Long(1), request: request.clone() } };
        let line = serde_json::to_string(&event).unwrap();
        let back: Event = serde_json::from_str(&line).unwrap();
        assert!(matches!(back.what, What::Ask { n: 4, via: Via::Long(1), request: same } if same == request), "{line}");
    }

    #[test]
    fn a_reply_to_another_command_is_refused() {
        let request = Request::Read(v1::ReadRequest::default());
        assert!(request.reply(&Packet::empty(Command::Send.reply(), 1)).is_err());
        assert_eq!(request.reply(&Packet::empty(Command::Read.reply(), 1)).unwrap(), Reply::Read(v1::ReadReply {}));
    }
}
