//! Acknowledgements that hello, check and sync carry: stored soon, waited for by nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tern_proto::key::{CLASSES, Class, Version};
use tern_runtime::clock::unix_millis;
use tern_storage::{Device, DeviceState, Op, Outcome, Storage};
use tracing::debug;

use crate::delivered::{Deliver, Standing};
use crate::paced::{Job, Paced};

/// Stores what devices acknowledge, and starts the derivation of delivered receipts from it.
///
/// An acknowledgement that cannot be stored is forgotten: the client presents its key again with its next request.
pub(crate) struct Acks {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) deliver: Arc<Paced<Deliver>>,
}

/// How often it is stored that a device was heard, though nothing rises: when a user has too many, the longest silent yields.
const HEARD_EVERY_MS: i64 = 3_600_000;

/// Stores what a device acknowledges, if it is of this epoch of the store and not ahead. Delivered receipts are derived from it soon.
pub(crate) async fn store(
    storage: &dyn Storage,
    deliver: &Arc<Paced<Deliver>>,
    device: &Device,
    epoch: u64,
    versions: [Option<Version>; CLASSES],
) -> Outcome {
    let op = Op::Ack { device: device.clone(), epoch, versions, time_ms: unix_millis() };
    let outcome = storage.commit(vec![op]).await.pop().unwrap_or(Outcome::Unknown);
    if let Outcome::Acked(state) = &outcome {
        derive(deliver, device, state);
    }
    outcome
}

/// Derives delivered receipts, soon, if a device in this state has acknowledged more than they are derived from.
fn derive(deliver: &Arc<Paced<Deliver>>, device: &Device, state: &DeviceState) {
    let (acked, derived) = (state.acked[Class::Messages as usize], state.derived);
    if acked > derived && state.foreign > derived {
        deliver.add(device.user.clone(), BTreeMap::from([(device.id.clone(), Standing { acked, derived })]));
    }
}

/// Whether what a device in this state acknowledges is worth storing.
fn is_news(state: &DeviceState, versions: [Option<Version>; CLASSES]) -> bool {
    let rises = versions.into_iter().zip(state.acked).any(|(version, acked)| version > Some(acked));
    let heard_lately = state.heard_ms.saturating_add(HEARD_EVERY_MS) > unix_millis();
    rises || !state.known || !heard_lately
}

#[async_trait]
impl Job for Acks {
    type Key = Device;
    type Work = [Option<Version>; CLASSES];

    fn merge(waiting: &mut Self::Work, more: Self::Work) {
        for (waiting, more) in waiting.iter_mut().zip(more) {
            *waiting = (*waiting).max(more);
        }
    }

    async fn run(&self, device: &Device, versions: Self::Work) -> Option<Self::Work> {
        let state = match self.storage.device(device).await {
            Ok(state) => state,
            Err(error) => {
                debug!(%error, ?device, "an acknowledgement was not stored");
                return None;
            }
        };
        if !is_news(&state, versions) {
            derive(&self.deliver, device, &state);
            return None;
        }
        let outcome = store(&*self.storage, &self.deliver, device, state.epoch, versions).await;
        if !matches!(outcome, Outcome::Acked(_)) {
            debug!(?outcome, ?device, "an acknowledgement was not stored");
        }
        None
    }
}
