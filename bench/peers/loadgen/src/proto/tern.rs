//! Tern's long link. Every device starts at the oldest entry, syncs until nothing more is there, applies what comes and
//! acknowledges each page and each delta with one request, as `docs/protocol.md` has it; own stubs and receipts included.
//!
//! Each receiver has one sender, so that its messages must come with `seq` 1, 2, 3…: anything else is reported as an error. In a fan-out
//! the sender first makes a group of itself and all receivers: seq 1, which is no delivery.
use super::{stamp, Conf, Ev, Proto, Role};
use base64::prelude::{Engine, BASE64_URL_SAFE_NO_PAD};
use bytes::BytesMut;
use hmac::{Hmac, Mac};
use prost::Message;
use sha2::Sha256;
use std::collections::VecDeque;
use tern_proto::packet::{decode, encode_message, Packet, HEADER_BYTES};
use tern_proto::{v1, Command, Key};

pub struct Tern {
    token: String,
    to: String,
    /// The group that the sender makes before it is ready.
    group: Option<v1::GroupChange>,
    key: Option<Key>,
    /// A sync is under way, and perhaps a hint came meanwhile.
    syncing: bool,
    hinted: bool,
    ready: bool,
    sequence: u32,
    /// Of the messages sent and of those received.
    last_id: u64,
    last_seq: u64,
    /// Ids without a result.
    unacked: VecDeque<u64>,
}

impl Tern {
    pub fn new(c: &Conf, role: Role, idx: usize) -> Tern {
        // As long as those of `tern bench`: names are a part of what a message costs.
        let run = format!("b{:08x}", name_hash(&c.run));
        let user = match role {
            Role::Sender => format!("{run}-s{idx}"),
            Role::Receiver => format!("{run}-r{idx}"),
            Role::Idle => format!("{run}-{idx}"),
        };
        let group = (c.fanout && role == Role::Sender).then(|| v1::GroupChange {
            title: Some("bench".into()),
            add: (0..c.recv).map(|i| format!("{run}-r{i}")).collect(),
            remove: Vec::new(),
        });
        Tern {
            token: token(&c.secret, &user),
            to: if group.is_some() { String::new() } else { format!("{run}-r{idx}") },
            group,
            key: None,
            syncing: false,
            hinted: false,
            ready: false,
            sequence: 0,
            last_id: 0,
            last_seq: 0,
            unacked: VecDeque::new(),
        }
    }

    fn request(&mut self, command: Command, body: &impl Message, out: &mut Vec<u8>) {
        self.sequence = self.sequence % u32::MAX + 1;
        put(out, command.number(), self.sequence, body);
    }

    fn sync(&mut self, out: &mut Vec<u8>) {
        self.syncing = true;
        self.hinted = false;
        let key = self.key.as_ref().map(Into::into);
        self.request(Command::Sync, &v1::SyncRequest { key, ..Default::default() }, out);
    }

    fn hint(&mut self, out: &mut Vec<u8>) {
        self.hinted = true;
        if !self.syncing {
            self.sync(out);
        }
    }

    /// Makes the group, if there is one to make; else the connection is ready.
    fn found(&mut self, out: &mut Vec<u8>, ev: &mut Vec<Ev>) {
        let Some(change) = self.group.take() else { return ev.push(Ev::Ready) };
        self.last_id += 1;
        let message = v1::OutMessage { client_msg_id: self.last_id, change: Some(change), ..Default::default() };
        self.request(Command::Send, &v1::SendRequest { messages: vec![message], ..Default::default() }, out);
    }

    fn on_result(&mut self, result: v1::SendResult, ev: &mut Vec<Ev>) {
        if result.code != 0 {
            ev.push(Ev::Error(format!("send {}: code {}", result.client_msg_id, result.code)));
        } else if self.to.is_empty() {
            self.to = result.conversation;
            ev.push(Ev::Ready);
        } else if self.unacked.pop_front() == Some(result.client_msg_id) {
            ev.push(Ev::Acked(1));
        } else {
            ev.push(Ev::Error(format!("a result of {} that is not the next", result.client_msg_id)));
        }
    }

    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        let key = self.key.as_ref().map(Into::into);
        self.request(Command::Ack, &v1::AckRequest { key }, out);
    }

    /// Applies entries and takes the key behind them.
    fn apply(&mut self, entries: &[v1::Entry], after: Option<&v1::SyncKey>, ev: &mut Vec<Ev>) {
        for entry in entries {
            match &entry.body {
                Some(v1::entry::Body::Message(message)) => {
                    if message.seq != self.last_seq + 1 {
                        ev.push(Ev::Error(format!("seq {} behind {}", message.seq, self.last_seq)));
                    }
                    self.last_seq = message.seq;
                    if message.change.is_some() {
                        continue;
                    }
                    ev.push(Ev::Deliver(stamp(message.text.as_bytes())));
                }
                Some(v1::entry::Body::Damaged(_) | v1::entry::Body::Hole(_)) => {
                    ev.push(Ev::Error("a damaged entry or a hole".into()));
                }
                // Stubs, receipts and what else there may be: applied by taking the key.
                _ => (),
            }
        }
        if let (Some(key), Some(after)) = (&mut self.key, after) {
            key.merge(&after.into());
        }
    }

    fn on_packet(&mut self, packet: Packet, out: &mut Vec<u8>, ev: &mut Vec<Ev>) -> Result<(), prost::DecodeError> {
        let body = &packet.body[..];
        match packet.command {
            c if c == Command::Send.reply() => {
                v1::SendReply::decode(body)?.results.into_iter().for_each(|result| self.on_result(result, ev));
            }
            c if c == Command::Ack.reply() => {
                if v1::AckReply::decode(body)?.key_order() != v1::KeyOrder::None {
                    ev.push(Ev::Error("an ack was answered by another key".into()));
                }
            }
            c if c == Command::Delta.number() => {
                let delta = v1::Delta::decode(body)?;
                if !self.syncing && delta.before.as_ref().map(Key::from) == self.key {
                    self.apply(&delta.entries, delta.after.as_ref(), ev);
                    self.acknowledge(out);
                } else {
                    self.hint(out);
                }
            }
            c if c == Command::Notify.number() => self.hint(out),
            c if c == Command::Heartbeat.reply() => ev.push(Ev::Pong),
            c if c == Command::Hello.reply() => {
                self.key = v1::HelloReply::decode(body)?.key.as_ref().map(Key::from);
                self.token = String::new();
                self.sync(out);
            }
            c if c == Command::Sync.reply() => {
                let reply = v1::SyncReply::decode(body)?;
                self.syncing = false;
                if reply.key_order() != v1::KeyOrder::None {
                    ev.push(Ev::Error("a sync was answered by another key".into()));
                }
                self.apply(&reply.entries, reply.key.as_ref(), ev);
                if self.hinted || !reply.more.is_empty() {
                    // It presents the key, which acknowledges the page.
                    return Ok(self.sync(out));
                }
                if !reply.entries.is_empty() {
                    self.acknowledge(out);
                }
                if !std::mem::replace(&mut self.ready, true) {
                    self.found(out, ev);
                }
            }
            c if c == Command::Error.number() => {
                let error = v1::Error::decode(body)?;
                ev.push(Ev::Error(format!("{}: {}", error.code().as_str_name(), error.message)));
            }
            c => ev.push(Ev::Error(format!("command {c}"))),
        }
        Ok(())
    }
}

impl Proto for Tern {
    fn start(&mut self, out: &mut Vec<u8>) {
        let hello = v1::HelloRequest {
            protocol: 1,
            token: self.token.clone(),
            device_id: "bench".into(),
            client_name: "loadgen".into(),
            ..Default::default()
        };
        self.request(Command::Hello, &hello, out);
    }

    fn on_data(&mut self, inp: &[u8], out: &mut Vec<u8>, ev: &mut Vec<Ev>) -> usize {
        let mut input = BytesMut::from(inp);
        loop {
            let outcome = match decode(&mut input) {
                Ok(Some(packet)) => self.on_packet(packet, out, ev).map_err(|e| e.to_string()),
                Ok(None) => return inp.len() - input.len(),
                Err(e) => Err(e.to_string()),
            };
            if let Err(e) = outcome {
                ev.push(Ev::Error(e));
                return inp.len();
            }
        }
    }

    fn send(&mut self, body: &[u8], out: &mut Vec<u8>) {
        self.last_id += 1;
        self.unacked.push_back(self.last_id);
        let text = String::from_utf8_lossy(body).into_owned();
        let message = v1::OutMessage { client_msg_id: self.last_id, to: self.to.clone(), text, ..Default::default() };
        self.request(Command::Send, &v1::SendRequest { messages: vec![message], ..Default::default() }, out);
    }

    fn ping(&mut self, out: &mut Vec<u8>) {
        self.request(Command::Heartbeat, &(), out);
    }
}

fn put(out: &mut Vec<u8>, command: u32, sequence: u32, body: &impl Message) {
    let mut packet = BytesMut::with_capacity(HEADER_BYTES + body.encoded_len());
    encode_message(&mut packet, command, sequence, body);
    out.extend_from_slice(&packet);
}

/// FNV-1a, to make names of one length.
fn name_hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A JSON Web Token of the user, signed by HS256, good until 2100.
fn token(secret: &[u8], user: &str) -> String {
    let mut token = BASE64_URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
    token.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(format!(r#"{{"sub":"{user}","exp":4102444800}}"#), &mut token);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(token.as_bytes());
    token.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(mac.finalize().into_bytes(), &mut token);
    token
}
