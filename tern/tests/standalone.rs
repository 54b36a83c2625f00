//! The server as a process: how it starts, what it refuses, how it stops.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod process;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use process::{Ready, tern};

/// A running server; killed when dropped.
struct Server {
    child: Child,
    long_link: String,
    http: String,
}

impl Server {
    fn start(data: &Path) -> Server {
        let mut child = standalone(data).stdout(Stdio::piped()).spawn().unwrap();
        let Ready { long_link, http } = Ready::of(&mut child);
        Server { child, long_link, http }
    }

    fn terminate(mut self) -> ExitStatus {
        process::stop(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn standalone(data: &Path) -> Command {
    let mut command = tern(&["standalone", "--long-link", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]);
    command.arg(data);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[test]
fn all_wrong_settings_are_told_at_once_and_nothing_is_touched() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("tern.toml");
    std::fs::write(&config, "[storage]\ndurability = \"maybe\"\n").unwrap();
    let data = home.path().join("data");
    let mut command = tern(&["standalone", "--http", "nowhere", "--log", "loud", "--data"]);
    command.arg(&data).arg("--config").arg(&config).env("TERN_LINK__SPEED", "9");
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(64));
    let told = text(&output.stderr);
    for name in ["storage.durability", "listen.http", "log.level", "link.speed"] {
        assert!(told.contains(name), "{name} is missing in {told}");
    }
    assert!(!data.exists());
}

#[test]
fn without_a_command_it_is_the_server_with_its_config() {
    let output = run(tern(&[]).env("TERN_CONFIG", "/nonexistent/tern.toml"));
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("/nonexistent/tern.toml"), "{}", text(&output.stderr));
}

#[test]
fn without_a_command_it_takes_the_flags_of_the_server() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = run(tern(&["--long-link", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]).arg(&file));
    assert_eq!(output.status.code(), Some(1));
    let told = format!("{} is not a directory", file.display());
    assert!(text(&output.stderr).contains(&told), "{}", text(&output.stderr));

    let before = run(tern(&["--data"]).arg(&file).args(["token", "alice"]));
    assert_eq!(before.status.code(), Some(64), "no flag is taken and then ignored");
    assert_eq!(run(&mut tern(&["--log", "debug", "standalone", "--help"])).status.code(), Some(0));
}

#[test]
fn a_level_that_is_none_is_a_bad_setting_of_every_command() {
    for command in [&["standalone"][..], &["watch", "--as", "bob"], &["token", "alice"]] {
        let output = run(tern(command).env("TERN_LOG", "loud"));
        assert_eq!(output.status.code(), Some(64), "{command:?}");
        assert!(text(&output.stderr).contains("log.level: \"loud\""), "{}", text(&output.stderr));
    }
}

#[test]
fn a_token_is_not_for_no_time_and_not_for_ever() {
    for ttl in ["0s", "99999d"] {
        assert_eq!(run(&mut tern(&["token", "alice", "--ttl", ttl])).status.code(), Some(64), "{ttl}");
    }
}

#[test]
fn an_unknown_flag_ends_with_64_and_help_with_0() {
    assert_eq!(run(&mut tern(&["standalone", "--speed"])).status.code(), Some(64));
    let help = run(&mut tern(&["standalone", "--help"]));
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--long-link"));
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let _first = Server::start(data.path());
    let second = run(&mut standalone(data.path()));
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains(data.path().to_str().unwrap()), "{}", text(&second.stderr));
}

#[test]
fn a_port_in_use_is_a_failed_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let data = tempfile::tempdir().unwrap();
    let mut command = tern(&["standalone", "--http", "127.0.0.1:0", "--data"]);
    let address = taken.local_addr().unwrap().to_string();
    let output = run(command.arg(data.path()).args(["--long-link", &address]));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
}

#[test]
fn it_passes_its_smoke_test_stops_on_sigterm_and_starts_again() {
    let data = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let server = Server::start(data.path());
        let mut smoke = tern(&["smoke", "--long-link", &server.long_link, "--http", &server.http]);
        let output = run(smoke.env("TERN_SECRET_FILE", data.path().join("token-secret")));
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(server.terminate().code(), Some(0));
    }
}

#[test]
fn smoke_fails_without_a_server() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "0123456789abcdef0123456789abcdef").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut smoke = tern(&["smoke", "--long-link", &closed, "--http", &closed]);
    let output = run(smoke.env("TERN_SECRET_FILE", secret.path()));
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains(&closed) && told.matches("refused").count() == 1, "{told}");
}

#[test]
fn the_log_holds_no_secret() {
    let data = tempfile::tempdir().unwrap();
    let secret = "a secret that is long enough to be one";
    let mut command = standalone(data.path());
    command.env("TERN_TOKEN__SECRET", secret).env("TERN_LOG", "trace").env("TERN_LOG__FORMAT", "json");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    child.kill().unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    child.wait().unwrap();
    assert!(!log.is_empty() && log.lines().all(|line| line.starts_with('{')), "{log}");
    assert!(!log.contains(secret) && !first.contains(secret));
    assert!(!data.path().join("token-secret").exists(), "a given secret needs no file");
}
