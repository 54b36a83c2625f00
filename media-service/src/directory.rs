//! Directories that are there when the power comes back: a name is on disk once the directory that holds it was synced.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes a directory, if it is not there, in one that is; both are on disk when this returns.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync(directory)?;
    directory.parent().map_or(Ok(()), sync)
}

/// Puts the names in a directory on disk.
pub(crate) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
