//! The format file: without it nothing in the log can be told from noise.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::open::{LOG, OpenError};

const FORMAT: &str = "format";
/// The only format that is read.
pub(super) const FORMAT_VERSION: u32 = 2;

/// What it says.
pub(super) struct Format {
    pub salt: u64,
    pub segment_bytes: u64,
}

impl Format {
    pub(super) fn load_or_create(dir: &Path, segment_bytes: u64) -> Result<Format, OpenError> {
        let path = dir.join(FORMAT);
        match fs::read_to_string(&path) {
            Ok(text) => Format::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.join(LOG).exists() => {
                let format = Format { salt: fastrand::u64(1..), segment_bytes };
                format.save(&path).map_err(|error| OpenError::Io { path, error })?;
                Ok(format)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::DamagedFormat(path)),
            Err(error) => Err(OpenError::Io { path, error }),
        }
    }

    fn render(&self) -> String {
        let text = format!("tern-store {FORMAT_VERSION}\nsalt {:016x}\nsegment {}\n", self.salt, self.segment_bytes);
        let crc = crc32fast::hash(text.as_bytes());
        format!("{text}crc {crc:08x}\n")
    }

    fn parse(text: &str, path: PathBuf) -> Result<Format, OpenError> {
        let mut words = text.split_whitespace();
        if words.next() != Some("tern-store") {
            return Err(OpenError::DamagedFormat(path));
        }
        let found = words.next().unwrap_or_default();
        if found != FORMAT_VERSION.to_string() {
            return Err(OpenError::Format { path, found: found.to_owned() });
        }
        let mut value = |name| if words.next() == Some(name) { words.next() } else { None };
        let salt = value("salt").and_then(|word| u64::from_str_radix(word, 16).ok());
        let segment_bytes = value("segment").and_then(|word| word.parse().ok());
        match (salt, segment_bytes) {
            (Some(salt), Some(segment_bytes)) if (Format { salt, segment_bytes }).render() == text => {
                Ok(Format { salt, segment_bytes })
            }
            _ => Err(OpenError::DamagedFormat(path)),
        }
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(self.render().as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}
