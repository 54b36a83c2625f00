//! A user with one device that can take either link.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tern_client::link::{LongLink, ShortLink};
use tern_proto::{Command, v1};

/// Which link a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// TCP.
    Long,
    /// HTTP.
    Short,
}

impl Via {
    /// Both, with the name for the report.
    pub(super) const BOTH: [(Via, &'static str); 2] = [(Via::Long, "the long link"), (Via::Short, "the short link")];
}

/// The device id of everybody here; a device belongs to its user.
const DEVICE: &str = "smoke";
/// How long a check waits for what the server does by itself.
const WAIT: Duration = Duration::from_secs(10);

/// A user with a device, and a link of each kind.
pub(super) struct Person {
    pub(super) name: String,
    device: &'static str,
    token: String,
    pub(super) address: String,
    pub(super) long: LongLink,
    pub(super) short: ShortLink,
}

impl Person {
    /// Connects the long link and says hello without a key.
    pub(super) async fn arrive(name: &str, token: &str, long: &str, http: &str) -> Result<(Person, v1::HelloReply)> {
        Person::with(DEVICE, (name, token), long, http).await
    }

    /// The same user with another device, whose long link is at `long`.
    pub(super) async fn on(&self, device: &'static str, long: &str, http: &str) -> Result<Person> {
        Ok(Person::with(device, (&self.name, &self.token), long, http).await?.0)
    }

    async fn with(
        device: &'static str,
        (name, token): (&str, &str),
        long: &str,
        http: &str,
    ) -> Result<(Person, v1::HelloReply)> {
        let (short, link) = (ShortLink::new(http, token, device), connect(long).await?);
        let (name, token, address) = (name.into(), token.into(), long.into());
        let mut person = Person { name, device, token, address, long: link, short };
        let welcome = person.hello(None).await?;
        Ok((person, welcome))
    }

    /// Says hello on the present long link.
    pub(super) async fn hello(&mut self, key: Option<v1::SyncKey>) -> Result<v1::HelloReply> {
        let hello = v1::HelloRequest {
            protocol: 1,
            token: self.token.clone(),
            device_id: self.device.into(),
            client_name: concat!("tern-smoke/", env!("CARGO_PKG_VERSION")).into(),
            key,
            ..Default::default()
        };
        self.long.request(Command::Hello, &hello).await.context("hello")
    }

    /// Takes a new long link, gives back the old one.
    pub(super) async fn reconnect(&mut self, key: Option<v1::SyncKey>) -> Result<(LongLink, v1::HelloReply)> {
        let old = std::mem::replace(&mut self.long, connect(&self.address).await?);
        Ok((old, self.hello(key).await?))
    }

    /// Ends the long link; the next one is there, but nobody has said hello on it.
    pub(super) async fn leave(&mut self) -> Result<()> {
        self.long = connect(&self.address).await?;
        Ok(())
    }

    /// Any request, on either link.
    pub(super) async fn request<Reply: prost::Message + Default>(
        &mut self,
        via: Via,
        command: Command,
        body: &impl prost::Message,
    ) -> Result<Reply> {
        let answer = match via {
            Via::Long => self.long.request_within(command, body, WAIT).await,
            Via::Short => self.short.request(command, body, WAIT).await,
        };
        answer.with_context(|| format!("{command:?} over {via:?}"))
    }

    /// Sends one message and gives its result.
    pub(super) async fn send(&mut self, via: Via, message: v1::OutMessage) -> Result<v1::SendResult> {
        let request = v1::SendRequest { messages: vec![message], ..Default::default() };
        let mut reply: v1::SendReply = self.request(via, Command::Send, &request).await?;
        ensure!(reply.results.len() == 1, "{} results for one message", reply.results.len());
        Ok(reply.results.remove(0))
    }

    /// One page without acknowledging anything; a limit of 0 is the server's.
    pub(super) async fn peek(&mut self, key: Option<&v1::SyncKey>, limit: u32) -> Result<v1::SyncReply> {
        let request = v1::SyncRequest { key: key.cloned(), peek: true, limit };
        self.request(Via::Long, Command::Sync, &request).await
    }

    /// Pages of `limit` from `key` until there is no more: their entries, and the key after them.
    pub(super) async fn peek_all(
        &mut self,
        mut key: Option<v1::SyncKey>,
        limit: u32,
    ) -> Result<(Vec<v1::Entry>, v1::SyncKey)> {
        let mut entries = Vec::new();
        loop {
            let page = self.peek(key.as_ref(), limit).await?;
            let next = page.key.context("a page without a key")?;
            ensure!(!page.entries.is_empty() || page.more.is_empty(), "an empty page that promises more");
            entries.extend(page.entries);
            if page.more.is_empty() {
                return Ok((entries, next));
            }
            key = Some(next);
        }
    }

    /// Waits, by long polls, for a receipt above the key; `None` if none like it comes in time.
    pub(super) async fn await_receipt(
        &mut self,
        key: &v1::SyncKey,
        kind: v1::ReceiptKind,
        seq: u64,
    ) -> Result<Option<v1::Receipt>> {
        let deadline = tokio::time::Instant::now() + WAIT;
        let mut above = key.clone();
        while tokio::time::Instant::now() < deadline {
            let check = v1::CheckRequest { key: Some(above.clone()), peek: true, wait_ms: 1_000 };
            let _: v1::CheckReply = self.request(Via::Short, Command::Check, &check).await?;
            let (entries, after) = self.peek_all(Some(above), 0).await?;
            let mut receipts = entries.into_iter().filter_map(|entry| match entry.body {
                Some(v1::entry::Body::Receipt(receipt)) => Some(receipt),
                _ => None,
            });
            if let Some(receipt) = receipts.find(|receipt| receipt.kind() == kind && receipt.seq >= seq) {
                return Ok(Some(receipt));
            }
            above = after;
        }
        Ok(None)
    }

    /// The next packet that the server starts on the long link, if one comes in time.
    pub(super) async fn next_push(link: &mut LongLink) -> Option<(Command, tern_proto::Packet)> {
        let packet = tokio::time::timeout(WAIT, link.receive()).await.ok()?.ok()?;
        packet.known_command().map(|command| (command, packet))
    }
}

async fn connect(address: &str) -> Result<LongLink> {
    LongLink::connect(address).await.with_context(|| format!("no long link at {address} (is the server running?)"))
}

/// A text under an id.
pub(super) fn message(client_msg_id: u64, to: &str, text: &str) -> v1::OutMessage {
    v1::OutMessage { client_msg_id, to: to.into(), text: text.into(), ..Default::default() }
}

/// The messages of a page.
pub(super) fn messages(entries: &[v1::Entry]) -> Vec<&v1::Message> {
    entries
        .iter()
        .filter_map(|entry| match &entry.body {
            Some(v1::entry::Body::Message(message)) => Some(message),
            _ => None,
        })
        .collect()
}
