//! [`crate::Storage`] across processes: [`Client`] on the side of the sync service, [`routes`] on that of the storage service.
//!
//! What is asked for at the same time travels together. Every call may be made twice, so one that fails is made again on another replica.

mod client;
mod convert;
mod server;

pub use client::Client;
pub use server::routes;
