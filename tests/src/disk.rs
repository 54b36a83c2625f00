//! A file system of its own for the server's data: it can be full, and its blocks can refuse to be written.
//!
//! An ext4 in an image file, by a loop device. For errors at sync the image lies on a tmpfs, and what the file system has free are holes in
//! the image: when the tmpfs has no room left, a write goes well until the kernel writes it back. Needs root and the programs of [`PROGRAMS`].

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

/// What is called.
const PROGRAMS: [&str; 7] = ["losetup", "mkfs.ext4", "fstrim", "fsfreeze", "mount", "umount", "df"];
/// The size of the file system: its journal, some segments of the log, and room for a minute of traffic.
const IMAGE: u64 = 96 << 20;
/// How often it is tried to take something away, and the time between two tries: together 30 s. The kernel gives up a device when nothing
/// uses it any more, which on a busy machine is seconds later.
const RELEASES: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a write of the filler.
const FILL: usize = 256 << 10;

/// How the disk can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No space is left, which a write is told.
    Full,
    /// The device has no space left, which a sync is told.
    Sync,
}

impl Trouble {
    /// What it is, for a person.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Trouble::Full => "the disk is full",
            Trouble::Sync => "the disk fails at sync",
        }
    }
}

/// A mounted file system. Unmounts and removes everything when dropped.
pub(crate) struct Disk {
    trouble: Trouble,
    home: PathBuf,
    device: Option<String>,
    is_mounted: bool,
    has_tmpfs: bool,
}

impl Disk {
    /// Says what is missing on this machine.
    ///
    /// # Errors
    /// Not root, or a program is not there.
    pub(crate) fn check_machine() -> anyhow::Result<()> {
        let id = Command::new("id").arg("-u").output().context("asking who this is")?;
        if id.stdout.trim_ascii() != b"0" {
            bail!("the scene of the failing disk mounts file systems: it needs root");
        }
        let is_there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        let missing: Vec<&str> = PROGRAMS.into_iter().filter(|program| !is_there(program)).collect();
        if !missing.is_empty() {
            bail!("the scene of the failing disk needs {}", missing.join(", "));
        }
        Ok(())
    }

    /// Makes a file system in a directory that is empty or not there, and mounts it.
    ///
    /// # Errors
    /// The machine does not allow it.
    pub(crate) fn make(trouble: Trouble, home: &Path) -> anyhow::Result<Disk> {
        let mut disk = Disk { trouble, home: home.to_owned(), device: None, is_mounted: false, has_tmpfs: false };
        std::fs::create_dir_all(home)?;
        for directory in [disk.back(), disk.top()] {
            std::fs::create_dir(&directory).with_context(|| format!("{} holds an earlier disk", home.display()))?;
        }
        if trouble == Trouble::Sync {
            let size = format!("size={}", IMAGE * 2);
            call(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(disk.back()))?;
            disk.has_tmpfs = true;
        }
        File::create(disk.image())?.set_len(IMAGE)?;
        let options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        call(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-E", options]).arg(disk.image()))?;
        if trouble == Trouble::Sync {
            // Every block gets a place on the tmpfs; then what the file system has free gives it back. So its own blocks never fail.
            let whole = std::fs::read(disk.image())?;
            File::options().write(true).open(disk.image())?.write_all(&whole)?;
        }
        disk.mount()?;
        if trouble == Trouble::Sync {
            call(Command::new("fstrim").arg(disk.top()))?;
        }
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn top(&self) -> PathBuf {
        self.home.join("mounted")
    }

    /// Makes it refuse.
    ///
    /// # Errors
    /// It cannot be filled or shrunk.
    pub(crate) fn break_down(&mut self) -> anyhow::Result<()> {
        match self.trouble {
            Trouble::Full => fill(&self.filler()).context("filling the disk"),
            Trouble::Sync => self.shrink(),
        }
    }

    /// Fills it again if anything has become free; the server may have made room.
    ///
    /// # Errors
    /// It cannot be filled.
    pub(crate) fn keep_broken(&mut self) -> anyhow::Result<()> {
        match self.trouble {
            Trouble::Full => fill(&self.filler()).context("filling the disk"),
            Trouble::Sync => Ok(()),
        }
    }

    /// Gives it room again.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) fn heal(&mut self) -> anyhow::Result<()> {
        match self.trouble {
            Trouble::Full => Ok(std::fs::remove_file(self.filler())?),
            Trouble::Sync => self.resize(IMAGE * 2),
        }
    }

    /// Takes it away and brings it back, so that nothing of it stays in memory.
    ///
    /// # Errors
    /// Somebody still uses it.
    pub(crate) fn mount_again(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")?;
        self.mount()
    }

    fn back(&self) -> PathBuf {
        self.home.join("back")
    }

    fn image(&self) -> PathBuf {
        self.back().join("image")
    }

    fn filler(&self) -> PathBuf {
        self.top().join("filler")
    }

    fn resize(&self, bytes: u64) -> anyhow::Result<()> {
        call(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(self.back()))?;
        Ok(())
    }

    /// Shrinks the tmpfs to what it holds. To freeze the file system writes back all that it has in its journal alone: a directory that was made and
    /// synced a moment ago would else be lost, and the file system with it, which is more than a failed sync.
    fn shrink(&self) -> anyhow::Result<()> {
        call(Command::new("fsfreeze").arg("--freeze").arg(self.top()))?;
        let shrunk = used_kib(&self.back()).and_then(|kib| self.resize(kib * 1024));
        // Whatever interrupts this program interrupts what it calls.
        until_done(|| call(Command::new("fsfreeze").arg("--unfreeze").arg(self.top())).map(drop))?;
        shrunk
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let device = call(Command::new("losetup").args(["--find", "--show"]).arg(self.image()))?;
        let device = self.device.insert(device.trim().to_owned());
        call(Command::new("mount").arg(device).arg(self.home.join("mounted")))?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        if self.is_mounted {
            release(&self.top())?;
            self.is_mounted = false;
        }
        if let Some(device) = &self.device {
            call(Command::new("losetup").args(["--detach", device]))?;
            self.device = None;
            // A second device over the same image would not see what the first one has still to write.
            until_done(|| {
                let left = call(Command::new("losetup").arg("--associated").arg(self.image()))?;
                if left.trim().is_empty() { Ok(()) } else { bail!("still in use: {}", left.trim()) }
            })?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut result = self.unmount();
        if self.has_tmpfs {
            result = result.and(release(&self.back()));
        }
        match result {
            // Only what was made here, and nothing of it is mounted any more.
            Ok(()) => drop(std::fs::remove_dir_all(&self.home)),
            Err(error) => eprintln!("{} is still mounted: {error:#}", self.home.display()),
        }
    }
}

/// Unmounts; a server that was killed, or a loop device that was detached, a moment ago may still hold it.
fn release(mounted: &Path) -> anyhow::Result<()> {
    until_done(|| call(Command::new("umount").arg(mounted)).map(drop))
}

/// Tries until it succeeds; the last error if it does not.
fn until_done(attempt: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    for _ in 1..RELEASES {
        if attempt().is_ok() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    attempt()
}

/// Writes until nothing more fits, to the last block.
fn fill(filler: &Path) -> anyhow::Result<()> {
    let mut file = File::options().create(true).append(true).open(filler)?;
    let mut piece = vec![0x5a; FILL];
    while !piece.is_empty() {
        match file.write(&piece) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What a mounted file system holds, in KiB.
fn used_kib(mounted: &Path) -> anyhow::Result<u64> {
    let output = call(Command::new("df").args(["--block-size=1K", "--output=used"]).arg(mounted))?;
    output.lines().last().and_then(|line| line.trim().parse().ok()).context("df says nothing")
}

/// Calls a program to its end; its output if it succeeds.
fn call(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("starting {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes and syncs blocks until one is refused; how many went well.
    fn write_on(file: &mut File, most: usize) -> usize {
        let block = [7; 4096];
        (0..most).take_while(|_| file.write_all(&block).and_then(|()| file.sync_data()).is_ok()).count()
    }

    #[test]
    fn it_refuses_is_healed_and_keeps_what_was_synced() {
        if Disk::check_machine().is_err() {
            eprintln!("skipped: {}", Disk::check_machine().unwrap_err());
            return;
        }
        for trouble in [Trouble::Full, Trouble::Sync] {
            let home = tempfile::tempdir().unwrap();
            let mut disk = Disk::make(trouble, &home.path().join("disk")).unwrap();
            let path = disk.top().join("file");
            let mut file = File::options().create(true).append(true).open(&path).unwrap();
            assert_eq!(write_on(&mut file, 3), 3);
            disk.break_down().unwrap();
            assert!(write_on(&mut file, 64) < 64, "{trouble:?}");
            disk.heal().unwrap();
            let second = disk.top().join("second");
            let mut again = File::create(&second).unwrap();
            assert_eq!(write_on(&mut again, 3), 3, "{trouble:?}");
            drop((file, again));
            disk.mount_again().unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() >= 3 * 4096);
            assert_eq!(std::fs::read(&second).unwrap(), [7; 3 * 4096]);
            drop(disk);
            assert!(!home.path().join("disk").exists());
        }
    }
}
