//! How the engine is set up.

use std::time::Duration;

use super::epoch::Lineage;
use crate::Durability;

/// How transactions keep out of each other's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// By the locks that they take: enough, and cheap.
    #[default]
    ReadCommitted,
    /// By the database. What loses is run again. For databases that know nothing else.
    Serializable,
}

/// What [`super::Postgres::open`] needs to know. [`Options::new`] has the defaults.
#[derive(Clone)]
pub struct Options {
    /// Where the database is, as libpq takes it: a URL or `host=… dbname=…`. It may hold a password and is shown nowhere.
    pub url: String,
    /// What an outcome proves.
    pub durability: Durability,
    /// How transactions are kept apart.
    pub isolation: Isolation,
    /// Transactions that write at the same time; each has a connection.
    pub writers: usize,
    /// Transactions that read at the same time; each has a connection.
    pub readers: usize,
    /// The operator's word that the database at this lineage has lost nothing.
    pub nothing_lost: Option<Lineage>,
    /// Acknowledged entries are kept for so long, and at least as long as results.
    pub history: Duration,
    /// A device silent for longer holds nothing back.
    pub device_silence: Duration,
    /// Results of sends are kept for so long.
    pub keep_results: Duration,
    /// Entries of one user.
    pub max_entries: u64,
    /// Bytes of the entries of one user.
    pub max_bytes: u64,
}

impl Options {
    /// The defaults, for the database at `url`.
    pub fn new(url: &str) -> Options {
        let embedded = crate::embedded::Options::new("");
        Options {
            url: url.to_owned(),
            durability: Durability::Disk,
            isolation: Isolation::default(),
            writers: 1,
            readers: 1,
            nothing_lost: None,
            history: embedded.history,
            device_silence: embedded.device_silence,
            keep_results: embedded.keep_results,
            max_entries: embedded.max_entries,
            max_bytes: embedded.max_bytes,
        }
    }
}
