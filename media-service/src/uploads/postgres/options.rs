//! How it is set up.

use std::time::Duration;

use crate::uploads::LIFETIME;

/// What [`super::Postgres::open`] needs to know. [`Options::new`] has the defaults.
#[derive(Clone)]
pub struct Options {
    /// Where the database is, as libpq takes it: a URL or `host=… dbname=…`. It may hold a password and is shown nowhere.
    pub url: String,
    /// Transactions that write at the same time; each has a connection.
    pub writers: usize,
    /// Looks at the same time; each has a connection.
    pub readers: usize,
    /// What no message refers to lives for so long.
    pub lifetime: Duration,
}

impl Options {
    /// The defaults, for the database at `url`.
    pub fn new(url: &str) -> Options {
        Options { url: url.to_owned(), writers: 2, readers: 2, lifetime: LIFETIME }
    }
}
