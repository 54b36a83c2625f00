//! `cargo xtask`: the development tasks.
//!
//! `test` is what a change must pass; `verify` is the same idea with more faults and more time. Both are lists of steps, and each step
//! can be run alone. They install what is missing of `curl`, PostgreSQL, Redis, NATS and libfaketime, and touch no server that they did not start.

mod build;
mod process;
mod server;
mod step;
mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use step::Step;

/// What `cargo xtask test` runs: within 15 minutes after the build on two cores.
const TEST: [Step; 10] = [
    Step { name: "tools", what: "what the tests need on this machine", run: steps::tools::run },
    Step { name: "workspace", what: "unit and integration tests of every crate", run: steps::workspace::run },
    Step { name: "smoke", what: "two users on both links of a fresh server", run: steps::smoke::run },
    Step { name: "readme", what: "the conversation by curl of README.md", run: steps::readme::run },
    Step { name: "pipe", what: "a file with odd lines through send and watch", run: steps::pipe::short },
    Step {
        name: "media",
        what: "folders of images and of clips, with kill -9 between their parts",
        run: steps::media::run,
    },
    Step {
        name: "check-media",
        what: "images and clips with faults, held against their rules",
        run: steps::check::media,
    },
    Step { name: "check", what: "a minute of faults, held against the model", run: steps::check::short },
    Step { name: "cluster", what: "two users on both links of a fresh cluster", run: steps::cluster::run },
    Step {
        name: "check-cluster",
        what: "a minute of faults in a cluster, held against the model",
        run: steps::check::short_cluster,
    },
];

/// What `cargo xtask verify` runs: about 40 minutes.
const VERIFY: [Step; 9] = [
    Step { name: "check", what: "five minutes of faults, held against the model", run: steps::check::long },
    Step { name: "check-cluster", what: "three minutes of faults in a cluster", run: steps::check::long_cluster },
    Step {
        name: "check-media-cluster",
        what: "images and clips in a cluster whose processes die",
        run: steps::check::media_cluster,
    },
    Step { name: "planted", what: "every planted fault is caught", run: steps::check::planted },
    Step {
        name: "planted-cluster",
        what: "every planted fault of a cluster is caught",
        run: steps::check::planted_cluster,
    },
    Step { name: "disk", what: "a disk that is full or fails at sync, as root", run: steps::disk::run },
    Step { name: "pipe", what: "100,000 lines and a server that is away for 60 s", run: steps::pipe::long },
    Step { name: "fuzz", what: "20 s of each fuzz target, from its corpus", run: steps::fuzz::run },
    Step { name: "soak", what: "200,000 links that come and go, and what is left of them", run: steps::soak::run },
];

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test", ref names @ ..] => task("test", &TEST, names),
        ["verify", ref names @ ..] => task("verify", &VERIFY, names),
        [] | ["help" | "--help" | "-h"] => {
            println!("{}", help());
            ExitCode::SUCCESS
        }
        _ => usage(&args[0]),
    }
}

fn task(name: &str, all: &[Step], names: &[&str]) -> ExitCode {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|step| step.name != **name)) {
        return usage(unknown);
    }
    let chosen: Vec<_> = all.iter().filter(|step| names.is_empty() || names.contains(&step.name)).collect();
    if step::run(name, &chosen).failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage(unknown: &str) -> ExitCode {
    eprintln!("no such task or step: {unknown}\n\n{}", help());
    ExitCode::from(64)
}

fn help() -> String {
    let lines =
        |steps: &[Step]| steps.iter().map(|step| format!("\n  {:<19} {}", step.name, step.what)).collect::<String>();
    format!(
        "cargo xtask test [STEP]...      what a change must pass; without a step all of them:{}\n\n\
         cargo xtask verify [STEP]...    longer faults; without a step all of them:{}\n\n\
         They install what is missing of curl, PostgreSQL, Redis, NATS and libfaketime, and stop every server that they start.",
        lines(&TEST),
        lines(&VERIFY)
    )
}

/// The root of the checkout.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
