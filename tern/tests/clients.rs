//! `tern send`, `tern watch` and `tern chat` as processes, against a server of their own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod place;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::Instant;

use place::{Live, PATIENCE, Place};

fn numbered(lines: std::ops::Range<u32>) -> String {
    lines.map(|line| format!("line {line}\n")).collect()
}

#[test]
fn any_file_comes_out_line_for_line_over_both_links() {
    let place = Place::new();
    let long = "x".repeat(16 * 1024);
    let file = format!("one\n\n\ttwo\r\n ünï \u{0}\u{1b}[1m\n{long}\nlast without an end");
    for link in [["--link", "tcp"], ["--link", "http"]] {
        let sent = place.send(&link, file.as_bytes());
        assert_eq!(sent.status.code(), Some(0), "{}", String::from_utf8_lossy(&sent.stderr));
        assert_eq!(place.watch(&["--peek"]), format!("{file}\n"), "a peek takes nothing");
        assert_eq!(place.watch(&link), format!("{file}\n"));
        assert_eq!(place.watch(&link), "", "each entry once");
    }
}

#[test]
fn json_has_an_object_per_message_and_receipts_on_request() {
    let place = Place::new();
    assert!(place.send(&[], b"one\n\n").status.success());
    let lines: Vec<serde_json::Value> =
        place.watch(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (index, (line, text)) in lines.iter().zip(["one", ""]).enumerate() {
        assert_eq!((&line["from"], &line["conversation"]), (&"alice".into(), &"alice:bob".into()));
        assert_eq!(
            (&line["text"], &line["seq"], &line["client_msg_id"]),
            (&text.into(), &(index + 1).into(), &(index + 1).into())
        );
        assert!(line["version"].is_u64() && line["server_msg_id"].is_u64() && line["time"].is_i64(), "{line}");
    }
    assert!(lines[0]["version"].as_u64() < lines[1]["version"].as_u64());

    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut watch = place.client(&["watch", "--as", "alice", "--json", "--receipts", "--peek", "--idle", "0.2"]);
        let printed = String::from_utf8(watch.output().unwrap().stdout).unwrap();
        let last: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
        if last["receipt"] == "delivered" && last["member"] == "bob" && last["seq"] == 2 {
            return;
        }
        assert!(Instant::now() < deadline, "no receipt: {printed}");
    }
}

#[test]
fn a_bad_line_is_named_and_the_lines_before_it_are_sent() {
    let place = Place::new();
    let mut input = b"one\ntwo\n".to_vec();
    input.extend([b'x'; 16 * 1024 + 1]);
    input.extend(b"\nfour\n");
    let sent = place.send(&[], &input);
    assert_eq!(sent.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&sent.stderr).contains("line 3 is longer than 16384 bytes"));
    let sent = place.send(&["--fresh"], b"five\n\xff\n");
    assert_eq!(sent.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&sent.stderr).contains("line 2 is not UTF-8"));
    assert_eq!(place.watch(&[]), "one\ntwo\nfive\n");
}

#[test]
fn what_was_refused_in_an_earlier_run_is_not_taken_for_sent() {
    let place = Place::new();
    for input in [&b"one\n\xff\n"[..], &b"one\n\xff\n"[..], &b"one\n"[..]] {
        let output = place.send_to("g/4128", &[], input);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{told}");
        assert!(told.contains("refused by the server: 1 of the messages"), "{told}");
    }
}

#[test]
fn the_same_input_after_a_kill_doubles_nothing() {
    let place = Place::new();
    let mut first = Live::start(place.client(&["send", "--as", "alice", "--to", "bob"]));
    first.write(&numbered(0..300));
    let watch = Live::start(place.client(&["watch", "--as", "bob"]));
    watch.until("line 299");
    first.kill();
    watch.kill();

    let sent = place.send(&[], numbered(0..310).as_bytes());
    assert_eq!(sent.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&sent.stderr).contains("the first 300 lines"), "{sent:?}");
    let all = place.watch(&["--data", place.path().join("other").to_str().unwrap()]);
    assert_eq!(all, numbered(0..310));
    assert!(place.send(&[], b"line 0\n").status.success(), "a finished run is over");
    assert_eq!(place.watch(&[]).lines().last(), Some("line 0"));
}

#[test]
fn clients_ride_out_a_restart_of_the_server() {
    let mut place = Place::new();
    let watch = Live::start(place.client(&["watch", "--as", "bob"]));
    let mut send = Live::start(place.client(&["send", "--as", "alice", "--to", "bob"]));
    send.write("before\n");
    watch.until("before");
    place.kill();
    send.write(&numbered(0..500));
    place.start();
    send.write("after\n");
    watch.until("line 0");
    watch.until("line 499");
    watch.until("after");
    assert_eq!(send.finish(), Some(0));
    watch.kill();
    let all = place.watch(&["--data", place.path().join("other").to_str().unwrap()]);
    assert_eq!(all, format!("before\n{}after\n", numbered(0..500)));
}

#[test]
fn a_data_directory_serves_one_client_at_a_time() {
    let place = Place::new();
    let watch = Live::start(place.client(&["watch", "--as", "bob"]));
    assert!(place.send(&[], b"one\n").status.success());
    watch.until("one");
    let second = place.client(&["watch", "--as", "bob"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another client"));
    watch.kill();
}

#[test]
fn a_chat_without_a_terminal_shows_every_state() {
    let place = Place::new();
    let mut alice = Live::start(place.client(&["chat", "--as", "alice", "--to", "bob"]));
    alice.until("-- connected");
    alice.write("hello\n");
    alice.until("[1] sent: hello");
    let mut bob = Live::start(place.client(&["chat", "--as", "bob", "--to", "alice"]));
    bob.until("alice: hello");
    alice.until("[1] read: hello");
    bob.write("//hi\n/nonsense\n/resend 7\n");
    alice.until("bob: /hi");
    bob.until("-- /nonsense: not a command; there are /resend, /resend N, /history, /history N, /members and /quit");
    bob.until("-- no such failed message");
    bob.write("/quit\n");
    assert_eq!(bob.finish(), Some(0));
    assert_eq!(alice.finish(), Some(0));
}

#[test]
fn a_refused_token_ends_at_once_and_keeps_the_lines() {
    let place = Place::new();
    for link in ["tcp", "http"] {
        let mut send = place.client(&["send", "--as", "alice", "--to", "bob", "--link", link, "--token", "bad"]);
        let mut child = send.stdin(Stdio::piped()).spawn().unwrap();
        // It may have ended already.
        let _ = child.stdin.take().unwrap().write_all(b"one\n");
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert!(told.contains("CODE_BAD_TOKEN") && told.contains("--secret-file"), "{told}");
    }
    assert!(place.send(&[], b"one\n").status.success());
    assert_eq!(place.watch(&[]), "one\n", "the kept line, and not once more for each run");
}

#[test]
fn the_token_of_another_user_sends_nothing() {
    let place = Place::new();
    let mut token = place.tern(&["token", "carol", "--secret-file"]);
    let token = String::from_utf8(token.arg(place.secret()).output().unwrap().stdout).unwrap();
    for link in ["tcp", "http"] {
        let sent = place.send(&["--link", link, "--token", token.trim()], b"one\n");
        assert_eq!(sent.status.code(), Some(1));
        let told = String::from_utf8_lossy(&sent.stderr);
        assert!(told.contains("the token is for carol, not alice"), "{told}");
    }
    assert_eq!(place.watch(&[]), "");
}

#[test]
fn nobody_writes_to_oneself() {
    let place = Place::new();
    for command in ["send", "chat"] {
        let output = place.client(&[command, "--as", "alice", "--to", "alice"]).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--to"), "{output:?}");
    }
}

#[test]
fn failed_messages_go_first_and_nothing_passes_them() {
    let place = Place::new();
    assert!(place.send(&[], b"line 0\n").status.success());
    // What all attempts of a long outage leave, without their waits.
    let outbox = place.path().join("share/tern/alice/send/client.sqlite");
    let db = rusqlite::Connection::open(outbox).unwrap();
    let fill = "WITH RECURSIVE n(id) AS (SELECT 2 UNION ALL SELECT id + 1 FROM n WHERE id < 700)
        INSERT INTO outbox (id, recipient, text, state) SELECT id, 'bob', 'line ' || (id - 1), 3 FROM n;
        UPDATE me SET last_id = 700;";
    db.execute_batch(fill).unwrap();
    drop(db);
    let sent = place.send(&[], numbered(700..1_000).as_bytes());
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    assert!(String::from_utf8_lossy(&sent.stderr).contains("sending first 699 messages"), "{sent:?}");
    assert_eq!(place.watch(&[]), numbered(0..1_000));
}

#[test]
fn a_piped_chat_names_a_bad_line_and_prints_every_last_state() {
    let place = Place::new();
    let chat = |input: &[u8]| {
        let mut command = place.client(&["chat", "--as", "alice", "--to", "bob"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), texts)
    };
    let (code, [out, told]) = chat(numbered(0..1_200).as_bytes());
    assert_eq!((code, told.as_str()), (Some(0), ""));
    for line in 0..1_200 {
        let sent = format!("[{}] sent: line {line}\n", line + 1);
        assert!(out.contains(&sent), "no {sent:?}");
    }
    let (code, [out, told]) = chat(b"good\n\xff\nnever\n");
    assert_eq!(code, Some(2));
    assert!(out.contains("[1201] sent: good") && !out.contains("never"), "{out}");
    assert!(told.contains("line 2 is not UTF-8"), "{told}");
    let (code, [_, told]) = chat(&[b'x'; 16 * 1024 + 1]);
    assert_eq!(code, Some(2));
    assert!(told.contains("line 1 is longer than 16384 bytes"), "{told}");
}

#[test]
fn a_watch_without_a_connection_says_so() {
    let mut place = Place::new();
    place.kill();
    let mut watch = place.client(&["watch", "--as", "bob", "--idle", "0.2", "--token", "any"]);
    let mut child = watch.stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let told = lines.next().unwrap();
    assert!(told.starts_with("tern watch: no connection: "), "{told}");
    assert_eq!(child.try_wait().unwrap(), None, "no connection is not idle");
    child.kill().unwrap();
    child.wait().unwrap();
}
