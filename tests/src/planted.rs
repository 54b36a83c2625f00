//! One run for each planted fault: the checker must be seen to fail before its success means anything.

use std::fmt::Write;
use std::path::PathBuf;

use tern_runtime::planted::Fault;

use crate::report::Verdict;
use crate::run::{Plan, one_scene};
use crate::scene::Scene;

/// How many seeds a fault gets. One is enough for most; what needs a certain thing to break at a certain time may need a second.
const ATTEMPTS: u64 = 6;

/// The scene in which a fault shows.
fn scene(fault: Fault) -> Scene {
    match fault {
        Fault::RetentionIgnoresDevices => Scene::Retention,
        Fault::FailedSyncIgnored => Scene::Sync,
        Fault::PartUnwritten
        | Fault::PartOverwritten
        | Fault::MediaUnasked
        | Fault::ExpiresEarly
        | Fault::MediaForAll
        | Fault::ClipUnfinished => Scene::Media,
        Fault::PartRolledBack => Scene::MediaCluster,
        Fault::VersionsReserved
        | Fault::RetryAfterNewer
        | Fault::AckOnTimeout
        | Fault::FanOutLost
        | Fault::NewsWithoutBeforeCheck
        | Fault::HintTakenForDelivery
        | Fault::OlderLinkStays
        | Fault::LinksDatedLate
        | Fault::RedisHeadTrusted
        | Fault::DedupOnlyInRedis
        | Fault::RouteLeaveUnfenced => Scene::Cluster,
        _ => Scene::Plain,
    }
}

/// The rules under which a fault shows.
fn shows_as(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::NoDedup | Fault::DedupForgottenAtRestart => &["2a", "2d"],
        Fault::AckBeforeCommit => &["1a", "8a", "8b"],
        Fault::VersionOutOfCommitOrder => &["4a", "4c", "5b", "8a"],
        Fault::RecipientDropped => &["1a"],
        Fault::KeyBackAtRestart => &["3d"],
        Fault::DeltaWithoutBeforeCheck => &["4a", "4d"],
        Fault::OwnStubMissing => &["4a"],
        Fault::ConflictAccepted => &["2b"],
        Fault::PeekAcknowledges => &["6b", "6c"],
        Fault::AckMovesOtherDevices => &["6b"],
        Fault::ReadMarkGoesBack => &["15a", "15d"],
        Fault::ReadAhead => &["15b"],
        Fault::ForeignEntry => &["9"],
        Fault::SequenceBackAtRestart => &["5a"],
        Fault::GroupMemberSkipped => &["1a", "1c"],
        Fault::GroupSeesBeforeJoin => &["9"],
        Fault::RetentionIgnoresDevices => &["4a", "4c", "6d"],
        Fault::FailedSyncIgnored => &["1a"],
        Fault::PartUnwritten => &["14a"],
        Fault::PartOverwritten => &["14c"],
        Fault::MediaUnasked => &["14f"],
        Fault::ExpiresEarly => &["14a", "14b", "14f"],
        Fault::MediaForAll => &["9"],
        Fault::ClipUnfinished => &["14h"],
        Fault::PartRolledBack => &["14a"],
        Fault::VersionsReserved => &["4a", "4c", "5b", "8a"],
        Fault::RetryAfterNewer => &["5c", "5d"],
        Fault::AckOnTimeout => &["1a"],
        Fault::FanOutLost => &["1a", "1c"],
        Fault::NewsWithoutBeforeCheck => &["4a"],
        Fault::HintTakenForDelivery => &["3d", "6b", "6c"],
        Fault::OlderLinkStays | Fault::LinksDatedLate => &["10c"],
        Fault::RedisHeadTrusted => &["8b"],
        Fault::DedupOnlyInRedis => &["2a", "2d"],
        Fault::RouteLeaveUnfenced => &["8c"],
    }
}

/// Runs without a fault, which must hold, and then with each one, which must be caught by a rule that fits it.
///
/// # Errors
/// A run could not be carried out.
pub(crate) async fn run_all(plan: &Plan) -> anyhow::Result<Verdict> {
    let mut report = String::new();
    // On a failing disk only what shows there is tried, and nothing else: all others need no root. In a cluster just so: they need no database.
    let of = |scene: Scene| (scene.trouble().is_some(), scene.is_cluster());
    let is_tried = |scene: Scene| of(scene) == (plan.disk.is_some(), plan.scene.is_cluster());
    let tried: Vec<_> = Fault::ALL.into_iter().filter(|(fault, _)| is_tried(scene(*fault))).collect();
    let mut scenes: Vec<Scene> = Vec::new();
    for scene in tried.iter().map(|(fault, _)| scene(*fault)) {
        if scenes.contains(&scene) {
            continue;
        }
        scenes.push(scene);
        let keep = kept(plan, &format!("none-{}", scene.name()));
        let duration = plan.duration.max(scene.least());
        let sound = Box::pin(one_scene(&Plan { planted: None, keep, scene, duration, ..plan.clone() })).await?;
        if !sound.passed {
            return Ok(Verdict::of_several(plan.seed, false, format!("{sound}without a fault the build must hold\n")));
        }
    }
    let mut missed = 0;
    for (fault, name) in tried.iter().copied() {
        let (told, caught) = Box::pin(one_fault(plan, fault, name)).await?;
        eprintln!("{told}");
        // Writing to a string does not fail.
        let _ = writeln!(report, "{told}");
        missed += u32::from(!caught);
    }
    for (fault, name) in Fault::ALL.into_iter().filter(|(fault, _)| !is_tried(scene(*fault))) {
        let needed = match scene(fault) {
            Scene::Cluster | Scene::MediaCluster => "it shows in a cluster: --scene cluster",
            scene if scene.trouble().is_some() => "it shows on a failing disk: --disk DIR",
            _ => continue,
        };
        let _ = writeln!(report, "{name}: not tried; {needed}");
    }
    let _ = writeln!(report, "seed {}: {} faults, {missed} not caught", plan.seed, tried.len());
    Ok(Verdict::of_several(plan.seed, missed == 0, report))
}

async fn one_fault(plan: &Plan, fault: Fault, name: &str) -> anyhow::Result<(String, bool)> {
    let mut seen = Vec::new();
    for attempt in 0..ATTEMPTS {
        let seed = plan.seed.wrapping_add(attempt);
        let keep = kept(plan, &format!("{name}-{attempt}"));
        let (scene, planted) = (scene(fault), Some(name.into()));
        let duration = plan.duration.max(scene.least());
        let plan = Plan { seed, scene, duration, planted, expects_failure: true, keep, ..plan.clone() };
        let verdict = Box::pin(one_scene(&plan)).await?;
        let fitting = verdict.broken.iter().find(|rule| shows_as(fault).contains(rule));
        if let Some(rule) = fitting {
            return Ok((
                format!("{name}: caught by rule {rule} with seed {seed} (broken: {})", verdict.broken.join(" ")),
                true,
            ));
        }
        seen.extend(verdict.broken);
    }
    Ok((format!("{name}: NOT CAUGHT (broken: {})", seen.join(" ")), false))
}

/// A directory of its own for each run.
fn kept(plan: &Plan, name: &str) -> Option<PathBuf> {
    plan.keep.as_ref().map(|directory| directory.join(name))
}
