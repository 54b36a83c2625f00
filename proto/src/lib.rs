//! The wire: what clients and the gateway exchange, without any I/O.
//!
//! - [`packet`]: the 16-byte header and its decoder
//! - [`command`]: the command table
//! - [`v1`]: the bodies, generated from `proto/tern/v1/*.proto`
//! - [`key`]: the SyncKey and its rules
//! - [`ids`]: users, devices, conversations, media
//! - [`code`]: what each error code does to the link, the request and HTTP; [`Refusal`] carries one
//!
//! `docs/protocol.md` is the specification; the tests of this crate hold its
//! byte dumps against this codec.

pub mod code;
pub mod command;
pub mod ids;
pub mod key;
pub mod limits;
pub mod packet;
mod refusal;

/// The protobuf messages and their JSON mapping, generated; see `tests/generated.rs`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::disallowed_methods)]
pub mod v1 {
    include!("gen/tern.v1.rs");
    include!("gen/tern.v1.serde.rs");
}

pub use command::Command;
pub use ids::{ConversationId, DeviceId, MediaId, UserId};
pub use key::{Class, Key};
pub use packet::{Packet, PacketError};
pub use refusal::{RETRY_AFTER, Refusal};
