//! How Tern's services call each other.
//!
//! - [`v1`]: the stubs of `proto/tern/rpc/v1`, generated and committed
//! - [`Replicas`]: every replica behind a name, which of them are well, and a call that goes to one of those
//! - [`Batcher`]: requests that come together travel together
//! - [`serve`]: a server of these services, with health, limits and an end

mod batcher;
mod refusal;
mod replicas;
mod serve;
mod target;
mod traced;

/// The generated messages and stubs.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod v1 {
    include!("gen/tern.rpc.v1.rs");
}

pub use batcher::{Batcher, Unanswered};
pub use replicas::{Failed, Replica, Replicas};
pub use serve::{Serving, serve, settings};
pub use target::Target;
pub use tonic;
pub use traced::traces_of;

/// Bytes of the largest message, either way: several times what the batches are bounded to.
pub const MESSAGE_BYTES: usize = 64 * 1024 * 1024;
