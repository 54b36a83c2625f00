//! Removes what has outlived its time: uploads that were never completed, and media that no message has referred to.

use std::sync::Arc;
use std::time::Duration;

use tern_runtime::clock::unix_millis;
use tern_runtime::planted::{self, Fault};
use tern_runtime::shutdown::Stop;

use async_trait::async_trait;
use tern_proto::{MediaId, Refusal};

use crate::objects::Objects;
use crate::uploads::{State, Upload, Uploads};

/// Looks in the time that things live without being referred to.
const LOOKS: u32 = 8;
/// The longest time between two of them.
const EVERY: Duration = Duration::from_secs(10);
/// As many are looked at in one go. No message can come to be about them meanwhile.
const STEP: usize = 32;

/// Who knows which media messages are about.
#[async_trait]
pub trait References: Send + Sync + 'static {
    /// Whether a message is about it, of all that may be acknowledged by now.
    ///
    /// # Errors
    /// A retryable [`Refusal`] when that cannot be told.
    async fn refers(&self, id: MediaId) -> Result<bool, Refusal>;
}

/// Looks again and again, until the stop, for what has outlived its time.
pub async fn collect(
    (uploads, objects): (Arc<dyn Uploads>, Objects),
    references: Arc<dyn References>,
    lifetime: Duration,
    stop: Stop,
) {
    let every = EVERY.min(lifetime / LOOKS);
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(every) => {}
        }
        let mut more = true;
        while more && !stop.is_stopped() {
            more = match step(&*uploads, &objects, &*references, unix_millis()).await {
                Ok(looked_at) => looked_at == STEP,
                Err(error) => {
                    tracing::warn!(%error, "what has outlived its time is not removed; it is tried again");
                    false
                }
            };
        }
    }
}

/// In this order: what is told here has had no lease for a while and gets none, so no message that is not stored yet can come to refer to it; then it is asked what
/// does; then the object goes, and at last the row, so that a crash in between leaves nothing that is not found again. Tells how many were looked at.
///
/// # Errors
/// Where it broke off; the next step goes on.
pub async fn step(
    uploads: &dyn Uploads,
    objects: &Objects,
    references: &dyn References,
    now_ms: i64,
) -> anyhow::Result<usize> {
    let lapsed = uploads.lapsed(now_ms, STEP).await?;
    let mut failed = Ok(());
    for upload in &lapsed {
        // One that cannot be dealt with now holds back no other.
        if let Err(error) = settle(upload, uploads, objects, references).await {
            tracing::debug!(%error, id = %upload.id, "what has outlived its time stays for now");
            failed = Err(error);
        }
    }
    failed.map(|()| lapsed.len())
}

async fn settle(
    upload: &Upload,
    uploads: &dyn Uploads,
    objects: &Objects,
    references: &dyn References,
) -> anyhow::Result<()> {
    let may_be_referred_to = matches!(upload.state, State::Complete(_)) && !planted::active(Fault::MediaUnasked);
    if may_be_referred_to && references.refers(upload.id).await? {
        return Ok(uploads.keep(upload.id).await?);
    }
    // Also of what is not complete: the object may have been stored already.
    objects.remove(upload.id).await?;
    Ok(uploads.remove(upload.id).await?)
}
