//! Who takes part in a run: senders, the receivers they send to, and the links of both.

use std::cell::{Ref, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::link::{Hub, Line, Link};
use crate::order::Faults;
use crate::outbox::Outbox;
use crate::phone::{Identity, Phone};
use crate::tally::{Counts, Tally};
use crate::token::mint;

/// Connections that are being opened at the same time, as long as there are more to open.
const OPENING: usize = 64;
/// Nothing at all happens for so long: what is still missing will not come.
const STALLED: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(2);

/// Senders and receivers. Each sender sends to one user, or to a group.
pub(crate) struct Crowd {
    pub(crate) senders: Group,
    pub(crate) receivers: Group,
    pub(crate) hub: Rc<Hub>,
    /// How many receivers each message goes to.
    pub(crate) audience: u64,
    links: JoinSet<Result<()>>,
}

/// Phones that are counted together.
pub(crate) struct Group {
    pub(crate) lines: Vec<Rc<Line>>,
    tally: Rc<RefCell<Tally>>,
}

impl Crowd {
    fn empty(hub: &Rc<Hub>) -> Crowd {
        let group = || Group { lines: Vec::new(), tally: Rc::default() };
        Crowd { senders: group(), receivers: group(), hub: Rc::clone(hub), audience: 1, links: JoinSet::new() }
    }

    /// As many senders as receivers, each sender with a receiver of its own.
    pub(crate) fn pairs(hub: &Rc<Hub>, secret: &[u8], pairs: usize, bytes: usize) -> Crowd {
        let mut crowd = Crowd::empty(hub);
        let run = run_name();
        for (sender, number) in (0..pairs).zip(0..) {
            let receiver = crowd.receivers.join(identity(secret, format!("{run}-r{sender}")), number, 1);
            let outbox = Outbox::new(number, receiver, bytes);
            crowd.senders.join_sender(identity(secret, format!("{run}-s{sender}")), outbox);
        }
        crowd
    }

    /// Senders that all send to one receiver.
    pub(crate) fn all_to_one(hub: &Rc<Hub>, secret: &[u8], senders: usize, bytes: usize) -> Crowd {
        let mut crowd = Crowd::empty(hub);
        let run = run_name();
        let receiver = crowd.receivers.join(identity(secret, format!("{run}-r")), 0, senders);
        for (sender, number) in (0..senders).zip(0..) {
            let outbox = Outbox::new(number, receiver.clone(), bytes);
            crowd.senders.join_sender(identity(secret, format!("{run}-s{sender}")), outbox);
        }
        crowd
    }

    /// A sender and so many receivers, who are a group as soon as all of them are connected.
    pub(crate) fn group(hub: &Rc<Hub>, secret: &[u8], receivers: usize, bytes: usize) -> Crowd {
        let mut crowd = Crowd::empty(hub);
        crowd.audience = receivers as u64;
        let run = run_name();
        let users = (0..receivers).map(|number| identity(secret, format!("{run}-r{number}")));
        let users = users.map(|identity| crowd.receivers.join(identity, 0, 1)).collect();
        crowd.senders.join_sender(identity(secret, format!("{run}-s0")), Outbox::of_group(0, users, bytes));
        crowd
    }

    /// Receivers to whom nobody sends.
    pub(crate) fn idle(hub: &Rc<Hub>, secret: &[u8], receivers: usize) -> Crowd {
        let mut crowd = Crowd::empty(hub);
        let run = run_name();
        for number in 0..receivers {
            crowd.receivers.join(identity(secret, format!("{run}-{number}")), 0, 0);
        }
        crowd
    }

    /// Receivers of a server that sends back what it gets.
    pub(crate) fn probes(hub: &Rc<Hub>, probes: usize) -> Crowd {
        let mut crowd = Crowd::empty(hub);
        for _ in 0..probes {
            let phone = Phone::probe(Rc::clone(&crowd.receivers.tally));
            crowd.receivers.add(phone);
        }
        crowd
    }

    /// Opens the links of some lines, and waits until each has said hello and synced.
    pub(crate) async fn connect(&mut self, to: &[SocketAddr], lines: &[Rc<Line>]) -> Result<()> {
        let mut opening = Vec::with_capacity(OPENING);
        for (line, to) in lines.iter().zip(to.iter().cycle()) {
            self.wait_until(&mut opening, OPENING - 1).await?;
            self.open(*to, line);
            opening.push(line);
        }
        self.wait_until(&mut opening, 0).await
    }

    fn open(&mut self, to: SocketAddr, line: &Rc<Line>) {
        let (line, hub) = (Rc::clone(line), Rc::clone(&self.hub));
        self.links.spawn_local(async move {
            let user = line.phone.borrow().user().to_owned();
            let served = async {
                let stream = hub.connect(to).await?;
                Link::new(line, hub, stream).run().await
            };
            served.await.with_context(|| format!("the link of {user}"))
        });
    }

    /// Waits until no more than so many of these links are still being opened, and leaves those.
    async fn wait_until(&mut self, opening: &mut Vec<&Rc<Line>>, most: usize) -> Result<()> {
        let deadline = Instant::now() + STALLED;
        loop {
            opening.retain(|line| !line.phone.borrow().is_ready());
            if opening.len() <= most {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!("hello and the first sync were not answered within {STALLED:?}");
            }
            sleep(POLL).await;
        }
    }

    /// Opens the links of everybody, at each of the addresses in turn.
    pub(crate) async fn connect_all(&mut self, to: &[SocketAddr]) -> Result<()> {
        let (receivers, senders) = (self.receivers.lines.clone(), self.senders.lines.clone());
        self.connect(to, &receivers).await?;
        // The two of a pair are at different gateways, if there are several.
        let mut to = to.to_vec();
        let gateways = to.len();
        to.rotate_left(1 % gateways.max(1));
        self.connect(&to, &senders).await
    }

    /// Closes every link.
    pub(crate) async fn disconnect(&mut self) -> Result<()> {
        self.everybody().for_each(|line| line.close());
        while let Some(ended) = self.links.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// # Errors
    /// A link has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.links.try_join_next() {
            Some(ended) => Err(ended?.err().unwrap_or_else(|| anyhow!("a link ended by itself"))),
            None => Ok(()),
        }
    }

    /// Waits until everything that was sent is delivered and everything asked is answered; `false` if that does not come.
    pub(crate) async fn drain(&mut self) -> Result<bool> {
        let (mut before, mut moved) = (self.counts(), Instant::now());
        loop {
            self.check()?;
            let counts = self.counts();
            // A receiver that is not here gets its messages later.
            let delivered = counts.delivered >= counts.sent * self.audience || !self.receivers.is_here();
            if delivered
                && self.everybody().all(|line| !line.phone.borrow().is_ready() || line.phone.borrow().is_quiet())
            {
                return Ok(true);
            }
            if counts != before {
                (before, moved) = (counts, Instant::now());
            } else if moved.elapsed() > STALLED {
                return Ok(false);
            }
            sleep(POLL).await;
        }
    }

    /// What was lost, doubled or reordered, once everything is delivered.
    pub(crate) fn faults(&self) -> Faults {
        let sent = |sender: u32| {
            let line = self.senders.lines.get(sender as usize);
            line.and_then(|line| line.phone.borrow().outbox.as_ref().map(Outbox::sent)).unwrap_or(0)
        };
        let mut faults = Faults::default();
        self.receivers.lines.iter().for_each(|line| faults += line.phone.borrow().faults(sent));
        faults
    }

    /// The counts of both groups together.
    pub(crate) fn counts(&self) -> Counts {
        self.senders.tally().counts + self.receivers.tally().counts
    }

    /// From now on times are kept.
    pub(crate) fn measure_from_now(&self) {
        let now = self.hub.now();
        [&self.senders, &self.receivers].into_iter().for_each(|group| group.tally.borrow_mut().measure_from(now));
    }

    /// No more times are kept.
    pub(crate) fn keep_no_more(&self) {
        [&self.senders, &self.receivers].into_iter().for_each(|group| group.tally.borrow_mut().keep_no_more());
    }

    fn everybody(&self) -> impl Iterator<Item = &Rc<Line>> {
        self.senders.lines.iter().chain(&self.receivers.lines)
    }
}

impl Group {
    pub(crate) fn tally(&self) -> Ref<'_, Tally> {
        self.tally.borrow()
    }

    /// The tally itself, for a task beside the links.
    pub(crate) fn shared_tally(&self) -> Rc<RefCell<Tally>> {
        Rc::clone(&self.tally)
    }

    pub(crate) fn tally_mut(&self) -> std::cell::RefMut<'_, Tally> {
        self.tally.borrow_mut()
    }

    fn is_here(&self) -> bool {
        self.lines.iter().any(|line| line.phone.borrow().is_ready())
    }

    /// Adds a phone; its user.
    fn join(&mut self, identity: Identity, first_sender: u32, senders: usize) -> String {
        let user = identity.user.clone();
        self.add(Phone::new(identity, first_sender, senders, Rc::clone(&self.tally)));
        user
    }

    fn join_sender(&mut self, identity: Identity, outbox: Outbox) {
        let mut phone = Phone::new(identity, 0, 0, Rc::clone(&self.tally));
        phone.outbox = Some(outbox);
        self.add(phone);
    }

    fn add(&mut self, phone: Phone) {
        self.lines.push(Line::new(phone, Rc::clone(&self.tally)));
    }
}

fn identity(secret: &[u8], user: String) -> Identity {
    Identity { token: mint(secret, &user), user }
}

/// Keeps the users of a run apart from those of earlier runs on the same server.
fn run_name() -> String {
    format!("b{:08x}", fastrand::u32(..))
}
