//! [`crate::SyncApi`] and [`crate::Hints`] across processes.
//!
//! - [`Client`] and [`routes`]: what gateways ask, and the service that answers
//! - [`Fanout`] and [`hear`]: hints to the gateways that hold a link of the user, and how a gateway hears them
//! - [`Bus`]: NATS, which carries them

mod bus;
mod client;
mod hints;
mod server;
pub mod settings;

pub use bus::{Bus, Servers};
pub use client::Client;
pub use hints::{Fanout, hear};
pub use server::routes;
