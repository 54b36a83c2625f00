//! A cluster: the services, their ports, and how each finds the others.

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::ports::free_port;
use crate::service::{Program, runs};
use crate::{Kind, Postgres, PostgresError, PostgresOptions, Service};

/// A start takes a second or two; the first one makes the tables.
const START: Duration = Duration::from_secs(30);
/// The longest wait for a service to drain.
const STOP: Duration = Duration::from_secs(25);
/// Of the first gateway, if they are free: the ports that clients try by themselves.
const LONG_LINK: u16 = 7180;
const HTTP: u16 = 7181;
/// The file in which the cluster is written down.
const STATE: &str = "cluster.json";
/// The file with the password of Redis and NATS.
const PASSWORD: &str = "password";
/// Where Debian and its kin keep servers; not on everybody's PATH.
const SERVERS: &str = "/usr/sbin";
/// The database.
const DATABASE: &str = "tern";

/// How large a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Gateways.
    pub gateways: usize,
    /// Replicas of the sync service.
    pub syncs: usize,
    /// Replicas of the storage service.
    pub storages: usize,
    /// Replicas of the media service.
    pub medias: usize,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { gateways: 2, syncs: 2, storages: 2, medias: 2 }
    }
}

/// Why the cluster is not up, or not down.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The database.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// A program that is not built.
    #[error("{} is not there: `cargo build --release --workspace` builds it", .0.display())]
    NotBuilt(PathBuf),
    /// A program that is not installed.
    #[error("{0} is not there: install the package {0}, or put it on the PATH")]
    NotInstalled(String),
    /// A service.
    #[error("{name} {error}")]
    Service {
        /// Which.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// There is none.
    #[error("no cluster was started in {}", .0.display())]
    None(PathBuf),
    /// The directory.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A cluster.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cluster {
    dir: PathBuf,
    programs: PathBuf,
    postgres_port: u16,
    /// In the order in which they are started.
    pub services: Vec<Service>,
    /// What is set for all services, as variables of the environment.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
    /// The same for one kind; goes before.
    #[serde(skip)]
    pub special: Vec<(String, String, String)>,
    /// Where the services find the database, if somebody forwards to it.
    #[serde(skip)]
    pub database_port: Option<u16>,
    #[serde(skip)]
    postgres: Option<Postgres>,
}

impl Cluster {
    /// A new cluster in a directory, with ports, not started. The programs are looked for in `programs`.
    ///
    /// # Errors
    /// [`ClusterError`] says what to do.
    pub fn plan(dir: &Path, programs: &Path, layout: Layout) -> Result<Cluster, ClusterError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| ClusterError::Io { path, error }
        };
        fs::create_dir_all(dir).map_err(io(dir))?;
        let dir = dir.canonicalize().map_err(io(dir))?;
        let port = || free_port().map_err(io(&dir));
        let mut services = Vec::new();
        for kind in Kind::ALL {
            let count = match kind {
                Kind::Redis | Kind::Nats => 1,
                Kind::Storage => layout.storages,
                Kind::Sync => layout.syncs,
                Kind::Media => layout.medias,
                Kind::Gateway => layout.gateways,
            };
            if count > 0 {
                find(kind, programs)?;
            }
            for number in 1..=count {
                let mut service = Service::new(kind, number);
                if kind != Kind::Gateway {
                    service.port = Some(port()?);
                } else {
                    let free = |wanted: u16| number == 1 && TcpListener::bind(("127.0.0.1", wanted)).is_ok();
                    service.long_link = Some(if free(LONG_LINK) { LONG_LINK } else { port()? });
                    service.http = Some(if free(HTTP) { HTTP } else { port()? });
                }
                if kind.is_own() {
                    service.metrics = Some(port()?);
                }
                services.push(service);
            }
        }
        let postgres_port = port()?;
        let (settings, special) = (Vec::new(), Vec::new());
        let programs = programs.to_owned();
        let (database_port, postgres) = (None, None);
        let cluster = Cluster { dir, programs, postgres_port, services, settings, special, database_port, postgres };
        cluster.make_secrets().map_err(io(&cluster.dir))?;
        Ok(cluster)
    }

    /// The cluster that was started in a directory before, with the same ports.
    ///
    /// # Errors
    /// There is none.
    pub fn open(dir: &Path) -> Result<Cluster, ClusterError> {
        let text = fs::read_to_string(dir.join(STATE)).map_err(|_| ClusterError::None(dir.to_owned()))?;
        let bad = |error: serde_json::Error| ClusterError::Io { path: dir.join(STATE), error: error.into() };
        let mut cluster: Cluster = serde_json::from_str(&text).map_err(bad)?;
        cluster.postgres = Postgres::at(&cluster.dir.join("postgres"), cluster.postgres_port);
        Ok(cluster)
    }

    /// Starts the database and all services, each when the one before is ready, and writes the cluster down.
    ///
    /// # Errors
    /// [`ClusterError`] says what to do. What was started is stopped again.
    pub fn up(&mut self) -> Result<(), ClusterError> {
        let started = self.start_all();
        if started.is_err() {
            self.down();
        }
        started
    }

    fn start_all(&mut self) -> Result<(), ClusterError> {
        self.start_postgres()?;
        for index in 0..self.services.len() {
            self.start(index)?;
        }
        self.write_down()
    }

    /// Starts what of a cluster that is up does not run, and writes it down. How many processes that were.
    ///
    /// # Errors
    /// [`ClusterError`] says what to do. What runs goes on.
    pub fn start_missing(&mut self) -> Result<usize, ClusterError> {
        let mut started = 0;
        if !self.database_runs() {
            self.start_postgres()?;
            started += 1;
        }
        for index in 0..self.services.len() {
            if !self.services[index].is_running() {
                self.start(index)?;
                started += 1;
            }
        }
        self.write_down()?;
        Ok(started)
    }

    /// Whether the database is there.
    pub fn database_runs(&self) -> bool {
        self.postgres().and_then(Postgres::pid).is_some_and(runs)
    }

    /// How large it is.
    pub fn layout(&self) -> Layout {
        let count = |kind: Kind| self.services.iter().filter(|service| service.kind == kind).count();
        Layout {
            gateways: count(Kind::Gateway),
            syncs: count(Kind::Sync),
            storages: count(Kind::Storage),
            medias: count(Kind::Media),
        }
    }

    /// Starts the database, and makes Tern's in it if it is new.
    ///
    /// # Errors
    /// [`ClusterError::Postgres`].
    pub fn start_postgres(&mut self) -> Result<(), ClusterError> {
        let options = PostgresOptions { port: self.postgres_port, ..PostgresOptions::new(self.dir.join("postgres")) };
        let postgres = Postgres::start(&options)?;
        let is_there = format!("SELECT count(*) FROM pg_database WHERE datname = '{DATABASE}'");
        if postgres.sql("postgres", &is_there)? == "0" {
            postgres.create_database(DATABASE)?;
        }
        self.postgres = Some(postgres);
        Ok(())
    }

    /// The database, once it was started.
    pub fn postgres(&self) -> Option<&Postgres> {
        self.postgres.as_ref()
    }

    /// Starts one service and waits until it is ready.
    ///
    /// # Errors
    /// [`ClusterError::Service`].
    pub fn start(&mut self, index: usize) -> Result<(), ClusterError> {
        let service = &self.services[index];
        let path = find(service.kind, &self.programs)?;
        let config = (!service.kind.is_own()).then(|| self.write_config(service)).transpose()?;
        let program = Program { path, arguments: self.arguments_of(service, config) };
        let settings = self.settings_of(service)?;
        let log = self.dir.join(format!("{}.log", service.name()));
        let (name, service) = (service.name(), &mut self.services[index]);
        service.start(&program, &settings, &log, START).map_err(|error| ClusterError::Service { name, error })
    }

    /// Stops everything: links first, so that what is under way is finished. Whether everything did so by itself.
    pub fn down(&mut self) -> bool {
        let mut clean = true;
        for kind in Kind::ALL.into_iter().rev() {
            let of_kind = |service: &&mut Service| service.kind == kind;
            self.services
                .iter()
                .filter(|service| service.kind == kind)
                .for_each(|service| service.signal(Signal::TERM));
            for service in self.services.iter_mut().filter(of_kind) {
                // One that is stopped in its tracks hears no signal.
                service.signal(Signal::CONT);
                if !service.wait(STOP) {
                    service.kill();
                    clean = false;
                }
            }
        }
        if let Some(postgres) = self.postgres.as_ref().filter(|_| self.database_runs()) {
            clean &= postgres.stop("fast").is_ok();
        }
        let _ = self.write_down();
        clean
    }

    /// Kills everything, the database too, and waits until it is gone.
    pub fn kill(&mut self) {
        self.services.iter_mut().for_each(Service::kill);
        if let Some(postgres) = &self.postgres {
            // One that has stopped already cannot be stopped.
            let _ = postgres.stop("immediate");
        }
    }

    /// The file with the secret that signs tokens.
    pub fn secret_file(&self) -> PathBuf {
        self.dir.join("token-secret")
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The port of its database.
    pub fn postgres_port(&self) -> u16 {
        self.postgres_port
    }

    /// The gateways.
    pub fn gateways(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| service.kind == Kind::Gateway)
    }

    /// Of one that is not Tern's own; with the password, so it is for its user alone.
    fn write_config(&self, service: &Service) -> Result<PathBuf, ClusterError> {
        let path = self.dir.join(format!("{}.conf", service.kind.name()));
        let (port, password) = (service.port.unwrap_or(0), self.password()?);
        let text = match service.kind {
            Kind::Redis => format!(
                "bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {}\nsave \"\"\nappendonly no\nrepl-diskless-sync-delay 0\n",
                self.dir.display()
            ),
            _ => {
                format!("listen: \"127.0.0.1:{port}\"\nauthorization {{ user: \"tern\", password: \"{password}\" }}\n")
            }
        };
        let _ = fs::remove_file(&path);
        write_secret(&path, &text).map_err(|error| ClusterError::Io { path: path.clone(), error })?;
        Ok(path)
    }

    fn arguments_of(&self, service: &Service, config: Option<PathBuf>) -> Vec<PathBuf> {
        match service.kind {
            Kind::Nats => ["-c".into()].into_iter().chain(config).collect(),
            _ => config.into_iter().collect(),
        }
    }

    /// That of the servers which are not Tern's own.
    pub(crate) fn password(&self) -> Result<String, ClusterError> {
        let path = self.dir.join(PASSWORD);
        fs::read_to_string(&path).map_err(|error| ClusterError::Io { path, error })
    }

    /// Where one of the servers that are not Tern's own is found, at its port or at that of somebody who forwards to it.
    ///
    /// # Errors
    /// Its password cannot be read.
    pub fn url_of(&self, kind: Kind, port: Option<u16>) -> Result<String, ClusterError> {
        let own = self.services.iter().find(|service| service.kind == kind).and_then(|service| service.port);
        let (port, password) = (port.or(own).unwrap_or(0), self.password()?);
        let (scheme, user) = if kind == Kind::Nats { ("nats", "tern") } else { ("redis", "") };
        Ok(format!("{scheme}://{user}:{password}@127.0.0.1:{port}"))
    }

    /// What a service is told, as variables of the environment.
    fn settings_of(&self, service: &Service) -> Result<Vec<(String, String)>, ClusterError> {
        let at = |port: u16| format!("127.0.0.1:{port}");
        let all = |kind: Kind| {
            let of_kind = self.services.iter().filter(|service| service.kind == kind);
            of_kind.filter_map(|service| service.port).map(at).collect::<Vec<_>>().join(",")
        };
        // A cluster may be without it.
        let media = || Some(("TERN_RPC__MEDIA", all(Kind::Media))).filter(|(_, medias)| !medias.is_empty());
        let ports = [("TERN_RPC__LISTEN", service.port), ("TERN_LISTEN__METRICS", service.metrics)];
        let mut settings: Vec<_> = ports.into_iter().filter_map(|(name, port)| Some((name, at(port?)))).collect();
        match service.kind {
            // They have a file.
            Kind::Redis | Kind::Nats => return Ok(Vec::new()),
            Kind::Storage => {
                settings.push(("TERN_POSTGRES__URL", self.database_url()));
            }
            Kind::Sync => {
                settings.push(("TERN_RPC__STORAGE", all(Kind::Storage)));
                settings.extend(media());
                settings.push(("TERN_REDIS__URL", self.url_of(Kind::Redis, None)?));
                settings.push(("TERN_NATS__URL", self.url_of(Kind::Nats, None)?));
            }
            Kind::Media => {
                settings.push(("TERN_POSTGRES__URL", self.database_url()));
                settings.push(("TERN_RPC__SYNC", all(Kind::Sync)));
                settings.push(("TERN_MEDIA__DIRECTORY", self.dir.join("objects").display().to_string()));
            }
            Kind::Gateway => {
                settings.push(("TERN_RPC__SYNC", all(Kind::Sync)));
                settings.extend(media());
                settings.push(("TERN_NATS__URL", self.url_of(Kind::Nats, None)?));
                settings.push(("TERN_LISTEN__LONG_LINK", at(service.long_link.unwrap_or(0))));
                settings.push(("TERN_LISTEN__HTTP", at(service.http.unwrap_or(0))));
                settings.push(("TERN_TOKEN__SECRET_FILE", self.secret_file().display().to_string()));
            }
        }
        let mut all: Vec<(String, String)> =
            settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        all.extend(self.settings.iter().cloned());
        let special = self.special.iter().filter(|(of, ..)| *of == service.name());
        all.extend(special.map(|(_, name, value)| (name.clone(), value.clone())));
        Ok(all)
    }

    fn database_url(&self) -> String {
        let port = self.database_port.unwrap_or(self.postgres_port);
        self.postgres.as_ref().map(|postgres| postgres.url_at(port, DATABASE)).unwrap_or_default()
    }

    fn make_secrets(&self) -> io::Result<()> {
        for path in [self.secret_file(), self.dir.join(PASSWORD)] {
            if !path.exists() {
                let secret: String = std::iter::repeat_with(fastrand::alphanumeric).take(48).collect();
                write_secret(&path, &secret)?;
            }
        }
        Ok(())
    }

    fn write_down(&self) -> Result<(), ClusterError> {
        let path = self.dir.join(STATE);
        let written =
            serde_json::to_string_pretty(self).map_err(io::Error::other).and_then(|text| fs::write(&path, text));
        written.map_err(|error| ClusterError::Io { path, error })
    }
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file?.write_all(text.as_bytes())
}

/// The program of a service: built, or the machine's.
fn find(kind: Kind, built: &Path) -> Result<PathBuf, ClusterError> {
    if kind.is_own() {
        let program = built.join(format!("tern-{}", kind.name()));
        return if program.exists() { Ok(program) } else { Err(ClusterError::NotBuilt(program)) };
    }
    let name = format!("{}-server", kind.name());
    installed(&name).ok_or(ClusterError::NotInstalled(name))
}

/// Where the machine has a program, if it has it.
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain([PathBuf::from(SERVERS)]);
    places.find_map(|place| Some(place.join(name)).filter(|program| program.is_file()))
}
