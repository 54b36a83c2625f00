//! Who is where: which gateway holds a link of which device.
//!
//! A route may be lost at any moment and costs latency then: the gateway renews it, and looks by itself for what it may have missed. It belongs to one link of one run of a
//! gateway, so that a late cleanup of an old link never removes a new one.

mod memory;

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use async_trait::async_trait;
use tern_proto::UserId;

pub use self::memory::Memory;
use crate::{Away, Device};

/// The time after which the routes of a gateway that was killed are gone, unless the operator says otherwise.
pub const LIFETIME: Duration = Duration::from_secs(30);

/// One run of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId(u64);

impl GatewayId {
    /// For a run that begins.
    pub fn random() -> GatewayId {
        GatewayId(fastrand::u64(1..))
    }

    /// As it was told.
    pub fn of(number: u64) -> GatewayId {
        GatewayId(number)
    }

    /// To be told.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One way to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The run of a gateway.
    pub gateway: GatewayId,
    /// The connection, by the number that the gateway gave it.
    pub link: u64,
    /// Whether it is a check that waits, of which a device may have several, and not its long link, of which it has one.
    pub is_wait: bool,
}

/// A route that is to be kept for another while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose link it leads to.
    pub device: Device,
    /// The link.
    pub route: Route,
    /// For how long the link has been the device's, when this is said.
    pub age: Duration,
    /// When it came, as was answered the last time.
    pub came: Option<Came>,
}

/// When a link came, in microseconds of the clock of those who keep the routes: of two long links of a device the one that came last has the place.
///
/// An age alone would not do: it grows while the word of it is under way, and a word that was held up would make an old link younger than one that has come meanwhile. So a link is dated by an answer
/// before its hello is judged, and nothing that follows on the reply can be dated before that. Of this date and what an age says the earlier one counts: a word that is late says a later one, and if the
/// clock was set back the date is too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Came(NonZeroU64);

impl Came {
    /// As it was told; nobody came at 0.
    pub fn of(micros: u64) -> Option<Came> {
        NonZeroU64::new(micros).map(Came)
    }

    /// To be told.
    pub fn micros(self) -> u64 {
        self.0.get()
    }
}

/// What has become of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whether it leads to its link now.
    pub standing: Standing,
    /// When its link came, to be said with it from now on.
    pub came: Option<Came>,
}

/// Whether a route leads to its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It stood, and does.
    Stands,
    /// It did not stand, and does now; if it had stood before, hints may have been missed.
    New,
    /// A younger link of the device has its place.
    Displaced,
    /// It is not kept: when its long link came was not said. To be asked again with what was answered.
    Undated,
}

/// Keeps the routes. One that is not kept again in time is forgotten.
#[async_trait]
pub trait Routes: Send + Sync + 'static {
    /// Keeps each route for a while, and tells what has become of it. A long link takes the place of an older one of the device, which is returned beside. A wait has no place, and need not be dated.
    ///
    /// # Errors
    /// [`Away`]: some of them may be kept and others not.
    async fn keep(&self, routes: &[Kept]) -> Result<Vec<(Held, Option<Route>)>, Away>;

    /// Removes routes that stand; one that was displaced is left as it is.
    ///
    /// # Errors
    /// [`Away`].
    async fn leave(&self, routes: &[(Device, Route)]) -> Result<(), Away>;

    /// The gateways that hold a link of each user.
    ///
    /// # Errors
    /// [`Away`].
    async fn gateways(&self, users: &[UserId]) -> Result<Vec<Vec<GatewayId>>, Away>;
}

/// How long a route is kept at a time, so that it is gone within its lifetime even where another device's renewal has to remove it.
pub(crate) fn kept(lifetime: Duration) -> Duration {
    lifetime * 2 / 3
}

/// How often a gateway keeps its routes again.
pub fn renewal(lifetime: Duration) -> Duration {
    lifetime / 4
}

/// What a route is kept under, within those of its user.
pub(crate) fn name_of(device: &Device, route: Route) -> String {
    if route.is_wait {
        // No device has such a name.
        format!("?{}-{:x}", route.gateway, route.link)
    } else {
        device.id.to_string()
    }
}

pub(crate) fn distinct(gateways: impl Iterator<Item = GatewayId>) -> Vec<GatewayId> {
    let mut gateways: Vec<GatewayId> = gateways.collect();
    gateways.sort_unstable();
    gateways.dedup();
    gateways
}
