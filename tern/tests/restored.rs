//! A backup of the data directory that is put back: what a client's old key meets with `tern restored`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod process;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use process::{PATIENCE, Ready, tern};
use tern_client::link::ShortLink;
use tern_proto::{Command as Request, v1};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A running server; killed when dropped.
struct Server {
    child: Child,
    http: String,
}

impl Server {
    fn start(data: &Path) -> Server {
        let mut command = tern(&["--long-link", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]);
        command.arg(data);
        let mut child = command.env("TERN_TOKEN__SECRET", SECRET).stdout(Stdio::piped()).spawn().unwrap();
        let http = Ready::of(&mut child).http;
        Server { child, http }
    }

    fn stop(mut self) {
        process::stop(&mut self.child);
    }

    fn link(&self, user: &str) -> ShortLink {
        let token = tern_gateway::mint(SECRET.as_bytes(), &user.parse().unwrap(), PATIENCE);
        ShortLink::new(&self.http, &token, "device")
    }

    async fn send(&self, client_msg_id: u64) -> v1::SendResult {
        let message = v1::OutMessage { client_msg_id, to: "bob".into(), text: "hello".into(), ..Default::default() };
        let request = v1::SendRequest { messages: vec![message], ..Default::default() };
        let reply: v1::SendReply = self.link("alice").request(Request::Send, &request, Duration::ZERO).await.unwrap();
        assert_eq!(reply.results[0].code(), v1::Code::Ok);
        reply.results[0].clone()
    }

    async fn sync(&self, key: Option<v1::SyncKey>) -> v1::SyncReply {
        let request = v1::SyncRequest { key, ..Default::default() };
        self.link("bob").request(Request::Sync, &request, Duration::ZERO).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn restored(data: &Path) -> Output {
    tern(&["restored", "--data"]).arg(data).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn after_it_every_key_is_replaced_and_versions_are_far_above() {
    let home = tempfile::tempdir().unwrap();
    let (data, backup) = (home.path().join("data"), home.path().join("backup"));
    let server = Server::start(&data);
    let kept = server.send(1).await;
    server.stop();
    assert!(Command::new("cp").arg("-r").args([&data, &backup]).status().unwrap().success());

    let server = Server::start(&data);
    let lost = server.send(2).await;
    let key = server.sync(None).await.key.unwrap();
    assert_eq!(server.sync(Some(key.clone())).await.key_order(), v1::KeyOrder::None);
    server.stop();

    let output = restored(&backup);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    assert!(
        told.contains("new epoch") && !told.contains("damaged") && output.stderr.is_empty(),
        "{told}{}",
        text(&output.stderr)
    );

    let server = Server::start(&backup);
    let reply = server.sync(Some(key.clone())).await;
    assert_eq!(reply.key_order(), v1::KeyOrder::ReplaceEpoch);
    assert_ne!(reply.key.unwrap().epoch, key.epoch);
    assert_eq!(server.send(1).await, kept, "what the backup has is still there");
    let next = server.send(3).await;
    assert!(next.server_msg_id > lost.server_msg_id + (1 << 40), "{next:?} after {lost:?}");
}

#[test]
fn it_is_refused_where_there_is_no_store_and_where_one_is_in_use() {
    let home = tempfile::tempdir().unwrap();
    let (file, none) = (home.path().join("file"), home.path().join("none"));
    fs::write(&file, "").unwrap();
    for data in [home.path(), &file, &none] {
        let output = restored(data);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("holds no data of Tern"), "{}", text(&output.stderr));
    }
    assert!(!none.exists() && !home.path().join("lock").exists(), "nothing was made");

    let server = Server::start(&none);
    let output = restored(&none);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("in use"), "{}", text(&output.stderr));
    server.stop();
}
