//! What can be wrong with settings.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSetting {
    /// The file cannot be read or is not TOML.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No such setting.
    #[error("{name}: no such setting (from {origin})")]
    Unknown {
        /// As it was written.
        name: String,
        /// Where it stands.
        origin: String,
    },
    /// It is not what it should be.
    #[error("{name}: {reason} (from {origin})")]
    Value {
        /// The setting.
        name: String,
        /// What is wrong with the value; a secret is never shown.
        reason: String,
        /// Where the value stands.
        origin: String,
    },
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BadSettings(pub Vec<BadSetting>);

impl fmt::Display for BadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong setting{}", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|bad| write!(f, "\n  {bad}"))
    }
}
