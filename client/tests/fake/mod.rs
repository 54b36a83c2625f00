#![allow(clippy::unwrap_used, reason = "a test's server may fail loudly")]
//! A server with one user, alice, on real sockets: enough to see what a client does when things go wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use prost::Message;
use tern_proto::{Command, Key, Packet, packet, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// What the server knows and how it misbehaves.
#[derive(Default)]
pub(crate) struct State {
    /// Every request: its link and its packet.
    pub(crate) requests: Vec<(&'static str, Packet)>,
    /// Messages by `client_msg_id`; a resend changes nothing.
    pub(crate) stored: BTreeMap<u64, v1::OutMessage>,
    /// `client_msg_id`s in the order in which they were stored.
    pub(crate) order: Vec<u64>,
    /// The timeline of class 1.
    pub(crate) entries: Vec<v1::Entry>,
    /// What it knows of conversations, by name.
    pub(crate) conversations: Vec<v1::Conversation>,
    /// The messages of every conversation.
    pub(crate) history: Vec<v1::Message>,
    /// Every message is refused with this.
    pub(crate) refuse_sends: Option<v1::Code>,
    /// So many queries are answered with `CODE_UNAVAILABLE`.
    pub(crate) unavailable: usize,
    /// So many queries cut the link.
    pub(crate) cutting: usize,
    /// So many sends are stored, and then the link is cut instead of answering.
    pub(crate) swallow: usize,
    /// The long link is cut at once.
    pub(crate) refuse_long: bool,
    /// Long links that were taken.
    pub(crate) taken_long: usize,
    /// What happens to sends over HTTP.
    pub(crate) http_sends: HttpSends,
    /// Sends over HTTP that were held.
    pub(crate) held: usize,
    /// Every hello is refused with this.
    pub(crate) refuse_hello: Option<v1::Code>,
    /// The token is for this user instead of alice.
    pub(crate) other_user: Option<&'static str>,
}

/// What happens to sends over HTTP.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum HttpSends {
    #[default]
    Served,
    /// They wait.
    Held,
    /// Their connections are cut, and nothing is stored.
    Cut,
}

/// The running server.
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    pushes: broadcast::Sender<Option<Packet>>,
    pub(crate) long_link: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Fake {
    pub(crate) async fn start() -> Fake {
        let (long, http) = (listen().await, listen().await);
        let fake = Fake {
            state: Arc::default(),
            pushes: broadcast::Sender::new(16),
            long_link: long.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
        };
        let (state, pushes) = (Arc::clone(&fake.state), fake.pushes.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = long.accept().await {
                if !lock(&state).refuse_long {
                    lock(&state).taken_long += 1;
                    tokio::spawn(serve_long(stream, Arc::clone(&state), pushes.subscribe()));
                }
            }
        });
        let state = Arc::clone(&fake.state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = http.accept().await {
                tokio::spawn(serve_http(stream, Arc::clone(&state)));
            }
        });
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Starts a packet on every long link.
    pub(crate) fn push(&self, command: Command, body: &impl Message) {
        self.pushes.send(Some(Packet::new(command.number(), 0, body))).unwrap();
    }

    /// Cuts every long link.
    pub(crate) fn cut(&self) {
        self.pushes.send(None).unwrap();
    }

    /// Bob sends alice a message; gives its entry.
    pub(crate) fn arrive(&self, version: u64, text: &str) -> v1::Entry {
        let message = v1::Message {
            from: "bob".into(),
            conversation: "alice:bob".into(),
            seq: version,
            server_msg_id: 1_000 + version,
            client_msg_id: version,
            text: text.into(),
            time_ms: 0,
            change: None,
            media: None,
        };
        self.enter(version, v1::entry::Body::Message(message))
    }

    /// Something enters alice's timeline; gives its entry.
    pub(crate) fn enter(&self, version: u64, body: v1::entry::Body) -> v1::Entry {
        let entry = v1::Entry { class: 1, version, body: Some(body) };
        self.state().entries.push(entry.clone());
        entry
    }

    /// Waits until the state is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !wanted(&self.state()) {
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl State {
    /// How many requests of a kind came over a link.
    pub(crate) fn count(&self, link: &str, command: Command) -> usize {
        self.requests.iter().filter(|(l, p)| *l == link && p.known_command() == Some(command)).count()
    }

    /// How many requests of a kind came over both links.
    pub(crate) fn count_all(&self, command: Command) -> usize {
        self.count("long", command) + self.count("http", command)
    }

    /// The last request of a kind.
    pub(crate) fn last<T: Message + Default>(&self, command: Command) -> Option<T> {
        let last = self.requests.iter().rev().find(|(_, packet)| packet.known_command() == Some(command))?;
        Some(T::decode(last.1.body.clone()).unwrap())
    }

    fn answer(&mut self, link: &'static str, request: &Packet) -> Option<Packet> {
        self.requests.push((link, request.clone()));
        let reply = |body: Vec<u8>| {
            let command = request.known_command().unwrap().reply();
            Some(Packet { command, sequence: request.sequence, body: body.into() })
        };
        match request.known_command().unwrap() {
            Command::Hello => match self.refuse_hello {
                None => reply(self.hello(&v1::HelloRequest::decode(request.body.clone()).unwrap()).encode_to_vec()),
                Some(code) => error(request, code),
            },
            Command::Conversations | Command::History | Command::Members if self.cutting > 0 => {
                self.cutting -= 1;
                None
            }
            Command::Conversations | Command::History | Command::Members if self.unavailable > 0 => {
                self.unavailable -= 1;
                error(request, v1::Code::Unavailable)
            }
            Command::Conversations => reply(self.list(&body(request)).encode_to_vec()),
            Command::History => reply(self.page(&body(request)).encode_to_vec()),
            Command::Members => {
                let asked: v1::MembersRequest = body(request);
                match self.conversations.iter().find(|conversation| conversation.name == asked.conversation) {
                    Some(found) => reply(members(found).encode_to_vec()),
                    None => error(request, v1::Code::NotAMember),
                }
            }
            Command::Send => {
                let results = self.store(v1::SendRequest::decode(request.body.clone()).unwrap());
                if self.swallow > 0 {
                    self.swallow -= 1;
                    return None;
                }
                reply(v1::SendReply { results }.encode_to_vec())
            }
            Command::Sync => {
                let key = v1::SyncRequest::decode(request.body.clone()).unwrap().key.as_ref().map(Key::from).unwrap();
                let entries: Vec<_> = self.above(&key).cloned().collect();
                let mut after = key;
                after.versions[0] = entries.last().map(|entry| entry.version).max(key.versions[0]);
                let key = Some(v1::SyncKey::from(&after));
                reply(v1::SyncReply { entries, key, ..Default::default() }.encode_to_vec())
            }
            Command::Check => {
                let key = v1::CheckRequest::decode(request.body.clone()).unwrap().key.as_ref().map(Key::from).unwrap();
                reply(v1::CheckReply { pending: self.above(&key).count() > 0, ..Default::default() }.encode_to_vec())
            }
            _ => reply(Vec::new()),
        }
    }

    fn hello(&self, request: &v1::HelloRequest) -> v1::HelloReply {
        let start = Key::oldest(7);
        let key = request.key.as_ref().map_or(start, Key::from);
        v1::HelloReply {
            user: self.other_user.unwrap_or("alice").into(),
            heartbeat_ms: 60_000,
            pending: self.above(&key).count() > 0,
            highest_client_msg_id: self.stored.keys().max().copied().unwrap_or(0),
            key_order: if request.key.is_none() { v1::KeyOrder::Start.into() } else { 0 },
            key: request.key.is_none().then(|| v1::SyncKey::from(&start)),
            ..Default::default()
        }
    }

    fn store(&mut self, request: v1::SendRequest) -> Vec<v1::SendResult> {
        let store = |message: v1::OutMessage| {
            let id = message.client_msg_id;
            if let Some(code) = self.refuse_sends {
                return v1::SendResult { client_msg_id: id, code: code.into(), ..Default::default() };
            }
            let conversation = match message.to.as_str() {
                "" => format!("g/{id}"),
                "bob" => "alice:bob".into(),
                group => group.into(),
            };
            if self.stored.insert(id, message).is_none() {
                self.order.push(id);
            }
            v1::SendResult { client_msg_id: id, server_msg_id: id, conversation, seq: id, ..Default::default() }
        };
        request.messages.into_iter().map(store).collect()
    }

    /// Two at a time, so that lists have pages.
    fn list(&self, request: &v1::ConversationsRequest) -> v1::ConversationsReply {
        let behind: Vec<_> = self.conversations.iter().filter(|found| found.name > request.after).collect();
        let more = behind.len() > 2;
        v1::ConversationsReply { conversations: behind.into_iter().take(2).cloned().collect(), more }
    }

    fn page(&self, request: &v1::HistoryRequest) -> v1::HistoryReply {
        let before = if request.before_seq == 0 { u64::MAX } else { request.before_seq };
        let wanted = |message: &&v1::Message| message.conversation == request.conversation && message.seq < before;
        let below: Vec<_> = self.history.iter().filter(wanted).cloned().collect();
        let skipped = below.len().saturating_sub(request.limit as usize);
        v1::HistoryReply { messages: below[skipped..].to_vec(), more: skipped > 0 }
    }

    fn above(&self, key: &Key) -> impl Iterator<Item = &v1::Entry> {
        let version = key.versions[0].unwrap_or(0);
        self.entries.iter().filter(move |entry| entry.version > version)
    }
}

fn body<T: Message + Default>(request: &Packet) -> T {
    T::decode(request.body.clone()).unwrap()
}

fn error(request: &Packet, code: v1::Code) -> Option<Packet> {
    let error = v1::Error { code: code.into(), message: "because".into(), ..Default::default() };
    Some(Packet::new(Command::Error.number(), request.sequence, &error))
}

/// Alice owns every conversation and is alone in it.
fn members(conversation: &v1::Conversation) -> v1::MembersReply {
    let alice = v1::Member { user: "alice".into(), joined_seq: 1, ..Default::default() };
    let (title, seq) = (conversation.title.clone(), conversation.seq);
    v1::MembersReply { title, owner: "alice".into(), seq, members: vec![alice] }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn serve_long(mut stream: TcpStream, state: Arc<Mutex<State>>, mut pushes: broadcast::Receiver<Option<Packet>>) {
    let mut input = BytesMut::new();
    loop {
        let mut output = BytesMut::new();
        while let Some(request) = packet::decode(&mut input).unwrap() {
            match lock(&state).answer("long", &request) {
                Some(answer) => answer.encode(&mut output),
                None => return,
            }
        }
        if stream.write_all(&output).await.is_err() {
            return;
        }
        tokio::select! {
            read = stream.read_buf(&mut input) => if !matches!(read, Ok(1..)) { return },
            pushed = pushes.recv() => match pushed.unwrap() {
                Some(packet) => {
                    let mut bytes = BytesMut::new();
                    packet.encode(&mut bytes);
                    stream.write_all(&bytes).await.unwrap();
                }
                None => return,
            },
        }
    }
}

async fn serve_http(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut input = BytesMut::new();
    loop {
        let Some(mut body) = read_http(&mut stream, &mut input).await else { return };
        let mut output = BytesMut::new();
        while let Some(request) = packet::decode(&mut body).unwrap() {
            if request.known_command() == Some(Command::Send) && http_sends(&state).await == HttpSends::Cut {
                return;
            }
            wait(&request, &state).await;
            match lock(&state).answer("http", &request) {
                Some(answer) => answer.encode(&mut output),
                None => return,
            }
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", output.len());
        if stream.write_all(&[head.as_bytes(), &output].concat()).await.is_err() {
            return;
        }
    }
}

/// Waits while sends over HTTP are held, and tells what happens to them then.
async fn http_sends(state: &Mutex<State>) -> HttpSends {
    if lock(state).http_sends == HttpSends::Held {
        lock(state).held += 1;
    }
    while lock(state).http_sends == HttpSends::Held {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lock(state).http_sends
}

/// A waiting check waits for an entry above its key.
async fn wait(request: &Packet, state: &Mutex<State>) {
    if request.known_command() != Some(Command::Check) {
        return;
    }
    let check = v1::CheckRequest::decode(request.body.clone()).unwrap();
    let key = check.key.as_ref().map(Key::from).unwrap();
    let deadline = Instant::now() + Duration::from_millis(check.wait_ms.into());
    while Instant::now() < deadline && lock(state).above(&key).count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read_http(stream: &mut TcpStream, input: &mut BytesMut) -> Option<BytesMut> {
    let end = loop {
        if let Some(at) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(input.split_to(end).to_vec()).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("post /v1/packets http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nauthorization: bearer jwt\r\n") && head.contains("\r\ntern-device: "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let length: usize = length.parse().unwrap();
    while input.len() < length {
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
    Some(input.split_to(length))
}
