//! Work that is merged while it waits: per key at most one run at a time and at most one per pace, the first at once, the last always.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

/// What is done, per key.
#[async_trait]
pub(crate) trait Job: Send + Sync + 'static {
    /// Runs of different keys do not wait for each other.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// What is to be done.
    type Work: Send + 'static;

    /// Adds more to what waits. What waits does not grow without bound: either it is merged into one, or each piece belongs to
    /// a request that waits for it.
    fn merge(waiting: &mut Self::Work, more: Self::Work);

    /// Does all that waited. Reports its own errors; the work is gone either way. Tells what it has learned for what has come in the meantime, if anything has:
    /// it is merged with that.
    async fn run(&self, key: &Self::Key, work: Self::Work) -> Option<Self::Work>;
}

/// Runs a [`Job`].
///
/// The map holds one key, and there is one task, for each key that had work within the last pace or whose run is under way: as many
/// as there are busy devices. Quiet keys leave.
pub(crate) struct Paced<J: Job> {
    job: J,
    pace: Duration,
    /// `None`: the key has a task and nothing waits.
    waiting: Mutex<HashMap<J::Key, Option<J::Work>>>,
    /// Told when the map becomes empty.
    quiet: Notify,
}

impl<J: Job> Paced<J> {
    /// At most one run per `pace` and key, counted from the end of a run.
    pub(crate) fn new(job: J, pace: Duration) -> Arc<Paced<J>> {
        Arc::new(Paced { job, pace, waiting: Mutex::default(), quiet: Notify::new() })
    }

    /// Adds work; it runs now, or merged with what else comes before the next run. Needs a Tokio runtime.
    pub(crate) fn add(self: &Arc<Paced<J>>, key: J::Key, work: J::Work) {
        match self.waiting().entry(key.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Some(work));
                tokio::spawn(self.clone().run(key));
            }
            Entry::Occupied(mut occupied) => match occupied.get_mut() {
                Some(waiting) => J::merge(waiting, work),
                none => *none = Some(work),
            },
        }
    }

    /// Returns once no key has work and none ran within the last pace.
    pub(crate) async fn quiet(&self) {
        loop {
            let quiet = self.quiet.notified();
            if self.waiting().is_empty() {
                return;
            }
            quiet.await;
        }
    }

    async fn run(self: Arc<Paced<J>>, key: J::Key) {
        let _leaving = Leaving { paced: &self, key: &key };
        while let Some(work) = self.take(&key) {
            let learned = self.job.run(&key, work).await;
            tokio::time::sleep(self.pace).await;
            if let (Some(learned), Some(Some(waiting))) = (learned, self.waiting().get_mut(&key)) {
                // What was learned is the older of the two.
                let newer = std::mem::replace(waiting, learned);
                J::merge(waiting, newer);
            }
        }
    }

    /// What waits for the key; if nothing does, the key leaves.
    fn take(&self, key: &J::Key) -> Option<J::Work> {
        let mut waiting = self.waiting();
        let work = waiting.get_mut(key)?.take();
        if work.is_none() {
            waiting.remove(key);
            if waiting.is_empty() {
                self.quiet.notify_waiters();
            }
        }
        work
    }

    /// The map is whole after every step, so a panic elsewhere leaves nothing to repair.
    fn waiting(&self) -> MutexGuard<'_, HashMap<J::Key, Option<J::Work>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a key whose job has panicked out of the map: else its later work would wait for a run that never comes.
struct Leaving<'a, J: Job> {
    paced: &'a Paced<J>,
    key: &'a J::Key,
}

impl<J: Job> Drop for Leaving<'_, J> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What waits goes with it: whoever waits for that is told by its end.
            self.paced.waiting().insert(self.key.clone(), None);
            self.paced.take(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const PACE: Duration = Duration::from_millis(250);

    /// When it ran, for which key, with what.
    type Run = (Duration, &'static str, u64);

    struct Noting {
        since: Instant,
        runs: Arc<Mutex<Vec<Run>>>,
    }

    #[async_trait]
    impl Job for Noting {
        type Key = &'static str;
        type Work = u64;

        fn merge(waiting: &mut u64, more: u64) {
            *waiting = (*waiting).max(more);
        }

        async fn run(&self, key: &&'static str, work: u64) -> Option<u64> {
            self.runs.lock().unwrap().push((self.since.elapsed(), key, work));
            assert_ne!(work, 666, "a job that panics");
            Some(100).filter(|_| work == 7)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_at_once_then_one_per_pace_and_the_last_always() {
        let runs: Arc<Mutex<Vec<Run>>> = Arc::default();
        let paced = Paced::new(Noting { since: Instant::now(), runs: runs.clone() }, PACE);
        for work in 1..=30 {
            paced.add("a", work);
            sleep(Duration::from_millis(20)).await;
        }
        paced.add("b", 7);
        paced.quiet().await;
        let of = |key| {
            let runs = runs.lock().unwrap();
            runs.iter().filter(|run| run.1 == key).map(|run| (run.0.as_millis(), run.2)).collect::<Vec<_>>()
        };
        let a = of("a");
        assert_eq!(a[0], (0, 1), "the first at once");
        assert!(a.windows(2).all(|pair| pair[1].0 - pair[0].0 >= PACE.as_millis()), "{a:?}");
        assert_eq!((a.len(), a[a.len() - 1].1), (4, 30), "the last always: {a:?}");
        assert_eq!(of("b"), [(600, 7)], "another key does not wait, and what is learned is no work");
        assert!(paced.waiting().is_empty(), "quiet keys leave");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_run_has_learned_goes_with_what_came_meanwhile() {
        let runs: Arc<Mutex<Vec<Run>>> = Arc::default();
        let paced = Paced::new(Noting { since: Instant::now(), runs: runs.clone() }, PACE);
        paced.add("a", 7);
        sleep(Duration::from_millis(1)).await;
        paced.add("a", 8);
        paced.quiet().await;
        assert_eq!(runs.lock().unwrap().iter().map(|run| run.2).collect::<Vec<_>>(), [7, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_whose_job_has_panicked_works_again() {
        let runs: Arc<Mutex<Vec<Run>>> = Arc::default();
        let paced = Paced::new(Noting { since: Instant::now(), runs: runs.clone() }, PACE);
        paced.add("a", 666);
        paced.quiet().await;
        paced.add("a", 1);
        paced.quiet().await;
        assert_eq!(runs.lock().unwrap().iter().map(|run| run.2).collect::<Vec<_>>(), [666, 1]);
    }
}
