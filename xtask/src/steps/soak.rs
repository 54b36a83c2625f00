//! Very many links that come and go in every way: in the end the server has no more memory and no more descriptors than early on.

mod visit;

use std::fmt;
use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use self::visit::Visitor;
use crate::build;
use crate::server::Server;
use crate::step::Tally;

const CYCLES: u32 = 200_000;
/// After so many every user and device has been there several times, and what the server keeps of them is in its memory.
const EARLY: u32 = 40_000;
/// Links at one time.
const WORKERS: u32 = 16;
const USERS: u32 = 125;
/// Of each user: as many as are remembered. In all 2,000, of which each worker has 125.
const DEVICES: u32 = 16;
/// How much the memory may differ: 26 bytes for each cycle in between.
const TOLERANCE_KIB: u64 = 4 * 1024;
/// How many descriptors more there may be: the log may have opened a file. A link that stays takes one.
const TOLERANCE_DESCRIPTORS: usize = 4;
/// How long the server may take to notice that all have gone.
const SETTLE: Duration = Duration::from_secs(30);
/// How many times the memory is read; the smallest counts, since freed memory is given back with a delay.
const READINGS: usize = 10;
/// The time between two of them.
const BETWEEN: Duration = Duration::from_millis(200);

/// Counts what is left of links after the first cycles and at the end.
pub(crate) fn run() -> Result<Tally> {
    let server = Server::start(&build::tern()?)?;
    let tokens = (0..USERS).map(|user| token(&server, user)).collect::<Result<Vec<_>>>()?;
    let devices = (0..USERS * DEVICES).map(|device| (&tokens[(device / DEVICES) as usize], format!("d{device}")));
    let visitor = Visitor::new(server.long_link(), devices, WORKERS)?;
    let fresh = Size::of(&server)?;
    println!("before        {fresh}");
    visit_all(&visitor, 0..EARLY)?;
    let early = settled(&server, fresh.descriptors)?;
    println!("{EARLY:>7} links {early}");
    visit_all(&visitor, EARLY..CYCLES)?;
    let late = settled(&server, early.descriptors)?;
    println!("{CYCLES:>7} links {late}");
    let growth = late.resident_kib.saturating_sub(early.resident_kib);
    ensure!(growth <= TOLERANCE_KIB, "the memory grew by {growth} KiB, {TOLERANCE_KIB} are allowed");
    println!(
        "flat: {growth} KiB more, where {TOLERANCE_KIB} are allowed; {TOLERANCE_DESCRIPTORS} more descriptors are"
    );
    server.stop()?;
    Ok(Tally::passed(1))
}

fn token(server: &Server, user: u32) -> Result<String> {
    let output = server.client(&["token", &format!("user-{user}"), "--ttl", "1d"]).output()?;
    ensure!(output.status.success(), "no token: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Each worker takes every [`WORKERS`]th cycle; the first failure stops them all.
fn visit_all(visitor: &Visitor, cycles: Range<u32>) -> Result<()> {
    let failed = AtomicBool::new(false);
    let work = |worker: u32| -> Result<()> {
        for cycle in cycles.clone().filter(|cycle| cycle % WORKERS == worker) {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = visitor.visit(cycle) {
                failed.store(true, Ordering::Relaxed);
                return Err(error.context(format!("cycle {cycle}")));
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
    })
}

/// What a process takes.
struct Size {
    resident_kib: u64,
    descriptors: usize,
}

impl Size {
    fn of(server: &Server) -> Result<Size> {
        let process = format!("/proc/{}", server.pid());
        let status = fs::read_to_string(format!("{process}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let resident_kib = resident.trim().trim_end_matches(" kB").parse()?;
        Ok(Size { resident_kib, descriptors: fs::read_dir(format!("{process}/fd"))?.count() })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB, {} descriptors", self.resident_kib, self.descriptors)
    }
}

/// What it takes once every link has ended, which leaves hardly more descriptors than there were.
fn settled(server: &Server, descriptors: usize) -> Result<Size> {
    let deadline = Instant::now() + SETTLE;
    let mut smallest = Size::of(server)?;
    while smallest.descriptors > descriptors + TOLERANCE_DESCRIPTORS {
        ensure!(Instant::now() < deadline, "{} descriptors are open, {descriptors} were", smallest.descriptors);
        thread::sleep(BETWEEN);
        smallest = Size::of(server)?;
    }
    for _ in 0..READINGS {
        thread::sleep(BETWEEN);
        let size = Size::of(server)?;
        smallest.resident_kib = smallest.resident_kib.min(size.resident_kib);
    }
    Ok(smallest)
}
