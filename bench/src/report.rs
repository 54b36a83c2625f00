//! What a run found: one JSON object.

use serde::Serialize;

use crate::order::Faults;
use crate::samples::Spread;

/// The figures; those that a run does not have are left out.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The command.
    pub(crate) bench: &'static str,
    pub(crate) connections: Option<usize>,
    pub(crate) pairs: Option<usize>,
    pub(crate) senders: Option<usize>,
    /// Of the group, the sender included.
    pub(crate) members: Option<usize>,
    pub(crate) window: Option<usize>,
    pub(crate) rate: Option<f64>,
    pub(crate) bytes: Option<usize>,
    pub(crate) seconds: Option<f64>,

    #[serde(flatten)]
    pub(crate) cost: Cost,
    #[serde(flatten)]
    pub(crate) faults: FaultCounts,
    /// Whether the server's background work came to an end before its processor time was read.
    pub(crate) server_idle: Option<bool>,

    /// Append of 4 KiB and fdatasync on a growing file of the same disk.
    pub(crate) append_sync_ms: Option<Spread>,
    /// The acknowledgement's p50 over that of append and sync.
    pub(crate) ack_to_sync_ratio: Option<f64>,

    /// Messages in the store when `cost_ratio` was measured.
    pub(crate) stored: Option<u64>,
    /// The pairs that they are of.
    pub(crate) stored_pairs: Option<usize>,
    pub(crate) stored_per_s: Option<f64>,
    /// From the start of the process to ready, with those messages in the store.
    pub(crate) start_s: Option<f64>,
    /// The same measurement on the empty store.
    pub(crate) empty_store: Option<Cost>,
    /// Server processor time per message, full store to empty store.
    pub(crate) cost_ratio: Option<f64>,

    pub(crate) connect_s: Option<f64>,
    pub(crate) server_cpu_us_per_connect: Option<f64>,
    pub(crate) rss_bytes_per_connection: Option<f64>,
    pub(crate) heartbeats_per_s: Option<f64>,
    pub(crate) heartbeat_ms: Option<Spread>,
    pub(crate) server_cpu_s_per_million_heartbeats: Option<f64>,

    pub(crate) entries: Option<u64>,
    pub(crate) entries_per_s: Option<f64>,
    pub(crate) rss_above_idle_bytes: Option<u64>,

    /// The other pairs' acknowledgements without and with the senders to one user, and with as many senders to as many users.
    pub(crate) quiet_ack_ms: Option<Spread>,
    pub(crate) hot_ack_ms: Option<Spread>,
    pub(crate) spread_ack_ms: Option<Spread>,
    /// The p99 of `hot_ack_ms` over that of `quiet_ack_ms`.
    pub(crate) hot_to_quiet_p99: Option<f64>,
    pub(crate) hot_acked_per_s: Option<f64>,

    pub(crate) images: Option<Images>,

    pub(crate) clips: Option<Clips>,

    /// Packets of the size of a chat message through a bare echo, by window.
    pub(crate) echo: Option<Vec<Echo>>,
}

/// What messages cost and how long they take.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Cost {
    /// Acknowledged while it was measured and drained; what everything "per message" is about.
    pub(crate) messages: Option<u64>,
    pub(crate) acked_per_s: Option<f64>,
    pub(crate) deliveries_per_s: Option<f64>,
    pub(crate) ack_ms: Option<Spread>,
    pub(crate) delivery_ms: Option<Spread>,
    pub(crate) server_cpu_s_per_million: Option<f64>,
    /// Of a cluster.
    pub(crate) cpu_s_per_million_of: Option<CpuOfParts>,
    pub(crate) server_cpu_s_per_million_deliveries: Option<f64>,
    /// Of a core, while it was measured.
    pub(crate) server_cpu_share: Option<f64>,
    /// The same of the bench itself: near 1 it was the limit, and the rates say nothing.
    pub(crate) client_cpu_share: Option<f64>,
    /// What a cluster takes of a core with the links but without any load.
    pub(crate) standing_cpu_share: Option<f64>,
    pub(crate) server_rss_bytes: Option<u64>,
    pub(crate) acks_per_message: Option<f64>,
    pub(crate) pushes_per_message: Option<f64>,
    pub(crate) fsyncs_per_message: Option<f64>,
    pub(crate) log_bytes_per_message: Option<f64>,
    /// Entries that retention dropped from timelines, and those that it copied to keep them.
    pub(crate) dropped_per_message: Option<f64>,
    pub(crate) moved_per_message: Option<f64>,
    /// Segments of the log that it gave back.
    pub(crate) segments_freed: Option<u64>,
    pub(crate) wire_bytes_per_message: Option<WireBytes>,
}

/// By service; `tern` is all of Tern's own.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CpuOfParts {
    pub(crate) gateway: f64,
    pub(crate) sync: f64,
    pub(crate) storage: f64,
    pub(crate) tern: f64,
    pub(crate) redis: f64,
    pub(crate) nats: f64,
    pub(crate) postgres: f64,
}

/// By side and direction, as the clients see it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct WireBytes {
    pub(crate) sender_out: f64,
    pub(crate) sender_in: f64,
    pub(crate) receiver_out: f64,
    pub(crate) receiver_in: f64,
}

/// What was wrong; all of it must be 0.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct FaultCounts {
    pub(crate) lost: Option<u64>,
    pub(crate) duplicated: Option<u64>,
    pub(crate) out_of_order: Option<u64>,
}

/// What images cost and how long they take.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Images {
    pub(crate) part_bytes: u32,
    /// Of an image.
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    pub(crate) parts: u64,
    pub(crate) parts_per_s: f64,
    pub(crate) server_cpu_s_per_million_parts: f64,
    pub(crate) part_ms: Option<Spread>,
    /// From the begin to the answer with the thumbnail.
    pub(crate) image_ms: Option<Spread>,
    /// Of the last part of a photo, and what comes of it.
    pub(crate) server_cpu_ms_per_photo: Option<f64>,
    /// Under way at the same time.
    pub(crate) uploads: usize,
    pub(crate) rss_bytes_per_upload: f64,
    /// Acknowledgements of texts, alone and beside uploads.
    pub(crate) quiet_ack_ms: Option<Spread>,
    pub(crate) beside_ack_ms: Option<Spread>,
    pub(crate) beside_to_quiet_p99: Option<f64>,
}

/// What clips cost and how long they take.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Clips {
    pub(crate) speakers: usize,
    pub(crate) clip_bytes: usize,
    pub(crate) clip_chunks: usize,
    pub(crate) clips: u64,
    pub(crate) clips_per_s: f64,
    /// From the first chunk to the acknowledgement of clip and message.
    pub(crate) clip_ms: Option<Spread>,
    pub(crate) server_cpu_s_per_million_clips: f64,
    /// The same by chunk.
    pub(crate) server_cpu_s_per_million_parts: f64,
    pub(crate) long_clip_bytes: usize,
    pub(crate) long_clip_ms: Option<Spread>,
}

/// An echo of chat-sized packets.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Echo {
    pub(crate) window: usize,
    pub(crate) packets_per_s: f64,
    pub(crate) answer_ms: Option<Spread>,
    pub(crate) server_cpu_s_per_million: f64,
}

impl Report {
    /// Takes note of what was wrong.
    pub(crate) fn judge(&mut self, faults: Faults) {
        let Faults { lost, duplicated, out_of_order } = faults;
        self.faults = FaultCounts { lost: Some(lost), duplicated: Some(duplicated), out_of_order: Some(out_of_order) };
    }

    /// Whether nothing was wrong.
    pub(crate) fn is_good(&self) -> bool {
        let FaultCounts { lost, duplicated, out_of_order } = self.faults;
        [lost, duplicated, out_of_order].iter().flatten().all(|count| *count == 0)
    }

    /// The figures that there are, one by one.
    pub(crate) fn figures(&self) -> serde_json::Map<String, serde_json::Value> {
        match without_nulls(serde_json::json!(self)) {
            serde_json::Value::Object(figures) => figures,
            _ => serde_json::Map::new(),
        }
    }
}

/// Drops what is absent, and rounds to what a measurement can mean.
fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(values) => values.into_iter().map(without_nulls).collect(),
        Value::Number(number) if number.is_f64() => number.as_f64().map(rounded).into(),
        other => other,
    }
}

/// To four digits, and never coarser than one.
fn rounded(value: f64) -> f64 {
    let digits = 3 - value.abs().max(1e-9).log10().floor() as i32;
    let scale = 10f64.powi(digits.clamp(0, 9));
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_does_not_have_is_left_out() {
        let mut report = Report { bench: "chat", pairs: Some(2), ..Report::default() };
        report.cost.acked_per_s = Some(12_345.678);
        report.cost.ack_ms = Some(Spread { p50: 0.123_456, p99: 4.0 });
        report.judge(Faults::default());
        let json = serde_json::Value::from(report.figures()).to_string();
        assert_eq!(
            json,
            r#"{"ack_ms":{"p50":0.1235,"p99":4.0},"acked_per_s":12346.0,"bench":"chat","duplicated":0,"lost":0,"out_of_order":0,"pairs":2}"#
        );
        assert!(report.is_good());
        for faults in [
            Faults { lost: 1, ..Faults::default() },
            Faults { duplicated: 1, ..Faults::default() },
            Faults { out_of_order: 1, ..Faults::default() },
        ] {
            report.judge(faults);
            assert!(!report.is_good(), "{faults:?}");
        }
    }
}
