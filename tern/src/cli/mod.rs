//! The commands beside the server, one module each.

pub(crate) mod ask;
pub(crate) mod chat;
pub(crate) mod client_options;
pub(crate) mod cluster;
mod connection;
pub(crate) mod fetch;
pub(crate) mod group;
mod line;
pub(crate) mod program;
pub(crate) mod restored;
pub(crate) mod send;
pub(crate) mod send_media;
pub(crate) mod smoke;
pub(crate) mod token;
pub(crate) mod trace;
pub(crate) mod watch;
