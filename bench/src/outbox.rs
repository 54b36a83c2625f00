//! The sending half of a phone: how much it sends, and what is not acknowledged yet.

use std::collections::VecDeque;

use prost::Message;
use tern_proto::{Command, v1};

use crate::phone::Trouble;
use crate::stamp::Stamp;
use crate::tally::Tally;
use crate::wire::{Broken, Fields, Value, put_packet};

/// Unanswered sends of one phone. With a rate that the server does not keep up with there is no end to them, and the run is void.
const UNANSWERED: usize = 2_000;

/// A sender's messages, numbered 1, 2, 3; the number is also the `client_msg_id`.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: u32,
    bytes: usize,
    /// The request that is sent again and again, with other texts.
    request: v1::SendRequest,
    /// What makes the group that the texts go to; it is sent first, by itself.
    founding: Option<v1::GroupChange>,
    sent: u64,
    /// Number and time of each message that has no answer, in order.
    unanswered: VecDeque<(u64, u64)>,
    /// Scheduled times that have come.
    pub(crate) due: VecDeque<u64>,
    /// So many messages are kept unanswered.
    pub(crate) window: usize,
    /// Messages in one packet.
    pub(crate) batch: usize,
    /// So many more may be sent to fill the window.
    pub(crate) left: u64,
}

impl Outbox {
    /// The outbox of the run's `sender`th sender, with texts of `bytes` bytes for the user `to`. Nothing is sent until a
    /// window is set or something is due.
    pub(crate) fn new(sender: u32, to: String, bytes: usize) -> Outbox {
        let message = v1::OutMessage { to, ..Default::default() };
        let (unanswered, due) = Default::default();
        let request = v1::SendRequest { messages: vec![message], ..Default::default() };
        Outbox { sender, bytes, request, founding: None, sent: 0, unanswered, due, window: 0, batch: 1, left: u64::MAX }
    }

    /// The same, but number 1 is not a text: it makes a group with these users, to which the texts go.
    pub(crate) fn of_group(sender: u32, users: Vec<String>, bytes: usize) -> Outbox {
        let change = v1::GroupChange { title: Some("bench".into()), add: users, remove: Vec::new() };
        Outbox { founding: Some(change), ..Outbox::new(sender, String::new(), bytes) }
    }

    /// The highest number that was sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether everything that was to be sent is sent and answered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.founding.is_none()
            && self.unanswered.is_empty()
            && self.due.is_empty()
            && (self.window == 0 || self.left == 0)
    }

    /// Sends what may be sent now: what makes the group, one packet for each scheduled time, and what the window has room for.
    pub(crate) fn pump(
        &mut self,
        sequence: &mut u32,
        now: u64,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        if let Some(change) = self.founding.take() {
            self.request.messages[0].change = Some(change);
            self.send(1, sequence, now, tally, out);
            self.request.messages[0].change = None;
        }
        while let Some(at) = self.due.pop_front() {
            self.send(1, sequence, at, tally, out);
        }
        while self.left > 0 && self.unanswered.len() + self.batch <= self.window {
            let batch = self.batch.min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= batch as u64;
            self.send(batch, sequence, now, tally, out);
        }
        if self.unanswered.len() > UNANSWERED.max(self.window) { Err(Trouble::Behind(UNANSWERED)) } else { Ok(()) }
    }

    fn send(&mut self, messages: usize, sequence: &mut u32, at: u64, tally: &mut Tally, out: &mut Vec<u8>) {
        if self.request.messages.len() != messages {
            let first = self.request.messages.swap_remove(0);
            self.request.messages = vec![first; messages];
        }
        for message in &mut self.request.messages {
            self.sent += 1;
            message.client_msg_id = self.sent;
            if message.change.is_none() {
                Stamp { sender: self.sender, number: self.sent, sent_at: at }.write(&mut message.text, self.bytes);
            }
            self.unanswered.push_back((self.sent, at));
        }
        *sequence += 1;
        tally.counts.sent += messages as u64;
        put_packet(out, Command::Send, *sequence, |out| self.request.encode_raw(out));
    }

    /// Takes the results of a send.
    pub(crate) fn on_reply(&mut self, body: &[u8], now: u64, tally: &mut Tally) -> Result<(), Trouble> {
        for field in Fields::of(body) {
            if let (1, Value::Bytes(result)) = field? {
                self.on_result(result, now, tally)?;
            }
        }
        Ok(())
    }

    fn on_result(&mut self, result: &[u8], now: u64, tally: &mut Tally) -> Result<(), Trouble> {
        let (mut number, mut code, mut conversation) = (0, 0, &[][..]);
        for field in Fields::of(result) {
            match field? {
                (1, Value::Number(id)) => number = id,
                (2, Value::Number(refused)) => code = refused,
                (4, Value::Bytes(name)) => conversation = name,
                _ => (),
            }
        }
        if code != 0 {
            return Err(Trouble::Refused(format!("a message was refused with {}", code_name(code))));
        }
        let to = &mut self.request.messages[0].to;
        if to.is_empty() {
            *to = String::from_utf8_lossy(conversation).into_owned();
        }
        // Nearly always the first.
        let place = self.unanswered.iter().position(|(unanswered, _)| *unanswered == number).ok_or(Broken::Body)?;
        if let Some((_, sent_at)) = self.unanswered.remove(place) {
            tally.acked(sent_at, now);
        }
        Ok(())
    }
}

/// How the protocol calls a code.
pub(crate) fn code_name(code: u64) -> String {
    let known = i32::try_from(code).ok().and_then(|code| v1::Code::try_from(code).ok());
    known.map_or_else(|| format!("code {code}"), |code| code.as_str_name().to_owned())
}
