//! A wire protocol as a pure state machine: bytes in, bytes out, events up.
pub mod mqtt;
pub mod nats;
pub mod raw;
pub mod redis;
pub mod tern;
pub mod xmpp;

pub enum Ev {
    /// Logged in and (for a receiver) subscribed.
    Ready,
    /// The server acknowledged the `n` oldest unacknowledged sends of this connection.
    Acked(u32),
    /// A message arrived; the first 16 bytes of its body are the send time, in hex nanoseconds.
    Deliver(u64),
    /// Answer to a heartbeat.
    Pong,
    /// The server refused something; the text is for the log.
    Error(String),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Role {
    Sender,
    Receiver,
    Idle,
}

#[derive(Clone, Debug)]
pub struct Conf {
    pub kind: String,
    pub run: String,
    pub qos: u8,
    pub size: usize,
    pub register: bool,
    pub dedup: bool,
    pub fanout: bool,
    /// Receivers of a fan-out.
    pub recv: usize,
    pub domain: String,
    /// Of tern: what signs the tokens.
    pub secret: Vec<u8>,
}

pub trait Proto {
    fn start(&mut self, out: &mut Vec<u8>);
    /// Returns how many bytes of `inp` were used.
    fn on_data(&mut self, inp: &[u8], out: &mut Vec<u8>, ev: &mut Vec<Ev>) -> usize;
    fn send(&mut self, body: &[u8], out: &mut Vec<u8>);
    fn ping(&mut self, out: &mut Vec<u8>);
}

pub fn make(c: &Conf, role: Role, idx: usize) -> Box<dyn Proto> {
    match c.kind.as_str() {
        "raw" => Box::new(raw::Raw::new(c.size)),
        "mqtt" => Box::new(mqtt::Mqtt::new(c, role, idx)),
        "nats" => Box::new(nats::Nats::new(c, role, idx, false)),
        "js" => Box::new(nats::Nats::new(c, role, idx, true)),
        // JetStream publish-acks, but live delivery by a plain core subscription (no consumer, no ack back)
        "jsc" => Box::new(nats::Nats::new(c, role, idx, role == Role::Sender)),
        "redis" => Box::new(redis::Redis::new(c, role, idx, false)),
        "redisg" => Box::new(redis::Redis::new(c, role, idx, true)),
        "tern" => Box::new(tern::Tern::new(c, role, idx)),
        "xmpp" => Box::new(xmpp::Xmpp::new(c, role, idx)),
        k => panic!("no protocol {k}"),
    }
}

pub fn stamp(body: &[u8]) -> u64 {
    body.get(..16).and_then(|b| std::str::from_utf8(b).ok()).and_then(|s| u64::from_str_radix(s, 16).ok()).unwrap_or(0)
}

pub fn find(h: &[u8], n: &[u8]) -> Option<usize> {
    let (f, rest) = n.split_first()?;
    let mut at = 0;
    while let Some(p) = h[at..].iter().position(|b| b == f) {
        let s = at + p;
        if h[s + 1..].starts_with(rest) {
            return Some(s);
        }
        at = s + 1;
    }
    None
}
