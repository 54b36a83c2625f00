//! What the disk itself takes: append and `fdatasync` on a growing file, the floor of every durable acknowledgement.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::samples::Samples;

/// Bytes of one append: a page, as a log that syncs writes at least.
const APPEND_BYTES: usize = 4096;

/// Appends and syncs so many times on a new file in `directory`, which it removes again.
pub(crate) fn append_and_sync(directory: &Path, times: usize, samples: &mut Samples) -> Result<()> {
    let path = directory.join("bench-append");
    let mut file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let outcome = (0..times).try_for_each(|_| {
        let began = Instant::now();
        file.write_all(&[b'x'; APPEND_BYTES])?;
        file.sync_data()?;
        samples.record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        std::io::Result::Ok(())
    });
    fs::remove_file(&path)?;
    outcome.with_context(|| format!("appending to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let mut samples = Samples::default();
        append_and_sync(directory.path(), 3, &mut samples).unwrap();
        assert!(samples.spread().unwrap().p50 > 0.0);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
