//! The binaries that the steps run against. Cargo does nothing when they are fresh, so every step asks for the one it needs.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::command;

/// `cargo`, in the root of the checkout.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args);
    cargo
}

/// The release binary.
pub(crate) fn tern() -> Result<PathBuf> {
    release(&[])?;
    Ok(target().join("release/tern"))
}

/// The release binary in which a rule can be broken by name.
///
/// It is built in the same target directory, because all of the dependencies are shared, and moved away at once: what is called
/// `tern` is never the planted one.
pub(crate) fn planted() -> Result<PathBuf> {
    release(&["--features", "planted-faults"])?;
    let (built, planted) = (target().join("release/tern"), target().join("release/tern-planted"));
    fs::rename(&built, &planted).with_context(|| format!("moving {}", built.display()))?;
    tern()?;
    Ok(planted)
}

fn release(features: &[&str]) -> Result<()> {
    let status = cargo(["build", "--release", "--package", "tern", "--bin", "tern"]).args(features).status()?;
    ensure!(status.success(), "the release build failed");
    Ok(())
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), |dir| Path::new(&dir).into())
}
