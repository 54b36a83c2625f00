//! One trace of a message, through all the services of a cluster.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{LIMIT, deliver};
use crate::process::{Process, command};

/// The services send their spans every second, and a trace is whole when nothing has come of it for some.
const SHOWN: Duration = Duration::from_secs(30);

/// What a message of one gateway's user to another's goes through: each span with its service and its depth.
const WAY: [(&str, &str, usize); 5] = [
    ("send", "tern-gateway", 0),
    ("sync.send", "tern-sync", 1),
    ("storage.commit", "tern-storage", 2),
    ("hint", "tern-sync", 2),
    ("deliver", "tern-gateway", 3),
];

/// A cluster tells its traces, and one of them is that of a message which was delivered at another gateway.
pub(super) fn tree(tern: &Path, dir: &Path) -> Result<()> {
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let shown = dir.join("traces");
    let mut listen = command(tern);
    listen.args(["trace", "--listen", &free.to_string()]).stdout(File::create(&shown)?);
    let listening = Process::spawn(&mut listen)?;
    let url = format!("http://{free}");
    Process::spawn(command(tern).args(["cluster", "up", "--otlp-url", &url, "--dir"]).arg(dir))?.succeed(LIMIT)?;
    deliver(tern, dir)?;
    Process::spawn(command(tern).args(["cluster", "down", "--dir"]).arg(dir))?.succeed(LIMIT)?;
    let began = Instant::now();
    let text = loop {
        let text = std::fs::read_to_string(&shown)?;
        if text.split("trace ").any(is_whole) {
            break text;
        }
        ensure!(began.elapsed() < SHOWN, "no trace shows the whole way of a message:\n{text}");
        std::thread::sleep(Duration::from_millis(200));
    };
    listening.terminate()?;
    let of_message = text.split("trace ").find(|trace| is_whole(trace)).context("a trace")?;
    ensure!(of_message.contains("tern.message="), "the trace does not say of which message it is:\n{of_message}");
    Ok(())
}

fn is_whole(trace: &str) -> bool {
    let spans: Vec<(&str, &str, usize)> = trace.lines().skip(1).filter_map(span).collect();
    let mut from = 0;
    WAY.iter().all(|wanted| {
        let at = spans[from..].iter().position(|found| found == wanted);
        from += at.map_or(0, |at| at + 1);
        at.is_some()
    })
}

/// A line of the tree: name, service, depth.
fn span(line: &str) -> Option<(&str, &str, usize)> {
    let depth = line.len() - line.trim_start().len();
    let mut words = line.split_ascii_whitespace();
    Some((words.next()?, words.next()?, depth.checked_sub(2)? / 2))
}
