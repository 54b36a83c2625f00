//! `tern cluster`: all services as processes of their own, with their PostgreSQL, on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tern_cluster::{Cluster, Layout, Service};

use super::program::{program, quoted};

/// The examples of its help.
pub(crate) const HELP: &str = "Example:
  tern cluster up
  tern cluster status
  tern cluster down";

/// What to do with which cluster.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Its directory: data, logs, the secret that signs tokens
    #[arg(long, global = true, value_name = "DIR", default_value = "tern-cluster")]
    dir: PathBuf,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Starts it: the database, Redis and NATS first, each service when the one that it needs is ready. Of one that is up, what has died
    Up {
        /// Gateways
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
        gateways: u8,
        /// Replicas of the sync service
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
        syncs: u8,
        /// Replicas of the storage service
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
        storages: u8,
        /// Replicas of the media service
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=16))]
        medias: u8,
        /// Where every request's trace is told, over OTLP: Jaeger, or `tern trace --listen`
        #[arg(long, value_name = "URL")]
        otlp_url: Option<String>,
    },
    /// Stops it, links first; the data stays for the next start, which may be at other ports
    Down,
    /// Says what of it runs, and where
    Status,
}

/// Runs the action. Whether all of it is as it should be: of a status, whether everything runs.
///
/// # Errors
/// What is missing, or what has failed, and where its log is.
pub(crate) fn run(args: &Args) -> Result<bool> {
    match &args.action {
        Action::Up { gateways, syncs, storages, medias, otlp_url } => {
            let [gateways, syncs, storages, medias] =
                [gateways, syncs, storages, medias].map(|count| usize::from(*count));
            up(&args.dir, Layout { gateways, syncs, storages, medias }, otlp_url.as_deref())
        }
        Action::Down => down(&args.dir),
        Action::Status => status(&args.dir),
    }
}

fn up(dir: &Path, layout: Layout, otlp_url: Option<&str>) -> Result<bool> {
    let known = Cluster::open(dir).ok().map(|mut cluster| (any_runs(&mut cluster), cluster));
    let mut cluster = match known {
        Some((true, mut running)) => {
            ensure!(
                running.layout() == layout,
                "a cluster of another size is up in {}: `tern cluster down` stops it",
                dir.display()
            );
            ensure!(
                otlp_url.is_none_or(|url| running.settings.iter().any(|(_, value)| value == url)),
                "the cluster in {} is up and tells its traces elsewhere: `tern cluster down` stops it",
                dir.display()
            );
            match running.start_missing()? {
                0 => eprintln!("all of it runs already"),
                started => eprintln!("started {started} that did not run"),
            }
            running
        }
        _ => {
            let programs = std::env::current_exe()?.parent().context("this program has no directory")?.to_owned();
            let mut cluster = Cluster::plan(dir, &programs, layout)?;
            if let Some(url) = otlp_url {
                cluster.settings.push(("TERN_TRACE__OTLP_URL".into(), url.into()));
                cluster.settings.push(("TERN_TRACE__RATIO".into(), "1".into()));
            }
            eprintln!("starting PostgreSQL and {} services in {}", cluster.services.len(), cluster.dir().display());
            cluster.up()?;
            cluster
        }
    };
    tell(&mut cluster);
    let options = cluster.gateways().map(|gateway| options(&cluster, gateway)).collect::<Vec<_>>();
    let (first, last) = options.first().zip(options.last()).context("a gateway")?;
    let tern = program();
    println!("Try it:");
    println!("  {tern} smoke{first}");
    println!("  {tern} chat --as alice --to bob{first}");
    println!("  {tern} chat --as bob --to alice{last}");
    let dir = quoted(cluster.dir());
    println!("What runs, and again what has died: {tern} cluster status --dir {dir}; {tern} cluster up --dir {dir}");
    println!("Stop it: {tern} cluster down --dir {dir}");
    Ok(true)
}

/// With which options commands reach a gateway.
fn options(cluster: &Cluster, gateway: &Service) -> String {
    let mut options = format!(" --secret-file {}", quoted(&cluster.secret_file()));
    let mut add = |name: &str, port: Option<u16>, default: u16| {
        if let Some(port) = port.filter(|port| *port != default) {
            options += &format!(" --{name} 127.0.0.1:{port}");
        }
    };
    add("long-link", gateway.long_link, tern_gateway::setup::LONG_LINK_PORT);
    add("http", gateway.http, tern_gateway::setup::HTTP_PORT);
    options
}

fn any_runs(cluster: &mut Cluster) -> bool {
    cluster.database_runs() || cluster.services.iter_mut().any(|service| service.is_running())
}

fn down(dir: &Path) -> Result<bool> {
    let mut cluster = Cluster::open(dir)?;
    if !any_runs(&mut cluster) {
        println!("nothing of it runs");
        return Ok(true);
    }
    let clean = cluster.down();
    println!("{}", if clean { "stopped" } else { "stopped; what did not end by itself within 25 s was killed" });
    Ok(clean)
}

fn status(dir: &Path) -> Result<bool> {
    let mut cluster = Cluster::open(dir)?;
    Ok(tell(&mut cluster))
}

/// A line for each process; whether all of them run.
fn tell(cluster: &mut Cluster) -> bool {
    let runs = cluster.database_runs();
    let state = |runs: bool| if runs { "runs" } else { "does not run" };
    println!("{:<12} {:<12} 127.0.0.1:{}", "postgres", state(runs), cluster.postgres_port());
    let mut all = runs;
    for service in &mut cluster.services {
        let runs = service.is_running();
        all &= runs;
        let called = if service.kind.is_own() { "rpc " } else { "" };
        let ports = [
            (called, service.port),
            ("long-link ", service.long_link),
            ("http ", service.http),
            ("metrics ", service.metrics),
        ];
        let place = |(name, port): (&str, Option<u16>)| Some(format!("{name}127.0.0.1:{}", port?));
        let places: Vec<String> = ports.into_iter().filter_map(place).collect();
        println!("{:<12} {:<12} {}", service.name(), state(runs), places.join(" "));
    }
    all
}
