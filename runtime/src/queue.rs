//! What waits for a lane. Lanes are tasks that each do one batch at a time: what arrives while they are busy is the next batch of whichever is free first.
//!
//! No timer is in it but that of lazy jobs, which wait a little for others to travel with.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{By, Gauge, Histogram, Metrics, sizes};

/// Jobs that may wait; one more is refused.
const QUEUE: usize = 16 * 1024;
/// How often a lane that was woken lets the tasks run that are ready, so that their jobs come along.
const ROUNDS: usize = 2;

/// Lets the tasks run that are ready, so that what they are about to ask for comes along with what is there.
pub async fn let_others_run() {
    for _ in 0..ROUNDS {
        tokio::task::yield_now().await;
    }
}

/// What is counted of the queues of a process, by their names.
#[derive(Clone)]
pub struct Meters {
    waiting: By<Gauge>,
    batches: By<Histogram>,
}

impl Default for Meters {
    fn default() -> Meters {
        Meters { waiting: By::default(), batches: By::new_with_constructor(sizes) }
    }
}

/// What is counted of a queue, or of several that have a name together.
#[derive(Clone)]
pub struct Meter {
    waiting: Gauge,
    batches: Histogram,
}

impl Meters {
    /// That of this name.
    pub fn of(&self, queue: &'static str) -> Meter {
        let name = [("queue", queue)];
        Meter { waiting: self.waiting.get_or_create_owned(&name), batches: self.batches.get_or_create_owned(&name) }
    }

    /// Reports them.
    pub fn report_to(&self, metrics: &mut Metrics) {
        metrics.register("tern_queue_waiting", "Jobs that wait for a lane", self.waiting.clone());
        metrics.register("tern_queue_batch", "Jobs that a lane took at once", self.batches.clone());
    }
}

/// Jobs for lanes.
pub struct Queue<J> {
    meter: Meter,
    state: Mutex<State<J>>,
    /// Wakes one lane, or is remembered for the next that waits.
    changed: Notify,
    batch: usize,
    lazy: Duration,
}

struct State<J> {
    /// Go first: they have waited longer.
    lazy: VecDeque<J>,
    eager: VecDeque<J>,
    /// When the oldest of the lazy ones has waited long enough.
    lazy_due: Option<Instant>,
    closed: bool,
}

impl<J> Queue<J> {
    /// A queue that hands out at most so many jobs at a time, and keeps lazy ones waiting for so long.
    pub fn new(batch: usize, lazy: Duration, meter: Meter) -> Queue<J> {
        let state = State { lazy: VecDeque::new(), eager: VecDeque::new(), lazy_due: None, closed: false };
        Queue { meter, state: Mutex::new(state), changed: Notify::new(), batch, lazy }
    }

    /// Puts a job into the queue.
    ///
    /// # Errors
    /// The job, if too many wait or the queue is closed.
    pub fn submit(&self, job: J, is_lazy: bool) -> Result<(), J> {
        let mut state = self.state();
        if state.closed || state.lazy.len() + state.eager.len() >= QUEUE {
            return Err(job);
        }
        self.meter.waiting.inc();
        if is_lazy {
            state.lazy.push_back(job);
            if state.lazy_due.is_some() && state.lazy.len() < self.batch {
                return Ok(());
            }
            let now = Instant::now();
            state.lazy_due = Some(if state.lazy.len() < self.batch { now + self.lazy } else { now });
        } else {
            state.eager.push_back(job);
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for jobs. `None` at the end: closed, and nothing waits any more.
    pub async fn next(&self) -> Option<Vec<J>> {
        loop {
            let due = {
                let state = self.state();
                if state.closed || !state.eager.is_empty() || state.lazy_due.is_some_and(|due| due <= Instant::now()) {
                    break;
                }
                state.lazy_due
            };
            match due {
                // A lane that waits for another job hears of lazy ones too, so one of them is always here.
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
        let_others_run().await;
        self.take()
    }

    fn take(&self) -> Option<Vec<J>> {
        let mut state = self.state();
        let lazy = state.lazy.len().min(self.batch);
        let mut jobs: Vec<J> = state.lazy.drain(..lazy).collect();
        let eager = state.eager.len().min(self.batch - lazy);
        jobs.extend(state.eager.drain(..eager));
        state.lazy_due = (!state.lazy.is_empty()).then(Instant::now);
        let is_closed = state.closed;
        if !state.eager.is_empty() || !state.lazy.is_empty() || is_closed {
            self.changed.notify_one();
        }
        drop(state);
        if !jobs.is_empty() {
            self.meter.waiting.dec_by(jobs.len() as i64);
            self.meter.batches.observe(jobs.len() as f64);
        }
        (!jobs.is_empty() || !is_closed).then_some(jobs)
    }

    /// Nothing more is taken; what waits is still handed out.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Nothing more is taken, and what waits is dropped.
    pub fn close_now(&self) {
        let dropped = {
            let mut state = self.state();
            state.closed = true;
            (std::mem::take(&mut state.lazy), std::mem::take(&mut state.eager))
        };
        self.meter.waiting.dec_by((dropped.0.len() + dropped.1.len()) as i64);
        drop(dropped);
        self.changed.notify_one();
    }

    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAZY: Duration = Duration::from_millis(50);

    fn queue() -> Queue<u32> {
        Queue::new(4, LAZY, Meters::default().of("test"))
    }

    fn submit(queue: &Queue<u32>, job: u32, is_lazy: bool) {
        queue.submit(job, is_lazy).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn lazy_jobs_wait_for_company_but_not_for_long() {
        let queue = queue();
        submit(&queue, 1, true);
        let began = Instant::now();
        assert_eq!(queue.next().await, Some(vec![1]));
        assert_eq!(began.elapsed(), LAZY);
        submit(&queue, 2, true);
        submit(&queue, 3, false);
        assert_eq!(queue.next().await, Some(vec![2, 3]));
        assert_eq!(began.elapsed(), LAZY, "an eager one is not kept waiting");
        (10..14).for_each(|job| submit(&queue, job, true));
        assert_eq!(queue.next().await, Some(vec![10, 11, 12, 13]), "so many do not wait");
        assert_eq!(began.elapsed(), LAZY);
    }

    #[tokio::test(start_paused = true)]
    async fn many_jobs_are_several_batches_for_several_lanes() {
        let queue = std::sync::Arc::new(queue());
        let lane = |queue: std::sync::Arc<Queue<u32>>| async move { queue.next().await.unwrap().len() };
        let lanes = [tokio::spawn(lane(queue.clone())), tokio::spawn(lane(queue.clone()))];
        tokio::task::yield_now().await;
        (0..6).for_each(|job| submit(&queue, job, false));
        let mut sizes = Vec::new();
        for lane in lanes {
            sizes.push(tokio::time::timeout(Duration::from_secs(1), lane).await.unwrap().unwrap());
        }
        sizes.sort_unstable();
        assert_eq!(sizes, [2, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_at_the_close_is_handed_out_and_every_lane_ends() {
        let queue = queue();
        (0..5).for_each(|job| submit(&queue, job, job % 2 == 0));
        queue.close();
        assert!(queue.submit(9, false).is_err());
        assert_eq!(queue.next().await.map(|jobs| jobs.len()), Some(4));
        assert_eq!(queue.next().await.map(|jobs| jobs.len()), Some(1));
        assert_eq!(queue.next().await, None);
        assert_eq!(queue.meter.waiting.get(), 0);
        assert_eq!(queue.next().await, None, "the next lane hears of it too");
    }

    #[test]
    fn a_full_queue_refuses() {
        let queue = queue();
        (0..QUEUE as u32).for_each(|job| submit(&queue, job, true));
        assert_eq!(queue.submit(0, false), Err(0));
        assert_eq!(queue.meter.waiting.get(), QUEUE as i64);
        queue.close_now();
        assert_eq!(queue.meter.waiting.get(), 0);
    }
}
