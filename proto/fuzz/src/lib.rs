//! What must hold for every input from outside, one module per fuzz target.
//!
//! Each has one function, `holds`, which panics if it does not. A fuzz target calls it with what the fuzzer thinks of;
//! `proto/tests/corpus.rs` calls it with every file of `proto/fuzz/corpus`, so that what was once found is in every test run.
//!
//! `cargo xtask verify fuzz` builds the targets, runs each for 20 s and prints the commands. For longer, run one of the
//! programs with a larger `-max_total_time`; then `-merge=1` into an empty directory keeps the inputs that still count.

pub mod bodies;
pub mod packet;
pub mod sync_key;
