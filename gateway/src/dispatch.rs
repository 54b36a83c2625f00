//! The handler table: one request in, one answer out, the same for both links.

use std::sync::Arc;
use std::time::Duration;

use tern_proto::{DeviceId, limits, v1};
use tern_runtime::clock;
use tern_runtime::traces::{self, note_messages};
use tern_sync::{Device, Refusal};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::Gateway;
use crate::registry::{Leading, Led, Presence};
use crate::request::{Answer, Reply, Request, busy, millis, refusal};
use crate::signal::Signal;

/// A hello that succeeded on a long link.
pub(crate) struct Greeting {
    pub(crate) reply: v1::HelloReply,
    pub(crate) presence: Presence,
}

/// What became of messages, and of chunks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sent {
    /// What is to be told of clips.
    pub(crate) stored: Vec<v1::ChunksStored>,
    /// One for each message.
    pub(crate) results: Vec<v1::SendResult>,
}

impl Gateway {
    /// Carries out a request of a device that is who it says, behind chunks that have come before it.
    pub(crate) async fn answer(&self, device: &Device, chunks: Vec<v1::Chunk>, request: Request) -> Answer {
        let (command, asked) = (request.command(), Instant::now());
        let of_client = match &request {
            Request::Send(send) => send.traceparent.parse().ok(),
            _ => None,
        };
        let span = traces::root(command.name(), of_client.as_ref());
        let answer = self.carry_out(device, chunks, request).instrument(span).await;
        self.counters.answered(command, asked.elapsed());
        answer
    }

    /// Stores chunks, those in the messages too, then sends the messages, and notes in the trace which they are.
    pub(crate) async fn send(
        &self,
        device: &Device,
        mut chunks: Vec<v1::Chunk>,
        mut messages: Vec<v1::OutMessage>,
    ) -> Sent {
        for chunk in messages.iter_mut().filter_map(|message| message.chunk.as_mut()) {
            // What it belongs to stays with the message.
            let bytes = std::mem::take(&mut chunk.bytes);
            chunks.push(v1::Chunk { bytes, ..chunk.clone() });
        }
        let stored = self.store(device, chunks).await;
        let results = if messages.is_empty() { Vec::new() } else { self.sync.send(device, messages).await };
        note_messages(&Span::current(), results.iter().map(|sent| sent.server_msg_id).filter(|id| *id > 0));
        Sent { stored, results }
    }

    /// Stores chunks, and gives what is to be told of them.
    pub(crate) async fn store(&self, device: &Device, chunks: Vec<v1::Chunk>) -> Vec<v1::ChunksStored> {
        match self.media.as_deref().filter(|_| !chunks.is_empty()) {
            Some(media) => media.chunks(&device.user, chunks).await,
            None => Vec::new(),
        }
    }

    async fn carry_out(&self, device: &Device, chunks: Vec<v1::Chunk>, request: Request) -> Answer {
        Ok(match request {
            Request::Heartbeat => Reply::Heartbeat,
            Request::Hello(request) => Reply::Hello(self.hello(device, &request).await?),
            Request::Sync(request) => Reply::Sync(self.sync.sync(device, request).await?),
            Request::Send(request) => {
                Reply::Send(v1::SendReply { results: self.send(device, chunks, request.messages).await.results })
            }
            Request::Check(request) => Reply::Check(self.check(device, &request).await?),
            Request::Ack(request) => Reply::Ack(self.sync.ack(device, request).await?),
            Request::Read(request) => Reply::Read(self.sync.read(device, request).await?),
            Request::Conversations(request) => Reply::Conversations(self.sync.conversations(device, request).await?),
            Request::History(request) => Reply::History(self.sync.history(device, request).await?),
            Request::Members(request) => Reply::Members(self.sync.members(device, request).await?),
        })
    }

    /// Who presents this token and device id.
    pub(crate) fn authenticate(&self, token: &str, device_id: &str) -> Result<Device, Refusal> {
        let user = self.verifier.verify(token).map_err(|bad| refusal(bad.code(), bad.to_string()))?;
        let id = DeviceId::new(device_id).map_err(|bad| refusal(v1::Code::BadDevice, format!("device id: {bad}")))?;
        Ok(Device { user, id })
    }

    /// The hello of a long link: the device becomes present, and an earlier link of it is displaced.
    pub(crate) async fn greet(
        &self,
        mut request: v1::HelloRequest,
        session: u64,
        signal: Arc<Signal>,
    ) -> Result<Greeting, Refusal> {
        let since = Instant::now();
        // The token goes no further than this.
        let token = std::mem::take(&mut request.token);
        let device = self.authenticate(&token, &request.device_id)?;
        let waiter = self.registry.wait(&device);
        // Before anything is read, so that nothing can come unheard after it. The link itself takes the place of another one only when the hello has succeeded.
        let led = match &waiter {
            Some(waiter) => waiter.lead(&*self.sync, since).await,
            None => Led::nothing(Leading::Perhaps),
        };
        let mut reply = self.hello(&device, &request).await?;
        reply.session = session;
        let presence = self.registry.register(device, session, since, signal, led, waiter);
        Ok(Greeting { reply, presence })
    }

    async fn hello(&self, device: &Device, request: &v1::HelloRequest) -> Result<v1::HelloReply, Refusal> {
        let welcome = self.sync.hello(device, request).await?;
        Ok(v1::HelloReply {
            session: 0,
            user: device.user.to_string(),
            heartbeat_ms: millis(self.settings.heartbeat),
            limits: Some(published_limits()),
            durability: self.sync.durability().into(),
            tls: v1::TlsPolicy::Plain.into(),
            pending: welcome.pending,
            highest_client_msg_id: welcome.highest_client_msg_id,
            key_order: welcome.key_order.into(),
            key: welcome.key.as_ref().map(v1::SyncKey::from),
            time_ms: clock::unix_millis(),
        })
    }

    /// Asks at once, and again after each hint until there is something or the wait is over.
    async fn check(&self, device: &Device, request: &v1::CheckRequest) -> Result<v1::CheckReply, Refusal> {
        let wait = Duration::from_millis(request.wait_ms.into()).min(limits::CHECK_WAIT);
        if wait.is_zero() {
            return self.sync.check(device, request).await;
        }
        let deadline = Instant::now() + wait;
        // Listens before it asks, so that nothing can come unheard between the two.
        let waiter = self.registry.wait(device).ok_or_else(|| busy("too many checks of this user wait already"))?;
        waiter.lead(&*self.sync, Instant::now()).await;
        loop {
            let reply = self.sync.check(device, request).await?;
            if reply.pending || reply.key_order() != v1::KeyOrder::None || Instant::now() >= deadline {
                return Ok(reply);
            }
            match tokio::time::timeout_at(deadline, waiter.hint()).await {
                Ok(true) => {}
                Ok(false) => return Ok(reply),
                // The last word is a fresh one: a stub of the device's own comes without a hint.
                Err(_) => return self.sync.check(device, request).await,
            }
        }
    }
}

fn published_limits() -> v1::Limits {
    v1::Limits {
        packet_bytes: limits::PACKET_BYTES as u32,
        text_bytes: limits::TEXT_BYTES as u32,
        send_messages: limits::SEND_MESSAGES as u32,
        page_entries: limits::PAGE_ENTRIES as u32,
        in_flight: limits::IN_FLIGHT as u32,
        dedup_seconds: limits::DEDUP.as_secs(),
    }
}
