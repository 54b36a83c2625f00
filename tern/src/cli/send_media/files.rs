//! Which files are meant.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tern_media::declared::Kind;

use super::What;

/// Bytes by which a kind is known.
const HEAD: u64 = 64;

/// The files, and those in the directories.
pub(super) fn all(what: What, given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
        let mut within = Vec::new();
        for entry in entries {
            let path = entry?.path();
            // What else is in a directory is not what was meant.
            if path.is_file() && kind(&path)?.is_some_and(|kind| what.takes(kind)) {
                within.push(path);
            }
        }
        if within.is_empty() {
            bail!("there is no {} in {}", what.noun(), path.display());
        }
        within.sort();
        files.extend(within);
    }
    Ok(files)
}

/// What a file is, by its content.
pub(super) fn kind(path: &Path) -> Result<Option<Kind>> {
    let mut head = Vec::new();
    let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.take(HEAD).read_to_end(&mut head).with_context(|| format!("reading {}", path.display()))?;
    Ok(Kind::of(&head))
}
