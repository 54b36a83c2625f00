//! A client that does everything the protocol allows, and some things that it refuses, in random order.
//!
//! It only records; whether an answer is right is the model's to say. Steps about keys are in [`keys`], those that send in [`sending`] and about groups in [`groups`], those that end a run in `settle.rs`.

mod groups;
mod keys;
mod sending;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tern_proto::key::Key;
use tern_proto::v1::{self, KeyOrder};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::event::{Reply, Request, What};
use crate::long_link::Lost;
use crate::wire::{Hint, Path, Wire};

/// Which links a device prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Habit {
    /// The long link; the short one while that is down.
    Long,
    /// Packets over HTTP.
    Packets,
    /// JSON over HTTP.
    Json,
    /// Any, from request to request.
    Switching,
}

/// How a client behaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manner {
    /// Its links.
    pub(crate) habit: Habit,
    /// Whether it starts at the heads.
    pub(crate) at_heads: bool,
    /// The other users.
    pub(crate) peers: Vec<String>,
    /// One text in so many is a long one.
    pub(crate) one_is_long_in: u32,
    /// The longest pause between two steps; half of it on average. It bounds the history of a long run.
    pub(crate) pace: Duration,
    /// The same, once it has found its way: a slow device meets holes.
    pub(crate) later_pace: Duration,
    /// Its random choices.
    pub(crate) seed: u64,
}

/// A client at work.
pub(crate) struct Actor {
    /// Its links and its record.
    pub(crate) wire: Wire,
    manner: Manner,
    rng: fastrand::Rng,
}

/// After so many steps a device has a key and has acknowledged something.
const FIRST_STEPS: u32 = 30;
/// The longest wait for a hint.
const LINGER: Duration = Duration::from_millis(80);
/// Pages that are fetched in one go at most; a run that needs more goes on in a later step.
const PAGES: usize = 32;

impl Actor {
    /// A client that goes on from the wire's state.
    pub(crate) fn new(wire: Wire, manner: Manner) -> Actor {
        let rng = fastrand::Rng::with_seed(manner.seed);
        Actor { wire, manner, rng }
    }

    /// Acts until it is told to stop; a step that is under way is finished.
    pub(crate) async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        let mut steps = 0;
        while !*stop.borrow() {
            steps += 1;
            let pace = if steps < FIRST_STEPS { self.manner.pace } else { self.manner.later_pace };
            let pause = match Box::pin(self.step()).await {
                Ok(()) => pace.mul_f64(self.rng.f64()),
                Err(Lost) => Duration::from_millis(self.rng.u64(5..60)),
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn step(&mut self) -> Result<(), Lost> {
        self.start().await?;
        if !self.wire.is_open() && self.uses_long_link() && self.chance(0.6) {
            self.connect().await?;
        }
        match self.rng.u32(0..106) {
            0..26 => self.send_new().await?,
            26..46 => self.sync().await?,
            46..58 => self.linger().await,
            58..66 => self.ack().await?,
            66..71 => self.resend_settled().await?,
            71..75 => self.send_conflict().await?,
            75..78 => self.send_refused().await?,
            78..84 => self.read().await?,
            84..88 => self.check().await?,
            88..91 => self.look_back().await?,
            91..94 => self.peek_on().await?,
            94..98 => self.present_wrong_key().await?,
            98..104 => self.ask_about().await?,
            _ => self.wire.close(),
        }
        self.take_hints().await
    }

    fn uses_long_link(&self) -> bool {
        matches!(self.manner.habit, Habit::Long | Habit::Switching)
    }

    /// The link for the next request.
    fn path(&mut self) -> Path {
        let (fallback, stays) = (if self.chance(0.5) { Path::Packets } else { Path::Json }, self.chance(0.5));
        match self.manner.habit {
            Habit::Packets => Path::Packets,
            Habit::Json => Path::Json,
            Habit::Long if self.wire.is_open() => Path::Long,
            Habit::Switching if self.wire.is_open() && stays => Path::Long,
            Habit::Long | Habit::Switching => fallback,
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.rng.f64() < probability
    }

    /// Opens the long link, with all the variants of a hello, and with or without a sync behind it.
    async fn connect(&mut self) -> Result<(), Lost> {
        let with_key = !self.chance(0.1);
        let key = self.wire.state.key.clone().filter(|_| with_key);
        let hello = v1::HelloRequest { protocol: 1, key, peek: self.chance(0.3), ..Default::default() };
        let mut requests = vec![Request::Hello(hello)];
        let presented = self.wire.state.key.clone();
        if self.chance(0.3) {
            requests.push(Request::Sync(v1::SyncRequest { key: presented.clone(), ..Default::default() }));
        }
        let mut answers = self.wire.open(requests).await.into_iter();
        let Some(Some((_, Reply::Hello(_)))) = answers.next() else {
            self.wire.close();
            return Err(Lost);
        };
        if let Some(Some((n, Reply::Sync(reply)))) = answers.next() {
            self.apply_page(n, presented, &reply);
        } else if self.chance(0.4) {
            // No delta may come before a sync has ended.
            self.linger().await;
        }
        Ok(())
    }

    /// Takes its start, if it is one of those that start at the heads and has none yet.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn start(&mut self) -> Result<(), Lost> {
        if self.wire.state.key.is_some() || !self.manner.at_heads {
            return Ok(());
        }
        let start = v1::Start::Heads as i32;
        let hello = v1::HelloRequest { protocol: 1, start, ..Default::default() };
        let path = if self.manner.habit == Habit::Json { Path::Json } else { Path::Packets };
        if let (_, Reply::Hello(v1::HelloReply { key: Some(key), .. })) =
            self.wire.ask(path, Request::Hello(hello)).await?
        {
            self.wire.record(What::Replaced { key });
        }
        Ok(())
    }

    /// Takes the place of its own long link, and syncs there until nothing more comes.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn take_over(&mut self) -> Result<(), Lost> {
        let key = self.wire.state.key.clone();
        let hello = v1::HelloRequest { protocol: 1, key, ..Default::default() };
        let answer = self.wire.open_over(vec![Request::Hello(hello)]).await.pop().flatten();
        let Some((_, Reply::Hello(_))) = answer else { return Err(Lost) };
        while self.sync_once(Path::Long, false, 0).await? {}
        self.wire.hints.clear();
        Ok(())
    }

    /// Fetches pages and applies them; now and then it stops before the end.
    async fn sync(&mut self) -> Result<(), Lost> {
        let limit = [0, 0, 1, 2, 5, 50, 1000][self.rng.usize(0..7)];
        let patient = !self.chance(0.2);
        for _ in 0..PAGES {
            let path = self.path();
            let peek = self.chance(0.3);
            if !self.sync_once(path, peek, limit).await? || !patient {
                break;
            }
        }
        Ok(())
    }

    /// Fetches and applies one page; true if there is more. A device that has no key yet starts with its first page.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn sync_once(&mut self, path: Path, peek: bool, limit: u32) -> Result<bool, Lost> {
        let key = self.wire.state.key.clone();
        let request = v1::SyncRequest { key: key.clone(), peek, limit };
        let (n, Reply::Sync(reply)) = self.wire.ask(path, Request::Sync(request)).await? else { return Ok(false) };
        Ok(self.apply_page(n, key, &reply))
    }

    /// Applies a page to the key that was presented for it; true if there is more.
    fn apply_page(&mut self, n: u64, presented: Option<v1::SyncKey>, reply: &v1::SyncReply) -> bool {
        let Some(key) = reply.key.clone() else { return false };
        if reply.key_order() != KeyOrder::None {
            self.wire.record(What::Replaced { key });
            return true;
        }
        let merged = merged(presented.as_ref(), &key);
        self.wire.record(What::Applied { from: n, key: merged });
        !reply.more.is_empty()
    }

    /// Waits for hints; they are looked at after the step.
    async fn linger(&mut self) {
        let until = Instant::now() + LINGER.mul_f64(self.rng.f64());
        self.wire.listen(until).await;
    }

    /// Applies the deltas that fit; anything else means one more sync, now or in a later step.
    async fn take_hints(&mut self) -> Result<(), Lost> {
        let mut owed = false;
        while let Some(hint) = self.wire.hints.pop_front() {
            match hint {
                Hint::Delta(n, v1::Delta { before: Some(before), after: Some(after), .. })
                    if self.wire.state.key.as_ref().map(Key::from) == Some(Key::from(&before)) =>
                {
                    self.wire.record(What::Applied { from: n, key: after });
                }
                Hint::Delta(..) | Hint::Notify => owed = true,
            }
        }
        if owed && self.chance(0.8) {
            let path = if self.wire.is_open() { Path::Long } else { self.path() };
            self.sync_once(path, false, 0).await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Lost> {
        let known: Vec<(String, u64)> = self.wire.state.heads.clone().into_iter().collect();
        let Some((conversation, head)) = self.rng.choice(known) else { return Ok(()) };
        let (conversation, seq) = match self.rng.u32(0..20) {
            0..10 => (conversation, head),
            10..14 => (conversation, self.rng.u64(1..=head)),
            14..16 => (conversation, head + self.rng.u64(1..4)),
            16..18 => (conversation, head + 1_000_000),
            _ => (self.foreign_conversation(), 1),
        };
        let path = self.path();
        self.wire.ask(path, Request::Read(v1::ReadRequest { conversation, seq })).await?;
        Ok(())
    }

    /// A conversation of two other users.
    fn foreign_conversation(&mut self) -> String {
        match self.manner.peers.as_slice() {
            [a, b, ..] => crate::model::content::conversation(a, b),
            _ => "nobody:noone".into(),
        }
    }

    /// Asks whether something lies above its key, acknowledging nothing.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn check_now(&mut self) -> Result<(), Lost> {
        let request = v1::CheckRequest { key: self.wire.state.key.clone(), peek: true, wait_ms: 0 };
        let path = self.path();
        self.wire.ask(path, Request::Check(request)).await?;
        Ok(())
    }

    async fn check(&mut self) -> Result<(), Lost> {
        let Some(key) = self.wire.state.key.clone() else { return Ok(()) };
        let wait_ms = if self.chance(0.3) { self.rng.u32(1..120) } else { 0 };
        let request = v1::CheckRequest { key: Some(key), peek: self.chance(0.4), wait_ms };
        let path = self.path();
        self.wire.ask(path, Request::Check(request)).await?;
        Ok(())
    }
}

/// The presented key with each class raised to that of the page.
fn merged(presented: Option<&v1::SyncKey>, page: &v1::SyncKey) -> v1::SyncKey {
    let Some(presented) = presented else { return page.clone() };
    let mut key = Key::from(presented);
    key.merge(&Key::from(page));
    v1::SyncKey::from(&key)
}
