//! The secret that signs tokens, where the operator gives none: made at the first start and kept in the data directory.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Its file in the data directory.
pub const FILE: &str = "token-secret";
/// A secret that is shorter can be guessed.
pub const SECRET_BYTES: usize = 32;
/// Random bytes in it; it is kept as their hexadecimal digits, which are the secret.
const RANDOM_BYTES: usize = 32;

/// Reads the secret in `file`, without the white space around it.
///
/// # Errors
/// The file cannot be read, or what is in it is shorter than [`SECRET_BYTES`].
pub fn read(file: &Path) -> Result<Vec<u8>> {
    let secret = fs::read_to_string(file).with_context(|| format!("reading the secret {}", file.display()))?;
    let secret = secret.trim();
    ensure!(secret.len() >= SECRET_BYTES, "the secret {} is shorter than {SECRET_BYTES} bytes", file.display());
    Ok(secret.into())
}

/// Reads the secret of the data directory, or makes it. The caller holds the directory's lock.
///
/// # Errors
/// The file can neither be read nor written.
pub fn read_or_make(data: &Path) -> Result<Vec<u8>> {
    let file = data.join(FILE);
    if !file.try_exists().with_context(|| format!("looking for {}", file.display()))? {
        make(data).with_context(|| format!("making the secret {}", file.display()))?;
    }
    read(&file)
}

/// Writes it aside first, so that a crash leaves a whole secret or none.
fn make(data: &Path) -> io::Result<()> {
    let aside = data.join(format!("{FILE}.new"));
    // Left behind by a crash, with whatever mode it got.
    if let Err(error) = fs::remove_file(&aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    writeln!(file, "{}", random_hex()?)?;
    file.sync_all()?;
    fs::rename(&aside, data.join(FILE))?;
    File::open(data)?.sync_all()
}

fn random_hex() -> io::Result<String> {
    let mut random = [0; RANDOM_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_for_the_owner_only() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("token-secret.new"), "torn").unwrap();
        let made = read_or_make(data.path()).unwrap();
        assert_eq!(made.len(), 2 * RANDOM_BYTES);
        assert_eq!(read_or_make(data.path()).unwrap(), made);
        let mode = fs::metadata(data.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let other = tempfile::tempdir().unwrap();
        assert_ne!(read_or_make(other.path()).unwrap(), made);
    }

    #[test]
    fn a_secret_that_is_too_short_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let (file, long) = (data.path().join(FILE), "x".repeat(SECRET_BYTES));
        for short in [" \n", &format!(" {}\n", &long[1..])] {
            fs::write(&file, short).unwrap();
            assert!(read_or_make(data.path()).unwrap_err().to_string().contains("shorter than 32 bytes"));
        }
        fs::write(&file, format!(" {long}\n")).unwrap();
        assert_eq!(read(&file).unwrap(), long.as_bytes());
    }
}
