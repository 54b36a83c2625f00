//! A run from its start to the quiet end: the server, the network, the clients, and what happens to them.

mod deeds;
mod outages;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::actor::{Actor, Habit, Manner};
use crate::client;
use crate::cluster::{Cluster, Deed};
use crate::disk::Disk;
use crate::history::{History, Log, Member, Role};
use crate::inner_link::InnerLink;
use crate::proxy::{Carries, Proxy, Weather};
use crate::run::Plan;
use crate::scene::{CONFIRM, Scene};
use crate::server::{self, Build, One, Server};
use crate::wire::{Identity, Path, Wire};
use crate::{script, settle};

/// The users of a run, as many as are wanted. Each way of writing a name is there.
const USERS: [&str; 8] = ["ann", "ben+1", "cat@x.org", "Dan", "eve_5", "f.g", "h-i", "joe"];
/// How long a client waits for a reply. Shorter than a real one's 15 s: a silent link costs a run that much each time.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Events of a run, about; long runs go at a slower pace so that the history fits memory.
const EVENTS: f64 = 300_000.0;
/// Events of one step of a client, about.
const EVENTS_PER_STEP: f64 = 5.0;
/// The fastest pace.
const PACE: Duration = Duration::from_millis(4);
/// The pace of the device that comes so rarely that it meets holes.
const SLOW: Duration = Duration::from_secs(5);
const PROGRESS: Duration = Duration::from_secs(3);
/// A client ends its step within this time: the longest step asks a few dozen times.
const STOP: Duration = Duration::from_secs(90);

/// Everything that a run is made of.
pub(crate) struct Stage<'p> {
    plan: &'p Plan,
    directory: PathBuf,
    log: Log,
    rng: fastrand::Rng,
    weather: Arc<Weather>,
    long: Proxy,
    http: Proxy,
    server: Option<Server>,
    /// Between the services of a cluster that is down at the moment.
    links: Vec<InnerLink>,
    /// What the data lies on, if it is to fail. Behind the server, which is dropped first.
    disk: Option<Disk>,
    secret: Vec<u8>,
    cast: Vec<Part>,
    client_kills: Arc<AtomicU64>,
    server_kills: u64,
}

/// A device that takes part.
#[derive(Clone)]
struct Part {
    user: &'static str,
    name: &'static str,
    /// Index in the roster.
    device: usize,
    manner: Manner,
    /// Whether it is a process of its own.
    is_process: bool,
    /// Whether it joins in the middle of the run.
    is_late: bool,
}

impl<'p> Stage<'p> {
    /// Starts the server and says who takes part.
    ///
    /// # Errors
    /// The server does not start.
    pub(crate) async fn build(plan: &'p Plan, directory: &FilePath) -> anyhow::Result<Stage<'p>> {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let weather = Weather::new(rng.u64(..));
        let disk = outages::make_disk(plan).await?;
        let mut stage = Stage {
            plan,
            directory: directory.to_owned(),
            disk,
            log: Log::start(plan.scene.keeps(), plan.scene.late()),
            long: Proxy::start(Carries::LongLink, Arc::clone(&weather)).await?,
            http: Proxy::start(Carries::ShortLink, Arc::clone(&weather)).await?,
            weather,
            server: None,
            links: Vec::new(),
            secret: Vec::new(),
            cast: Vec::new(),
            client_kills: Arc::default(),
            server_kills: 0,
            rng,
        };
        stage.start_server().await?;
        stage.secret = stage.token_secret()?;
        stage.fill_cast();
        Ok(stage)
    }

    fn token_secret(&self) -> anyhow::Result<Vec<u8>> {
        match &self.server {
            Some(Server::Cluster(cluster)) => cluster.secret(),
            _ => server::token_secret(&self.data()),
        }
    }

    /// Two devices for each user, and a third for the first that joins late and starts at the heads.
    fn fill_cast(&mut self) {
        let habits = [
            [Habit::Long, Habit::Packets],
            [Habit::Long, Habit::Switching],
            [Habit::Switching, Habit::Json],
            [Habit::Long, Habit::Long],
        ];
        for (index, user) in USERS.iter().enumerate().take(self.plan.users) {
            let [phone, desk] = habits[index % habits.len()];
            self.add(user, "phone", phone, index == 2, false);
            self.add(user, "desk", desk, index == 1, false);
        }
        self.add(USERS[0], "late", Habit::Switching, false, true);
    }

    fn add(&mut self, user: &'static str, name: &'static str, habit: Habit, is_process: bool, is_late: bool) {
        let device = self.enrol(user, name, Role::Actor);
        let devices = self.plan.users as f64 * 2.0 + 1.0;
        let pace = 2.0 * self.plan.duration.as_secs_f64() * devices * EVENTS_PER_STEP / EVENTS;
        let peers = USERS[..self.plan.users].iter().filter(|peer| **peer != user).map(|peer| (*peer).into()).collect();
        let pace = Duration::from_secs_f64(pace).max(PACE);
        let meets_holes = self.plan.scene == Scene::Retention && (user, name) == (USERS[0], "phone");
        let later_pace = if meets_holes { SLOW } else { pace };
        // Where old segments of the log are to be given back, or the disk is to fill, there have to be some bytes.
        let one_is_long_in = if matches!(self.plan.scene, Scene::Plain | Scene::Cluster) { 40 } else { 2 };
        let seed = self.rng.u64(..);
        let manner = Manner { habit, at_heads: is_late, peers, one_is_long_in, pace, later_pace, seed };
        self.cast.push(Part { user, name, device, manner, is_process, is_late });
    }

    /// The server's data directory.
    fn data(&self) -> PathBuf {
        self.disk.as_ref().map_or(self.directory.clone(), Disk::top).join("data")
    }

    fn enrol(&self, user: &str, device: &str, role: Role) -> usize {
        self.log.enrol(Member { user: user.into(), device: device.into(), role })
    }

    fn identity(&self, user: &str, device: &str) -> anyhow::Result<Identity> {
        let token = server::mint(&self.secret, user)?;
        let (long, http) = (self.long.address, self.http.address);
        Ok(Identity { user: user.into(), device: device.into(), token, long, http, patience: PATIENCE })
    }

    /// The links of a device in this process, with the state that its history gives.
    fn wire(&self, user: &str, device: &str, index: usize) -> anyhow::Result<Wire> {
        let log = self.log.clone();
        let sink = Box::new(move |what: &crate::event::What| log.record(index, what.clone()));
        Ok(Wire::new(self.identity(user, device)?, self.log.state_of(index), sink))
    }

    /// Plays the run to its quiet end.
    ///
    /// # Errors
    /// The server or a client ended by itself, or the end does not come to rest.
    pub(crate) async fn play(&mut self) -> anyhow::Result<()> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let late = Instant::now() + self.plan.duration / 3;
        for part in self.cast.clone() {
            let start = if part.is_late { late } else { Instant::now() };
            self.spawn(&mut tasks, part, start, stopped.clone())?;
        }
        let progress = tokio::spawn(progress(self.log.clone(), self.plan.duration));
        let broke = match self.plan.scene {
            Scene::Cluster => self.do_deeds(&mut tasks).await,
            _ if self.disk.is_some() => self.break_disk(&mut tasks).await,
            _ => self.harass(&mut tasks).await,
        };
        progress.abort();
        stop.send_replace(true);
        let ended = tokio::time::timeout(STOP, async {
            while let Some(task) = tasks.join_next().await {
                task??;
            }
            anyhow::Ok(())
        });
        broke?;
        ended.await.context("a client does not stop")??;
        self.settle().await
    }

    fn spawn(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        part: Part,
        start: Instant,
        stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let Part { user, name, .. } = part;
        if part.is_process {
            let (program, log, kills) = (self.plan.program.clone(), self.log.clone(), Arc::clone(&self.client_kills));
            let identity = self.identity(user, name)?;
            tasks.spawn(async move {
                client::keep_running(&program, log, part.device, identity, part.manner, stop, &kills).await
            });
        } else {
            let mut actor = Actor::new(self.wire(user, name, part.device)?, part.manner);
            tasks.spawn(async move {
                sleep_until(start).await;
                Box::pin(actor.run(stop)).await;
                Ok(())
            });
        }
        Ok(())
    }

    /// Kills and restarts the server at random moments until the time is over.
    async fn harass(&mut self, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        let start = Instant::now();
        let part = self.plan.duration / (self.plan.kills + 1);
        for kill in 1..=self.plan.kills {
            let moment = start + part.mul_f64(f64::from(kill) - 0.5 + self.rng.f64());
            self.watch_until(moment, tasks).await?;
            self.kill_server().await?;
            sleep(Duration::from_millis(self.rng.u64(0..150))).await;
            self.start_server().await?;
            if self.rng.u32(0..6) == 0 {
                // Again, while it is barely back.
                sleep(Duration::from_millis(self.rng.u64(0..40))).await;
                self.kill_server().await?;
                self.start_server().await?;
            }
        }
        self.watch_until(start + self.plan.duration, tasks).await
    }

    /// Waits; a server or client that ends by itself ends the run.
    async fn watch_until(&mut self, moment: Instant, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        while Instant::now() < moment {
            if let Some(ended) = self.server.as_mut().map(Server::ended).transpose()?.flatten() {
                bail!("{ended}");
            }
            if let Some(task) = tasks.try_join_next() {
                task?.context("a client")?;
                bail!("a client ended before its time");
            }
            sleep(Duration::from_millis(20).min(moment.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    async fn kill_server(&mut self) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        if let Some(ended) = server.ended()? {
            bail!("{ended}");
        }
        self.log.act("the server is killed".into());
        self.server_kills += 1;
        self.links = server.kill().await?;
        self.long.point_at(Vec::new());
        self.http.point_at(Vec::new());
        Ok(())
    }

    async fn start_server(&mut self) -> anyhow::Result<()> {
        self.start_server_with(self.plan.scene.settings(false)).await
    }

    async fn start_server_with(&mut self, settings: Vec<(&'static str, String)>) -> anyhow::Result<()> {
        let build = Build { binary: self.plan.binary.clone(), planted: self.plan.planted.clone(), settings };
        let server = match self.plan.scene {
            Scene::Cluster => {
                Server::Cluster(Cluster::start(&build, &self.directory, std::mem::take(&mut self.links)).await?)
            }
            _ => Server::One(One::start(&build, &self.directory, &self.data()).await?),
        };
        self.log.act("the server is up".into());
        let (long, http) = server.addresses();
        self.long.point_at(long);
        self.http.point_at(http);
        self.server = Some(server);
        Ok(())
    }

    /// Heals everything, restarts once more, lets every device catch up, compares the links and reads the truth.
    async fn settle(&mut self) -> anyhow::Result<()> {
        self.weather.heal();
        self.kill_server().await?;
        if self.disk.is_some() {
            self.with_disk(Disk::mount_again).await?;
            self.log.act("the disk is mounted again".into());
        }
        self.log.keeps_everything();
        self.start_server_with(self.plan.scene.settings(true)).await?;
        let mut actors = Vec::new();
        for part in &self.cast {
            let Part { user, name, .. } = *part;
            actors.push(Actor::new(self.wire(user, name, part.device)?, part.manner.clone()));
        }
        for actor in &mut actors {
            Box::pin(settle::wake(actor)).await?;
        }
        Box::pin(self.compare_links()).await?;
        if let [watcher, _, sender, ..] = &mut actors[..] {
            Box::pin(settle::take_over(watcher, sender)).await?;
            if let Some(Server::Cluster(cluster)) = &mut self.server {
                Box::pin(settle::owe(watcher, sender, CONFIRM)).await?;
                cluster.suffer(Deed::FlushRedis, Duration::ZERO).await?;
                Box::pin(settle::ask_whether_owed(watcher)).await?;
            }
        }
        Box::pin(settle::rest(&mut actors)).await?;
        for user in &USERS[..self.plan.users] {
            for (rank, (device, path)) in
                [("long", Path::Long), ("packets", Path::Packets), ("json", Path::Json)].into_iter().enumerate()
            {
                let device = format!("reader-{device}");
                let index = self.enrol(user, &device, Role::Reader(rank));
                let mut wire = self.wire(user, &device, index)?;
                Box::pin(settle::read_all(&mut wire, path)).await?;
                Box::pin(settle::read_lists(&mut wire, path, rank == 0)).await?;
            }
        }
        for actor in &mut actors {
            Box::pin(settle::drain(actor)).await?;
        }
        Ok(())
    }

    /// The script on each kind of link, side by side: most of its time it waits for receipts.
    async fn compare_links(&self) -> anyhow::Result<()> {
        let mut scripts = JoinSet::new();
        for (path, left, right) in [
            (Path::Long, "twin-1-left", "twin-1-right"),
            (Path::Packets, "twin-2-left", "twin-2-right"),
            (Path::Json, "twin-3-left", "twin-3-right"),
        ] {
            let wire = |user: &str| {
                let index = self.enrol(user, "one", Role::Twin);
                self.wire(user, "one", index)
            };
            scripts.spawn(Box::pin(script::carry_out(path, wire(left)?, wire(right)?)));
        }
        while let Some(script) = scripts.join_next().await {
            script??;
        }
        Ok(())
    }

    /// Stops the server and takes the history, with the counts of what was done to it.
    pub(crate) async fn end(mut self) -> (History, Vec<(&'static str, u64)>) {
        if let Some(server) = self.server.take() {
            // It has served its purpose; what it says at its end is of no interest.
            let _ = server.kill().await;
        }
        let mischief = &self.weather.mischief;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = vec![
            ("kills of the server", self.server_kills),
            ("kills of clients", of(&self.client_kills)),
            ("hints dropped", of(&mischief.hints_dropped)),
            ("hints doubled", of(&mischief.hints_doubled)),
            ("hints delayed", of(&mischief.hints_delayed)),
            ("replies swallowed", of(&mischief.replies_swallowed)),
            ("links cut", of(&mischief.links_cut)),
            ("links silenced", of(&mischief.links_silenced)),
        ];
        (self.log.take(), counts)
    }
}

/// Says every few seconds how far the run is.
async fn progress(log: Log, duration: Duration) {
    let start = Instant::now();
    loop {
        sleep(PROGRESS).await;
        eprintln!("{:>4} of {} s: {} events", start.elapsed().as_secs(), duration.as_secs(), log.events());
    }
}
