//! A client as the protocol wants it, without I/O: hello, sync until nothing more, then deltas; each one acknowledged.
//!
//! Bytes in, bytes out: `link` reads and writes them. What a phone knows outlives its connection, so that it can come back to a
//! server that was restarted.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use prost::Message;
use tern_proto::{Command, v1};

use crate::order::{Faults, Order};
use crate::outbox::{Outbox, code_name};
use crate::stamp::Stamp;
use crate::tally::Tally;
use crate::wire::{Broken, Fields, Packet, Value, put_key, put_packet};

/// Why a link ended, which voids the run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("{0}")]
    Refused(String),
    #[error("the server ordered to replace a key: it has lost something")]
    KeyOrder,
    #[error("the server sent a go-away with {}", reason_name(*.0))]
    GoAway(u64),
    #[error("a text came that nobody of this run sent to this user")]
    Foreign,
    #[error("the server does not keep up with this rate: {0} sends of one client are without an answer")]
    Behind(usize),
    #[error("the server closed the connection")]
    Closed,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Who a phone is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) token: String,
}

/// One device.
#[derive(Debug)]
pub(crate) struct Phone {
    /// `None`: it greets nobody, and only its heartbeats count.
    identity: Option<Identity>,
    tally: Rc<RefCell<Tally>>,
    /// The key as the server gave it; empty before the first hello.
    key: Vec<u8>,
    /// A sync is under way.
    syncing: bool,
    /// And one more must follow it.
    again: bool,
    ready: bool,
    unanswered_acks: usize,
    sequence: u32,
    /// The first of the senders that send to it.
    first_sender: u32,
    /// By sender.
    inbox: Vec<Order>,
    pub(crate) outbox: Option<Outbox>,
    pub(crate) beats: Beats,
}

/// The heartbeats of a phone.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    /// Scheduled times that have come.
    pub(crate) due: VecDeque<u64>,
    /// So many are kept unanswered.
    pub(crate) window: usize,
    /// Bytes of the body: none but for an echo, which takes anything.
    pub(crate) bytes: usize,
    unanswered: VecDeque<u64>,
}

impl Phone {
    /// A phone that gets texts from the `senders` senders that begin with `first_sender`.
    pub(crate) fn new(identity: Identity, first_sender: u32, senders: usize, tally: Rc<RefCell<Tally>>) -> Phone {
        Phone { identity: Some(identity), first_sender, inbox: vec![Order::default(); senders], ..Phone::probe(tally) }
    }

    /// A phone that greets nobody and only sends heartbeats, to a server that sends back what it gets.
    pub(crate) fn probe(tally: Rc<RefCell<Tally>>) -> Phone {
        Phone {
            identity: None,
            tally,
            key: Vec::new(),
            syncing: false,
            again: false,
            ready: false,
            unanswered_acks: 0,
            sequence: 0,
            first_sender: 0,
            inbox: Vec::new(),
            outbox: None,
            beats: Beats::default(),
        }
    }

    /// Begins a connection.
    pub(crate) fn open(&mut self, out: &mut Vec<u8>) -> Result<(), Trouble> {
        (self.syncing, self.again, self.sequence, self.unanswered_acks) = (false, false, 1, 0);
        self.ready = self.identity.is_none();
        let Some(identity) = &self.identity else { return Ok(()) };
        let hello = v1::HelloRequest {
            protocol: 1,
            token: identity.token.clone(),
            device_id: "bench".into(),
            client_name: concat!("tern-bench/", env!("CARGO_PKG_VERSION")).into(),
            key: (!self.key.is_empty())
                .then(|| v1::SyncKey::decode(&self.key[..]))
                .transpose()
                .map_err(|_| Broken::Body)?,
            ..Default::default()
        };
        put_packet(out, Command::Hello, self.sequence, |out| hello.encode_raw(out));
        Ok(())
    }

    /// Ends a connection.
    pub(crate) fn hang_up(&mut self) {
        self.ready = false;
    }

    /// Whether there is a connection and its first sync ended with nothing more.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether everything that it asked is answered, and nothing is left to ask.
    pub(crate) fn is_quiet(&self) -> bool {
        let beats = &self.beats;
        self.ready
            && !self.syncing
            && self.unanswered_acks == 0
            && self.outbox.as_ref().is_none_or(Outbox::is_quiet)
            && beats.due.is_empty()
            && beats.unanswered.is_empty()
    }

    /// Who it is, for an error.
    pub(crate) fn user(&self) -> &str {
        self.identity.as_ref().map_or("probe", |identity| &identity.user)
    }

    /// What went wrong on the way to this phone, if its senders have sent so many.
    pub(crate) fn faults(&self, sent: impl Fn(u32) -> u64) -> Faults {
        let mut faults = Faults::default();
        for (sender, order) in (self.first_sender..).zip(&self.inbox) {
            faults += order.faults(sent(sender));
        }
        faults
    }

    /// Sends what may be sent now.
    pub(crate) fn pump(&mut self, now: u64, out: &mut Vec<u8>) -> Result<(), Trouble> {
        if !self.ready {
            return Ok(());
        }
        while let Some(at) = self.beats.due.pop_front() {
            self.beat(at, out);
        }
        while self.beats.unanswered.len() < self.beats.window {
            self.beat(now, out);
        }
        match &mut self.outbox {
            Some(outbox) => outbox.pump(&mut self.sequence, now, &mut self.tally.borrow_mut(), out),
            None => Ok(()),
        }
    }

    fn beat(&mut self, at: u64, out: &mut Vec<u8>) {
        self.sequence += 1;
        self.beats.unanswered.push_back(at);
        let bytes = self.beats.bytes;
        put_packet(out, Command::Heartbeat, self.sequence, |out| out.resize(out.len() + bytes, b'x'));
    }

    /// Takes a packet of the server.
    pub(crate) fn on_packet(&mut self, packet: &Packet<'_>, now: u64, out: &mut Vec<u8>) -> Result<(), Trouble> {
        const SEND: u32 = Command::Send.reply();
        const ACK: u32 = Command::Ack.reply();
        const SYNC: u32 = Command::Sync.reply();
        const HELLO: u32 = Command::Hello.reply();
        const BEAT: u32 = Command::Heartbeat.reply();
        const ECHO: u32 = Command::Heartbeat.number();
        const DELTA: u32 = Command::Delta.number();
        const NOTIFY: u32 = Command::Notify.number();
        const GO_AWAY: u32 = Command::GoAway.number();
        const ERROR: u32 = Command::Error.number();
        match packet.command {
            SEND => {
                let outbox = self.outbox.as_mut().ok_or(Broken::Body)?;
                outbox.on_reply(packet.body, now, &mut self.tally.borrow_mut())
            }
            DELTA => self.on_delta(packet.body, now, out),
            ACK => {
                self.unanswered_acks = self.unanswered_acks.saturating_sub(1);
                no_order(number(packet.body, 1)?)
            }
            NOTIFY => {
                self.tally.borrow_mut().counts.pushes += 1;
                self.sync(out);
                Ok(())
            }
            SYNC => self.on_page(packet.body, now, out),
            BEAT | ECHO => {
                let at = self.beats.unanswered.pop_front().ok_or(Broken::Body)?;
                self.tally.borrow_mut().answered(at, now);
                Ok(())
            }
            HELLO => self.on_greeted(packet.body, out),
            GO_AWAY => Err(Trouble::GoAway(number(packet.body, 1)?)),
            ERROR => {
                let code = code_name(number(packet.body, 1)?);
                let message = String::from_utf8_lossy(Fields::bytes(packet.body, 2)?).into_owned();
                Err(Trouble::Refused(format!("{code}: {message}")))
            }
            _ => Ok(()),
        }
    }

    fn on_greeted(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Trouble> {
        match number(body, 9)? {
            0 => (),
            order if order == v1::KeyOrder::Start as u64 => self.key = Fields::bytes(body, 10)?.to_vec(),
            _ => return Err(Trouble::KeyOrder),
        }
        self.sync(out);
        Ok(())
    }

    fn sync(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.syncing, true) {
            self.again = true;
            return;
        }
        self.sequence += 1;
        put_key(out, Command::Sync, self.sequence, &self.key);
    }

    fn on_page(&mut self, body: &[u8], now: u64, out: &mut Vec<u8>) -> Result<(), Trouble> {
        no_order(number(body, 4)?)?;
        let entries = self.apply(body, 1, now)?;
        self.take_key(Fields::bytes(body, 2)?);
        self.syncing = false;
        let more = !Fields::bytes(body, 3)?.is_empty();
        if more || std::mem::take(&mut self.again) {
            // It presents the key, which acknowledges the page.
            self.sync(out);
        } else {
            self.ready = true;
            if entries > 0 {
                self.acknowledge(out);
            }
        }
        Ok(())
    }

    fn on_delta(&mut self, body: &[u8], now: u64, out: &mut Vec<u8>) -> Result<(), Trouble> {
        self.tally.borrow_mut().counts.pushes += 1;
        if self.syncing || Fields::bytes(body, 1)? != self.key {
            self.sync(out);
            return Ok(());
        }
        self.apply(body, 2, now)?;
        self.take_key(Fields::bytes(body, 3)?);
        self.acknowledge(out);
        Ok(())
    }

    fn take_key(&mut self, key: &[u8]) {
        self.key.clear();
        self.key.extend_from_slice(key);
    }

    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        self.sequence += 1;
        self.unanswered_acks += 1;
        self.tally.borrow_mut().counts.acks += 1;
        put_key(out, Command::Ack, self.sequence, &self.key);
    }

    /// Takes the entries, which are the fields with this number; how many there were.
    fn apply(&mut self, body: &[u8], field: u32, now: u64) -> Result<usize, Trouble> {
        let mut tally = self.tally.borrow_mut();
        let mut entries = 0;
        for each in Fields::of(body) {
            let (number, Value::Bytes(entry)) = each? else { continue };
            if number != field {
                continue;
            }
            entries += 1;
            // A message; stubs and receipts are no-ops here.
            let message = Fields::bytes(entry, 3)?;
            if !message.is_empty() {
                let stamp = self.stamp(message)?;
                let sender = stamp.sender.checked_sub(self.first_sender).ok_or(Trouble::Foreign)?;
                self.inbox.get_mut(sender as usize).ok_or(Trouble::Foreign)?.came(stamp.number);
                tally.delivered(stamp.sent_at, now);
            }
        }
        Ok(entries)
    }

    /// Who sent a message, and which. What makes a group has no text: it is the first of the only sender.
    fn stamp(&self, message: &[u8]) -> Result<Stamp, Trouble> {
        if Fields::bytes(message, 8)?.is_empty() {
            return Stamp::read(Fields::bytes(message, 6)?).ok_or(Trouble::Foreign);
        }
        Ok(Stamp { sender: self.first_sender, number: number(message, 5)?, sent_at: 0 })
    }
}

/// The number in the last field with this number; 0 if there is none.
fn number(message: &[u8], field: u32) -> Result<u64, Broken> {
    let mut found = 0;
    for each in Fields::of(message) {
        if let (tag, Value::Number(number)) = each?
            && tag == field
        {
            found = number;
        }
    }
    Ok(found)
}

fn no_order(order: u64) -> Result<(), Trouble> {
    if order == 0 { Ok(()) } else { Err(Trouble::KeyOrder) }
}

fn reason_name(reason: u64) -> String {
    let known = i32::try_from(reason).ok().and_then(|reason| v1::GoAwayReason::try_from(reason).ok());
    known.map_or_else(|| format!("reason {reason}"), |reason| reason.as_str_name().to_owned())
}

#[cfg(test)]
mod tests;
