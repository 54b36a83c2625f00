//! The one task of a long link. It moves bytes and runs calls; the [`Session`] decides.
//!
//! Its inputs: the signal (hint, displacement, stop), bytes, finished calls, room to write, time. A round takes what is
//! there of each, and then writes everything that is ready in one call, so that batches form by themselves and no timer
//! is on the way of a message. An idle link holds no buffer and no future but this one.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tern_proto::{Command, Key, packet, v1};
use tern_sync::{Pushed, Refusal};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::Gateway;
use crate::counters::Ending;
use crate::dispatch::Greeting;
use crate::io::{LinkIo, poll_read_into};
use crate::places::Place;
use crate::registry::Presence;
use crate::request::Answer;
use crate::session::{Call, PARTING, Session};
use crate::signal::{DISPLACED, HINT, STOP};

/// With more than this many bytes to write, no more requests are read.
const OUTPUT_BYTES: usize = 1024 * 1024;

/// A long link.
pub(crate) struct Link {
    gateway: Arc<Gateway>,
    io: LinkIo,
    place: Place,
    session: Session,
    presence: Option<Presence>,
    /// What is in flight; bounded by [`Session::wants_packets`].
    calls: Option<FuturesUnordered<BoxFuture<'static, Done>>>,
    /// What is not decoded yet: part of a packet, or what the session does not want yet.
    input: BytesMut,
    output: BytesMut,
    /// Since when the client takes nothing of the output.
    stalled: Option<Instant>,
}

/// A finished [`Call`].
enum Done {
    Greeted { sequence: u32, greeted: Result<Box<Greeting>, Refusal> },
    Answered { command: Command, sequence: u32, answer: Box<Answer> },
    Sent { parts: Vec<(u32, usize)>, results: Vec<v1::SendResult> },
    Pushed { above: Key, pushed: Result<Pushed, Refusal> },
}

impl Link {
    /// A link on a connection that was just accepted.
    pub(crate) fn new(gateway: Arc<Gateway>, stream: TcpStream, place: Place) -> Link {
        Link {
            gateway,
            io: LinkIo::Plain(stream),
            place,
            session: Session::new(Instant::now()),
            presence: None,
            calls: None,
            input: BytesMut::new(),
            output: BytesMut::new(),
            stalled: None,
        }
    }

    /// Serves the link until it ends.
    #[allow(
        clippy::manual_async_fn,
        reason = "an async fn would hold the link twice, as its argument and as its variable"
    )]
    pub(crate) fn run(mut self) -> impl Future<Output = ()> + Send {
        async move {
            let mut alarm = pin!(tokio::time::sleep_until(self.deadline()));
            let ending = std::future::poll_fn(|context| self.turn(context, alarm.as_mut())).await;
            self.presence = None;
            self.calls = None;
            self.gateway.counters.count(ending);
            tracing::debug!(session = self.place.id, ?ending, "long link ended");
            if ending != Ending::Gone {
                // Boxed, so that the links that live do not carry its size.
                Box::pin(part(&mut self.io, &self.output)).await;
            }
        }
    }

    /// Does what can be done now.
    fn turn(&mut self, context: &mut Context<'_>, mut alarm: Pin<&mut Sleep>) -> Poll<Ending> {
        loop {
            match self.round(context) {
                Ok(true) => continue,
                Ok(false) => (),
                Err(ending) => return Poll::Ready(ending),
            }
            let deadline = self.deadline();
            if deadline < alarm.deadline() {
                alarm.as_mut().reset(deadline);
            }
            ready!(alarm.as_mut().poll(context));
            // The deadline may have moved on since the alarm was set; setting it only here costs nothing per packet.
            self.on_alarm(Instant::now());
            alarm.as_mut().reset(self.deadline());
        }
    }

    /// Takes each input once; whether anything moved, so that there may be more.
    fn round(&mut self, context: &mut Context<'_>) -> Result<bool, Ending> {
        let now = Instant::now();
        self.heed(self.place.signal.take(context), now);
        let read = self.read(context, now)?;
        while let Some(call) = self.session.next_call(&mut self.output) {
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
            Poll::Pending => Ok(decoded),
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
                    if let Some(call) = self.session.on_packet(&packet, &mut self.output) {
                        self.begin(call);
                    }
                }
                Ok(None) => break,
                Err(error) => self.session.on_bad_packet(error, &mut self.output),
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
        self.output.len() <= OUTPUT_BYTES && self.session.wants_packets()
    }

    fn begin(&mut self, call: Call) {
        let gateway = Arc::clone(&self.gateway);
        let future: BoxFuture<'static, Done> = match call {
            Call::Hello { sequence, request } => {
                let (session, signal) = (self.place.id, Arc::clone(&self.place.signal));
                Box::pin(async move {
                    let greeted = gateway.greet(request, session, signal).await.map(Box::new);
                    Done::Greeted { sequence, greeted }
                })
            }
            Call::Request { sequence, request } => {
                let (device, command) = (self.device(), request.command());
                Box::pin(async move {
                    let answer = Box::new(gateway.answer(&device, request).await);
                    Done::Answered { command, sequence, answer }
                })
            }
            Call::Send(batch) => {
                let device = self.device();
                Box::pin(async move {
                    let results = gateway.sync.send(&device, batch.messages).await;
                    Done::Sent { parts: batch.parts, results }
                })
            }
            Call::Push { above } => {
                let device = self.device();
                Box::pin(async move { Done::Pushed { above, pushed: gateway.sync.push(&device, &above).await } })
            }
        };
        self.calls.get_or_insert_default().push(future);
    }

    fn device(&self) -> tern_sync::Device {
        self.presence.as_ref().expect("only an open session makes calls, and it is present").device().clone()
    }

    /// Hands every finished call to the session; whether there was one.
    fn finish_calls(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let Some(mut calls) = self.calls.take() else { return false };
        let mut finished = false;
        while let Poll::Ready(Some(done)) = calls.poll_next_unpin(context) {
            self.finish(done, now);
            finished = true;
        }
        self.calls = (!calls.is_empty()).then_some(calls);
        finished
    }

    fn finish(&mut self, done: Done, now: Instant) {
        let out = &mut self.output;
        match done {
            Done::Greeted { sequence, greeted } => {
                let greeted = greeted.map(|greeting| {
                    self.presence = Some(greeting.presence);
                    greeting.reply
                });
                self.session.on_greeted(sequence, greeted, now, out);
            }
            Done::Answered { command, sequence, answer } => self.session.on_answer(command, sequence, &answer, out),
            Done::Sent { parts, results } => self.session.on_sent(parts, results, out),
            Done::Pushed { above, pushed } => self.session.on_pushed(above, pushed, out),
        }
    }

    /// Writes the output; whether any of it went out.
    fn write(&mut self, context: &mut Context<'_>, now: Instant) -> Result<bool, Ending> {
        let mut written = false;
        while !self.output.is_empty() {
            match Pin::new(&mut self.io).poll_write(context, &self.output) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(Ending::Gone),
                Poll::Ready(Ok(bytes)) => {
                    self.output.advance(bytes);
                    self.stalled = None;
                    written = true;
                }
                Poll::Pending => {
                    self.stalled.get_or_insert(now);
                    return Ok(written);
                }
            }
        }
        self.output = BytesMut::new();
        Ok(written)
    }

    fn deadline(&self) -> Instant {
        let settings = &self.gateway.settings;
        let session = self.session.deadline(settings);
        self.stalled.map_or(session, |since| session.min(since + settings.write_stall))
    }

    fn on_alarm(&mut self, now: Instant) {
        if self.stalled.is_some_and(|since| now >= since + self.gateway.settings.write_stall) {
            self.go_away(Ending::Slow, now);
        } else {
            self.session.on_deadline(now, &self.gateway.settings, &mut self.output);
        }
    }

    fn go_away(&mut self, ending: Ending, now: Instant) {
        self.session.go_away(ending, now, &self.gateway.settings, &mut self.output);
    }
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
        assert!(size_of_val(&future) <= 640, "{} bytes", size_of_val(&future));
    }
}
