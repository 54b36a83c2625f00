//! All processes of a Tern cluster on this machine: for a first try, for tests and for benchmarks.

mod postgres;

pub use postgres::{Postgres, PostgresError, PostgresOptions};
