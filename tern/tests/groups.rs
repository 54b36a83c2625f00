//! Groups and history through `tern group`, `conversations`, `history`, `members`, `send`, `watch` and `chat` as processes,
//! against a server of their own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod place;

use std::process::Output;
use std::time::Instant;

use place::{Live, PATIENCE, Place};
use serde_json::{Value, json};

impl Place {
    fn run(&self, args: &[&str]) -> Output {
        self.client(args).output().unwrap()
    }

    /// What a command prints that must succeed.
    fn printed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The objects that a command prints with --json.
    fn objects(&self, args: &[&str]) -> Vec<Value> {
        let printed = self.printed(&[args, &["--json"]].concat());
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A group of alice and others; gives its name.
    fn group(&self, others: &[&str]) -> String {
        let args = [&["group", "create", "--as", "alice", "--title", "Trip"], others].concat();
        self.printed(&args).trim_end().to_owned()
    }
}

fn code(output: &Output, told: &str) -> Option<i32> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(told), "{told:?} in {stderr:?}");
    output.status.code()
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["text"].as_str()).collect()
}

#[test]
fn a_group_is_made_changed_and_left() {
    let place = Place::new();
    let group = place.group(&["bob", "carol"]);
    assert!(group.starts_with("g/"), "{group}");
    assert_eq!(place.printed(&["group", "add", "--as", "bob", &group, "dave"]), "");
    place.printed(&["group", "title", "--as", "carol", &group, "Trip to the sea"]);
    let refused = place.run(&["group", "remove", "--as", "bob", &group, "carol"]);
    assert_eq!(code(&refused, "only the owner removes others"), Some(4));
    place.printed(&["group", "remove", "--as", "alice", &group, "carol"]);
    place.printed(&["group", "leave", "--as", "alice", "--link", "http", &group]);

    let listed = place.objects(&["members", "--as", "bob", &group]);
    let members: Vec<_> = listed.iter().map(|member| (member["user"].as_str().unwrap(), &member["owner"])).collect();
    assert_eq!(members, [("bob", &json!(true)), ("dave", &json!(false))], "who joined first owns it now");
    assert_eq!((&listed[1]["joined_seq"], &listed[1]["title"]), (&json!(2), &json!("Trip to the sea")));

    for command in [["members", "--as", "alice"], ["history", "--as", "carol"]] {
        let output = place.run(&[&command[..], &[&group]].concat());
        assert_eq!(code(&output, "not your conversation"), Some(1));
    }
    let refused = place.run(&["group", "leave", "--as", "eve", &group]);
    assert_eq!(code(&refused, "not your group"), Some(4));
    assert_eq!(code(&place.send_to(&group, &[], b"am I still in?\n"), "not your group"), Some(4));
}

#[test]
fn a_wrong_change_is_a_wrong_command_line() {
    let place = Place::new();
    for (args, told) in [
        (&["create", "--as", "alice"][..], "neither a user nor a title"),
        (&["create", "--as", "alice", "bob", "bob"], "bob is named twice"),
        (&["create", "--as", "alice", "--title", &"x".repeat(129), "bob"], "129 bytes"),
        (&["add", "--as", "alice", "alice:bob", "carol"], "not a group"),
        (&["add", "--as", "alice", "g/7"], "<USER>"),
        (&["create", "--as", "alice", "a b"], "a b"),
    ] {
        let output = place.run(&[&["group"], args].concat());
        assert_eq!(code(&output, told), Some(64), "{args:?}");
    }
}

#[test]
fn texts_and_changes_of_a_group_reach_every_member_in_order() {
    let place = Place::new();
    let group = place.group(&["bob"]);
    assert!(place.send_to(&group, &[], b"one\ntwo\n").status.success());
    place.printed(&["group", "add", "--as", "alice", &group, "carol"]);
    assert!(place.send_to(&group, &[], b"three\n").status.success());

    let watch =
        |user: &str, extra: &[&str]| place.printed(&[&["watch", "--as", user, "--idle", "0.2"], extra].concat());
    let lines = [
        format!("[{group}: alice made the group and named it \"Trip\" and added bob]"),
        format!("[{group}] alice: one"),
        format!("[{group}] alice: two"),
        format!("[{group}: alice added carol]"),
        format!("[{group}] alice: three"),
    ];
    assert_eq!(watch("bob", &[]), lines.join("\n") + "\n");
    assert_eq!(watch("carol", &[]), lines[3..].join("\n") + "\n", "from the message that added her");

    let data = place.path().join("other");
    let objects = place.objects(&["watch", "--as", "bob", "--idle", "0.2", "--data", data.to_str().unwrap()]);
    assert_eq!(objects[0]["change"], json!({ "title": "Trip", "add": ["bob"] }));
    assert_eq!((&objects[0]["text"], &objects[0]["seq"]), (&Value::Null, &json!(1)));
    assert_eq!(texts(&objects), ["one", "two", "three"]);
    assert!(objects.iter().all(|object| object["conversation"] == json!(group) && object["version"].is_u64()));
}

#[test]
fn unread_is_counted_and_history_is_paged() {
    let place = Place::new();
    assert!(place.send(&[], b"hi bob\n\n").status.success());
    let group = place.group(&["bob"]);
    let lines: String = (1..=1_200).map(|line| format!("line {line}\n")).collect();
    assert!(place.send_to(&group, &[], lines.as_bytes()).status.success());

    let listed = place.objects(&["conversations", "--as", "bob"]);
    let unread: Vec<_> = listed.iter().map(|found| (&found["conversation"], &found["unread"])).collect();
    assert_eq!(unread, [(&json!("alice:bob"), &json!(2)), (&json!(group), &json!(1_201))]);
    assert_eq!(
        (&listed[1]["title"], &listed[1]["members"], &listed[1]["seq"]),
        (&json!("Trip"), &json!(2), &json!(1_201))
    );
    assert!(listed[0]["time"].as_i64() > Some(0));
    let own = place.objects(&["conversations", "--as", "alice"]);
    assert!(own.iter().all(|found| found["unread"] == 0), "{own:?}");
    let table = place.printed(&["conversations", "--as", "bob"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.starts_with("CONVERSATION  UNREAD  MEMBERS  LAST MESSAGE") && table.contains("Trip"), "{table}");

    let newest = place.objects(&["history", "--as", "bob", &group]);
    assert_eq!((newest.len(), &newest[49]["text"], &newest[49]["seq"]), (50, &json!("line 1200"), &json!(1_201)));
    let older = place.objects(&["history", "--as", "alice", &group, "--before", "1152", "--limit", "2"]);
    assert_eq!(texts(&older), ["line 1149", "line 1150"], "own ones in full");
    let all = place.objects(&["history", "--as", "bob", &group, "--limit", "10000", "--link", "http"]);
    assert!(all.iter().map(|message| message["seq"].as_u64().unwrap()).eq(1..=1_201));
    assert_eq!(all[0]["change"]["title"], "Trip");
    let of_two = place.printed(&["history", "--as", "bob", "alice"]);
    let shown: Vec<_> = of_two.lines().map(|line| line.split_once("Z  ").unwrap().1).collect();
    assert_eq!(shown, ["alice: hi bob", "alice: "]);
}

#[test]
fn a_chat_in_a_group_shows_who_speaks_who_reads_and_who_comes_and_goes() {
    let place = Place::new();
    let group = place.group(&["bob", "carol"]);
    let chat = |user: &str| Live::start(place.client(&["chat", "--as", user, "--to", &group]));
    let mut alice = chat("alice");
    alice.until("-- alice made the group and named it \"Trip\" and added bob, carol");
    alice.write("hello\n");
    alice.until("[1] sent: hello");
    let mut bob = chat("bob");
    bob.until("alice: hello");
    alice.until("[1] read by bob: hello");
    let carol = chat("carol");
    carol.until("alice: hello");
    alice.until("[1] read by bob, carol: hello");
    bob.write("hi all\n");
    alice.until("bob: hi all");
    carol.until("bob: hi all");
    place.printed(&["group", "leave", "--as", "carol", &group]);
    alice.until("-- carol left");
    bob.write("/history 3\n/members\n");
    bob.until_some("hello", |line| line.starts_with("-- 2  ") && line.ends_with("Z  alice: hello"));
    bob.until_some("the head", |line| line.starts_with("-- USER") && line.contains("READ"));
    bob.until_some("the owner", |line| line.starts_with("-- alice") && line.ends_with("owner"));
    assert_eq!(bob.finish(), Some(0));
    assert_eq!(alice.finish(), Some(0));
    carol.kill();
}

#[test]
fn members_tells_who_has_read_up_to_where() {
    let place = Place::new();
    let group = place.group(&["bob", "carol"]);
    assert!(place.send_to(&group, &[], b"one\ntwo\n").status.success());
    let bob = Live::start(place.client(&["chat", "--as", "bob", "--to", &group]));
    bob.until("alice: two");
    place.printed(&["watch", "--as", "carol", "--idle", "0.2"]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = place.objects(&["members", "--as", "alice", &group]);
        let position = |at: usize| (members[at]["read_seq"].as_u64(), members[at]["delivered_seq"].as_u64());
        if position(1) == (Some(3), Some(3)) && position(2) == (Some(0), Some(3)) {
            break;
        }
        assert!(Instant::now() < deadline, "{members:?}");
    }
    bob.kill();
}

#[test]
fn a_group_survives_a_restart_of_the_server() {
    let mut place = Place::new();
    let group = place.group(&["bob"]);
    assert!(place.send_to(&group, &[], b"before\n").status.success());
    place.kill();
    place.start();
    assert!(place.send_to(&group, &[], b"after\n").status.success());
    assert_eq!(texts(&place.objects(&["watch", "--as", "bob", "--idle", "0.2"])), ["before", "after"]);
}
