//! The service across processes: called by gateways and sync services, and asking the sync service what messages are about.

mod client;
mod references;
mod server;

pub use client::{Client, PATIENCE, SHORT_PATIENCE};
pub use references::Asked;
pub use server::routes;
