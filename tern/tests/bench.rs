//! `tern bench` against a server of its own, small.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod process;

/// Runs a bench in a directory of its own; its report, and what is left in the directory.
fn bench(args: &[&str]) -> (serde_json::Value, usize) {
    let dir = tempfile::tempdir().unwrap();
    let output = process::tern(&["bench"]).args(args).arg("--dir").arg(dir.path()).output().unwrap();
    let (told, progress) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{progress}");
    let report = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    (report, std::fs::read_dir(dir.path()).unwrap().count())
}

#[test]
fn a_chat_is_measured_whole_and_nothing_is_left_behind() {
    let (report, left) = bench(&["chat", "--pairs", "2", "--window", "2", "--seconds", "1", "--warm", "0.1"]);
    assert_eq!(left, 0, "the temporary directory is removed");
    for (field, parts) in [
        ("ack_ms", &["p50", "p99"][..]),
        ("delivery_ms", &["p50", "p99"]),
        ("append_sync_ms", &["p50", "p99"]),
        ("wire_bytes_per_message", &["sender_out", "sender_in", "receiver_out", "receiver_in"]),
    ] {
        for part in parts {
            assert!(report[field][part].as_f64().unwrap() > 0.0, "{field} {part}: {report}");
        }
    }
    for field in [
        "acked_per_s",
        "messages",
        "server_cpu_s_per_million",
        "server_cpu_share",
        "client_cpu_share",
        "server_rss_bytes",
        "acks_per_message",
        "pushes_per_message",
        "fsyncs_per_message",
        "log_bytes_per_message",
        "ack_to_sync_ratio",
    ] {
        assert!(report[field].as_f64().is_some_and(|figure| figure > 0.0), "{field}: {report}");
    }
    for field in ["lost", "duplicated", "out_of_order", "segments_freed"] {
        assert_eq!(report[field], 0, "{field}: {report}");
    }
    for field in ["dropped_per_message", "moved_per_message"] {
        assert_eq!(report[field], 0.0, "by default nothing goes in a second: {report}");
    }
}

#[test]
fn messages_stored_before_a_restart_are_counted_and_none_is_lost() {
    let chat = ["chat", "--pairs", "2", "--window", "2", "--seconds", "0.5", "--warm", "0.1", "--stored", "2000"];
    let (report, _) = bench(&[&chat[..], &["--stored-pairs", "7"]].concat());
    assert_eq!((&report["stored"], &report["stored_pairs"]), (&2000.into(), &7.into()), "{report}");
    assert_eq!(report["lost"], 0, "{report}");
    for field in ["start_s", "cost_ratio", "stored_per_s"] {
        assert!(report[field].as_f64().is_some_and(|figure| figure > 0.0), "{field}: {report}");
    }
}

#[test]
fn links_a_drain_and_the_floor_are_measured() {
    let (idle, _) = bench(&["idle", "--connections", "20", "--heartbeats", "200", "--seconds", "0.5"]);
    assert!(idle["heartbeats_per_s"].as_f64().unwrap() > 0.0 && idle["rss_bytes_per_connection"].is_f64(), "{idle}");

    let (sync, _) = bench(&["sync", "--entries", "3000", "--senders", "3"]);
    assert_eq!((&sync["entries"], &sync["lost"]), (&3000.into(), &0.into()), "{sync}");
    assert!(sync["entries_per_s"].as_f64().unwrap() > 0.0, "{sync}");

    let (raw, _) = bench(&["raw", "--connections", "20", "--heartbeats", "200", "--pairs", "5", "--seconds", "0.5"]);
    assert!(raw["append_sync_ms"]["p50"].as_f64().unwrap() > 0.0, "{raw}");
    assert!(raw["echo"].as_array().unwrap().iter().all(|echo| echo["packets_per_s"].as_f64().unwrap() > 0.0), "{raw}");
}

#[test]
fn a_group_is_measured_and_every_member_checked() {
    let (report, _) = bench(&["fanout", "--members", "5", "--window", "2", "--seconds", "1", "--warm", "0.1"]);
    for field in ["deliveries_per_s", "acked_per_s", "server_cpu_s_per_million_deliveries"] {
        assert!(report[field].as_f64().is_some_and(|figure| figure > 0.0), "{field}: {report}");
    }
    let deliveries = report["deliveries_per_s"].as_f64().unwrap() / report["acked_per_s"].as_f64().unwrap();
    assert!((3.0..=5.0).contains(&deliveries), "each message goes to four: {report}");
    for field in ["lost", "duplicated", "out_of_order"] {
        assert_eq!(report[field], 0, "{field}: {report}");
    }
}

#[test]
fn images_and_clips_are_measured() {
    let few = ["--bytes", "100000", "--seconds", "0.5", "--uploads", "3", "--pairs", "2", "--pairs-rate", "50"];
    let (report, left) = bench(&[&["image"][..], &few].concat());
    assert_eq!(left, 0, "the temporary directory is removed");
    let images = &report["images"];
    for field in ["server_cpu_s_per_million_parts", "parts_per_s"] {
        assert!(images[field].as_f64().is_some_and(|figure| figure > 0.0), "{field}: {report}");
    }

    let (report, _) = bench(&["audio", "--speakers", "3", "--seconds", "0.5", "--long-clip", "5"]);
    let clips = &report["clips"];
    assert_eq!(clips["clip_chunks"], 2, "two seconds, or nearly so, are two chunks: {report}");
    for field in ["clips_per_s", "server_cpu_s_per_million_parts"] {
        assert!(clips[field].as_f64().is_some_and(|figure| figure > 0.0), "{field}: {report}");
    }
}

#[test]
fn many_senders_to_one_user_are_measured_beside_other_pairs() {
    let few = ["--senders", "5", "--rate", "100", "--pairs", "2", "--pairs-rate", "50", "--seconds", "0.5"];
    let (report, _) = bench(&[&["hot", "--warm", "0.1"][..], &few].concat());
    for field in ["quiet_ack_ms", "spread_ack_ms", "hot_ack_ms"] {
        assert!(report[field]["p99"].as_f64().unwrap() > 0.0, "{field}: {report}");
    }
    assert_eq!(report["lost"], 0, "{report}");
}
