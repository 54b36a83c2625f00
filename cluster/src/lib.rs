//! All processes of a Tern cluster on this machine: for a first try, for tests and for benchmarks.
//!
//! - [`Cluster`]: which services there are, with what ports; starts, stops, kills and stalls them
//! - [`Replica`]: a second Redis, which copies the first one
//! - [`Postgres`]: the database under them, from the machine's packages, as are Redis and NATS
//! - [`TestPostgres`], [`TestDatabase`]: the same for tests that need no cluster

mod cluster;
mod faketime;
mod ports;
mod postgres;
mod redis;
mod service;
mod test_postgres;

pub use cluster::{Cluster, ClusterError, Layout, installed};
pub use faketime::faketime;
pub use ports::free_port;
pub use postgres::{Postgres, PostgresError, PostgresOptions};
pub use redis::Replica;
pub use service::{Kind, Service};
pub use test_postgres::{TestDatabase, TestPostgres};
