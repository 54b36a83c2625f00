//! The scene of media: images in parts, messages about them, clips in chunks, and a server that is killed in between; held to invariant 14 as it goes.
//!
//! Clients speak the wire alone. Each keeps what it was told, and what it asks then must not contradict that: a part that was acknowledged is there, whatever
//! was killed; bytes come out as they went in; what is refused changes nothing; what a message is about can be fetched, and by nobody else. What takes the server longer than it
//! keeps things in this scene may expire, and is begun anew.

mod painter;
mod speaker;
mod subject;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::painter::{Painter, Sent};
use self::speaker::Speaker;
use self::subject::{Addresses, Subject};
use self::wire::Wire;
use crate::report::Verdict;
use crate::run::Plan;
use crate::scene::Scene;
use crate::server::{Build, mint};

/// How long the server keeps what is not complete, and what no message is about. In a cluster half of it is longer than a message may take to be stored.
pub(crate) fn lifetime(scene: Scene) -> Duration {
    Duration::from_secs(if scene.is_cluster() { 24 } else { 4 })
}

/// After so many lifetimes what no message is about must be gone.
const COLLECTED: u32 = 2;

/// What a run has found: how often each rule was checked, and how it was broken.
#[derive(Default)]
pub(super) struct Findings {
    checks: BTreeMap<&'static str, u64>,
    broken: BTreeMap<&'static str, Vec<String>>,
}

/// The rules, all of invariant 14 but for the last two.
pub(super) const RULES: [&str; 9] = ["14a", "14b", "14c", "14d", "14e", "14f", "14g", "14h", "9"];

/// [`Findings`] of many clients.
#[derive(Clone, Default)]
pub(super) struct Judge(Arc<Mutex<Findings>>);

impl Judge {
    /// Whether a rule holds here; `what` says how it was broken.
    pub(super) fn holds(&self, rule: &'static str, holds: bool, what: impl FnOnce() -> String) {
        let mut findings = self.findings();
        *findings.checks.entry(rule).or_default() += 1;
        if !holds {
            findings.broken.entry(rule).or_default().push(what());
        }
    }

    fn is_broken(&self) -> bool {
        !self.findings().broken.is_empty()
    }

    fn findings(&self) -> std::sync::MutexGuard<'_, Findings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Plays the scene.
///
/// # Errors
/// It could not be carried out.
pub(crate) async fn play(plan: &Plan, directory: &Path) -> Result<Verdict> {
    let settings = plan.scene.settings(false);
    let build = Build { binary: plan.binary.clone(), planted: plan.planted.clone(), settings };
    let lifetime = lifetime(plan.scene);
    let mut server = Subject::start(&build, directory, plan.scene).await?;
    let (told, at) = watch::channel(server.addresses());
    let secret = server.secret()?;
    let judge = Judge::default();
    let deadline = Instant::now() + plan.duration;
    let mut artists = JoinSet::new();
    for number in 0..plan.users {
        let wire = |user: String| anyhow::Ok(Wire::new(at.clone(), mint(&secret, &user)?));
        let name = |number: usize| format!("painter-{}", number % plan.users);
        let painter = Painter {
            own: wire(name(number))?,
            friend: wire(name(number + 1))?,
            stranger: wire(format!("stranger-{number}"))?,
            to: name(number + 1),
            judge: judge.clone(),
            lifetime,
            began: Instant::now(),
            completed: Instant::now(),
            random: fastrand::Rng::with_seed(plan.seed.wrapping_add(number as u64)),
        };
        artists.spawn(painter.paint_until(deadline));
        let speaker = Speaker::new(
            (wire(format!("speaker-{number}"))?, wire(name(number))?),
            name(number),
            judge.clone(),
            fastrand::Rng::with_seed(plan.seed.wrapping_sub(number as u64 + 1)),
            lifetime,
        );
        artists.spawn(speaker.speak_until(deadline));
    }
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let (mut kills, mut every) = (0, plan.duration.as_millis() as u64 / u64::from(plan.kills + 1));
    every = every.max(100);
    while Instant::now() < deadline {
        sleep(Duration::from_millis(random.u64(every / 2..every * 3 / 2))).await;
        server = server.struck(&build, directory, &mut random).await?;
        kills += 1;
        told.send_replace(server.addresses());
    }
    let mut sent = Vec::new();
    while let Some(made) = artists.join_next().await {
        sent.extend(made.context("a client has died")??);
    }
    // What has shown what it was planted to show need not be waited for.
    if !(plan.expects_failure && judge.is_broken()) {
        quiet_end(&sent, &judge, lifetime * COLLECTED + Duration::from_secs(4)).await?;
    }
    server.end().await?;
    Ok(verdict(plan, &judge, kills, sent.len()))
}

/// Once nobody asks any more: what messages are about is there, and what they are not is gone.
async fn quiet_end(sent: &[Sent], judge: &Judge, collected: Duration) -> Result<()> {
    sleep(collected).await;
    for image in sent {
        let mut wire = image.reader.clone();
        let fetched = wire.fetch(&image.id).await;
        if image.referred {
            let same = fetched.as_ref().is_ok_and(|bytes| *bytes == image.whole);
            judge.holds("14f", same, || format!("{} is what a message is about, and gone: {fetched:?}", image.id));
        } else {
            judge.holds("14g", fetched.is_err(), || format!("{} is kept, and no message is about it", image.id));
        }
    }
    Ok(())
}

fn verdict(plan: &Plan, judge: &Judge, kills: u32, made: usize) -> Verdict {
    let findings = judge.findings();
    let mut report = format!("{made} images and clips, {kills} kills\n");
    let checks: Vec<_> = findings.checks.iter().map(|(rule, count)| format!("{rule}: {count}")).collect();
    report.push_str(&format!("checks by rule: {}\n", checks.join(", ")));
    for (rule, all) in &findings.broken {
        report.push_str(&format!("BROKEN rule {rule}, {} times: {}\n", all.len(), all[0]));
    }
    let unchecked: Vec<_> = RULES.into_iter().filter(|rule| !findings.checks.contains_key(rule)).collect();
    for rule in &unchecked {
        report.push_str(&format!("UNCHECKED rule {rule}: the run had no occasion for it\n"));
    }
    let broken: Vec<_> = findings.broken.keys().copied().collect();
    let passed = broken.is_empty() && unchecked.is_empty();
    report.push_str(&format!("seed {}: {}\n", plan.seed, if passed { "everything held" } else { "FAILED" }));
    Verdict::of_rules(plan.seed, passed, broken, report)
}

/// Where the server is, now and after each start.
type At = watch::Receiver<Addresses>;
