//! The task that keeps a client connected: it performs what the [`Session`] says, and connects again when a link ends.
//!
//! ```text
//! Tcp:   dial ─▶ long link until it ends ─▶ short link while the long one is dialled again ─▶ long link …
//! Http:  short link until it fails ─▶ wait ─▶ short link …
//! ```
//!
//! Inputs of [`Driver::serve`]: packets, the session's deadline, work from the application ([`Shared::wake`]), the dial, the
//! stop. Each time that neither link can be had counts as one failed attempt of every waiting message and query.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tern_proto::{Key, v1};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::clip::Batch;
use crate::link::{LinkError, LongLink};
use crate::message::{Event, Fate};
use crate::options::{ClientOptions, Link};
use crate::session::{Action, Leave, Profile, Session};
use crate::shared::Shared;
use crate::status::{LinkState, Stop};
use crate::store::{Change, Store, StoreError};
use crate::transport::{Lanes, Transport};

/// How often in a row a token may be refused before the client stops: the provider gets a chance to give another.
const TOKENS: u32 = 2;

/// Why [`Driver::serve`] ended.
enum End {
    /// The other link is dialled, and nothing is under way.
    Dialled,
    Lost(LinkError),
    Left(Leave),
}

/// See the [module](self).
pub(crate) struct Driver {
    options: ClientOptions,
    device: String,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    random: fastrand::Rng,
    /// Of the long link.
    long_backoff: Backoff,
    /// Of the short link.
    short_backoff: Backoff,
    refused_tokens: u32,
}

impl Driver {
    pub(crate) fn new(
        options: ClientOptions,
        device: String,
        shared: Arc<Shared>,
        stop: watch::Receiver<bool>,
    ) -> Driver {
        let mut random = fastrand::Rng::new();
        let (long_backoff, short_backoff) = (Backoff::new(random.fork()), Backoff::new(random.fork()));
        Driver { options, device, shared, stop, random, long_backoff, short_backoff, refused_tokens: 0 }
    }

    /// Runs until the client is closed or has to stop.
    pub(crate) async fn run(mut self) {
        let mut stop = self.stop.clone();
        let mut ending = Ending { shared: Arc::clone(&self.shared), reason: Stop::Died };
        ending.reason = tokio::select! {
            stopped = self.connect_for_ever() => stopped,
            // An error means that every handle is gone.
            _ = stop.wait_for(|stop| *stop) => Stop::Closed,
        };
    }

    async fn connect_for_ever(&mut self) -> Stop {
        let result = match self.options.link {
            Link::Tcp => self.with_long_link().await,
            Link::Http => self.with_short_link().await,
        };
        match result {
            Ok(stop) => stop,
            Err(error) => Stop::Store(error.to_string()),
        }
    }

    async fn with_long_link(&mut self) -> Result<Stop, StoreError> {
        let address = self.options.long_link.clone();
        let mut end = match LongLink::connect(&address).await {
            Ok(link) => self.serve(Transport::Long(link), &mut Dial::never()).await?,
            Err(error) => End::Lost(error),
        };
        loop {
            let wait = match self.judge(end) {
                Ok(at_least) => self.long_backoff.wait(at_least),
                Err(stop) => return Ok(stop),
            };
            let dial = Dial::new(dial(address.clone(), wait, self.long_backoff.clone()));
            end = match self.fall_back(dial).await? {
                Ok(link) => self.serve(Transport::Long(link), &mut Dial::never()).await?,
                Err(stop) => return Ok(stop),
            };
        }
    }

    /// Serves over the short link until the long one is dialled.
    async fn fall_back(&mut self, mut dial: Dial) -> Result<Result<LongLink, Stop>, StoreError> {
        loop {
            if let Some(link) = dial.link.take() {
                return Ok(Ok(link));
            }
            let lanes = self.lanes();
            let wait = match self.serve(lanes, &mut dial).await? {
                End::Dialled => continue,
                end => match self.judge(end) {
                    Ok(at_least) => self.short_backoff.wait(at_least),
                    Err(stop) => return Ok(Err(stop)),
                },
            };
            // It is there when the short link broke under a request that it was to wait for.
            if dial.link.is_none() {
                self.count_failed_round().await?;
                tokio::select! {
                    () = dial.done() => {}
                    () = sleep(wait) => {}
                }
            }
        }
    }

    async fn with_short_link(&mut self) -> Result<Stop, StoreError> {
        match self.fall_back(Dial::never()).await? {
            Ok(_) => Ok(Stop::Closed), // Not reached: nothing is dialled.
            Err(stop) => Ok(stop),
        }
    }

    /// Drives one link until it ends, or until `dial` gives the other one and nothing is under way.
    async fn serve(&mut self, mut transport: Transport, dial: &mut Dial) -> Result<End, StoreError> {
        let key = self.shared.store.call(|store| store.key()).await?;
        let mut session = Session::new(self.profile(transport.link()), key, Instant::now(), self.random.fork());
        session.set_full(self.shared.is_full(), Instant::now());
        let shared = Arc::clone(&self.shared);
        // Whether the store may have messages or marks that are not under way.
        let mut work = true;
        let end = loop {
            // Before the session is fed: what was answered is still in the store until it is settled.
            if let Some(end) = self.perform(&mut session, &mut transport, &mut work).await? {
                break end;
            }
            // What is held until after this is looked at again then, however long the look takes.
            let looked = Instant::now();
            if dial.link.is_none() {
                self.ask(&mut session, looked);
                work = self.feed(&mut session, work, looked).await?;
            }
            if let Some(end) = self.perform(&mut session, &mut transport, &mut work).await? {
                break end;
            }
            if dial.link.is_some() && session.is_idle() {
                break End::Dialled;
            }
            let deadline = session.deadline(looked);
            tokio::select! {
                packets = transport.receive() => match packets {
                    Ok(packets) => packets.iter().for_each(|packet| session.on_packet(packet, Instant::now())),
                    Err(error) => break End::Lost(error),
                },
                () = until(deadline) => {
                    session.on_tick(Instant::now());
                    work = true;
                }
                () = shared.wake.notified() => {
                    session.set_full(shared.is_full(), Instant::now());
                    work = true;
                }
                () = dial.done(), if dial.link.is_none() => {}
            }
        };
        self.give_up(&session, &end).await?;
        Ok(end)
    }

    /// Gives the session the next query.
    fn ask(&self, session: &mut Session, now: Instant) {
        if session.wants_query(now)
            && let Some((number, command, body)) = self.shared.queries.next()
        {
            session.query(number, command, body, now);
        }
    }

    /// Gives the session what waits in the store; tells whether there may be more.
    async fn feed(&mut self, session: &mut Session, work: bool, now: Instant) -> Result<bool, StoreError> {
        let (batch, read) = (session.wants_batch(now), session.wants_read(now));
        if !work || !(batch || read) {
            return Ok(work);
        }
        let look = move |store: &mut Store| {
            let batch = if batch { store.batch()? } else { Batch::default() };
            Ok((batch, if read { store.next_read()? } else { None }))
        };
        let (waiting, mark) = self.shared.store.call(look).await?;
        let now = Instant::now();
        let found = !waiting.messages.is_empty() || mark.is_some();
        if !waiting.messages.is_empty() {
            session.send(waiting, now);
        }
        if let Some((conversation, seq)) = mark {
            session.read(conversation, seq, now);
        }
        Ok(found || !(batch && read))
    }

    async fn perform(
        &mut self,
        session: &mut Session,
        transport: &mut Transport,
        work: &mut bool,
    ) -> Result<Option<End>, StoreError> {
        let shared = Arc::clone(&self.shared);
        while let Some(action) = session.next_action() {
            match action {
                Action::Transmit(packet) => {
                    if let Err(error) = transport.send(packet).await {
                        return Ok(Some(End::Lost(error)));
                    }
                }
                Action::Opened => self.opened(transport.link()),
                Action::GoOnAbove(highest) => shared.store.call(move |store| store.go_on_above(highest)).await?,
                Action::ReplaceKey(key) => shared.store.call(move |store| store.replace_key(&key)).await?,
                Action::Apply(entries, key) => {
                    self.apply(entries, key).await?;
                    session.set_full(shared.is_full(), Instant::now());
                }
                Action::Settle(results) => {
                    if results.iter().any(|result| Fate::of(result.code) != Fate::Again) {
                        self.reset_backoff(transport.link());
                    }
                    self.settle(move |store| store.settle(&results)).await?;
                    *work = true;
                }
                Action::ReadDone(conversation, seq) => {
                    shared.store.call(move |store| store.read_done(&conversation, seq)).await?;
                    *work = true;
                }
                Action::ClipStored(id, stored, chunks) => {
                    shared.store.call(move |store| store.clip_stored(id, stored)).await?;
                    shared.tell(Event::Clip { id, stored, chunks });
                }
                Action::Answered(number, answer) => {
                    self.reset_backoff(transport.link());
                    shared.queries.answered(number, answer);
                }
                Action::NotAnswered(number, reason) => shared.queries.not_answered(number, reason),
                Action::CaughtUp(caught_up) => {
                    shared.status.send_if_modified(|s| std::mem::replace(&mut s.caught_up, caught_up) != caught_up);
                }
                Action::Leave(leave) => return Ok(Some(End::Left(leave))),
            }
        }
        Ok(None)
    }

    async fn apply(&self, entries: Vec<v1::Entry>, key: Key) -> Result<(), StoreError> {
        let applied = self.shared.change(move |store| store.apply(&entries, &key)).await?;
        if applied.unreadable > 0 || applied.missing > 0 {
            self.shared.status.send_modify(|status| {
                status.unreadable += applied.unreadable;
                status.missing = status.missing.max(applied.missing);
            });
        }
        self.shared.arrived.notify_one();
        applied.receipts.into_iter().for_each(|receipt| self.shared.tell(Event::Receipt(receipt)));
        self.announce(applied.closed);
        Ok(())
    }

    fn opened(&mut self, link: Link) {
        self.refused_tokens = 0;
        tracing::debug!(?link, "connected");
        self.shared.status.send_modify(|status| status.link = LinkState::Up(link));
        if self.shared.status.borrow().sending == 0 && self.shared.queries.is_empty() {
            self.reset_backoff(link);
        }
    }

    /// A link works once it has taken a message or answered a query, or there is neither: one that opens and then breaks on each
    /// of them must not use up their attempts in no time.
    fn reset_backoff(&mut self, link: Link) {
        match link {
            Link::Tcp => self.long_backoff.reset(),
            Link::Http => self.short_backoff.reset(),
        }
    }

    /// Runs a call that settles messages and tells of their new states.
    async fn settle(
        &self,
        call: impl FnOnce(&mut Store) -> Result<Vec<Change>, StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let changes = self.shared.change(call).await?;
        self.announce(changes);
        Ok(())
    }

    fn announce(&self, changes: Vec<Change>) {
        changes.into_iter().for_each(|(id, state)| self.shared.tell(Event::Message { id, state }));
    }

    /// The link is gone: what was under way on it has had one failed attempt.
    async fn give_up(&self, session: &Session, end: &End) -> Result<(), StoreError> {
        let (ids, reason) = (session.unanswered(), end.to_string());
        self.shared.queries.link_lost(&reason);
        if ids.is_empty() {
            return Ok(());
        }
        self.settle(move |store| store.unanswered(&ids, &reason)).await
    }

    async fn count_failed_round(&self) -> Result<(), StoreError> {
        const REASON: &str = "the server cannot be reached";
        self.shared.queries.unreachable(REASON);
        self.settle(|store| store.unreachable(REASON)).await
    }

    /// The reason to stop, if there is one; else shows the end of the link and gives the server's wait before the next.
    fn judge(&mut self, end: End) -> Result<Duration, Stop> {
        tracing::debug!(reason = %end, "link ended");
        let down = LinkState::Down(end.to_string());
        let wait = match end {
            End::Left(Leave::Displaced) => Err(Stop::Displaced),
            End::Left(Leave::GoAway(_, retry_after)) => Ok(retry_after),
            End::Left(Leave::OtherUser(token)) => Err(Stop::OtherUser { token, user: self.options.user.clone() }),
            End::Left(Leave::Refused { code, message, retry_after })
            | End::Lost(LinkError::Refused { code, message, retry_after }) => self.refused(code, message, retry_after),
            _ => Ok(Duration::ZERO),
        }?;
        self.shared.status.send_modify(|status| (status.link, status.caught_up) = (down, false));
        Ok(wait)
    }

    fn refused(&mut self, code: v1::Code, message: String, retry_after: Duration) -> Result<Duration, Stop> {
        match code {
            v1::Code::UnsupportedProtocol | v1::Code::BadDevice => return Err(Stop::Refused { code, message }),
            v1::Code::BadToken | v1::Code::TokenExpired => self.refused_tokens += 1,
            _ => {}
        }
        if self.refused_tokens >= TOKENS { Err(Stop::Refused { code, message }) } else { Ok(retry_after) }
    }

    fn lanes(&self) -> Transport {
        let options = &self.options;
        Transport::Short(Lanes::new(&options.http, &options.token.get(), &self.device, options.poll_wait))
    }

    fn profile(&self, link: Link) -> Profile {
        let (token, device_id, poll) = match link {
            Link::Tcp => (self.options.token.get(), self.device.clone(), None),
            Link::Http => (String::new(), String::new(), Some(self.options.poll_wait)),
        };
        Profile {
            user: self.options.user.clone(),
            token,
            device_id,
            client_name: self.options.client_name.clone(),
            start: self.options.start,
            receive: self.options.receive,
            ask_every: self.options.ask_every,
            poll,
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Dialled => f.write_str("the long link is back"),
            End::Lost(error) => error.fmt(f),
            End::Left(leave) => leave.fmt(f),
        }
    }
}

/// Tells who waits for the client that it has stopped, also if its task has panicked.
struct Ending {
    shared: Arc<Shared>,
    reason: Stop,
}

impl Drop for Ending {
    fn drop(&mut self) {
        tracing::debug!(reason = %self.reason, "client stopped");
        self.shared.queries.close(&self.reason);
        self.shared.status.send_modify(|status| {
            (status.link, status.caught_up) = (LinkState::Stopped(self.reason.clone()), false);
        });
        self.shared.arrived.notify_one();
    }
}

/// The long link while it is dialled, and once it is there until it is taken: it may have to wait for the short link to end.
struct Dial {
    dialling: Pin<Box<dyn Future<Output = LongLink> + Send>>,
    link: Option<LongLink>,
}

impl Dial {
    fn new(dialling: impl Future<Output = LongLink> + Send + 'static) -> Dial {
        Dial { dialling: Box::pin(dialling), link: None }
    }

    fn never() -> Dial {
        Dial::new(pending())
    }

    /// Returns when the link is there; may be cancelled.
    async fn done(&mut self) {
        if self.link.is_none() {
            self.link = Some(self.dialling.as_mut().await);
        }
    }
}

/// Connects after `wait`, and again until it succeeds.
async fn dial(address: String, mut wait: Duration, mut backoff: Backoff) -> LongLink {
    loop {
        sleep(wait).await;
        match LongLink::connect(&address).await {
            Ok(link) => return link,
            Err(_) => wait = backoff.wait(Duration::ZERO),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
