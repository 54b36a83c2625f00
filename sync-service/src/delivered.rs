//! Delivered receipts, derived from acknowledgements.
//!
//! Storage knows for each device what it has acknowledged and up to where receipts are derived from that. A step looks at the
//! messages between the two and commits their positions together with the new "derived up to", so a crash loses none: what
//! is left is found again by [`Derivation::recover`].

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tern_proto::key::{Class, Version};
use tern_proto::v1::entry::Body;
use tern_proto::{ConversationId, DeviceId, RETRY_AFTER, UserId, limits, v1};
use tern_runtime::clock::unix_millis;
use tern_storage::{Device, Op, Outcome, PageRequest, Storage, Unavailable};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::paced::{Job, Paced};
use crate::{Hints, RECEIPT_PACE, news};

/// Pages that a step reads at most: it bounds what a crash between two steps repeats.
const STEP_PAGES: usize = 4;
/// Bytes of one of them at most, beside its entries.
const PAGE_BYTES: usize = 1024 * 1024;
/// Conversations that one commit raises. One user who acknowledges may owe hundreds of others a receipt, and nobody waits for those as for a message: in one
/// commit they would hold up everybody's, and then all of these users' links would want to be served at once.
const RAISED_AT_ONCE: usize = 32;
/// How many devices are recovered at a time.
const RECOVERED_AT_ONCE: usize = 128;

/// Why acknowledgements are left underived for now. Nothing is lost: storage knows them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDerived {
    /// They could not be read.
    #[error(transparent)]
    Unread(#[from] Unavailable),
    /// The receipts were not stored, or not certainly.
    #[error("the receipts were not stored: {0:?}")]
    NotStored(Option<Outcome>),
}

/// Derives.
pub(crate) struct Derivation {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) hints: Arc<dyn Hints>,
}

/// What is known of a device without a look: at least so much is acknowledged, and at least so much derived. What is derived twice is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// That of the store. In another life of it the rest says nothing.
    pub(crate) epoch: u64,
    pub(crate) acked: Version,
    pub(crate) derived: Version,
}

/// What one look at a device's acknowledgements has found.
struct Step {
    device: Device,
    epoch: u64,
    derived: Version,
    positions: BTreeMap<ConversationId, u64>,
    /// Nothing acknowledged lies beyond it.
    last: bool,
}

impl Derivation {
    /// Derives all that these devices of one user have acknowledged, in steps; of some it is known where they stand. Tells up to where it has derived, of those for
    /// which there was something to derive.
    pub(crate) async fn derive(
        &self,
        devices: impl IntoIterator<Item = (Device, Option<Standing>)>,
    ) -> Result<BTreeMap<DeviceId, Standing>, NotDerived> {
        let mut derived = BTreeMap::new();
        let mut devices: Vec<(Device, Option<Standing>)> = devices.into_iter().collect();
        loop {
            let mut steps = Vec::new();
            for (device, standing) in &devices {
                steps.extend(self.look(device, *standing).await?);
            }
            if steps.is_empty() {
                return Ok(derived);
            }
            let standing = |step: &Step| Standing { epoch: step.epoch, acked: 0, derived: step.derived };
            let reached: Vec<_> = steps.iter().map(|step| (step.device.id.clone(), standing(step))).collect();
            devices = steps.iter().filter(|step| !step.last).map(|step| (step.device.clone(), None)).collect();
            self.store(steps).await?;
            derived.extend(reached);
            if devices.is_empty() {
                return Ok(derived);
            }
            tokio::time::sleep(RECEIPT_PACE).await;
        }
    }

    /// Derives whatever a crash or an outage has left underived.
    pub(crate) async fn recover(self: &Arc<Derivation>) -> Result<(), NotDerived> {
        let mut after: Option<Device> = None;
        let mut outcome = Ok(());
        loop {
            let devices = self.storage.underived(after.as_ref(), RECOVERED_AT_ONCE).await?;
            let Some(last) = devices.last() else {
                return outcome;
            };
            after = Some(last.clone());
            let mut users = JoinSet::new();
            for siblings in devices.chunk_by(|a, b| a.user == b.user) {
                let (derivation, siblings) = (self.clone(), siblings.to_vec());
                users.spawn(async move { derivation.derive(siblings.into_iter().map(|device| (device, None))).await });
            }
            let derived = users.join_all().await.into_iter().map(|derived| derived.map(drop));
            outcome = derived.fold(outcome, Result::and);
        }
    }

    /// Reads the next messages that the device has acknowledged; `None` if all are derived.
    async fn look(&self, device: &Device, standing: Option<Standing>) -> Result<Option<Step>, NotDerived> {
        let Standing { epoch, acked, derived } = match standing {
            Some(standing) => standing,
            None => {
                let state = self.storage.device(device).await?;
                Standing { epoch: state.epoch, acked: state.acked[Class::Messages as usize], derived: state.derived }
            }
        };
        if derived >= acked {
            return Ok(None);
        }
        let mut step = Step { device: device.clone(), epoch, derived, positions: BTreeMap::new(), last: false };
        for _ in 0..STEP_PAGES {
            let request = PageRequest {
                device: device.clone(),
                above: [Some(step.derived), None],
                max_entries: limits::PAGE_ENTRIES,
                max_bytes: PAGE_BYTES,
                texts: false,
            };
            let page = self.storage.page(request).await?;
            if page.epoch != epoch {
                return Ok(None);
            }
            let acknowledged = page.entries.iter().take_while(|entry| entry.version <= acked);
            step.last = acknowledged.clone().count() < page.entries.len() || !page.more[Class::Messages as usize];
            raise(&mut step.positions, &device.user, acknowledged);
            if step.last {
                step.derived = acked;
                break;
            }
            step.derived = page.entries.last().map_or(acked, |entry| entry.version);
        }
        Ok(Some(step))
    }

    /// Commits the steps of one user's devices and tells whom it concerns.
    ///
    /// The ops that say how far each device is derived come last, and each carries the positions that are left: whichever is stored first
    /// raises them, once, and none is lost where only some of the ops are stored.
    async fn store(&self, steps: Vec<Step>) -> Result<(), NotDerived> {
        let mut highest: BTreeMap<ConversationId, u64> = BTreeMap::new();
        for (conversation, seq) in steps.iter().flat_map(|step| &step.positions) {
            let position = highest.entry(conversation.clone()).or_default();
            *position = (*position).max(*seq);
        }
        let mut positions: Vec<(ConversationId, u64)> = highest.into_iter().collect();
        let time_ms = unix_millis();
        let op = |by: &Device, derived: Version, positions: Vec<(ConversationId, u64)>| Op::Delivered {
            by: by.clone(),
            derived,
            positions,
            time_ms,
        };
        while let (Some(step), true) = (steps.first(), positions.len() > RAISED_AT_ONCE) {
            let some = positions.split_off(positions.len() - RAISED_AT_ONCE);
            // Nothing is derived further by it, so after a crash it is done again.
            self.raise(&step.device, vec![op(&step.device, 0, some)]).await?;
        }
        let Some(first) = steps.first() else { return Ok(()) };
        let ops = steps.iter().map(|step| op(&step.device, step.derived, positions.clone())).collect();
        self.raise(&first.device, ops).await
    }

    async fn raise(&self, by: &Device, ops: Vec<Op>) -> Result<(), NotDerived> {
        let mut wanted = ops.len();
        for outcome in self.storage.commit(ops).await {
            let Outcome::Raised(told) = outcome else {
                return Err(NotDerived::NotStored(Some(outcome)));
            };
            news::of_receipts(&*self.hints, by, &told);
            wanted -= 1;
        }
        if wanted == 0 { Ok(()) } else { Err(NotDerived::NotStored(None)) }
    }
}

/// Raises each conversation's position to the highest sequence of what others sent. A damaged entry counts where it is known.
fn raise<'a>(
    positions: &mut BTreeMap<ConversationId, u64>,
    user: &UserId,
    entries: impl Iterator<Item = &'a v1::Entry>,
) {
    for entry in entries {
        let (conversation, seq) = match &entry.body {
            Some(Body::Message(message)) if message.from != user.as_str() => (&message.conversation, message.seq),
            Some(Body::Damaged(damaged)) => (&damaged.conversation, damaged.seq),
            _ => continue,
        };
        if let Ok(conversation) = ConversationId::new(conversation) {
            let position = positions.entry(conversation).or_default();
            *position = (*position).max(seq);
        }
    }
}

/// Derives for the devices of a user that have acknowledged. Paced by user, because that is who a receipt speaks of.
pub(crate) struct Deliver {
    pub(crate) derivation: Arc<Derivation>,
    pub(crate) sweep: Arc<Paced<Sweep>>,
}

#[async_trait]
impl Job for Deliver {
    type Key = UserId;
    type Work = BTreeMap<DeviceId, Standing>;

    fn merge(waiting: &mut Self::Work, more: Self::Work) {
        for (device, standing) in more {
            let known = waiting.entry(device).or_insert(standing);
            if known.epoch != standing.epoch {
                *known = standing;
            }
            known.acked = known.acked.max(standing.acked);
            known.derived = known.derived.max(standing.derived);
        }
    }

    /// What came meanwhile was seen before this was stored: it does not know of it.
    async fn run(&self, user: &UserId, devices: Self::Work) -> Option<Self::Work> {
        let devices = devices.into_iter().map(|(id, standing)| (Device { user: user.clone(), id }, Some(standing)));
        match self.derivation.derive(devices).await {
            Ok(derived) => Some(derived),
            Err(error) => {
                warn!(%error, %user, "delivered receipts are late");
                self.sweep.add((), ());
                None
            }
        }
    }
}

/// Recovers, again and again until it succeeds: one task for all that an outage has left.
pub(crate) struct Sweep {
    pub(crate) derivation: Arc<Derivation>,
}

#[async_trait]
impl Job for Sweep {
    type Key = ();
    type Work = ();

    fn merge(_waiting: &mut (), _more: ()) {}

    async fn run(&self, _key: &(), _work: ()) -> Option<()> {
        while let Err(error) = self.derivation.recover().await {
            debug!(%error, "delivered receipts are still late");
            tokio::time::sleep(RETRY_AFTER).await;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A database that was restored: what the last run knew of the old one may not take the place of what is known of the new one.
    #[test]
    fn of_two_epochs_the_later_one_stands() {
        let id = DeviceId::new("d1").unwrap();
        let of = |epoch, acked, derived| BTreeMap::from([(id.clone(), Standing { epoch, acked, derived })]);
        let mut waiting = of(1, 0, 90);
        Deliver::merge(&mut waiting, of(2, 7, 3));
        assert_eq!(waiting, of(2, 7, 3));
        Deliver::merge(&mut waiting, of(2, 5, 4));
        assert_eq!(waiting, of(2, 7, 4));
    }
}
