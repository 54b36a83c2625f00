//! Decides: validity, keys, pages, acknowledgements, receipts, and whom to hint. Stateless over [`tern_storage::Storage`].
//!
//! [`SyncApi`] is the seam to the gateway; [`Hints`] the one back to it; [`SyncService`] what stands between them.
//!
//! A message flows through `send` into storage, and then hints go out, with the message itself as `news` where it is short. A key is judged by `keys` and answered by a `page`.
//! `media` says who may refer to what was uploaded. `conversations` tells a user of its own. `routes` knows which gateway holds a link of whom, `recent` what was committed lately; both are kept `in_redis` and may be lost.
//! What follows a request but need not delay it is a job of its own: `acks` stores the acknowledgements that requests carry,
//! `delivered` derives receipts from them, and `reads` brings read marks together. `paced` runs all three.

mod acks;
mod api;
mod conversations;
mod delivered;
mod epoch;
pub mod in_redis;
mod keys;
mod media;
mod news;
mod paced;
mod page;
mod reads;
pub mod recent;
pub mod remote;
pub mod routes;
mod seen;
mod send;
mod service;

use std::time::Duration;

pub use api::{Hints, Pushed, SyncApi, Welcome};
pub use news::{News, Placed};
pub use recent::{Recent, Risen};
pub use routes::{Came, GatewayId, Held, Kept, Route, Routes, Standing};
pub use service::SyncService;
pub use tern_proto::Refusal;
pub use tern_storage::Device;

/// What may be lost cannot be read or written now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what may be lost is away: {0}")]
pub struct Away(pub String);

/// Receipts of one (conversation, member, kind) are at least so far apart.
const RECEIPT_PACE: Duration = Duration::from_millis(250);
