//! What was committed lately, where it can be had without storage: the heads of users, where their devices stand, and the results of messages.
//!
//! Whatever is here may be lost at any moment, or be as it was a while ago, and storage has it too. So a head says at once that there is something new, but that there is nothing new only
//! for a device of which storage has said so lately; and a result is here only if storage has it, and whoever does not find one asks storage.

mod memory;
mod shortcuts;

use std::time::Duration;

use async_trait::async_trait;
use tern_proto::UserId;
use tern_proto::key::{CLASSES, Class, Version};
use tern_storage::Sent;

pub use self::memory::Memory;
pub(crate) use self::shortcuts::{Answer, Looked, Shortcuts, named};
use crate::{Away, Device};

/// The time after which storage is asked again whether there is nothing new, unless the operator says otherwise.
pub const CONFIRM: Duration = Duration::from_secs(30);
/// A result is kept so long: a client that gets no answer sends again within seconds.
pub const RESULTS: Duration = Duration::from_secs(60);
/// Heads that do not rise and are not confirmed for so long are forgotten.
pub(crate) const HEADS: Duration = Duration::from_secs(600);

/// A head that has risen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risen {
    /// Whose.
    pub user: UserId,
    /// That of the user's keys.
    pub epoch: u64,
    /// In which class.
    pub class: Class,
    /// To where.
    pub version: Version,
}

/// What storage says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Which.
    pub device: Device,
    /// That of the user's keys.
    pub epoch: u64,
    /// The heads of the user.
    pub heads: [Version; CLASSES],
    /// What the device has acknowledged.
    pub acked: [Version; CLASSES],
    /// The [`Look::now`] of a look that was made before storage was asked.
    pub at: u64,
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The heads of the user, as they were raised or confirmed; the real ones may be higher.
    pub heads: [Option<Version>; CLASSES],
    /// What the device has acknowledged, if storage was asked lately enough; it may have acknowledged more.
    pub acked: Option<[Version; CLASSES]>,
    /// When this was, by a clock of which nothing else is known.
    pub now: u64,
}

/// The name of a message: whoever knows it may ask what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The sending device.
    pub device: Device,
    /// That of the user's keys.
    pub epoch: u64,
    /// Not 0.
    pub client_msg_id: u64,
}

/// What became of a message that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Of what was sent.
    pub hash: u64,
    /// As a resend gets it.
    pub sent: Sent,
}

/// Keeps it.
#[async_trait]
pub trait Recent: Send + Sync + 'static {
    /// Heads have risen, by commits. None is ever lowered.
    ///
    /// # Errors
    /// [`Away`]: some of them may be noted and others not.
    async fn raise(&self, risen: &[Risen]) -> Result<(), Away>;

    /// Storage has said so.
    ///
    /// # Errors
    /// [`Away`]: some of it may be noted.
    async fn confirm(&self, confirmed: &[Confirmed]) -> Result<(), Away>;

    /// What is known of a device whose key has this epoch. A confirmation counts for as long as `lately`.
    ///
    /// # Errors
    /// [`Away`].
    async fn look(&self, device: &Device, epoch: u64, lately: Duration) -> Result<Look, Away>;

    /// These were committed. They are kept for [`RESULTS`].
    ///
    /// # Errors
    /// [`Away`]: some of them may be kept.
    async fn remember(&self, stored: &[(Name, Stored)]) -> Result<(), Away>;

    /// What became of these, where that is known.
    ///
    /// # Errors
    /// [`Away`].
    async fn recall(&self, names: &[Name]) -> Result<Vec<Option<Stored>>, Away>;
}
