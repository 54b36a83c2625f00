//! One link's life, without I/O: packets, ticks and work go in, [`Action`]s come out. Time and randomness are arguments.
//!
//! ```text
//! hello ─ reply ─▶ open: sync while something is owed ─▶ ack ─▶ hints, deltas, check at least every 90 s
//!                        send: one batch at a time, the oldest first     read: one mark at a time     query: one at a time
//! ```
//!
//! The same session drives the short link, where each request is an HTTP request of its own and a waiting check stands in
//! for the hints. The caller performs the actions in their order and finishes each before it feeds the session again; so a
//! key is presented only after what it stands for is stored.

mod answers;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tern_proto::{Command, Key, Packet, UserId, v1};

use crate::backoff::Backoff;
use crate::clip::{Batch, Speaking};
use crate::link::REPLY_WAIT;
use crate::options::Receive;
use crate::queries::Answer;

/// While so many entries are unconfirmed nothing more is fetched.
pub(crate) const BACKLOG: usize = 10_000;

/// What a session is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// Whose device it is; the token must be for this user.
    pub(crate) user: UserId,
    /// Empty on the short link.
    pub(crate) token: String,
    /// Empty on the short link.
    pub(crate) device_id: String,
    pub(crate) client_name: String,
    pub(crate) start: v1::Start,
    pub(crate) receive: Receive,
    /// Ask without a hint after this long.
    pub(crate) ask_every: Duration,
    /// The short link: ask by waiting checks of this length, and leave heartbeats out.
    pub(crate) poll: Option<Duration>,
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Transmit(Packet),
    /// The hello is answered.
    Opened,
    /// Ids go on above this one.
    GoOnAbove(u64),
    /// Store this key in the place of the old one.
    ReplaceKey(Key),
    /// Apply these entries and store the key, in one transaction.
    Apply(Vec<v1::Entry>, Key),
    /// Results for the messages of the last batch.
    Settle(Vec<v1::SendResult>),
    /// This read mark is answered.
    ReadDone(String, u64),
    /// So many chunks, of so many, of the clip of this message are stored.
    ClipStored(u64, u32, u32),
    /// The query with this number is answered.
    Answered(u64, Answer),
    /// The query with this number is to be asked again; says why.
    NotAnswered(u64, &'static str),
    /// Whether everything that was committed when the server was last asked has been applied.
    CaughtUp(bool),
    /// The link is over; nothing more comes.
    Leave(Leave),
}

/// Why a link is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Leave {
    #[error("the same device connected elsewhere")]
    Displaced,
    #[error("the server closed the link: {}", .0.as_str_name())]
    GoAway(v1::GoAwayReason, Duration),
    #[error("refused: {} {message}", code.as_str_name())]
    Refused { code: v1::Code, message: String, retry_after: Duration },
    /// Who the token is for.
    #[error("the token is for {0}")]
    OtherUser(String),
    #[error("no reply in time")]
    NoReply,
    #[error("the server broke the protocol: {0}")]
    Broken(&'static str),
}

/// A request without its reply. At most one of each kind is under way.
#[derive(Debug)]
struct InFlight {
    sequence: u32,
    until: Instant,
    request: Request,
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Hello,
    Heartbeat,
    Sync,
    Check,
    Ack,
    Send(Vec<u64>),
    Read(String, u64),
    /// Its number.
    Query(u64, Command),
}

impl Request {
    fn command(&self) -> Command {
        match self {
            Request::Hello => Command::Hello,
            Request::Heartbeat => Command::Heartbeat,
            Request::Sync => Command::Sync,
            Request::Check => Command::Check,
            Request::Ack => Command::Ack,
            Request::Send(_) => Command::Send,
            Request::Read(..) => Command::Read,
            Request::Query(_, command) => *command,
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Session {
    profile: Profile,
    actions: VecDeque<Action>,
    in_flight: Vec<InFlight>,
    last_sequence: u32,
    /// A batch whose clip is going out, and until when it is waited for a word about that.
    speaking: Option<(Speaking, Instant)>,
    open: bool,
    over: bool,
    heartbeat: Duration,
    last_sent: Instant,
    last_asked: Instant,
    key: Option<Key>,
    /// The key that the server was shown last.
    presented: Option<Key>,
    /// Something lies above the key.
    owed: bool,
    /// A hint came while a sync was under way.
    hinted: bool,
    /// The application has [`BACKLOG`] entries to confirm.
    full: bool,
    /// No question about entries before this; the server could not answer, or ordered another key.
    hold_asking: Instant,
    asking: Backoff,
    /// No batch before this; the server could not take the last one.
    hold_sending: Instant,
    sending: Backoff,
    hold_reading: Instant,
    /// No query before this; the server could not answer the last one.
    hold_querying: Instant,
    querying: Backoff,
}

impl Session {
    /// Says hello.
    pub(crate) fn new(profile: Profile, key: Option<Key>, now: Instant, mut random: fastrand::Rng) -> Session {
        let mut session = Session {
            actions: VecDeque::new(),
            in_flight: Vec::new(),
            last_sequence: 0,
            speaking: None,
            open: false,
            over: false,
            heartbeat: Duration::MAX,
            last_sent: now,
            last_asked: now,
            key,
            presented: None,
            owed: false,
            hinted: false,
            full: false,
            hold_asking: now,
            asking: Backoff::new(random.fork()),
            hold_sending: now,
            sending: Backoff::new(random.fork()),
            hold_reading: now,
            hold_querying: now,
            querying: Backoff::new(random.fork()),
            profile,
        };
        session.say_hello(now);
        session
    }

    /// The next thing to do; to be asked until there is nothing.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A packet came.
    pub(crate) fn on_packet(&mut self, packet: &Packet, now: Instant) {
        if self.over {
            return;
        }
        match self.take(packet, now) {
            Ok(()) => self.pump(now),
            Err(leave) => self.leave(leave),
        }
    }

    /// [`Session::deadline`] has come. Harmless at any other time.
    pub(crate) fn on_tick(&mut self, now: Instant) {
        if self.over {
            return;
        }
        if self.in_flight.iter().any(|request| request.until <= now) {
            return self.leave(Leave::NoReply);
        }
        if let Some((speaking, _)) = self.speaking.take_if(|(_, until)| *until <= now) {
            // Nothing is heard of its chunks: the message is told why.
            self.send_messages(speaking.into_messages(), now);
        }
        self.pump(now);
    }

    /// The next moment for [`Session::on_tick`]. `now` is when it was last asked what it wants, so that nothing is held and forgotten.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let replies = self.in_flight.iter().map(|request| request.until);
        let question = (self.is_open() && self.receives()).then(|| self.next_question()).flatten();
        let heartbeat = self.heartbeats().then(|| self.last_sent.checked_add(self.heartbeat)).flatten();
        let held = [self.hold_sending, self.hold_reading, self.hold_querying].into_iter().filter(|until| *until > now);
        let spoken = self.speaking.as_ref().map(|(_, until)| *until);
        replies.chain(question).chain(heartbeat).chain(held).chain(spoken).min()
    }

    /// Whether a batch may be sent now.
    pub(crate) fn wants_batch(&self, now: Instant) -> bool {
        self.is_open() && now >= self.hold_sending && !self.is_sending()
    }

    /// Sends the oldest messages that have no answer yet. Only when [`Session::wants_batch`].
    pub(crate) fn send(&mut self, batch: Batch, now: Instant) {
        match batch.clip {
            Some(clip) => self.speak(Speaking::new(batch.messages, clip), now),
            None => self.send_messages(batch.messages, now),
        }
    }

    fn send_messages(&mut self, messages: Vec<v1::OutMessage>, now: Instant) {
        let ids = messages.iter().map(|message| message.client_msg_id).collect();
        self.transmit(Request::Send(ids), &v1::SendRequest { messages, ..Default::default() }, now);
    }

    /// Lets chunks go out, as many as may, and the message behind the last of them.
    fn speak(&mut self, mut speaking: Speaking, now: Instant) {
        while let Some(chunk) = speaking.next_chunk() {
            self.last_sent = now;
            self.actions.push_back(Action::Transmit(Packet::new(Command::Chunk.number(), 0, &chunk)));
        }
        if speaking.is_last() {
            self.send_messages(speaking.into_messages(), now);
        } else {
            self.speaking = Some((speaking, now + REPLY_WAIT));
        }
    }

    fn is_sending(&self) -> bool {
        self.speaking.is_some() || self.is_under_way(|request| matches!(request, Request::Send(_)))
    }

    /// Whether a read mark may be sent now.
    pub(crate) fn wants_read(&self, now: Instant) -> bool {
        self.is_open() && now >= self.hold_reading && !self.is_under_way(|request| matches!(request, Request::Read(..)))
    }

    /// Sends a read mark. Only when [`Session::wants_read`].
    pub(crate) fn read(&mut self, conversation: String, seq: u64, now: Instant) {
        let body = v1::ReadRequest { conversation: conversation.clone(), seq };
        self.transmit(Request::Read(conversation, seq), &body, now);
    }

    /// Whether a query may be sent now.
    pub(crate) fn wants_query(&self, now: Instant) -> bool {
        self.is_open()
            && now >= self.hold_querying
            && !self.is_under_way(|request| matches!(request, Request::Query(..)))
    }

    /// Sends a query. Only when [`Session::wants_query`].
    pub(crate) fn query(&mut self, number: u64, command: Command, body: Bytes, now: Instant) {
        self.transmit_bytes(Request::Query(number, command), body, now, Duration::ZERO);
    }

    /// Tells whether the application has fallen behind.
    pub(crate) fn set_full(&mut self, full: bool, now: Instant) {
        self.full = full;
        self.pump(now);
    }

    /// Messages that were transmitted and have no answer.
    pub(crate) fn unanswered(&self) -> Vec<u64> {
        let batch = |request: &InFlight| match &request.request {
            Request::Send(ids) => Some(ids.clone()),
            _ => None,
        };
        let spoken = || self.speaking.as_ref().map(|(speaking, _)| speaking.ids());
        self.in_flight.iter().find_map(batch).or_else(spoken).unwrap_or_default()
    }

    /// Whether the link can be left without giving up a request that changes something on the server or that somebody
    /// waits for.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_sending() && !self.is_under_way(|request| matches!(request, Request::Read(..) | Request::Query(..)))
    }

    fn is_open(&self) -> bool {
        self.open && !self.over
    }

    fn receives(&self) -> bool {
        self.profile.receive != Receive::Nothing
    }

    fn peeks(&self) -> bool {
        self.profile.receive == Receive::Peek
    }

    fn heartbeats(&self) -> bool {
        self.open && self.profile.poll.is_none() && !self.is_under_way(|request| *request == Request::Heartbeat)
    }

    fn is_under_way(&self, which: impl Fn(&Request) -> bool) -> bool {
        self.in_flight.iter().any(|request| which(&request.request))
    }

    /// When to sync or check next, if neither is under way. While the application is behind, only to check, so that the
    /// server hears of this device.
    fn next_question(&self) -> Option<Instant> {
        let syncing = self.is_under_way(|request| *request == Request::Sync);
        let checking = self.is_under_way(|request| *request == Request::Check);
        if syncing {
            None
        } else if self.owed && !self.full {
            Some(self.hold_asking)
        } else if checking {
            None
        } else if self.profile.poll.is_some() && !self.full {
            Some(self.hold_asking)
        } else {
            Some(self.hold_asking.max(self.last_asked + self.profile.ask_every))
        }
    }

    /// Sends what is due.
    fn pump(&mut self, now: Instant) {
        if !self.is_open() {
            return;
        }
        if self.receives() {
            self.ask(now);
        }
        if self.heartbeats() && now.duration_since(self.last_sent) >= self.heartbeat {
            self.transmit(Request::Heartbeat, &(), now);
        }
    }

    fn ask(&mut self, now: Instant) {
        let due = self.next_question().is_some_and(|at| now >= at);
        if due && self.owed && !self.full {
            (self.owed, self.hinted) = (false, false);
            let body = v1::SyncRequest { key: self.wire_key(), peek: self.peeks(), limit: 0 };
            self.present(now);
            return self.transmit(Request::Sync, &body, now);
        }
        if due {
            let wait = self.profile.poll.filter(|_| !self.full).unwrap_or_default();
            let body = v1::CheckRequest { key: self.wire_key(), peek: self.peeks(), wait_ms: wait.as_millis() as u32 };
            self.transmit_within(Request::Check, &body, now, wait);
            self.last_asked = now;
        }
        // An ack besides a check: its reply proves that the server has stored what this device has applied.
        if self.key != self.presented
            && !self.peeks()
            && !self.is_under_way(|r| matches!(r, Request::Sync | Request::Ack))
        {
            self.presented = self.key;
            self.transmit(Request::Ack, &v1::AckRequest { key: self.wire_key() }, now);
        }
    }

    fn say_hello(&mut self, now: Instant) {
        let mut client_name = self.profile.client_name.clone();
        client_name.truncate(client_name.floor_char_boundary(tern_proto::limits::CLIENT_NAME_BYTES));
        let body = v1::HelloRequest {
            protocol: 1,
            token: self.profile.token.clone(),
            device_id: self.profile.device_id.clone(),
            client_name,
            key: self.wire_key(),
            start: self.profile.start.into(),
            peek: self.profile.receive != Receive::All,
        };
        self.present(now);
        self.transmit(Request::Hello, &body, now);
    }

    fn wire_key(&self) -> Option<v1::SyncKey> {
        self.key.as_ref().map(v1::SyncKey::from)
    }

    fn present(&mut self, now: Instant) {
        self.presented = self.key;
        self.last_asked = now;
    }

    fn transmit(&mut self, request: Request, body: &impl prost::Message, now: Instant) {
        self.transmit_within(request, body, now, Duration::ZERO);
    }

    fn transmit_within(&mut self, request: Request, body: &impl prost::Message, now: Instant, wait: Duration) {
        self.transmit_bytes(request, body.encode_to_vec().into(), now, wait);
    }

    fn transmit_bytes(&mut self, request: Request, body: Bytes, now: Instant, wait: Duration) {
        self.last_sequence = self.last_sequence.wrapping_add(1).max(1);
        self.last_sent = now;
        let packet = Packet { command: request.command().number(), sequence: self.last_sequence, body };
        self.in_flight.push(InFlight { sequence: self.last_sequence, until: now + wait + REPLY_WAIT, request });
        self.actions.push_back(Action::Transmit(packet));
    }

    fn leave(&mut self, leave: Leave) {
        self.over = true;
        self.actions.push_back(Action::Leave(leave));
    }
}
