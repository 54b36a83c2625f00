//! Times spread evenly, to the microsecond, or in bursts. The runtime's own timer knows milliseconds, and a whole one would be most
//! of what is measured.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::sync::Notify;

use crate::link::Hub;

/// A clock that ticks, and with each tick tells how many of the things that it paces are due.
#[derive(Debug)]
pub(crate) struct Pacer {
    shared: Arc<Shared>,
    began: u64,
    interval: Duration,
    per_tick: f64,
    /// Times that were handed out.
    times: u64,
}

/// What the pacer and its thread share.
#[derive(Debug, Default)]
struct Shared {
    ticks: AtomicU64,
    ticked: Notify,
    ended: AtomicBool,
}

impl Pacer {
    /// Paces `rate` things a second; what falls into one `grain` is due together at its end. The first tick comes after one interval.
    pub(crate) fn start(hub: &Hub, rate: f64, grain: Duration) -> std::io::Result<Pacer> {
        let interval = Duration::from_secs_f64(1.0 / rate).max(Duration::from_micros(1)).max(grain);
        let per_tick = rate * interval.as_secs_f64();
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let shared = Arc::<Shared>::default();
        let began = hub.now();
        let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
        let spec = Timespec { tv_sec: seconds, tv_nsec: interval.subsec_nanos().into() };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: spec, it_value: spec })?;
        let pacer = Pacer { shared: Arc::clone(&shared), began, interval, per_tick, times: 0 };
        // A thread, because it can wait for the timer as it is; it ends with the first tick after the pacer.
        thread::Builder::new().name("bench-pacer".into()).spawn(move || tick(&timer, &shared))?;
        Ok(pacer)
    }

    /// Waits until something is due; the scheduled times of all that is, by the run's clock.
    pub(crate) async fn due(&mut self) -> impl Iterator<Item = u64> + use<> {
        let first = self.times + 1;
        while self.times < first {
            self.shared.ticked.notified().await;
            // A little more, because the product may lie a little below a whole number.
            self.times = (self.shared.ticks.load(Ordering::Acquire) as f64 * self.per_tick + 1e-6) as u64;
        }
        let (began, interval, per_tick) = (self.began, self.interval.as_nanos() as f64, self.per_tick);
        (first..=self.times).map(move |time| began + ((time as f64 / per_tick - 1e-6).ceil() * interval) as u64)
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
    }
}

fn tick(timer: &OwnedFd, shared: &Shared) {
    let mut ticks = [0; 8];
    while !shared.ended.load(Ordering::Acquire) && rustix::io::read(timer, &mut ticks).is_ok() {
        shared.ticks.fetch_add(u64::from_ne_bytes(ticks), Ordering::Release);
        shared.ticked.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_evenly_spread_none_is_left_out_and_none_comes_early() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let hub = Hub::new();
            let mut pacer = Pacer::start(&hub, 10_000.0, Duration::ZERO).unwrap();
            let times = take(&mut pacer, &hub, 50).await;
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 100_000), "{times:?}");
        });
    }

    #[test]
    fn what_falls_into_one_grain_is_due_at_its_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let hub = Hub::new();
            let mut pacer = Pacer::start(&hub, 2_500.0, Duration::from_millis(1)).unwrap();
            let times = take(&mut pacer, &hub, 20).await;
            let grain = |time: &u64| (time - pacer.began) / 1_000_000;
            let grains = times.iter().map(grain).collect::<Vec<_>>();
            assert_eq!(grains[..10], [1, 1, 2, 2, 2, 3, 3, 4, 4, 4]);
            assert!(times.iter().all(|time| (time - pacer.began).is_multiple_of(1_000_000)), "{times:?}");
        });
    }

    /// The first times, none of which may lie ahead of the clock.
    async fn take(pacer: &mut Pacer, hub: &Hub, count: usize) -> Vec<u64> {
        let mut times = Vec::new();
        while times.len() < count {
            times.extend(pacer.due().await);
            assert!(times.last().is_some_and(|time| *time <= hub.now()));
        }
        times
    }
}
