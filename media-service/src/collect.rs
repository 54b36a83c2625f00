//! Removes what has outlived its time: uploads that were never completed, and media that no message has referred to.

use std::sync::Arc;
use std::time::Duration;

use tern_runtime::clock::unix_millis;
use tern_runtime::shutdown::Stop;

use crate::objects::Objects;
use crate::uploads::Uploads;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// As many are removed in one go.
const STEP: usize = 256;

/// Looks again and again, until the stop, for what has outlived its time.
pub async fn collect(uploads: Arc<dyn Uploads>, objects: Objects, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let mut more = true;
        while more && !stop.is_stopped() {
            more = match step(&*uploads, &objects).await {
                Ok(removed) => removed == STEP,
                Err(error) => {
                    tracing::warn!(%error, "what has outlived its time is not removed; it is tried again");
                    false
                }
            };
        }
    }
}

/// From the moment that an id is told here nobody gets the media any more, so its object can go before it is forgotten: a crash in between leaves
/// nothing that is not found again.
async fn step(uploads: &dyn Uploads, objects: &Objects) -> anyhow::Result<usize> {
    let expired = uploads.expired(unix_millis(), STEP).await?;
    for id in &expired {
        objects.remove(*id).await?;
        uploads.remove(*id).await?;
    }
    Ok(expired.len())
}
