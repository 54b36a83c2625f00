//! What the clients of the scene talk to: a server, or a cluster, of which something dies now and then.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tern_cluster::{Cluster, Kind, Layout, Service};
use tern_runtime::planted::Fault;

use crate::scene::Scene;
use crate::server::{Build, One, token_secret};

/// Where clients may go.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    long: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
}

impl Addresses {
    /// A long link, of any gateway.
    pub(super) fn long(&self) -> SocketAddr {
        self.long[fastrand::usize(..self.long.len())]
    }

    /// A short link, of any gateway.
    pub(super) fn http(&self) -> SocketAddr {
        self.http[fastrand::usize(..self.http.len())]
    }
}

/// What dies of a cluster.
enum Blow {
    Process(usize),
    /// All replicas of the service of this process.
    Replicas(usize),
    Database,
    /// Of a directory, with a file in its place for a while.
    Objects,
}

/// For so long the object store is away.
const AWAY: Duration = Duration::from_millis(400);

/// Puts a file in the place of the directory of objects, and that back. Blocks.
fn take_away(objects: &Path) -> Result<()> {
    let aside = objects.with_extension("aside");
    std::fs::write(&aside, b"in the way")?;
    // In one step, so that the server cannot make the directory anew in between.
    let exchange = || renameat_with(CWD, objects, CWD, &aside, RenameFlags::EXCHANGE);
    exchange()?;
    std::thread::sleep(AWAY);
    exchange()?;
    Ok(std::fs::remove_file(&aside)?)
}

impl Blow {
    fn draw(random: &mut fastrand::Rng, services: usize) -> Blow {
        let service = random.usize(..services);
        match random.u32(..10) {
            0 => Blow::Database,
            1 => Blow::Objects,
            2 | 3 => Blow::Replicas(service),
            _ => Blow::Process(service),
        }
    }

    /// Kills it, and starts it again. Blocks.
    fn strike(&self, cluster: &mut Cluster) -> Result<()> {
        let killed: Vec<usize> = match self {
            Blow::Process(at) => vec![*at],
            Blow::Replicas(at) => {
                let kind = cluster.services[*at].kind;
                (0..cluster.services.len()).filter(|at| cluster.services[*at].kind == kind).collect()
            }
            Blow::Objects => return take_away(&cluster.dir().join("objects/media")),
            Blow::Database => {
                cluster.postgres().context("the database")?.stop("immediate")?;
                return Ok(cluster.start_postgres()?);
            }
        };
        killed.iter().for_each(|at| cluster.services[*at].kill());
        Ok(killed.into_iter().try_for_each(|at| cluster.start(at))?)
    }
}

pub(super) enum Subject {
    /// With its data.
    One(One, PathBuf),
    Cluster(Up),
}

/// A cluster that is stopped when it is dropped.
pub(super) struct Up(Cluster);

impl Drop for Up {
    fn drop(&mut self) {
        self.0.kill();
    }
}

impl Subject {
    /// Starts it on no data.
    ///
    /// # Errors
    /// Something does not come up.
    pub(super) async fn start(build: &Build, directory: &Path, scene: Scene) -> Result<Subject> {
        if !scene.is_cluster() {
            let data = directory.join("data");
            return Ok(Subject::One(One::start(build, directory, &data).await?, data));
        }
        let programs = build.binary.parent().context("the binary has no directory")?;
        // The database has a user of its own, who has to get at its directory.
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))?;
        let layout = Layout { gateways: 2, syncs: 2, storages: 2, medias: 2 };
        let mut cluster = Cluster::plan(&directory.join("cluster"), programs, layout)?;
        // They are all of media, which the other services do not know.
        let medias = cluster.services.iter().filter(|service| service.kind == Kind::Media).map(Service::name);
        let settings = |of: String| {
            build.settings.iter().map(move |(name, value)| (of.clone(), (*name).to_owned(), value.clone()))
        };
        cluster.special = medias.flat_map(settings).collect();
        cluster.settings.extend(build.planted.iter().map(|name| (Fault::VARIABLE.to_owned(), name.clone())));
        let up = tokio::task::spawn_blocking(move || cluster.up().map(|()| Up(cluster))).await??;
        Ok(Subject::Cluster(up))
    }

    pub(super) fn addresses(&self) -> Addresses {
        match self {
            Subject::One(one, _) => {
                let (long, http) = one.links();
                Addresses { long: vec![long], http: vec![http] }
            }
            Subject::Cluster(Up(cluster)) => {
                let at = |port: Option<u16>| Some(SocketAddr::from(([127, 0, 0, 1], port?)));
                let long = cluster.gateways().filter_map(|gateway| at(gateway.long_link)).collect();
                let http = cluster.gateways().filter_map(|gateway| at(gateway.http)).collect();
                Addresses { long, http }
            }
        }
    }

    /// The secret that signs tokens.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn secret(&self) -> Result<Vec<u8>> {
        match self {
            Subject::One(_, data) => token_secret(data),
            Subject::Cluster(Up(cluster)) => {
                let secret = std::fs::read(cluster.secret_file()).context("the cluster's secret")?;
                Ok(secret.trim_ascii().to_vec())
            }
        }
    }

    /// Something of it is killed with SIGKILL, and started again: all there is of one server; of a cluster a process, mostly, or all replicas of a service. Or the object store is away.
    ///
    /// # Errors
    /// It does not come up again.
    pub(super) async fn struck(self, build: &Build, directory: &Path, random: &mut fastrand::Rng) -> Result<Subject> {
        match self {
            Subject::One(one, data) if random.u32(..6) == 0 => {
                let objects = data.join("media/media");
                tokio::task::spawn_blocking(move || take_away(&objects)).await??;
                Ok(Subject::One(one, data))
            }
            Subject::One(one, data) => {
                one.kill().await?;
                Ok(Subject::One(One::start(build, directory, &data).await?, data))
            }
            Subject::Cluster(mut up) => {
                let blow = Blow::draw(random, up.0.services.len());
                let struck = tokio::task::spawn_blocking(move || blow.strike(&mut up.0).map(|()| up));
                Ok(Subject::Cluster(struck.await??))
            }
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(super) async fn end(self) -> Result<()> {
        match self {
            Subject::One(one, _) => Ok(one.kill().await?),
            Subject::Cluster(up) => Ok(tokio::task::spawn_blocking(move || drop(up)).await?),
        }
    }
}
