//! The parts of one upload in a file of its own, preallocated.
//!
//! Each part stands at its place, with a checksum behind it:
//!
//! ```text
//! part 0      | bytes (part_bytes) | checksum (8, little-endian) |
//! part 1      | bytes (part_bytes) | checksum (8, little-endian) | …
//! ```
//!
//! What was not written is zeros, and what was cut off by a crash does not check out; neither is a part.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::declared::Declared;
use crate::parts::Parts;

const CHECKSUM_BYTES: u64 = 8;

/// Where the parts of an upload are. Opened for each batch: as many files stay open as lanes are at work.
pub(super) struct PartsFile {
    path: PathBuf,
    pub(super) declared: Declared,
}

impl PartsFile {
    pub(super) fn new(path: PathBuf, declared: Declared) -> PartsFile {
        PartsFile { path, declared }
    }

    /// Which parts are there; none if there is no file. What is found is on disk.
    pub(super) fn read_parts(&self) -> io::Result<Parts> {
        let mut parts = Parts::none_of(self.declared.parts());
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(parts),
            file => file?,
        };
        if file.metadata()?.len() < self.file_bytes() {
            // A process died while it made the file: before there was a part.
            self.remove()?;
            return Ok(parts);
        }
        // What a process wrote that died before its sync is here to be read, and may be nowhere else.
        file.sync_data()?;
        for index in 0..self.declared.parts() {
            let mut buffer = vec![0; self.length(index) + CHECKSUM_BYTES as usize];
            file.read_exact_at(&mut buffer, self.position(index))?;
            let (bytes, checksum) = buffer.split_at(self.length(index));
            if checksum == checksum_of(index, bytes) {
                parts.insert(index);
            }
        }
        Ok(parts)
    }

    /// Writes a part into the file; it is durable once that is synced.
    pub(super) fn write(&self, file: &File, index: u32, bytes: &[u8]) -> io::Result<()> {
        let buffer = [bytes, &checksum_of(index, bytes)].concat();
        file.write_all_at(&buffer, self.position(index))
    }

    /// Reads a part that was written.
    pub(super) fn read(&self, file: &File, index: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length(index)];
        file.read_exact_at(&mut bytes, self.position(index))?;
        Ok(bytes)
    }

    /// Reads all parts as one.
    pub(super) fn read_all(&self) -> io::Result<Bytes> {
        let file = File::open(&self.path)?;
        let mut whole = vec![0; usize::try_from(self.declared.bytes).map_err(io::Error::other)?];
        let mut rest = &mut whole[..];
        for index in 0..self.declared.parts() {
            let (part, behind) = rest.split_at_mut(self.length(index));
            file.read_exact_at(part, self.position(index))?;
            rest = behind;
        }
        Ok(whole.into())
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }

    /// The file, made if this is the first part.
    pub(super) fn opened_or_made(&self) -> io::Result<File> {
        match OpenOptions::new().read(true).write(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(),
            file => file,
        }
    }

    fn make(&self) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path)?;
        let length = self.file_bytes();
        let reserved = match fallocate(&file, FallocateFlags::empty(), 0, length) {
            // Not every file system can; it is written all the same.
            Err(Errno::OPNOTSUPP) => Ok(()),
            reserved => reserved.map_err(io::Error::from),
        };
        let made = reserved.and_then(|()| {
            // Room that was never written costs the file system a commit of its journal at the first write of each piece, which other syncs wait for.
            zero(&file, length)?;
            file.sync_all()?;
            self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        });
        if made.is_err() {
            // The disk may be full; an empty file would pass for one that is made.
            let _ = remove(&self.path);
        }
        made.map(|()| file)
    }

    fn file_bytes(&self) -> u64 {
        self.declared.bytes + CHECKSUM_BYTES * u64::from(self.declared.parts())
    }

    fn position(&self, index: u32) -> u64 {
        u64::from(index) * (u64::from(self.declared.part_bytes) + CHECKSUM_BYTES)
    }

    fn length(&self, index: u32) -> usize {
        let range = self.declared.range(index);
        (range.end - range.start) as usize // At most 256 KiB.
    }
}

fn zero(file: &File, length: u64) -> io::Result<()> {
    let zeros = [0; 64 * 1024];
    let mut at = 0;
    while at < length {
        let bytes = (length - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..bytes as usize], at)?;
        at += bytes;
    }
    Ok(())
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The index is in it, so that a part is not taken for another.
fn checksum_of(index: u32, bytes: &[u8]) -> [u8; CHECKSUM_BYTES as usize] {
    xxh3_64_with_seed(bytes, u64::from(index)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declared::{Kind, Sha256};

    fn file(directory: &tempfile::TempDir) -> PartsFile {
        let declared = Declared { bytes: 2_100, sha256: Sha256([0; 32]), kind: Kind::Png, part_bytes: 1024 };
        PartsFile::new(directory.path().join("upload"), declared)
    }

    #[test]
    fn what_a_crash_has_torn_is_no_part() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory);
        assert_eq!(file.read_parts().unwrap().left(), 3);
        let opened = file.opened_or_made().unwrap();
        file.write(&opened, 0, &[1; 1024]).unwrap();
        file.write(&opened, 2, &[3; 52]).unwrap();
        assert_eq!(fs::metadata(&file.path).unwrap().len(), 2_100 + 3 * 8);
        let parts = file.read_parts().unwrap();
        assert!(parts.has(0) && !parts.has(1) && parts.has(2));
        File::options().write(true).open(&file.path).unwrap().write_all_at(&[9], 700).unwrap();
        let parts = file.read_parts().unwrap();
        assert!(!parts.has(0) && parts.has(2));
    }

    #[test]
    fn a_file_that_was_not_made_to_its_end_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory);
        for bytes in [0, 1_000] {
            fs::write(&file.path, vec![7; bytes]).unwrap();
            assert_eq!(file.read_parts().unwrap().left(), 3);
            let opened = file.opened_or_made().unwrap();
            file.write(&opened, 0, &[1; 1024]).unwrap();
            assert_eq!(file.read_parts().unwrap().left(), 2);
            file.remove().unwrap();
        }
    }

    #[test]
    fn a_part_of_zeros_is_not_there_before_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory);
        let opened = file.opened_or_made().unwrap();
        file.write(&opened, 2, &[3; 52]).unwrap();
        assert!(!file.read_parts().unwrap().has(0));
        file.write(&opened, 0, &[0; 1024]).unwrap();
        file.write(&opened, 1, &[0; 1024]).unwrap();
        assert_eq!(file.read_parts().unwrap().left(), 0);
        assert_eq!(file.read_all().unwrap(), [vec![0; 2048], vec![3; 52]].concat());
        assert_eq!(file.read(&opened, 2).unwrap(), [3; 52]);
    }
}
