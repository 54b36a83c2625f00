//! One measurement: load, warm up, measure, drain, and wait until the server's background work is done.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::crowd::Crowd;
use crate::load::Load;
use crate::process::Process;
use crate::processes::{PARTS, Standing};
use crate::report::{Cost, CpuOfParts, WireBytes};
use crate::server::{Server, StoreCounts};
use crate::tally::Counts;

/// What is measured, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) load: Load,
    pub(crate) warm: Duration,
    pub(crate) time: Duration,
}

/// Both sides at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    at: Instant,
    senders: Counts,
    receivers: Counts,
    server_cpu: Duration,
    /// By [`Part::OF_CLUSTER`].
    cpu_of_parts: [Duration; PARTS],
    client_cpu: Duration,
    store: Option<StoreCounts>,
}

impl Plan {
    /// Measures the crowd's messages; also whether the server became idle behind them.
    ///
    /// # Errors
    /// A link ended, or not everything was acknowledged.
    pub(crate) async fn measure(self, server: &Server, crowd: &mut Crowd) -> Result<(Cost, bool)> {
        // With the links there: some of them are looked after from time to time.
        let standing = server.process.standing().await?;
        let (began, ended) = self.run(server, crowd).await?;
        let drained = Moment::now(server, crowd).await?;
        let idle = server.process.idle(standing).await?;
        let settled = Moment::now(server, crowd).await?.without(standing, &drained);
        let mut cost = Cost::of([began, ended, settled]);
        cost.standing_cpu_share = standing.share();
        cost.ack_ms = crowd.senders.tally_mut().ack.spread();
        cost.delivery_ms = crowd.receivers.tally_mut().delivery.spread();
        cost.server_rss_bytes = Some(server.process.resident()?);
        Ok((cost, idle))
    }

    /// Loads, measures and drains. The moments are the beginning and the end of the measurement, before the drain.
    pub(crate) async fn run(self, server: &Server, crowd: &mut Crowd) -> Result<(Moment, Moment)> {
        let running = crowd.load(self.load)?;
        crowd.watch("warming up", self.warm).await?;
        let began = Moment::now(server, crowd).await?;
        crowd.measure_from_now();
        crowd.watch("measuring", self.time).await?;
        let ended = Moment::now(server, crowd).await?;
        drop(running);
        crowd.settle().await?;
        crowd.keep_no_more();
        Ok((began, ended))
    }
}

impl Moment {
    pub(crate) async fn now(server: &Server, crowd: &Crowd) -> Result<Moment> {
        Ok(Moment {
            store: server.store_counts().await?,
            senders: crowd.senders.tally().counts,
            receivers: crowd.receivers.tally().counts,
            server_cpu: server.process.cpu()?,
            cpu_of_parts: server.process.cpu_of_parts()?,
            client_cpu: Process::own().cpu()?,
            at: Instant::now(),
        })
    }

    /// Without what the server has taken of itself since an earlier moment, as far as it has taken that: waiting for it costs no message anything.
    fn without(mut self, standing: Standing, earlier: &Moment) -> Moment {
        for (part, standing) in standing.cpu(self.at - earlier.at).into_iter().enumerate() {
            let taken = standing.min(self.cpu_of_parts[part].saturating_sub(earlier.cpu_of_parts[part]));
            self.cpu_of_parts[part] -= taken;
            self.server_cpu = self.server_cpu.saturating_sub(taken);
        }
        self
    }

    /// Messages acknowledged each second since an earlier moment.
    pub(crate) fn acked_per_s_since(&self, earlier: &Moment) -> f64 {
        (self.senders.acked - earlier.senders.acked) as f64 / (self.at - earlier.at).as_secs_f64()
    }

    /// Heartbeats answered since an earlier moment.
    pub(crate) fn beats_since(&self, earlier: &Moment) -> u64 {
        self.receivers.beats - earlier.receivers.beats
    }

    /// Seconds since an earlier moment.
    pub(crate) fn seconds_since(&self, earlier: &Moment) -> f64 {
        (self.at - earlier.at).as_secs_f64()
    }

    /// The server's processor time since an earlier moment, in seconds.
    pub(crate) fn server_cpu_since(&self, earlier: &Moment) -> f64 {
        (self.server_cpu - earlier.server_cpu).as_secs_f64()
    }

    /// The bench's own processor time since an earlier moment, in seconds.
    pub(crate) fn client_cpu_since(&self, earlier: &Moment) -> f64 {
        (self.client_cpu - earlier.client_cpu).as_secs_f64()
    }
}

impl Cost {
    /// Rates and shares are those of the measurement; what a message costs is counted to the end, over all that were acknowledged
    /// from the beginning on.
    fn of([began, ended, settled]: [Moment; 3]) -> Cost {
        let (senders, receivers) = (settled.senders - began.senders, settled.receivers - began.receivers);
        let per_message = |count: u64| count as f64 / senders.acked as f64;
        let seconds = ended.seconds_since(&began);
        let cpu = settled.server_cpu_since(&began);
        let store = began.store.zip(settled.store);
        let parts: [f64; PARTS] = std::array::from_fn(|part| {
            (settled.cpu_of_parts[part] - began.cpu_of_parts[part]).as_secs_f64() / senders.acked as f64 * 1e6
        });
        let [gateway, sync, storage, redis, nats, postgres] = parts;
        let tern = gateway + sync + storage;
        let of_parts = CpuOfParts { gateway, sync, storage, tern, redis, nats, postgres };
        Cost {
            messages: Some(senders.acked),
            acked_per_s: Some(ended.acked_per_s_since(&began)),
            deliveries_per_s: Some((ended.receivers.delivered - began.receivers.delivered) as f64 / seconds),
            server_cpu_s_per_million: Some(cpu / senders.acked as f64 * 1e6),
            cpu_s_per_million_of: (parts != [0.0; PARTS]).then_some(of_parts),
            server_cpu_s_per_million_deliveries: Some(cpu / receivers.delivered as f64 * 1e6),
            server_cpu_share: Some(ended.server_cpu_since(&began) / seconds),
            client_cpu_share: Some(ended.client_cpu_since(&began) / seconds),
            acks_per_message: Some(per_message(senders.acks + receivers.acks)),
            pushes_per_message: Some(per_message(senders.pushes + receivers.pushes)),
            fsyncs_per_message: store.map(|(before, after)| per_message(after.syncs - before.syncs)),
            log_bytes_per_message: store.map(|(before, after)| per_message(after.bytes - before.bytes)),
            dropped_per_message: store.map(|(before, after)| per_message(after.dropped - before.dropped)),
            moved_per_message: store.map(|(before, after)| per_message(after.moved - before.moved)),
            segments_freed: store.map(|(before, after)| after.segments_freed - before.segments_freed),
            wire_bytes_per_message: Some(WireBytes {
                sender_out: per_message(senders.bytes_out),
                sender_in: per_message(senders.bytes_in),
                receiver_out: per_message(receivers.bytes_out),
                receiver_in: per_message(receivers.bytes_in),
            }),
            ..Cost::default()
        }
    }
}

impl Crowd {
    /// Waits until all that was sent has come.
    ///
    /// # Errors
    /// Sends are without an answer. What was acknowledged and did not come is for [`Crowd::faults`] to tell.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        if !self.drain().await? {
            let Counts { sent, acked, .. } = self.senders.tally().counts;
            ensure!(sent == acked, "{} messages got no answer", sent - acked);
            eprintln!("not everything came");
        }
        Ok(())
    }
}
