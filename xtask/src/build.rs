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

/// What a release is: the one binary that a person runs, and the services.
const PROGRAMS: [&str; 5] = ["tern", "tern-gateway", "tern-sync", "tern-storage", "tern-media"];
/// Those in which a rule can be broken by name.
const PLANTED: [&str; 5] = ["tern", "tern-gateway", "tern-sync", "tern-storage", "tern-media"];

/// The release binary, with the services beside it.
pub(crate) fn tern() -> Result<PathBuf> {
    release(&PROGRAMS, &[])?;
    Ok(target().join("release/tern"))
}

/// The release binary in which a rule can be broken by name, with such services beside it.
///
/// They are built in the same target directory, because all of the dependencies are shared, and moved away at once: what is called
/// `release/tern` is never the planted one.
pub(crate) fn planted() -> Result<PathBuf> {
    release(&PLANTED, &["--features", "planted-faults"])?;
    let planted = target().join("release/planted");
    fs::create_dir_all(&planted).with_context(|| format!("making {}", planted.display()))?;
    for program in PLANTED {
        let built = target().join("release").join(program);
        fs::rename(&built, planted.join(program)).with_context(|| format!("moving {}", built.display()))?;
    }
    tern()?;
    Ok(planted.join("tern"))
}

fn release(programs: &[&str], features: &[&str]) -> Result<()> {
    let packages = programs.iter().flat_map(|program| ["--package", program]);
    let status = cargo(["build", "--release", "--bins"].into_iter().chain(packages)).args(features).status()?;
    ensure!(status.success(), "the release build failed");
    Ok(())
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), |dir| Path::new(&dir).into())
}
