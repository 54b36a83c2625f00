//! A device's links. Every request and reply that goes through here is recorded: the ask before it is written, the answer after it is read.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tern_proto::packet;
use tern_proto::{Command, Packet, v1};
use tokio::time::Instant;

use crate::device::State;
use crate::event::{BadReply, Reply, Request, Via, What};
use crate::long_link::{LongLink, Lost};
use crate::short_link::ShortLink;

/// Where events go.
pub(crate) type Sink = Box<dyn FnMut(&What) + Send>;

/// How a request is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// On the long link, which must be open.
    Long,
    /// As packets in an HTTP body.
    Packets,
    /// As JSON.
    Json,
}

/// What a long link brought by itself.
#[derive(Debug)]
pub(crate) enum Hint {
    /// Sync now.
    Notify,
    /// A delta and its number.
    Delta(u64, v1::Delta),
}

/// Who a device is and where its server is.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Identity {
    /// Its user.
    pub(crate) user: String,
    /// Its device id.
    pub(crate) device: String,
    /// Its token.
    pub(crate) token: String,
    /// Where the long link goes.
    pub(crate) long: SocketAddr,
    /// Where the short link goes.
    pub(crate) http: SocketAddr,
    /// How long it waits for a reply.
    pub(crate) patience: Duration,
}

/// The links of one device, with its state and its record.
pub(crate) struct Wire {
    /// Who it is.
    pub(crate) identity: Identity,
    /// What it knows.
    pub(crate) state: State,
    /// Hints that were not looked at yet. Bounded: the actor empties it after every step.
    pub(crate) hints: VecDeque<Hint>,
    sink: Sink,
    long: Option<LongLink>,
    short: ShortLink,
}

impl Wire {
    /// Links that are still closed.
    pub(crate) fn new(identity: Identity, state: State, sink: Sink) -> Wire {
        let short = ShortLink::new(identity.http, identity.token.clone(), identity.device.clone());
        Wire { identity, state, hints: VecDeque::new(), sink, long: None, short }
    }

    /// Records an event.
    pub(crate) fn record(&mut self, what: What) {
        self.state.note(&what);
        (self.sink)(&what);
    }

    /// Whether the long link is open, as far as this side knows.
    pub(crate) fn is_open(&self) -> bool {
        self.long.is_some()
    }

    /// Drops the long link without a word.
    pub(crate) fn close(&mut self) {
        self.long = None;
        self.hints.clear();
    }

    /// Opens a long link with these requests, of which the first is the hello. The answers are in their order.
    pub(crate) async fn open(&mut self, requests: Vec<Request>) -> Vec<Option<(u64, Reply)>> {
        self.close();
        let number = self.state.last_n + 1;
        match LongLink::connect(self.identity.long, number, self.identity.patience).await {
            Ok(link) => {
                self.long = Some(link);
                self.ask_all(Path::Long, requests, 0).await
            }
            Err(Lost) => requests.iter().map(|_| None).collect(),
        }
    }

    /// The same, while the link that is open now stays so until the new one has its answers; the server then ends a link of a device that has another.
    pub(crate) async fn open_over(&mut self, requests: Vec<Request>) -> Vec<Option<(u64, Reply)>> {
        let old = self.long.take();
        let answers = self.open(requests).await;
        drop(old);
        answers
    }

    /// Waits for a hint until then, and records whether one came; not, if the link is lost meanwhile. Whether it was recorded.
    pub(crate) async fn wait_for_hint(&mut self, until: Instant) -> bool {
        self.listen(until).await;
        let Some(link) = self.long.as_ref().map(|link| link.number) else { return false };
        let hinted = !self.hints.is_empty();
        self.record(What::Waited { link, hinted });
        true
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn ask(&mut self, path: Path, request: Request) -> Result<(u64, Reply), Lost> {
        self.ask_all(path, vec![request], 0).await.pop().flatten().ok_or(Lost)
    }

    /// Asks several things without waiting in between (one by one as JSON); `cut` splits the bytes on a long link.
    /// Each answer comes with the number of its ask. A lost answer closes the long link.
    pub(crate) async fn ask_all(
        &mut self,
        path: Path,
        requests: Vec<Request>,
        cut: usize,
    ) -> Vec<Option<(u64, Reply)>> {
        match path {
            Path::Long => match self.long.take() {
                Some(link) => self.ask_long(link, requests, cut).await,
                None => requests.iter().map(|_| None).collect(),
            },
            Path::Packets => self.ask_packets(requests).await,
            Path::Json => {
                let mut answers = Vec::new();
                for request in requests {
                    let lost = answers.last().is_some_and(Option::is_none);
                    answers.push(if lost { None } else { self.ask_json(request).await });
                }
                answers
            }
        }
    }

    /// Listens on the long link until the deadline or the first hint.
    pub(crate) async fn listen(&mut self, until: Instant) {
        let Some(mut link) = self.long.take() else { return };
        while self.hints.is_empty() {
            match link.read(until).await {
                Ok(Some(packet)) if self.hinted(&link, &packet).is_ok() => {}
                Ok(None) => break,
                Ok(Some(_)) | Err(Lost) => return,
            }
        }
        self.long = Some(link);
    }

    async fn ask_long(&mut self, mut link: LongLink, requests: Vec<Request>, cut: usize) -> Vec<Option<(u64, Reply)>> {
        let mut answers: Vec<Option<(u64, Reply)>> = requests.iter().map(|_| None).collect();
        let (patience, deadline) = (self.identity.patience, Instant::now() + self.patience_for(&requests));
        let (out, mut waiting) = self.encode(Via::Long(link.number), &requests);
        if link.write(out.freeze(), cut, patience).await.is_err() {
            return answers;
        }
        while !waiting.is_empty() {
            let Ok(Some(packet)) = link.read(deadline).await else { return answers };
            if packet.sequence == 0 {
                if self.hinted(&link, &packet).is_err() {
                    return answers;
                }
            } else if let Some(place) = waiting.remove(&packet.sequence) {
                answers[place] = Some(self.answered(&requests[place], &packet));
            } else {
                let reply = nonsense(BadReply("nothing asks for it".into()));
                self.record(What::Answer { n: packet.sequence.into(), reply });
            }
        }
        self.long = Some(link);
        answers
    }

    async fn ask_packets(&mut self, requests: Vec<Request>) -> Vec<Option<(u64, Reply)>> {
        let mut answers: Vec<Option<(u64, Reply)>> = requests.iter().map(|_| None).collect();
        let patience = self.patience_for(&requests);
        let (out, mut waiting) = self.encode(Via::Packets, &requests);
        let response = self.short.post("/v1/packets", "application/octet-stream", &out, patience).await;
        let Ok(response) = response else { return answers };
        let mut input = BytesMut::from(&response.body[..]);
        while let Ok(Some(packet)) = packet::decode(&mut input) {
            let whole = packet.sequence == 0 && packet.command == Command::Error.number();
            let places =
                if whole { waiting.drain().collect() } else { Vec::from_iter(waiting.remove_entry(&packet.sequence)) };
            for (sequence, place) in places {
                let packet = Packet { sequence, ..packet.clone() };
                answers[place] = Some(self.answered(&requests[place], &packet));
            }
        }
        answers
    }

    async fn ask_json(&mut self, request: Request) -> Option<(u64, Reply)> {
        let marked = self.marked(&request);
        let n = self.number(Via::Json, &request);
        let (path, body) = marked.json().ok()?;
        let patience = self.patience_for(std::slice::from_ref(&request));
        let response = self.short.post(path, "application/json", &body, patience).await.ok()?;
        let reply = request.json_reply(response.status == 200, &response.body).unwrap_or_else(nonsense);
        self.record(What::Answer { n, reply: reply.clone() });
        Some((n, reply))
    }

    /// Records the asks and encodes them; by sequence, the place of each request.
    fn encode(&mut self, via: Via, requests: &[Request]) -> (BytesMut, HashMap<u32, usize>) {
        let (mut out, mut waiting) = (BytesMut::new(), HashMap::new());
        for (place, request) in requests.iter().enumerate() {
            let marked = self.marked(request);
            let sequence = self.number(via, request) as u32;
            waiting.insert(sequence, place);
            self.with_credentials(via, &marked).packet(sequence).encode(&mut out);
        }
        (out, waiting)
    }

    /// Records an ask and gives its number, which is also its sequence on the wire.
    fn number(&mut self, via: Via, request: &Request) -> u64 {
        let n = self.state.last_n + 1;
        self.record(What::Ask { n, via, request: request.clone() });
        n
    }

    /// Most of what was sent before says so. That changes no outcome, so it is not recorded.
    fn marked(&self, request: &Request) -> Request {
        let mut request = request.clone();
        if let Request::Send(send) = &mut request
            && !self.state.last_n.is_multiple_of(4)
        {
            send.messages.iter_mut().for_each(|message| message.again = self.state.has_sent(message.client_msg_id));
        }
        request
    }

    /// On a long link hello carries the token, which is not recorded.
    fn with_credentials(&self, via: Via, request: &Request) -> Request {
        match (via, request) {
            (Via::Long(_), Request::Hello(hello)) => Request::Hello(v1::HelloRequest {
                token: self.identity.token.clone(),
                device_id: self.identity.device.clone(),
                ..hello.clone()
            }),
            _ => request.clone(),
        }
    }

    fn answered(&mut self, request: &Request, packet: &Packet) -> (u64, Reply) {
        let (n, reply) = (u64::from(packet.sequence), request.reply(packet).unwrap_or_else(nonsense));
        self.record(What::Answer { n, reply: reply.clone() });
        (n, reply)
    }

    /// Takes a packet that the server sent by itself; an error means that the link ends.
    fn hinted(&mut self, link: &LongLink, packet: &Packet) -> Result<(), Lost> {
        match packet.known_command() {
            Some(Command::Notify) => {
                self.record(What::Notify { link: link.number });
                self.hints.push_back(Hint::Notify);
            }
            Some(Command::Delta) => {
                let delta: v1::Delta = prost::Message::decode(packet.body.clone()).map_err(|_| Lost)?;
                let n = self.state.last_n + 1;
                self.record(What::Push { n, link: link.number, delta: delta.clone() });
                self.hints.push_back(Hint::Delta(n, delta));
            }
            Some(Command::GoAway) => {
                let away: v1::GoAway = prost::Message::decode(packet.body.clone()).map_err(|_| Lost)?;
                if away.reason() == v1::GoAwayReason::Displaced {
                    self.record(What::Displaced { link: link.number });
                }
                return Err(Lost);
            }
            Some(Command::Error) => return Err(Lost),
            _ => {}
        }
        Ok(())
    }

    /// A check may wait by itself.
    fn patience_for(&self, requests: &[Request]) -> Duration {
        let waits = requests.iter().map(|request| match request {
            Request::Check(check) => u64::from(check.wait_ms),
            _ => 0,
        });
        self.identity.patience + Duration::from_millis(waits.sum())
    }
}

/// What is recorded of a reply that cannot be read: an error that no rule allows.
fn nonsense(bad: BadReply) -> Reply {
    Reply::Error(v1::Error { message: bad.to_string(), ..Default::default() })
}
