//! What the clients are told to do: to send, to beat, to fill the store; at a window or at a rate.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::crowd::Crowd;
use crate::link::{Hub, Line};
use crate::outbox::Outbox;
use crate::pacer::Pacer;
use crate::phone::Phone;
use crate::tally::Tally;

/// While the store is filled: messages in one send, and unanswered of each sender.
const FILL_BATCH: usize = 64;
const FILL_WINDOW: usize = 256;

/// Evenly spread, each heartbeat would wake a server that has nothing else to do, and the wake is dearer than the heartbeat: that would
/// be a figure of the kernel. `peers` does the same.
const BEATS_GRAIN: Duration = Duration::from_millis(1);

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// Each sender keeps so many messages unanswered.
    Window(usize),
    /// All senders together send so many messages a second, evenly spread, whatever the answers do.
    Rate(f64),
    /// The one sender sends as long as less than so many messages are on the way to everybody: counted by deliveries, so that what is
    /// acknowledged and not delivered yet holds it back too.
    OnTheWay(u64),
}

/// A load that is on; ends when dropped.
pub(crate) struct Running {
    lines: Vec<Rc<Line>>,
    /// Paces the load, if a window of each sender does not.
    pace: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Puts the senders under a load.
    pub(crate) fn load(&self, load: Load) -> Result<Running> {
        let lines = self.senders.lines.clone();
        let pace = match load {
            Load::Window(window) => {
                order_outboxes(&lines, |outbox| outbox.window = window);
                None
            }
            Load::Rate(rate) => Some(pace(&self.hub, &lines, rate, Duration::ZERO, |phone, at| {
                if let Some(outbox) = &mut phone.outbox {
                    outbox.due.push_back(at);
                }
            })?),
            Load::OnTheWay(window) => Some(self.follow(window)),
        };
        Ok(Running { lines, pace })
    }

    /// Lets the first sender send another message whenever enough has been delivered.
    fn follow(&self, window: u64) -> JoinHandle<()> {
        let (hub, audience, sender) = (Rc::clone(&self.hub), self.audience, Rc::clone(&self.senders.lines[0]));
        let receivers = self.receivers.shared_tally();
        let mut sent = self.senders.tally().counts.sent;
        tokio::task::spawn_local(async move {
            loop {
                arrived(&receivers, (sent * audience + 1).saturating_sub(window * audience)).await;
                sender.order(|phone| phone.outbox.iter_mut().for_each(|outbox| outbox.due.push_back(hub.now())));
                sent += 1;
            }
        })
    }

    /// Lets the receivers send heartbeats, so many a second in all, those of a millisecond together.
    pub(crate) fn beat(&self, rate: f64) -> Result<Running> {
        let lines = self.receivers.lines.clone();
        let pace = pace(&self.hub, &lines, rate, BEATS_GRAIN, |phone, at| phone.beats.due.push_back(at))?;
        Ok(Running { lines, pace: Some(pace) })
    }

    /// Lets each receiver keep so many heartbeats on their way, with bodies of so many bytes.
    pub(crate) fn echo(&self, window: usize, bytes: usize) -> Running {
        let lines = self.receivers.lines.clone();
        lines.iter().for_each(|line| line.order(|phone| (phone.beats.window, phone.beats.bytes) = (window, bytes)));
        Running { lines, pace: None }
    }

    /// Lets the senders send so many messages as fast as the server takes them, many in one packet; returns when all of them are
    /// acknowledged, and delivered to the receivers that are connected.
    pub(crate) async fn store(&mut self, messages: u64) -> Result<()> {
        let senders = self.senders.lines.clone();
        let each = messages.div_ceil(senders.len() as u64);
        let mut left = messages;
        order_outboxes(&senders, |outbox| {
            (outbox.batch, outbox.left) = (FILL_BATCH, each.min(left));
            left -= outbox.left;
        });
        let running = self.load(Load::Window(FILL_WINDOW))?;
        self.settle().await?;
        drop(running);
        order_outboxes(&senders, |outbox| (outbox.batch, outbox.left) = (1, u64::MAX));
        Ok(())
    }

    /// Waits for so long while the links are served, and tells every second how far it is.
    pub(crate) async fn watch(&mut self, what: &str, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let mut before = self.counts();
        while Instant::now() < end {
            let second = (end - Instant::now()).min(Duration::from_secs(1));
            sleep(second).await;
            self.check()?;
            let counts = self.counts();
            let done = counts - before;
            eprintln!("{what}: {:.0} /s", (done.acked + done.beats) as f64 / second.as_secs_f64());
            before = counts;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pace) = &self.pace {
            pace.abort();
        }
        order_outboxes(&self.lines, |outbox| outbox.window = 0);
        self.lines.iter().for_each(|line| line.order(|phone| phone.beats.window = 0));
    }
}

fn order_outboxes(lines: &[Rc<Line>], mut order: impl FnMut(&mut Outbox)) {
    for line in lines {
        line.order(|phone| phone.outbox.as_mut().map(&mut order).unwrap_or_default());
    }
}

/// Waits until so many have been delivered.
async fn arrived(tally: &RefCell<Tally>, deliveries: u64) {
    while tally.borrow().counts.delivered < deliveries {
        let arrived = {
            let mut tally = tally.borrow_mut();
            tally.awaited = deliveries;
            Rc::clone(&tally.arrived)
        };
        arrived.notified().await;
    }
}

/// Gives each line in turn a scheduled time.
fn pace(
    hub: &Hub,
    lines: &[Rc<Line>],
    rate: f64,
    grain: Duration,
    schedule: fn(&mut Phone, u64),
) -> Result<JoinHandle<()>> {
    let lines = lines.to_vec();
    let mut pacer = Pacer::start(hub, rate, grain)?;
    Ok(tokio::task::spawn_local(async move {
        let mut turns = lines.iter().cycle();
        loop {
            match pacer.due().await {
                Ok(due) => due.zip(&mut turns).for_each(|(at, line)| line.order(|phone| schedule(phone, at))),
                Err(error) => return eprintln!("bench: the load stops, its timer is broken: {error}"),
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn deliveries_are_waited_for_whatever_was_waited_for_before() {
        let tally = RefCell::<Tally>::default();
        let mut context = Context::from_waker(Waker::noop());
        let deliver = |times: usize| (0..times).for_each(|_| tally.borrow_mut().delivered(0, 0));
        assert!(pin!(arrived(&tally, 2)).as_mut().poll(&mut context).is_pending());
        deliver(2);

        let mut five = pin!(arrived(&tally, 5));
        assert!(five.as_mut().poll(&mut context).is_pending(), "what came was for one that waits no more");
        deliver(2);
        assert!(five.as_mut().poll(&mut context).is_pending());
        deliver(1);
        assert!(five.as_mut().poll(&mut context).is_ready());
        assert!(pin!(arrived(&tally, 5)).as_mut().poll(&mut context).is_ready(), "they have come already");
    }
}
