//! The end of a run: everything is healed, and every device gets what it is owed.

use std::time::Duration;

use anyhow::{Context, bail};
use tern_proto::key::Key;
use tern_proto::v1;
use tokio::time::{Instant, sleep};

use crate::actor::Actor;
use crate::event::{Reply, Request};
use crate::long_link::Lost;
use crate::wire::{Path, Wire};

/// How often something is tried again on a healed network, and the pause between.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);
/// Nothing new for this many rounds, one [`ROUND`] apart, is quiet: receipts may come late, one per 250 ms.
const QUIET_ROUNDS: u32 = 4;
const ROUND: Duration = Duration::from_millis(300);
/// All devices are quiet within this time.
const REST: Duration = Duration::from_secs(60);

/// Right after the restart, before the device says anything else: what does the server think was acknowledged, and sent?
///
/// # Errors
/// No answer again and again.
pub(crate) async fn wake(actor: &mut Actor) -> anyhow::Result<()> {
    actor.wire.close();
    insist(async || actor.probe(Path::Packets).await).await.context("probing")?;
    insist(async || actor.start().await).await.context("starting")?;
    for _ in 0..3 {
        insist(async || actor.resend_settled().await).await.context("resending")?;
    }
    insist(async || actor.send_conflict().await).await.context("sending a conflict")?;
    insist(async || {
        actor.resend_outbox().await?;
        if actor.wire.state.outbox.is_empty() { Ok(()) } else { Err(Lost) }
    })
    .await
    .context("emptying the outbox")?;
    insist(async || actor.greet_all().await).await.context("sending")
}

/// Lets every device sync and acknowledge until nothing more comes.
///
/// # Errors
/// It does not end.
pub(crate) async fn rest(actors: &mut [Actor]) -> anyhow::Result<()> {
    let deadline = Instant::now() + REST;
    let mut quiet = 0;
    while quiet < QUIET_ROUNDS {
        if Instant::now() > deadline {
            bail!("new entries keep coming without a reason");
        }
        quiet += 1;
        for actor in &mut *actors {
            let before = actor.wire.state.key.clone();
            drain(actor).await?;
            if before != actor.wire.state.key {
                insist(async || actor.ack_now().await).await.context("acknowledging")?;
                quiet = 0;
            }
        }
        sleep(ROUND).await;
    }
    Ok(())
}

/// Syncs until nothing more comes.
///
/// # Errors
/// It does not end.
pub(crate) async fn drain(actor: &mut Actor) -> anyhow::Result<()> {
    let deadline = Instant::now() + REST;
    loop {
        if Instant::now() > deadline {
            bail!("paging does not end");
        }
        let mut more = false;
        insist(async || {
            more = actor.sync_once(Path::Packets, false, 0).await?;
            Ok(())
        })
        .await
        .context("syncing")?;
        if !more {
            return Ok(());
        }
    }
}

/// Reads everything from the oldest, peeking.
///
/// # Errors
/// No answer again and again, an order about the key, or pages without an end.
pub(crate) async fn read_all(wire: &mut Wire, path: Path) -> anyhow::Result<()> {
    let mut key: Option<v1::SyncKey> = None;
    let deadline = Instant::now() + REST;
    loop {
        if Instant::now() > deadline {
            bail!("reading does not end");
        }
        if path == Path::Long && !wire.is_open() {
            let hello = v1::HelloRequest { protocol: 1, peek: true, ..Default::default() };
            wire.open(vec![Request::Hello(hello)]).await;
        }
        let request = Request::Sync(v1::SyncRequest { key: key.clone(), peek: true, limit: 0 });
        let Ok((_, Reply::Sync(reply))) = wire.ask(path, request).await else {
            sleep(PAUSE).await;
            continue;
        };
        let page = reply.key.context("a page without a key")?;
        key = Some(match &key {
            Some(before) => {
                let mut merged = Key::from(before);
                merged.merge(&Key::from(&page));
                v1::SyncKey::from(&merged)
            }
            None => page,
        });
        if reply.more.is_empty() {
            return Ok(());
        }
    }
}

async fn insist(mut body: impl AsyncFnMut() -> Result<(), Lost>) -> Result<(), Lost> {
    for _ in 1..TRIES {
        if body().await.is_ok() {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    body().await
}
