//! What waits for the writer, and when the writer begins.
//!
//! A sync costs the same for one op as for a thousand. So whoever finds nobody waiting does not wake the writer at once: it *leads*, which means
//! that it lets all tasks run that are ready, so that their ops join its own, and then calls the writer. Where nothing else is
//! ready that is a moment; under load it makes the batches as large as the load has them. No timer is in it: only lazy ops have one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::upkeep::Upkeep;
use crate::{LAZY, Op, Outcome};

/// Jobs that may wait; beyond them commits are refused as unavailable.
const QUEUE: usize = 16 * 1024;
/// Jobs of one batch, and lazy ones that are too many to wait for company. All of a batch are answered together.
const BATCH: usize = 4096;
/// How often the one that leads lets the others run. Once lets those run that are ready; what the network has brought meanwhile is only then
/// looked at, and is let run by the next.
const ROUNDS: usize = 2;

/// Something to commit, and where to tell what became of it.
pub(super) struct Job {
    pub work: Work,
    pub reply: oneshot::Sender<Vec<Outcome>>,
}

/// What is to be committed.
pub(super) enum Work {
    /// One call of [`crate::Storage::commit`].
    Ops(Vec<Op>),
    /// What retention has to say.
    Upkeep(Vec<Upkeep>),
}

impl Job {
    /// Whether it may wait for another one to travel with.
    fn is_lazy(&self) -> bool {
        let Work::Ops(ops) = &self.work else { return false };
        ops.iter().all(Op::is_lazy)
    }
}

/// Hands jobs to the writer until it is closed.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Go first: they have waited longer.
    lazy: Vec<Job>,
    eager: Vec<Job>,
    /// When the oldest of the lazy ones has waited long enough.
    lazy_due: Option<Instant>,
    /// Somebody leads, and will call.
    led: bool,
    /// The writer was called and has not come yet.
    called: bool,
    closed: bool,
}

/// Calls the writer when dropped, whatever becomes of the one that leads.
#[must_use]
pub(super) struct Lead(Arc<Queue>);

/// The writer's end. When it goes, everything that waits is given up.
pub(super) struct Jobs(Arc<Queue>);

impl Queue {
    /// The queue and its other end.
    pub(super) fn new() -> (Arc<Queue>, Jobs) {
        let queue = Arc::new(Queue::default());
        (queue.clone(), Jobs(queue))
    }

    /// Puts a job into the queue. Whoever gets a [`Lead`] has to call the writer.
    ///
    /// # Errors
    /// The job, if too many wait or the queue is closed.
    pub(super) fn submit(self: &Arc<Queue>, job: Job) -> Result<Option<Lead>, Job> {
        let mut state = self.state();
        if state.closed || state.lazy.len() + state.eager.len() >= QUEUE {
            return Err(job);
        }
        if job.is_lazy() {
            state.lazy.push(job);
            if state.lazy_due.is_none() || state.lazy.len() == BATCH {
                let wait = if state.lazy.len() < BATCH { LAZY } else { Duration::ZERO };
                state.lazy_due = Some(Instant::now() + wait);
                // It sleeps without a thought of these.
                self.changed.notify_one();
            }
            return Ok(None);
        }
        state.eager.push(job);
        let leads = !std::mem::replace(&mut state.led, true);
        Ok(leads.then(|| Lead(self.clone())))
    }

    /// Nothing more is taken; what waits is still done.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Every change is whole, so a panic elsewhere leaves nothing to repair.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    /// Calls the writer after what is ready has run. In a task of its own: the one that leads may be polled at any time for other reasons, or not at all.
    pub(super) fn call(self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for _ in 0..ROUNDS {
                    tokio::task::yield_now().await;
                }
                drop(self);
            });
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.led, state.called) = (false, true);
        self.0.changed.notify_one();
    }
}

impl Jobs {
    /// Waits until the writer is called, lazy jobs are due, or `idle` has passed, which gives none. `None` at the end, when nothing waits any more.
    pub(super) fn next(&self, idle: Duration) -> Option<Vec<Job>> {
        let until = Instant::now() + idle;
        let mut state = self.0.state();
        loop {
            let now = Instant::now();
            if state.called || state.closed || state.lazy_due.is_some_and(|due| due <= now) {
                break;
            }
            let wake = state.lazy_due.map_or(until, |due| due.min(until));
            if wake <= now {
                return Some(Vec::new());
            }
            let waited = self.0.changed.wait_timeout(state, wake - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut batch = std::mem::take(&mut state.lazy);
        let eager = state.eager.len().min(BATCH);
        batch.extend(state.eager.drain(..eager));
        (state.called, state.lazy_due) = (!state.eager.is_empty() && state.called, None);
        (!batch.is_empty() || !state.closed).then_some(batch)
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        (state.lazy, state.eager) = (Vec::new(), Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use tern_proto::{DeviceId, UserId, v1};

    use super::*;
    use crate::{Content, Device};

    const SOON: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    fn job(op: Op) -> Job {
        Job { work: Work::Ops(vec![op]), reply: oneshot::channel().0 }
    }

    fn device() -> Device {
        Device { user: UserId::new("alice").unwrap(), id: DeviceId::new("d").unwrap() }
    }

    fn eager() -> Job {
        let content = Content::Refused { code: v1::Code::BadRecipient, hash: 1 };
        job(Op::Send { from: device(), client_msg_id: 1, content, time_ms: 0 })
    }

    fn lazy() -> Job {
        job(Op::Ack { device: device(), epoch: 1, versions: [None, None], time_ms: 0 })
    }

    fn submit(queue: &Arc<Queue>, job: Job) -> Option<Lead> {
        queue.submit(job).unwrap_or_else(|_| panic!("it is full"))
    }

    #[test]
    fn the_first_leads_and_the_others_travel_with_it() {
        let (queue, jobs) = Queue::new();
        let lead = submit(&queue, eager()).expect("nobody was there");
        assert!(submit(&queue, eager()).is_none());
        assert_eq!(jobs.next(SOON).unwrap().len(), 0, "it was not called");
        drop(lead);
        assert_eq!(jobs.next(LONG).unwrap().len(), 2);
        assert!(submit(&queue, eager()).is_some(), "the next batch has a lead of its own");
    }

    #[tokio::test]
    async fn what_is_ready_travels_with_the_one_that_leads() {
        let (queue, jobs) = Queue::new();
        let submits = |queue: Arc<Queue>| async move { submit(&queue, eager()).map(Lead::call) };
        let tasks: Vec<_> = (0..100).map(|_| tokio::spawn(submits(queue.clone()))).collect();
        let batch = tokio::task::spawn_blocking(move || jobs.next(LONG).unwrap().len());
        assert_eq!(batch.await.unwrap(), 100);
        drop(tasks);
    }

    #[test]
    fn many_jobs_are_several_batches() {
        let (queue, jobs) = Queue::new();
        drop(submit(&queue, eager()));
        let leads: Vec<_> = (0..2 * BATCH).filter_map(|_| submit(&queue, eager())).collect();
        assert_eq!(leads.len(), 1);
        drop(leads);
        let sizes: Vec<usize> = (0..3).map(|_| jobs.next(LONG).unwrap().len()).collect();
        assert_eq!(sizes, [BATCH, BATCH, 1]);
        assert_eq!(jobs.next(SOON).unwrap().len(), 0);
        (0..BATCH).for_each(|_| assert!(submit(&queue, lazy()).is_none()));
        assert_eq!(jobs.next(Duration::ZERO).unwrap().len(), BATCH, "so many do not wait");
    }

    #[test]
    fn lazy_jobs_wait_for_company_but_not_for_long() {
        let (queue, jobs) = Queue::new();
        assert!(submit(&queue, lazy()).is_none());
        let began = Instant::now();
        assert_eq!(jobs.next(LONG).unwrap().len(), 1);
        assert!(began.elapsed() < LONG / 2);
        assert!(submit(&queue, lazy()).is_none());
        drop(submit(&queue, eager()));
        let batch = jobs.next(LONG).unwrap();
        assert_eq!(batch.iter().map(Job::is_lazy).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_waits_at_the_close_is_done_and_nothing_more_is_taken() {
        let (queue, jobs) = Queue::new();
        submit(&queue, lazy());
        let lead = submit(&queue, eager());
        queue.close();
        assert!(queue.submit(eager()).is_err());
        assert_eq!(jobs.next(LONG).unwrap().len(), 2);
        assert!(jobs.next(LONG).is_none());
        drop(lead);
        assert!(jobs.next(LONG).is_none());
    }

    #[test]
    fn a_full_queue_refuses_and_a_writer_that_dies_answers_nobody() {
        let (queue, jobs) = Queue::new();
        for _ in 0..QUEUE {
            submit(&queue, lazy());
        }
        assert!(queue.submit(eager()).is_err());
        assert_eq!(jobs.next(LONG).unwrap().len(), QUEUE);
        let (reply, mut outcome) = oneshot::channel();
        submit(&queue, Job { reply, ..lazy() });
        drop(jobs);
        assert!(outcome.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(queue.submit(lazy()).is_err());
    }
}
