//! The conversation by curl of README.md, run as it stands there.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::build;
use crate::process::{Process, command};
use crate::server::Server;
use crate::step::Tally;

/// The section whose first two blocks are the commands and what they print.
const SECTION: &str = "\n## A conversation by curl\n";
/// The short link's address in the commands.
const ADDRESS: &str = "127.0.0.1:7181";
/// The binary in the commands.
const BINARY: &str = "target/release/tern";
/// Far more than it takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the commands against a fresh server and compares what they print.
pub(crate) fn run() -> Result<Tally> {
    let readme = fs::read_to_string(crate::root().join("README.md"))?;
    let section = readme.split_once(SECTION).context("README.md has no conversation by curl")?.1;
    let (commands, wanted) = (block(section, "sh")?, block(section, "text")?);
    ensure!(commands.contains(ADDRESS) && commands.contains(BINARY), "the commands do not name {ADDRESS} and {BINARY}");

    let binary = build::tern()?;
    let server = Server::start(&binary)?;
    let seen = server.home().join("seen");
    let commands = commands.replace(ADDRESS, server.http()).replace(BINARY, &binary.to_string_lossy());
    let script = format!("set -euo pipefail\n{commands}");
    let mut bash = command("bash");
    bash.args(["-c", &script]).stdout(fs::File::create(&seen)?).stdin(Stdio::null());
    let ended = Process::spawn(server.point(&mut bash))?.succeed(LIMIT);
    let seen = fs::read_to_string(seen)?;
    println!("{seen}");
    ended?;
    compare(&seen, wanted)?;
    server.stop()?;
    Ok(Tally::passed(1))
}

/// The first code block of this kind.
fn block<'a>(text: &'a str, kind: &str) -> Result<&'a str> {
    let start = format!("```{kind}\n");
    let after = text.split_once(&start).with_context(|| format!("no block of {kind}"))?.1;
    Ok(after.split_once("```").context("a block without an end")?.0)
}

/// Line by line, with every number taken as the same: ids, versions and times differ from run to run.
fn compare(seen: &str, wanted: &str) -> Result<()> {
    let lines = |text: &str| without_numbers(text).lines().map(str::to_owned).collect::<Vec<_>>();
    let (seen, wanted) = (lines(seen), lines(wanted));
    for (i, line) in wanted.iter().enumerate() {
        let here = seen.get(i).map(String::as_str).unwrap_or("nothing");
        if here != line {
            bail!("line {} of what README.md promises:\n  {line}\nbut it was:\n  {here}", i + 1);
        }
    }
    ensure!(seen.len() == wanted.len(), "it printed more than README.md shows: {:?}", &seen[wanted.len()..]);
    Ok(())
}

fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !out.ends_with('0') {
            out.push('0');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_may_differ() {
        assert!(compare("{\"seq\":\"17\"}\n", "{\"seq\":\"4\"}\n").is_ok());
        for other in ["{\"seq\":\"x\"}\n", "{\"seq\":\"1\"}\nmore\n", ""] {
            assert!(compare(other, "{\"seq\":\"4\"}\n").is_err(), "{other}");
        }
    }
}
