//! Steps: named, counted, each of which can be run alone.

use std::time::Instant;

use anyhow::{Error, Result};

/// A piece of a task.
pub(crate) struct Step {
    /// What the command line calls it.
    pub(crate) name: &'static str,
    /// What it does, in a line.
    pub(crate) what: &'static str,
    /// Does it, and tells how many tests passed and failed. An error counts as one failed.
    pub(crate) run: fn() -> Result<Tally>,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Passed.
    pub(crate) passed: u32,
    /// Failed.
    pub(crate) failed: u32,
}

impl Tally {
    /// So many passed.
    pub(crate) fn passed(passed: u32) -> Tally {
        Tally { passed, failed: 0 }
    }

    /// Adds another one.
    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs the steps one after the other, all of them even if one fails, and ends with why some failed and a line of the total.
pub(crate) fn run(task: &str, steps: &[&Step]) -> Tally {
    let mut total = Tally::default();
    let (mut errors, mut failed) = (Vec::new(), Vec::new());
    for (i, step) in steps.iter().enumerate() {
        println!("\n== [{}/{}] {}: {}", i + 1, steps.len(), step.name, step.what);
        let (tally, error) = run_one(task, step);
        total.add(tally);
        failed.extend((tally.failed > 0).then_some(step.name));
        errors.extend(error.map(|error| (step.name, error)));
    }
    for (name, error) in errors {
        println!("\n== {name}: {error:?}");
    }
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(", "));
    }
    println!("\n{} passed, {} failed", total.passed, total.failed);
    total
}

fn run_one(task: &str, step: &Step) -> (Tally, Option<Error>) {
    let started = Instant::now();
    let (tally, error) = match (step.run)() {
        Ok(tally) => (tally, None),
        Err(error) => (Tally { passed: 0, failed: 1 }, Some(error)),
    };
    let (name, seconds) = (step.name, started.elapsed().as_secs_f32());
    if let Some(error) = &error {
        println!("{error}");
    }
    if tally.failed == 0 {
        println!("== {name}: ok, {} passed ({seconds:.1} s)", tally.passed);
    } else {
        println!("== {name}: FAILED ({seconds:.1} s); to run it alone: cargo xtask {task} {name}");
    }
    (tally, error)
}
