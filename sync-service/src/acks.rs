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

/// What a device acknowledges.
pub(crate) struct Acknowledged {
    /// That of the store in which the versions were judged. In another life of it they say nothing.
    pub(crate) epoch: u64,
    pub(crate) versions: [Option<Version>; CLASSES],
}

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
        let standing = Standing { epoch: state.epoch, acked, derived };
        deliver.add(device.user.clone(), BTreeMap::from([(device.id.clone(), standing)]));
    }
}

#[async_trait]
impl Job for Acks {
    type Key = Device;
    type Work = Acknowledged;

    fn merge(waiting: &mut Self::Work, more: Self::Work) {
        if waiting.epoch != more.epoch {
            *waiting = more;
            return;
        }
        for (waiting, more) in waiting.versions.iter_mut().zip(more.versions) {
            *waiting = (*waiting).max(more);
        }
    }

    async fn run(&self, device: &Device, acknowledged: Self::Work) -> Option<Self::Work> {
        let Acknowledged { epoch, versions } = acknowledged;
        let state = match self.storage.device(device).await {
            Ok(state) => state,
            Err(error) => {
                debug!(%error, ?device, "an acknowledgement was not stored");
                return None;
            }
        };
        if epoch == state.epoch && !state.is_news(versions, unix_millis()) {
            derive(&self.deliver, device, &state);
            return None;
        }
        let outcome = store(&*self.storage, &self.deliver, device, epoch, versions).await;
        if !matches!(outcome, Outcome::Acked(_)) {
            debug!(?outcome, ?device, "an acknowledgement was not stored");
        }
        None
    }
}
