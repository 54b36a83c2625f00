//! What `tern check` does: its options, its scenes, and its verdict.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use tern_runtime::planted::Fault;
use tern_runtime::shutdown;

use crate::disk::Disk;
use crate::media;
use crate::model::{Violation, judge};
use crate::planted;
use crate::report::Verdict;
use crate::scene::Scene;
use crate::stage::Stage;

/// The options of `tern check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Where every random choice comes from; printed first, and random if it is not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long the clients act before everything is healed, all scenes together [default: 60; for each planted fault 6]
    #[arg(long)]
    pub seconds: Option<u64>,
    /// The same in minutes
    #[arg(long, conflicts_with = "seconds")]
    pub minutes: Option<u64>,
    /// Kill the server at least this many times [default: one in 12 seconds; for each planted fault 4]
    #[arg(long)]
    pub kills: Option<u32>,
    /// Users, two devices each
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(3..=8))]
    pub users: u64,
    /// Play this scene alone [default: plain and retention]
    #[arg(long)]
    pub scene: Option<Scene>,
    /// Play the scenes of the failing disk, with file systems that are made in this directory; needs root
    #[arg(long, value_name = "DIR")]
    pub disk: Option<PathBuf>,
    /// The binary of the server under test [default: this one]
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Switch on a planted fault in a build that has them; `all` for each in turn
    #[arg(long, value_name = "NAME")]
    pub planted: Option<String>,
    /// Keep the server's data, its log and the history here
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// One scene of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where every random choice comes from.
    pub(crate) seed: u64,
    /// What is played.
    pub(crate) scene: Scene,
    /// Where file systems may be made.
    pub(crate) disk: Option<PathBuf>,
    /// How long the clients act.
    pub(crate) duration: Duration,
    /// Kills of the server in that time.
    pub(crate) kills: u32,
    /// How many users.
    pub(crate) users: usize,
    /// The server's binary.
    pub(crate) binary: PathBuf,
    /// The client processes' binary: this one.
    pub(crate) program: PathBuf,
    /// The fault that is switched on.
    pub(crate) planted: Option<String>,
    /// Whether a failure is expected, so that its history need not outlive the run.
    pub(crate) expects_failure: bool,
    /// Where to keep everything; a directory that holds no earlier run.
    pub(crate) keep: Option<PathBuf>,
}

/// Carries out `tern check`: prints the seed first and the report last.
///
/// # Errors
/// The run could not be carried out; what it finds is in the verdict.
pub async fn run(args: CheckArgs) -> anyhow::Result<Verdict> {
    let program = std::env::current_exe().context("where is this binary?")?;
    let all = args.planted.as_deref() == Some("all");
    if let Some(name) = args.planted.as_deref().filter(|_| !all)
        && !Fault::ALL.iter().any(|(_, known)| *known == name)
    {
        let names = Fault::ALL.map(|(_, known)| known);
        bail!("no fault is called {name}; there are: all {}", names.join(" "));
    }
    if args.disk.is_some() {
        Disk::check_machine()?;
    }
    let seconds = args.minutes.map(|minutes| minutes * 60).or(args.seconds).unwrap_or(if all { 6 } else { 60 });
    let plan = Plan {
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000)),
        scene: args.scene.unwrap_or(Scene::Plain),
        disk: args.disk,
        duration: Duration::from_secs(seconds),
        kills: args.kills.unwrap_or(if all { 4 } else { u32::try_from(seconds / 12)?.max(1) }),
        users: usize::try_from(args.users)?,
        binary: args.binary.unwrap_or_else(|| program.clone()),
        program,
        planted: args.planted.filter(|_| !all),
        expects_failure: false,
        keep: args.keep,
    };
    println!("seed {}", plan.seed);
    // Whoever stops the run wants its server and its file systems gone: they go with the future.
    let stop = shutdown::on_signal()?;
    let verdict = tokio::select! {
        verdict = played(&plan, all, args.scene) => verdict?,
        () = stop.stopped() => bail!("stopped"),
    };
    print!("{verdict}");
    Ok(verdict)
}

async fn played(plan: &Plan, all: bool, scene: Option<Scene>) -> anyhow::Result<Verdict> {
    match scene {
        _ if all => Box::pin(planted::run_all(plan)).await,
        Some(scene) => Box::pin(one_scene(&Plan { scene, ..plan.clone() })).await,
        None => Box::pin(several(plan)).await,
    }
}

/// The scenes of a run one after the other, each with its share of the time and of the kills.
async fn several(plan: &Plan) -> anyhow::Result<Verdict> {
    let scenes = if plan.disk.is_some() { Scene::ON_DISK } else { Scene::USUAL };
    let (mut report, mut passed) = (String::new(), true);
    for (scene, share) in scenes {
        let kills = (f64::from(plan.kills) * share).ceil() as u32;
        let keep = plan.keep.as_ref().map(|directory| directory.join(scene.name()));
        let part = Plan { scene, duration: plan.duration.mul_f64(share), kills, keep, ..plan.clone() };
        let verdict = Box::pin(one_scene(&part)).await?;
        report.push_str(&format!("== {}\n{verdict}", scene.name()));
        passed &= verdict.passed;
    }
    report.push_str(&format!("seed {}: {}\n", plan.seed, if passed { "everything held" } else { "FAILED" }));
    Ok(Verdict::of_several(plan.seed, passed, report))
}

/// One scene and its verdict.
///
/// # Errors
/// It could not be carried out.
pub(crate) async fn one_scene(plan: &Plan) -> anyhow::Result<Verdict> {
    let temporary = tempfile::Builder::new().prefix("tern-check-").tempdir()?;
    let directory = plan.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&directory)?;
    if directory.join("server.log").exists() || directory.join("cluster").exists() {
        bail!("{} holds an earlier run", directory.display());
    }
    if matches!(plan.scene, Scene::Media | Scene::MediaCluster) {
        return Box::pin(media::play(plan, &directory)).await;
    }
    let mut stage = Stage::build(plan, &directory).await?;
    let trouble = match Box::pin(stage.play()).await {
        Ok(()) => None,
        Err(error) => Some(format!("{error:#}")),
    };
    let (history, counts) = stage.end().await;
    let mut findings = judge(&history);
    if let Some(what) = trouble {
        *findings.broken.entry("0").or_default() += 1;
        findings.violations.push(Violation { rule: "0", what, evidence: Vec::new(), versions: Vec::new() });
    }
    let verdict = Verdict::over(plan.seed, &history, &findings, &counts, &directory, plan.keep.is_some())?;
    if !verdict.passed && !plan.expects_failure {
        // The history of a failure outlives the run.
        let _ = temporary.keep();
    }
    Ok(verdict)
}
