//! A file piped into `tern send` at one end comes out of `tern watch` at the other, line for line.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::process::Process;
use crate::server::Server;
use crate::step::Tally;

/// Bytes of the longest line, as docs/protocol.md has it.
const LINE_BYTES: usize = 16_384;
/// After this many seconds without an entry `watch` is done.
const IDLE: &str = "3";
/// Far more than the file takes, an outage included.
const LIMIT: Duration = Duration::from_secs(600);

/// Odd lines, over either link; a line that is too long stops the sender.
pub(crate) fn short() -> Result<Tally> {
    let server = Server::start(&build::tern()?)?;
    for link in ["tcp", "http"] {
        let (from, to) = (format!("alice-{link}"), format!("bob-{link}"));
        let text = text(1_000);
        finish(send(&server, &text, &["--as", &from, "--to", &to, "--link", link])?)?;
        compare(&watch(&server, &["--as", &to, "--link", link])?, &text)?;
        println!("{} lines over {link}: the same", text.lines().count());
    }
    too_long(&server)?;
    server.stop()?;
    Ok(Tally::passed(3))
}

/// Many lines, and the server is killed in the middle and away for a minute, while both ends go on.
pub(crate) fn long() -> Result<Tally> {
    let mut server = Server::start(&build::tern()?)?;
    let text = text(100_000);
    let seen = server.home().join("seen");
    let _receiver = Process::spawn(server.client(&["watch", "--as", "bob"]).stdout(File::create(&seen)?))?;
    let sender = send(&server, &text, &["--as", "alice", "--to", "bob"])?;
    grown(&seen, text.len() / 10)?;
    println!("kill -9, and 60 s without a server");
    server.outage(Duration::from_secs(60))?;
    ensure!(fs::metadata(&seen)?.len() < text.len() as u64, "everything was through before the outage");
    finish(sender)?;
    grown(&seen, text.len() + 1)?;
    compare(&fs::read_to_string(&seen)?, &text)?;
    println!("{} lines around an outage: the same", text.lines().count());
    server.stop()?;
    Ok(Tally::passed(1))
}

/// Waits until a file has so many bytes.
fn grown(path: &Path, bytes: usize) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while fs::metadata(path)?.len() < bytes as u64 {
        ensure!(Instant::now() < deadline, "{} does not reach {bytes} bytes", path.display());
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// `count` ordinary lines with every odd one among them that a UTF-8 file may have, and no line feed at the end.
fn text(count: usize) -> String {
    let odd = [
        "",
        "",
        " leading and trailing blanks \t ",
        "\ttab",
        "ends with a carriage return\r",
        "{\"text\":\"looks like JSON\"}",
        "quotes \" ' ` and back\\slashes \\n",
        "Grüße, 你好, שלום, 👩‍👩‍👧 and e\u{301}",
        "\u{feff}a byte order mark",
        "a zero \0 and a bell \u{7}",
        "/quit",
        "--help",
        "the same line twice",
        "the same line twice",
    ];
    let mut lines: Vec<String> = (1..=count).map(|number| format!("line {number}")).collect();
    lines.splice(count / 2..count / 2, odd.map(str::to_owned));
    lines.push("x".repeat(LINE_BYTES));
    lines.push("ü".repeat(LINE_BYTES / 2));
    lines.push("the last line has no end".to_owned());
    lines.join("\n")
}

fn send(server: &Server, text: &str, args: &[&str]) -> Result<Process> {
    let path = server.home().join(format!("sent-by-{}", args[1]));
    fs::write(&path, text)?;
    let mut command = server.client(&["send"]);
    Process::spawn(command.args(args).stdin(File::open(path)?))
}

fn finish(mut sender: Process) -> Result<()> {
    sender.succeed(LIMIT).context("send must end with 0: every line acknowledged")
}

/// What a fresh device of the user prints, with its standard output in a file as in a pipe.
fn watch(server: &Server, args: &[&str]) -> Result<String> {
    let seen = server.home().join(format!("seen-by-{}", args[1]));
    let mut command = server.client(&["watch", "--idle", IDLE]);
    Process::spawn(command.args(args).stdout(File::create(&seen)?))?.succeed(LIMIT)?;
    fs::read_to_string(&seen).context("what watch printed")
}

/// Byte by byte; `watch` ends its last line, whether or not the file did.
fn compare(seen: &str, sent: &str) -> Result<()> {
    for (number, (here, line)) in (1..).zip(seen.split('\n').zip(sent.split('\n'))) {
        ensure!(here == line, "line {number} was {line:.60?} and came out as {here:.60?}");
    }
    ensure!(seen.strip_suffix('\n') == Some(sent), "{} bytes went in, {} came out", sent.len(), seen.len());
    Ok(())
}

/// The line is named, and so is the failure.
fn too_long(server: &Server) -> Result<()> {
    let path = server.home().join("too-long");
    fs::write(&path, format!("fine\n{}\nnever sent\n", "x".repeat(LINE_BYTES + 1)))?;
    let mut command = server.client(&["send", "--as", "carol", "--to", "dave"]);
    let output = command.stdin(File::open(path)?).stdout(Stdio::null()).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "a line over 16 KiB was taken");
    ensure!(told.contains("line 2"), "the line is not named: {told}");
    compare(&watch(server, &["--as", "dave"])?, "fine")?;
    println!("a line over 16 KiB: refused, by its number");
    Ok(())
}
