//! The one task of a long link. It moves bytes and runs calls; the [`Session`] decides.
//!
//! Its inputs: the signal (hint, news, displacement, stop), bytes, finished calls, room to write, time. A round takes what is
//! there of each, and then writes everything that is ready in one call, so that batches form by themselves and no timer
//! is on the way of a message; only the reply to an ack may wait a little for company. An idle link holds no buffer and no future but this one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tern_proto::{Command, Key, packet, v1};
use tern_runtime::traces;
use tern_sync::{Pushed, Refusal};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tracing::Instrument as _;

use crate::Gateway;
use crate::counters::Ending;
use crate::dispatch::{Greeting, Sent};
use crate::io::{LinkIo, poll_read_into};
use crate::output::Output;
use crate::places::Place;
use crate::registry::Presence;
use crate::request::{Answer, Reply};
use crate::session::{Call, PARTING, Session};
use crate::signal::{DISPLACED, HINT, NEWS, STOP};

/// With more than this many bytes to write, no more requests are read.
const OUTPUT_BYTES: usize = 1024 * 1024;
/// How long after its request the reply to an ack may wait for something else to be written. Storage lets the acknowledgement itself
/// wait as long for company, so where nothing else is going on this adds nothing.
const ACK_REPLY: Duration = Duration::from_millis(50);

/// A long link.
pub(crate) struct Link {
    gateway: Arc<Gateway>,
    io: LinkIo,
    place: Place,
    session: Session,
    presence: Option<Presence>,
    /// Boxed: with it a task would be just beyond a size that the allocator serves well.
    alarm: Pin<Box<Sleep>>,
    /// What is in flight; bounded by [`Session::wants_packets`]. Mostly there is one, so all of them are polled in each round.
    calls: Vec<BoxFuture<'static, Done>>,
    /// What is not decoded yet: part of a packet, or what the session does not want yet.
    input: BytesMut,
    output: Output,
}

/// A finished [`Call`].
enum Done {
    Greeted { sequence: u32, greeted: Result<Box<Greeting>, Refusal> },
    Answered { command: Command, sequence: u32, asked: Instant, answer: Box<Answer> },
    Sent { parts: Vec<(u32, usize)>, sent: Sent },
    Pushed { above: Key, pushed: Result<Pushed, Refusal> },
}

impl Link {
    /// A link on a connection that was just accepted.
    pub(crate) fn new(gateway: Arc<Gateway>, stream: TcpStream, place: Place) -> Link {
        let session = Session::new(Instant::now());
        Link {
            alarm: Box::pin(tokio::time::sleep_until(session.deadline(&gateway.settings))),
            gateway,
            io: LinkIo::Plain(stream),
            place,
            session,
            presence: None,
            calls: Vec::new(),
            input: BytesMut::new(),
            output: Output::default(),
        }
    }

    /// Serves the link until it ends.
    #[allow(
        clippy::manual_async_fn,
        reason = "an async fn would hold the link twice, as its argument and as its variable"
    )]
    pub(crate) fn run(mut self) -> impl Future<Output = ()> + Send {
        async move {
            let ending = std::future::poll_fn(|context| self.turn(context)).await;
            self.presence = None;
            self.calls = Vec::new();
            self.gateway.counters.count(ending);
            tracing::debug!(session = self.place.id, ?ending, "long link ended");
            if ending != Ending::Gone {
                // Boxed, so that the links that live do not carry its size.
                Box::pin(part(&mut self.io, &self.output.bytes)).await;
            }
        }
    }

    /// Does what can be done now.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        loop {
            match self.round(context) {
                Ok(true) => continue,
                Ok(false) => (),
                Err(ending) => return Poll::Ready(ending),
            }
            let deadline = self.deadline();
            if deadline < self.alarm.deadline() {
                self.alarm.as_mut().reset(deadline);
            }
            ready!(self.alarm.as_mut().poll(context));
            // The deadline may have moved on since the alarm was set; setting it only here costs nothing per packet.
            self.on_alarm(Instant::now());
            let deadline = self.deadline();
            self.alarm.as_mut().reset(deadline);
        }
    }

    /// Takes each input once; whether anything moved, so that there may be more.
    fn round(&mut self, context: &mut Context<'_>) -> Result<bool, Ending> {
        let now = Instant::now();
        self.heed(self.place.signal.take(context), now);
        let read = self.read(context, now)?;
        while let Some(call) = self.session.next_call(&mut self.output.bytes, &self.gateway.counters) {
            self.begin(call);
        }
        let finished = self.finish_calls(context, now);
        let written = self.write(context, now)?;
        match self.session.ending() {
            Some(ending) => Err(ending),
            None => Ok(read || finished || written),
        }
    }

    fn heed(&mut self, flags: u8, now: Instant) {
        if flags & HINT != 0 {
            self.session.on_hint();
        }
        if flags & (NEWS | HINT) != 0 {
            self.session.on_news(self.place.signal.entries());
        }
        if flags & STOP != 0 {
            self.go_away(Ending::Shutdown, now);
        } else if flags & DISPLACED != 0 {
            self.go_away(Ending::Displaced, now);
        }
    }

    fn read(&mut self, context: &mut Context<'_>, now: Instant) -> Result<bool, Ending> {
        let decoded = self.decode();
        if !self.wants_packets() {
            self.session.heard(now);
            return Ok(decoded);
        }
        match poll_read_into(&mut self.io, context, &mut self.input) {
            Poll::Pending => {
                if let Some(presence) = &mut self.presence {
                    presence.take_place();
                }
                Ok(decoded)
            }
            Poll::Ready(Ok(0) | Err(_)) => Err(Ending::Gone),
            Poll::Ready(Ok(_)) => {
                self.session.heard(now);
                self.decode();
                Ok(true)
            }
        }
    }

    /// Hands the packets of the input to the session, as many as it wants; whether there was one.
    fn decode(&mut self) -> bool {
        let before = self.input.len();
        while self.wants_packets() {
            match packet::decode(&mut self.input) {
                Ok(Some(packet)) => {
                    self.gateway.counters.packet(packet.known_command());
                    if let Some(call) = self.session.on_packet(&packet, &mut self.output.bytes) {
                        self.begin(call);
                    }
                }
                Ok(None) => break,
                Err(error) => self.session.on_bad_packet(error, &mut self.output.bytes),
            }
        }
        let decoded = self.input.len() < before;
        if decoded && (self.input.is_empty() || self.wants_packets()) {
            // Part of a packet may stay for long; it must not hold the memory of a whole read.
            self.input = BytesMut::from(&self.input[..]);
        }
        decoded
    }

    fn wants_packets(&self) -> bool {
        self.output.bytes.len() <= OUTPUT_BYTES && self.session.wants_packets()
    }

    fn begin(&mut self, call: Call) {
        let gateway = Arc::clone(&self.gateway);
        let future: BoxFuture<'static, Done> = match call {
            Call::Hello { sequence, request } => {
                let (session, signal) = (self.place.id, Arc::clone(&self.place.signal));
                Box::pin(async move {
                    let asked = Instant::now();
                    let span = traces::root(Command::Hello.name(), None);
                    let greeted = gateway.greet(request, session, signal).instrument(span).await.map(Box::new);
                    gateway.counters.answered(Command::Hello, asked.elapsed());
                    Done::Greeted { sequence, greeted }
                })
            }
            Call::Request { sequence, request } => {
                let (device, command, asked) = (self.device(), request.command(), Instant::now());
                Box::pin(async move {
                    let answer = Box::new(gateway.answer(&device, Vec::new(), request).await);
                    Done::Answered { command, sequence, asked, answer }
                })
            }
            Call::Send(batch) => {
                let device = self.device();
                Box::pin(async move {
                    let span = traces::root(Command::Send.name(), batch.trace.as_ref());
                    let sent = gateway.send(&device, batch.chunks, batch.messages).instrument(span).await;
                    batch.came.iter().for_each(|came| gateway.counters.answered(Command::Send, came.elapsed()));
                    Done::Sent { parts: batch.parts, sent }
                })
            }
            Call::Push { above } => {
                let device = self.device();
                Box::pin(async move { Done::Pushed { above, pushed: gateway.sync.push(&device, &above).await } })
            }
        };
        self.calls.push(future);
    }

    fn device(&self) -> tern_sync::Device {
        self.presence.as_ref().expect("only an open session makes calls, and it is present").device().clone()
    }

    /// Hands every finished call to the session; whether there was one.
    fn finish_calls(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let before = self.calls.len();
        let mut at = 0;
        while at < self.calls.len() {
            match self.calls[at].as_mut().poll(context) {
                Poll::Ready(done) => {
                    drop(self.calls.swap_remove(at));
                    self.finish(done, now);
                }
                Poll::Pending => at += 1,
            }
        }
        if self.calls.is_empty() {
            self.calls = Vec::new(); // An idle link keeps no memory.
        }
        self.calls.len() < before
    }

    fn finish(&mut self, done: Done, now: Instant) {
        let out = &mut self.output.bytes;
        match done {
            Done::Greeted { sequence, greeted } => {
                let greeted = greeted.map(|greeting| {
                    self.presence = Some(greeting.presence);
                    greeting.reply
                });
                self.session.on_greeted(sequence, greeted, now, out);
            }
            Done::Answered { command: Command::Ack, sequence, asked, answer } if is_plain(&answer) => {
                let session = &mut self.session;
                self.output
                    .add_unhurried(asked + ACK_REPLY, |out| session.on_answer(Command::Ack, sequence, &answer, out));
            }
            Done::Answered { command, sequence, answer, .. } => self.session.on_answer(command, sequence, &answer, out),
            Done::Sent { parts, sent } => self.session.on_sent(parts, sent, out),
            Done::Pushed { above, pushed } => self.session.on_pushed(above, pushed, out, &self.gateway.counters),
        }
    }

    /// Writes the output; whether any of it went out.
    fn write(&mut self, context: &mut Context<'_>, now: Instant) -> Result<bool, Ending> {
        let mut written = false;
        while self.output.is_due(now) || self.session.ending().is_some() && !self.output.bytes.is_empty() {
            match Pin::new(&mut self.io).poll_write(context, &self.output.bytes) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(Ending::Gone),
                Poll::Ready(Ok(bytes)) => {
                    self.output.wrote(bytes);
                    written = true;
                }
                Poll::Pending => {
                    self.output.stall(now);
                    return Ok(written);
                }
            }
        }
        Ok(written)
    }

    fn deadline(&self) -> Instant {
        let settings = &self.gateway.settings;
        let session = self.session.deadline(settings);
        self.output.deadline(settings.write_stall).map_or(session, |output| session.min(output))
    }

    fn on_alarm(&mut self, now: Instant) {
        if self.output.is_stalled(self.gateway.settings.write_stall, now) {
            self.go_away(Ending::Slow, now);
        } else {
            self.session.on_deadline(now, &self.gateway.settings, &mut self.output.bytes);
        }
    }

    fn go_away(&mut self, ending: Ending, now: Instant) {
        self.session.go_away(ending, now, &self.gateway.settings, &mut self.output.bytes);
    }
}

/// Whether an ack is answered by nothing but that it is stored.
fn is_plain(answer: &Answer) -> bool {
    matches!(answer, Ok(Reply::Ack(reply)) if reply.key_order() == v1::KeyOrder::None)
}

/// Writes what is left and says that no more will come, then waits a bounded time for the client to close: a connection closed with
/// unread bytes is reset, which may take the last packets with it.
async fn part(io: &mut LinkIo, output: &[u8]) {
    let parting = async {
        io.write_all(output).await?;
        io.shutdown().await?;
        let mut unread = BytesMut::new();
        while std::future::poll_fn(|context| poll_read_into(io, context, &mut unread)).await? > 0 {
            unread.clear();
        }
        std::io::Result::Ok(())
    };
    // An error or the end of the time changes nothing: the link closes.
    let _ = tokio::time::timeout(PARTING, parting).await;
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::places::Places;

    // A gateway holds very many links that do nothing: what each costs is the size of its future.
    #[tokio::test]
    async fn an_idle_link_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let gateway = crate::nothing::gateway();
        let link = Link::new(gateway, stream, Places::new(1).take(1).unwrap());
        let future = link.run();
        assert!(size_of_val(&future) <= 408, "{} bytes", size_of_val(&future));
    }
}
