//! What the services that keep something in PostgreSQL have in common: how a connection is made and set, what a failure says about the transaction under
//! way, how tables are brought up to date, what is counted. No table and no domain noun.
//!
//! There is no pool: each service has lanes, tasks with a connection of their own.

mod connect;
mod counted;
mod failure;
mod migrate;
mod statements;

pub use connect::{Commits, connect, ready_within, set_commits};
pub use counted::Counted;
pub use failure::{Failure, told};
pub use migrate::migrate;
