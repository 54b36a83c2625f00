//! [`crate::SyncApi`] and [`crate::Hints`] across processes.
//!
//! - [`Client`] and [`routes`]: what gateways ask, and the service that answers
//! - [`Broadcast`] and [`hint_routes`]: hints to every gateway, and how a gateway hears them

mod client;
mod hints;
mod server;

pub use client::Client;
pub use hints::{Broadcast, hint_routes};
pub use server::routes;
