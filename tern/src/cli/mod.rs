//! The commands beside the server, one module each.

pub(crate) mod ask;
pub(crate) mod chat;
pub(crate) mod client_options;
mod connection;
pub(crate) mod group;
mod line;
pub(crate) mod restored;
pub(crate) mod send;
pub(crate) mod smoke;
pub(crate) mod token;
pub(crate) mod watch;
