//! The gateway over real sockets, with literal bytes, in front of a small service in memory.

#![allow(clippy::unwrap_used, reason = "these are tests, their support included")]

mod batching;
mod bench;
mod bytes;
mod checks;
mod clips;
mod drain;
mod greeting;
mod groups;
mod hints;
mod hostile;
mod http;
mod media;
mod peer;
mod routes;
mod service;
