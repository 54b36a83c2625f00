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

/// Stores what a device in this state acknowledges; [`Outcome::Done`] if it is stored now or was before.
pub(crate) async fn store(
    storage: &dyn Storage,
    device: &Device,
    state: &DeviceState,
    versions: [Option<Version>; CLASSES],
) -> Outcome {
    let rises = |(version, acked): (Option<Version>, Version)| version.is_some_and(|version| version > acked);
    let time_ms = unix_millis();
    let heard_lately = state.heard_ms.saturating_add(HEARD_EVERY_MS) > time_ms;
    if state.known && heard_lately && !versions.into_iter().zip(state.acked).any(rises) {
        return Outcome::Done;
    }
    let op = Op::Ack { device: device.clone(), versions, time_ms };
    storage.commit(vec![op]).await.pop().unwrap_or(Outcome::Unknown)
}

/// Derives delivered receipts, soon, if a device in this state acknowledges more than they are derived from.
pub(crate) fn derive(
    deliver: &Arc<Paced<Deliver>>,
    device: &Device,
    state: &DeviceState,
    versions: [Option<Version>; CLASSES],
) {
    if let Some(acked) = versions[Class::Messages as usize].filter(|acked| *acked > state.derived)
        && state.foreign > state.derived
    {
        let standing = Standing { acked, derived: state.derived };
        deliver.add(device.user.clone(), BTreeMap::from([(device.id.clone(), standing)]));
    }
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

    async fn run(&self, device: &Device, versions: Self::Work) {
        let state = match self.storage.device(device).await {
            Ok(state) => state,
            Err(error) => return debug!(%error, ?device, "an acknowledgement was not stored"),
        };
        match store(&*self.storage, device, &state, versions).await {
            Outcome::Done => derive(&self.deliver, device, &state, versions),
            outcome => debug!(?outcome, ?device, "an acknowledgement was not stored"),
        }
    }
}
