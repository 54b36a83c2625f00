//! The README's conversation needs curl, and the tests of the cluster PostgreSQL, Redis and NATS, of which they start servers of their own, and libfaketime; the rest of the tests need nothing beside Rust.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::step::Tally;

/// What is needed, each also the name of its Debian package.
const TOOLS: [&str; 3] = ["curl", "redis-server", "nats-server"];

/// Installs what is missing.
pub(crate) fn run() -> Result<Tally> {
    for tool in TOOLS {
        if !works(tool) {
            println!("installing {tool}");
            install(tool);
        }
        ensure!(works(tool), "{tool} is missing and could not be installed: install it, then try again");
        println!("{tool} is there");
    }
    if tern_cluster::faketime().is_none() {
        println!("installing libfaketime");
        install("libfaketime");
    }
    ensure!(
        tern_cluster::faketime().is_some(),
        "libfaketime is missing and could not be installed: install it, then try again"
    );
    println!("libfaketime is there");
    if !tern_cluster::Postgres::is_installed() {
        println!("installing postgresql");
        install("postgresql");
    }
    ensure!(
        tern_cluster::Postgres::is_installed(),
        "PostgreSQL 15 or later is missing and could not be installed: install it, then try again"
    );
    println!("postgresql is there");
    Ok(Tally::passed(TOOLS.len() as u32 + 2))
}

fn works(tool: &str) -> bool {
    let asked = |program| succeeds(Command::new(program).arg("--version").stdout(Stdio::null()));
    tern_cluster::installed(tool).is_some_and(asked)
}

/// As root, or by sudo where that asks no questions. Whether it worked is judged by the tool.
fn install(package: &str) {
    let apt = format!("apt-get update -qq && apt-get install -y -qq --no-install-recommends {package}");
    let _ = succeeds(Command::new("sh").args(["-c", &apt]))
        || succeeds(Command::new("sudo").args(["-n", "sh", "-c", &apt]));
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}
