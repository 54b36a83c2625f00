//! `cargo test --workspace`, counted.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::build::cargo;
use crate::step::Tally;

/// Every test of every crate, also after one has failed.
pub(crate) fn run() -> Result<Tally> {
    let mut tests = cargo(["test", "--workspace", "--no-fail-fast"]).stdout(Stdio::piped()).spawn()?;
    let output = tests.stdout.take().context("stdout is piped")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        tally.add(result_line(&line).unwrap_or_default());
    }
    // What does not compile, and a test that kills its process, are no test result.
    if !tests.wait()?.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// `test result: ok. 12 passed; 0 failed; …`
fn result_line(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let before = |word: &str| counts.split(word).next()?.split_whitespace().last()?.parse().ok();
    Some(Tally { passed: before(" passed;")?, failed: before(" failed;")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_result_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.05s";
        assert_eq!(result_line(line), Some(Tally { passed: 12, failed: 3 }));
        assert_eq!(result_line("test packet::tests::a_heartbeat ... ok"), None);
    }
}
