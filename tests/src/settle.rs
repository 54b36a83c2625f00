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
pub(crate) const TRIES: u32 = 50;
pub(crate) const PAUSE: Duration = Duration::from_millis(100);
/// Nothing new for this many rounds, one [`ROUND`] apart, is quiet: receipts may come late, one per 250 ms.
const QUIET_ROUNDS: u32 = 4;
const ROUND: Duration = Duration::from_millis(300);
/// How often a device takes over from itself: not every time is the new link on another gateway.
const TAKEN_OVER: u32 = 10;
/// A hint comes by then, where nothing is broken. A route that is lost is restored after at most twice that.
pub(crate) const HINT: Duration = Duration::from_millis(1_500);
/// Conversations in a page of the list, so that it has several.
const LISTED: u32 = 3;
/// Messages of the newest page.
const NEWEST: u32 = 5;
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
        // Behind whatever the server is still storing: a disk that takes its time is not quiet.
        if let Some(first) = actors.first_mut() {
            insist(async || first.resend_settled().await).await.context("resending")?;
        }
        sleep(ROUND).await;
    }
    Ok(())
}

/// displaced-session: a device takes the place of its own link, again and again, and what is then sent to it is hinted on the new one, whatever becomes of the old one.
///
/// # Errors
/// No answer again and again.
pub(crate) async fn take_over(watcher: &mut Actor, sender: &mut Actor) -> anyhow::Result<()> {
    let mut waits = 0;
    for _ in 0..TAKEN_OVER {
        insist(async || watcher.take_over().await).await.context("taking over")?;
        // Until the end of the old link has come about.
        sleep(PAUSE).await;
        watcher.wire.hints.clear();
        surely_greet(sender, watcher).await?;
        waits += u32::from(watcher.wire.wait_for_hint(Instant::now() + HINT).await);
    }
    if waits == 0 {
        bail!("no link stays, though nothing is broken");
    }
    Ok(())
}

/// One new message from one to the other, which is accepted.
async fn surely_greet(sender: &mut Actor, to: &Actor) -> anyhow::Result<()> {
    let user = to.wire.identity.user.clone();
    insist(async || {
        match sender.wire.state.outbox.is_empty() {
            true => sender.greet(user.clone()).await?,
            false => sender.resend_outbox().await?,
        }
        if sender.wire.state.outbox.is_empty() { Ok(()) } else { Err(Lost) }
    })
    .await
    .context("sending to one user")
}

/// redis-wiped: what a device has not fetched yet is pending, also when everything that might have said so is lost. Rule 8b says whether it is.
///
/// # Errors
/// No answer again and again.
pub(crate) async fn owe(watcher: &mut Actor, sender: &mut Actor, late: Duration) -> anyhow::Result<()> {
    drain(watcher).await?;
    surely_greet(sender, watcher).await?;
    // By then nothing excuses a check.
    sleep(late + PAUSE).await;
    Ok(())
}

/// See [`owe`].
///
/// # Errors
/// No answer again and again.
pub(crate) async fn ask_whether_owed(watcher: &mut Actor) -> anyhow::Result<()> {
    insist(async || watcher.check_now().await).await.context("checking")?;
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

/// Asks for the conversations, their members and their history: all of it, or the newest of each.
///
/// # Errors
/// No answer again and again, or pages without an end.
pub(crate) async fn read_lists(wire: &mut Wire, path: Path, all_of_it: bool) -> anyhow::Result<()> {
    let mut after = String::new();
    loop {
        let request = Request::Conversations(v1::ConversationsRequest { after: after.clone(), limit: LISTED });
        let Reply::Conversations(list) = surely(wire, path, request).await? else { bail!("no list of conversations") };
        for one in &list.conversations {
            let request = Request::Members(v1::MembersRequest { conversation: one.name.clone() });
            surely(wire, path, request).await?;
            read_history(wire, path, &one.name, all_of_it).await?;
        }
        match list.conversations.last() {
            Some(last) if list.more && last.name > after => after.clone_from(&last.name),
            _ => return Ok(()),
        }
    }
}

/// Reads the pages of a conversation towards the oldest.
async fn read_history(wire: &mut Wire, path: Path, conversation: &str, all_of_it: bool) -> anyhow::Result<()> {
    let mut before_seq = 0;
    loop {
        let limit = if all_of_it { 0 } else { NEWEST };
        let request = v1::HistoryRequest { conversation: conversation.into(), before_seq, limit };
        let Reply::History(page) = surely(wire, path, Request::History(request)).await? else { return Ok(()) };
        match page.messages.first() {
            // A page that does not go on towards the oldest ends it, and the model says so.
            Some(first) if page.more && all_of_it && (before_seq == 0 || first.seq < before_seq) => {
                before_seq = first.seq
            }
            _ => return Ok(()),
        }
    }
}

/// Asks until there is an outcome, with what may be asked twice.
///
/// # Errors
/// There is none again and again.
pub(crate) async fn surely(wire: &mut Wire, path: Path, request: Request) -> anyhow::Result<Reply> {
    for _ in 0..TRIES {
        if path == Path::Long && !wire.is_open() {
            let hello = v1::HelloRequest { protocol: 1, peek: true, ..Default::default() };
            wire.open(vec![Request::Hello(hello)]).await;
        }
        match wire.ask(path, request.clone()).await {
            Ok((_, reply)) if !is_to_be_retried(&reply) => return Ok(reply),
            _ => sleep(PAUSE).await,
        }
    }
    bail!("no outcome of {:?}", request.command())
}

fn is_to_be_retried(reply: &Reply) -> bool {
    match reply {
        Reply::Error(error) => error.code().is_retryable(),
        Reply::Send(reply) => reply.results.iter().any(|result| result.code().is_retryable()),
        _ => false,
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
