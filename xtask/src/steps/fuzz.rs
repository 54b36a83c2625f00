//! The fuzz targets of `proto/fuzz`, each for a while from its committed corpus.
//!
//! They are built by the toolchain of the workspace, with the coverage that libFuzzer wants, and so need nothing that a build does not need.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::build::{self, cargo};
use crate::process::{Process, command};
use crate::step::Tally;

/// By program and corpus.
const TARGETS: [&str; 3] = ["packet", "bodies", "sync_key"];
/// How long each runs.
const SECONDS: u64 = 20;
/// How much longer than that it may take to start and to end.
const OVERTIME: Duration = Duration::from_secs(120);
/// How much is shown of the log of a run that found something.
const LAST_LINES: usize = 30;
/// What the compiler adds for libFuzzer: which edges an input reaches, and what it is compared with.
const FLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Builds and runs them; an input that breaks a rule is kept and named.
pub(crate) fn run() -> Result<Tally> {
    let programs = build()?;
    let mut tally = Tally::default();
    for target in TARGETS {
        match fuzz(&programs.join(target), target) {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                println!("{error:#}");
                tally.failed += 1;
            }
        }
    }
    Ok(tally)
}

/// Where the programs are.
fn build() -> Result<PathBuf> {
    let (host, fuzz) = (host()?, build::target().join("fuzz"));
    // With a target named, the flags do not reach what runs during the build.
    let mut build = cargo(["build", "--release", "--locked", "--manifest-path", "proto/fuzz/Cargo.toml"]);
    build.arg("--target").arg(&host).arg("--target-dir").arg(&fuzz).env("RUSTFLAGS", FLAGS.join(" "));
    ensure!(build.status()?.success(), "the build of the fuzz targets failed");
    Ok(fuzz.join(host).join("release"))
}

/// The triple of this machine.
fn host() -> Result<String> {
    let output = command("rustc").arg("-vV").output().context("asking rustc for its host")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

fn fuzz(program: &Path, target: &str) -> Result<()> {
    let (found, committed) = (tempfile::tempdir()?, Path::new("proto/fuzz/corpus").join(target));
    let output = build::target().join("fuzz/found").join(target);
    fs::create_dir_all(&output)?;
    let log = output.join("log");
    let mut fuzzer = command(program);
    // What is new goes to the first directory.
    fuzzer.arg(found.path()).arg(&committed).stderr(File::create(&log)?);
    fuzzer.arg(format!("-max_total_time={SECONDS}")).arg(format!("-artifact_prefix={}/", output.display()));
    fuzzer.args(["-max_len=4096", "-timeout=10", "-rss_limit_mb=512", "-print_final_stats=1"]);
    // The rule that is broken has to be among the last lines.
    fuzzer.env("RUST_BACKTRACE", "0");
    println!("{fuzzer:?}");
    let ended = Process::spawn(&mut fuzzer)?.succeed(Duration::from_secs(SECONDS) + OVERTIME);
    // What the fuzzer prints is not always UTF-8.
    show(&String::from_utf8_lossy(&fs::read(&log)?), ended.is_ok());
    ended.with_context(|| {
        let (program, output, committed) = (program.display(), output.display(), committed.display());
        format!(
            "{target}: the input is in {output}\nto see it again: {program} FILE\n\
             to keep it: copy it to {committed}, then cargo test -p tern-proto --test corpus"
        )
    })
}

/// The figures of a run that found nothing; else its last lines, which say which rule is broken.
fn show(log: &str, found_nothing: bool) {
    let is_figure = |line: &str| line.contains("\tDONE ") || line.starts_with("stat::");
    let first = if found_nothing { 0 } else { log.lines().count().saturating_sub(LAST_LINES) };
    let shown = log.lines().skip(first).filter(|line| !found_nothing || is_figure(line));
    shown.for_each(|line| println!("{line}"));
}
