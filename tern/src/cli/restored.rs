//! `tern restored`: what a data directory needs after a backup of it was put back, once, before the server serves it again.
//!
//! Clients may have seen versions that the backup does not know. Were they given out a second time, a client
//! would take new messages for ones that it has. So the store starts a new epoch far above them.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use tern_storage::embedded::{Embedded, Options, Recovered};

/// The file without which a directory is no store.
const STORE: &str = "format";

/// Which directory.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The data directory that was put back; the server must be stopped
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Starts the new epoch and prints what it did. Blocks until it is on disk.
///
/// # Errors
/// There is no store, a process has it open, or it cannot be read or written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let there = args.data.join(STORE).try_exists().unwrap_or(false);
    ensure!(there, "{} holds no data of Tern: there is no file {STORE} in it", args.data.display());
    let options = Options { restored: true, ..Options::new(&args.data) };
    let store = Embedded::open(options)?;
    store.close();
    if let Some(failure) = store.failure() {
        bail!("closing the store failed: {failure}; run this again");
    }
    print!("{}", report(&args.data, store.recovered()));
    Ok(())
}

fn report(data: &Path, recovered: &Recovered) -> String {
    let mut text = format!(
        "{} is restored, with the new epoch {}.\n\
         Every client is ordered to replace its key, and gets what is here and not yet acknowledged.\n\
         Versions and message ids go on far above all that were ever used.\n",
        data.display(),
        recovered.epoch
    );
    // One place is the gap that was made on purpose.
    let lost = recovered.lost.len().saturating_sub(1);
    if lost > 0 || recovered.damaged > 0 {
        text += &format!(
            "The backup itself is damaged: texts damaged: {}, places in the log where something is lost: {lost}.\n",
            recovered.damaged
        );
    }
    text + "Start the server as before; do not run this again.\n"
}
