//! The cluster under test: every service a process, every link between them through an [`InnerLink`].

mod clocks;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use tern_cluster::{Kind, Layout};
use tern_runtime::planted::Fault;
use tokio::time::sleep;

use crate::inner_link::{Carries, InnerLink, State};
use crate::scene::CONFIRM;
use crate::server::Build;
use crate::settle::HINT;

/// What is done to a cluster. [`Cluster::suffer`] does it and makes it good again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A process is killed and comes back a little later.
    Kill(usize),
    /// A process stands still for a while.
    Stop(usize, Duration),
    /// Every service is killed at once.
    KillAll,
    /// Every service stands still for a while.
    StopAll(Duration),
    /// The database crashes and starts again.
    CrashDatabase,
    /// Everything crashes, the database too.
    CrashAll,
    /// The way to a process is cut for a while; the last one is that to the database.
    Cut(usize, Duration),
    /// The way to a process is a black hole for a while.
    Hole(usize, Duration),
    /// Redis forgets everything.
    FlushRedis,
    /// Redis comes back with what it knew a while ago.
    StaleRedis(Duration),
    /// Redis dies, and is followed by a replica that lags this much behind it.
    LaggingReplica(Duration),
    /// The clock of a service, or of Redis, is off by so many seconds until it is set again.
    Clock(usize, i64),
    /// Hints between the services are dropped, doubled, delayed and shuffled for a while.
    Mangle(Duration),
    /// Each service is asked to stop and started again, one after the other.
    Roll,
}

/// The longest time that something stands still.
const STILL: Duration = Duration::from_secs(10);

/// By how much clocks are off.
const HOUR: i64 = 3_600;

/// How old what Redis comes back with is at most: a route ends two thirds of the lifetime after it was said.
const STALE: Duration = Duration::from_millis(1_500);

/// The lifetime of routes: short, so that what becomes of them becomes of many in a run. A quarter of it is the time between two renewals: twice what a hint may take.
const ROUTES: Duration = HINT.saturating_mul(8);

impl Deed {
    /// One at random, for a cluster of so many services and links between them.
    pub(crate) fn draw(rng: &mut fastrand::Rng, services: usize, links: usize) -> Deed {
        let service = rng.usize(..services);
        let link = rng.usize(..links);
        let still = STILL.mul_f64(0.2 + 0.8 * rng.f64());
        let gone = Duration::from_millis(rng.u64(100..3_000));
        match rng.u32(0..32) {
            0..5 => Deed::Kill(service),
            5..8 => Deed::Stop(service, still),
            8 => Deed::KillAll,
            9 => Deed::StopAll(still),
            10..12 => Deed::CrashDatabase,
            12 => Deed::CrashAll,
            13..15 => Deed::Cut(link, gone),
            15..18 => Deed::Hole(link, still),
            18..20 => Deed::FlushRedis,
            20..22 => Deed::StaleRedis(STALE.mul_f64(0.2 + 0.8 * rng.f64())),
            22..24 => Deed::Mangle(still),
            24..26 => Deed::LaggingReplica(STALE.mul_f64(0.2 + 0.8 * rng.f64())),
            26..30 => Deed::Clock(service, [-HOUR, 0, HOUR][rng.usize(..3)]),
            _ => Deed::Roll,
        }
    }
}

/// A running cluster. Killed when it is dropped.
pub(crate) struct Cluster {
    cluster: Option<tern_cluster::Cluster>,
    /// By service that others call, which come first, and the database's behind them.
    links: Vec<InnerLink>,
}

impl Cluster {
    /// Starts it, on the data of an earlier start if there was one. The links are those of that start.
    ///
    /// # Errors
    /// Something does not come up.
    pub(crate) async fn start(build: &Build, directory: &Path, links: Vec<InnerLink>) -> anyhow::Result<Cluster> {
        let programs = build.binary.parent().context("the binary has no directory")?.to_owned();
        // The database has a user of its own, who has to get at its directory.
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))?;
        let dir = directory.join("cluster");
        let mut cluster = match tern_cluster::Cluster::open(&dir) {
            Ok(known) => known,
            Err(_) => {
                let layout = Layout { gateways: 2, syncs: 2, storages: 2, medias: 0 };
                tern_cluster::Cluster::plan(&dir, &programs, layout)?
            }
        };
        let mut all = links;
        if all.is_empty() {
            let ports = cluster.services.iter().filter_map(|service| Some((service.kind, service.port?)));
            for (kind, port) in ports.collect::<Vec<_>>() {
                let carries = if kind == Kind::Nats { Carries::Hints } else { Carries::Calls };
                all.push(InnerLink::start(port, carries).await?);
            }
            all.push(InnerLink::start(cluster.postgres_port(), Carries::Calls).await?);
        }
        all.iter().for_each(|link| link.set(State::Open));
        let mut started = Cluster { cluster: None, links: all };
        cluster.settings = build.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        cluster.settings.extend(build.planted.iter().map(|name| (Fault::VARIABLE.to_owned(), name.clone())));
        cluster.special = started.routes(&cluster)?;
        cluster.special.extend(clocks::settings(&cluster)?);
        cluster.database_port = started.links.last().map(|link| link.port);
        let (cluster, up) = tokio::task::spawn_blocking(move || {
            let up = cluster.up();
            (cluster, up)
        })
        .await?;
        started.cluster = Some(cluster);
        up?;
        Ok(started)
    }

    /// Each service calls the others through the links. By the name of the service.
    fn routes(&self, cluster: &tern_cluster::Cluster) -> anyhow::Result<Vec<(String, String, String)>> {
        let to = |kind: Kind| {
            let of_kind = cluster.services.iter().zip(&self.links).filter(|(service, _)| service.kind == kind);
            of_kind.map(|(_, link)| format!("127.0.0.1:{}", link.port)).collect::<Vec<_>>().join(",")
        };
        let url = |kind: Kind| {
            let at = cluster.services.iter().position(|service| service.kind == kind);
            cluster.url_of(kind, at.map(|at| self.links[at].port))
        };
        let nats = url(Kind::Nats)?;
        let routes = [
            (Kind::Sync, "TERN_RPC__STORAGE", to(Kind::Storage)),
            (Kind::Sync, "TERN_REDIS__URL", url(Kind::Redis)?),
            (Kind::Sync, "TERN_NATS__URL", nats.clone()),
            (Kind::Gateway, "TERN_RPC__SYNC", to(Kind::Sync)),
            (Kind::Gateway, "TERN_NATS__URL", nats),
        ];
        let lifetimes = [Kind::Sync, Kind::Gateway]
            .map(|kind| (kind, "TERN_LINK__ROUTE_LIFETIME", format!("{}ms", ROUTES.as_millis())));
        let confirm = (Kind::Sync, "TERN_REDIS__CONFIRM", format!("{}ms", CONFIRM.as_millis()));
        let all = routes.into_iter().chain(lifetimes).chain([confirm]);
        let of_each = |(kind, name, value): (Kind, &str, String)| {
            let of_kind = cluster.services.iter().filter(move |service| service.kind == kind);
            let name = name.to_owned();
            of_kind.map(move |service| (service.name(), name.clone(), value.clone())).collect::<Vec<_>>()
        };
        Ok(all.flat_map(of_each).collect())
    }

    fn cluster(&self) -> anyhow::Result<&tern_cluster::Cluster> {
        self.cluster.as_ref().context("the cluster is not there")
    }

    /// How many services there are.
    pub(crate) fn services(&self) -> usize {
        self.cluster.as_ref().map_or(0, |cluster| cluster.services.len())
    }

    /// How many links there are between them, with the database's.
    pub(crate) fn links(&self) -> usize {
        self.links.len()
    }

    /// Where long links go, and where short ones.
    pub(crate) fn addresses(&self) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let at = |port: Option<u16>| port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let gateways = || self.cluster.iter().flat_map(tern_cluster::Cluster::gateways);
        (gateways().filter_map(|it| at(it.long_link)).collect(), gateways().filter_map(|it| at(it.http)).collect())
    }

    /// The secret that signs tokens.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn secret(&self) -> anyhow::Result<Vec<u8>> {
        let secret = std::fs::read(self.cluster()?.secret_file()).context("the cluster's secret")?;
        Ok(secret.trim_ascii().to_vec())
    }

    /// A service that has ended by itself.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub(crate) fn ended(&mut self) -> std::io::Result<Option<(String, std::process::ExitStatus)>> {
        for service in self.cluster.iter_mut().flat_map(|cluster| &mut cluster.services) {
            if let Some(status) = service.ended()? {
                return Ok(Some((service.name(), status)));
            }
        }
        Ok(None)
    }

    /// Does it to the cluster, and makes it good again.
    ///
    /// # Errors
    /// Something does not come up again.
    pub(crate) async fn suffer(&mut self, deed: Deed, back_in: Duration) -> anyhow::Result<()> {
        match deed {
            Deed::Kill(index) => {
                self.with(move |cluster| cluster.services[index].kill()).await?;
                sleep(back_in).await;
                self.with(move |cluster| cluster.start(index)).await??;
            }
            Deed::Stop(index, time) => {
                self.with(move |cluster| cluster.services[index].signal(Signal::STOP)).await?;
                sleep(time).await;
                self.with(move |cluster| cluster.services[index].signal(Signal::CONT)).await?;
            }
            Deed::KillAll => {
                self.with(|cluster| cluster.services.iter_mut().for_each(tern_cluster::Service::kill)).await?;
                sleep(back_in).await;
                self.start_services().await?;
            }
            Deed::StopAll(time) => {
                self.with(|cluster| cluster.services.iter().for_each(|service| service.signal(Signal::STOP))).await?;
                sleep(time).await;
                self.with(|cluster| cluster.services.iter().for_each(|service| service.signal(Signal::CONT))).await?;
            }
            Deed::CrashDatabase => {
                self.with(|cluster| cluster.postgres().map(|it| it.stop("immediate")).transpose().map(drop)).await??;
                sleep(back_in).await;
                self.launch_database().await?;
            }
            Deed::CrashAll => {
                self.with(tern_cluster::Cluster::kill).await?;
                sleep(back_in).await;
                self.launch_database().await?;
                self.start_services().await?;
            }
            Deed::Cut(link, time) | Deed::Hole(link, time) => {
                let state = if matches!(deed, Deed::Cut(..)) { State::Cut } else { State::Hole };
                self.links[link].set(state);
                sleep(time).await;
                self.links[link].set(State::Open);
            }
            Deed::FlushRedis => self.with(|cluster| cluster.flush_redis()).await??,
            Deed::StaleRedis(time) => {
                self.with(|cluster| cluster.save_redis()).await??;
                sleep(time).await;
                let redis = self.position(Kind::Redis)?;
                self.with(move |cluster| cluster.services[redis].kill()).await?;
                // At once: what it knew ends soon.
                self.with(move |cluster| cluster.start(redis)).await??;
                self.with(|cluster| cluster.forget_saved()).await??;
            }
            Deed::LaggingReplica(lag) => {
                let redis = self.position(Kind::Redis)?;
                let of = self.cluster()?.services[redis].port.unwrap_or(0);
                let link = InnerLink::start(of, Carries::Calls).await?;
                let reached_at = link.port;
                let replica = self.with(move |cluster| cluster.replicate_redis(reached_at)).await??;
                link.set(State::Hole);
                sleep(lag).await;
                self.with(move |cluster| cluster.services[redis].kill()).await?;
                link.set(State::Cut);
                self.with(move |_| replica.bequeath()).await??;
                self.with(move |cluster| cluster.start(redis)).await??;
                self.with(|cluster| cluster.forget_saved()).await??;
            }
            Deed::Clock(index, seconds) => {
                let index = self.clocked(index)?;
                clocks::set(self.cluster()?, index, seconds)?;
            }
            Deed::Mangle(time) => {
                // Those that others call come first, and the links are in the same order.
                let nats = self.position(Kind::Nats)?;
                self.links[nats].set(State::Mangled);
                sleep(time).await;
                self.links[nats].set(State::Open);
            }
            Deed::Roll => {
                for index in 0..self.services() {
                    self.with(move |cluster| {
                        cluster.services[index].signal(Signal::TERM);
                        if !cluster.services[index].wait(STOPS_WITHIN) {
                            anyhow::bail!("{} does not stop", cluster.services[index].name());
                        }
                        Ok(cluster.start(index)?)
                    })
                    .await??;
                }
            }
        }
        Ok(())
    }

    /// Whose clock is off: that of Redis, where it would be that of NATS, which needs none and asks the kernel itself.
    fn clocked(&self, index: usize) -> anyhow::Result<usize> {
        let is_nats = self.cluster()?.services.get(index).is_some_and(|service| service.kind == Kind::Nats);
        if is_nats { self.position(Kind::Redis) } else { Ok(index) }
    }

    fn position(&self, kind: Kind) -> anyhow::Result<usize> {
        self.cluster()?.services.iter().position(|service| service.kind == kind).with_context(|| format!("no {kind:?}"))
    }

    async fn launch_database(&mut self) -> anyhow::Result<()> {
        Ok(self.with(|cluster| cluster.postgres().map(tern_cluster::Postgres::launch).transpose().map(drop)).await??)
    }

    async fn start_services(&mut self) -> anyhow::Result<()> {
        for index in 0..self.services() {
            self.with(move |cluster| cluster.start(index)).await??;
        }
        Ok(())
    }

    /// What a deed is called in the history.
    pub(crate) fn describe(&self, deed: Deed) -> String {
        let services = self.cluster.as_ref().map_or(&[][..], |cluster| &cluster.services);
        let name = |index: usize| services.get(index).map_or_else(String::new, tern_cluster::Service::name);
        let end = |link: usize| if link + 1 == self.links.len() { "the database".into() } else { name(link) };
        match deed {
            Deed::Kill(index) => format!("{} is killed", name(index)),
            Deed::Stop(index, time) => format!("{} stands still for {time:.1?}", name(index)),
            Deed::KillAll => "all services are killed".into(),
            Deed::StopAll(time) => format!("all services stand still for {time:.1?}"),
            Deed::CrashDatabase => "the database crashes".into(),
            Deed::CrashAll => "everything crashes".into(),
            Deed::Cut(link, time) => format!("the way to {} is cut for {time:.1?}", end(link)),
            Deed::Hole(link, time) => format!("the way to {} is a black hole for {time:.1?}", end(link)),
            Deed::FlushRedis => "Redis forgets everything".into(),
            Deed::StaleRedis(time) => format!("Redis comes back with what it knew {time:.1?} before"),
            Deed::LaggingReplica(lag) => format!("Redis is followed by a replica that lags {lag:.1?} behind"),
            Deed::Clock(index, seconds) => {
                let of = name(self.clocked(index).unwrap_or(index));
                format!("the clock of {of} is off by {seconds} s")
            }
            Deed::Mangle(time) => format!("hints are dropped, doubled, delayed and shuffled for {time:.1?}"),
            Deed::Roll => "the services are restarted one after the other".into(),
        }
    }

    /// Kills everything; the links stay for the next start.
    ///
    /// # Errors
    /// A thread broke off.
    pub(crate) async fn kill(mut self) -> anyhow::Result<Vec<InnerLink>> {
        self.with(tern_cluster::Cluster::kill).await?;
        self.cluster = None;
        Ok(std::mem::take(&mut self.links))
    }

    /// Does something with the cluster on a thread of its own.
    async fn with<R: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut tern_cluster::Cluster) -> R + Send + 'static,
    ) -> anyhow::Result<R> {
        let mut cluster = self.cluster.take().context("the cluster is not there")?;
        let acted = tokio::task::spawn_blocking(move || {
            let result = act(&mut cluster);
            (cluster, result)
        });
        let (cluster, result) = acted.await?;
        self.cluster = Some(cluster);
        Ok(result)
    }
}

/// A service drains for some seconds at most.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            cluster.kill();
        }
    }
}
