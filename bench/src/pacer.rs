//! Times spread evenly, to the microsecond, or in bursts. The runtime's own timer knows milliseconds, and a whole one would be most
//! of what is measured.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::link::Hub;

/// A clock that ticks, and with each tick tells how many of the things that it paces are due.
#[derive(Debug)]
pub(crate) struct Pacer {
    timer: AsyncFd<OwnedFd>,
    began: u64,
    interval: Duration,
    per_tick: f64,
    ticks: u64,
    /// Times that were handed out.
    times: u64,
}

impl Pacer {
    /// Paces `rate` things a second; what falls into one `grain` is due together at its end. The first tick comes after one interval.
    pub(crate) fn start(hub: &Hub, rate: f64, grain: Duration) -> io::Result<Pacer> {
        let interval = Duration::from_secs_f64(1.0 / rate).max(Duration::from_micros(1)).max(grain);
        let per_tick = rate * interval.as_secs_f64();
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let began = hub.now();
        let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
        let spec = Timespec { tv_sec: seconds, tv_nsec: interval.subsec_nanos().into() };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: spec, it_value: spec })?;
        #[expect(
            deprecated,
            reason = "sound for a descriptor that it owns, and what replaces it is an unsafe function"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Pacer { timer, began, interval, per_tick, ticks: 0, times: 0 })
    }

    /// Waits until something is due; the scheduled times of all that is, by the run's clock.
    pub(crate) async fn due(&mut self) -> io::Result<impl Iterator<Item = u64> + use<>> {
        let first = self.times + 1;
        while self.times < first {
            self.ticks += self.tick().await?;
            // A little more, because the product may lie a little below a whole number.
            self.times = (self.ticks as f64 * self.per_tick + 1e-6) as u64;
        }
        let (began, interval, per_tick) = (self.began, self.interval.as_nanos() as f64, self.per_tick);
        Ok((first..=self.times).map(move |time| began + ((time as f64 / per_tick - 1e-6).ceil() * interval) as u64))
    }

    /// Waits for a tick; how many there were since the last time.
    async fn tick(&self) -> io::Result<u64> {
        loop {
            let mut ready = self.timer.readable().await?;
            let mut ticks = [0; 8];
            if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut ticks)?)) {
                return read.map(|_| u64::from_ne_bytes(ticks));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_evenly_spread_none_is_left_out_and_none_comes_early() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let hub = Hub::new();
            let mut pacer = Pacer::start(&hub, 10_000.0, Duration::ZERO).unwrap();
            let times = take(&mut pacer, &hub, 50).await;
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 100_000), "{times:?}");
        });
    }

    #[test]
    fn what_falls_into_one_grain_is_due_at_its_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
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
            times.extend(pacer.due().await.unwrap());
            assert!(times.last().is_some_and(|time| *time <= hub.now()));
        }
        times
    }
}
