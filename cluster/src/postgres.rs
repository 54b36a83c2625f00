//! A PostgreSQL server of our own, from the machine's packages, on a directory and a port of its own.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::ports::free_port;
use crate::service::process;

/// The longest wait for the server to take connections, after a crash too.
const READY: Duration = Duration::from_secs(60);
/// The user of the database.
const USER: &str = "tern";
/// Where Debian and its kin keep the programs of each release.
const RELEASES: &str = "/usr/lib/postgresql";
/// The oldest release that is good enough.
const OLDEST: u32 = 15;

/// How a new server is set up.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Its directory; made if it is not there.
    pub dir: PathBuf,
    /// Where it listens; 0 takes a free port.
    pub port: u16,
    /// Whether a commit is on disk before it is answered. Only a test that never kills the server goes without.
    pub fsync: bool,
    /// Connections.
    pub max_connections: u16,
}

impl PostgresOptions {
    /// The defaults, in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> PostgresOptions {
        PostgresOptions { dir: dir.into(), port: 0, fsync: true, max_connections: 100 }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// It is not installed.
    #[error(
        "PostgreSQL {OLDEST} or later is not installed: apt-get install postgresql (looked in {RELEASES} and on PATH)"
    )]
    NotInstalled,
    /// One of its programs has failed.
    #[error("{program} failed: {told}")]
    Failed {
        /// Which.
        program: String,
        /// What it said last.
        told: String,
    },
    /// It has not come up.
    #[error("PostgreSQL was not ready within {READY:?}; its log is {}", .0.display())]
    NotReady(PathBuf),
    /// The directory.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A server, running or stopped. It goes on when this is dropped.
#[derive(Clone, Debug)]
pub struct Postgres {
    programs: PathBuf,
    dir: PathBuf,
    port: u16,
    password: String,
    /// PostgreSQL refuses to run as root, so it runs as this user then.
    runs_as: Option<(u32, u32)>,
}

impl Postgres {
    /// Whether a release that is new enough is on this machine.
    pub fn is_installed() -> bool {
        programs().is_some()
    }

    /// Makes the data directory, if it is not there, and starts the server.
    ///
    /// # Errors
    /// [`PostgresError`] says what to do.
    pub fn start(options: &PostgresOptions) -> Result<Postgres, PostgresError> {
        let programs = programs().ok_or(PostgresError::NotInstalled)?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| PostgresError::Io { path, error }
        };
        fs::create_dir_all(&options.dir).map_err(io(&options.dir))?;
        let dir = options.dir.canonicalize().map_err(io(&options.dir))?;
        let runs_as = is_root().then(unprivileged).flatten();
        if let Some((user, group)) = runs_as {
            chown(&dir, Some(user), Some(group)).map_err(io(&dir))?;
        }
        let password_file = dir.join("password");
        let is_new = !password_file.exists();
        let password = match is_new {
            true => std::iter::repeat_with(fastrand::alphanumeric).take(24).collect(),
            false => fs::read_to_string(&password_file).map_err(io(&password_file))?,
        };
        let port = if options.port == 0 { free_port().map_err(io(&dir))? } else { options.port };
        let server = Postgres { programs, dir, port, password, runs_as };
        if is_new {
            server.make(&password_file)?;
        }
        server.write_settings(options).map_err(io(&server.dir))?;
        server.launch()?;
        Ok(server)
    }

    /// Where the server of a directory is, if it was started there before.
    pub fn at(dir: &Path, port: u16) -> Option<Postgres> {
        let dir = dir.canonicalize().ok()?;
        let password = fs::read_to_string(dir.join("password")).ok()?;
        let runs_as = is_root().then(unprivileged).flatten();
        Some(Postgres { programs: programs()?, dir, port, password, runs_as })
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where a database of it is, with the password.
    pub fn url(&self, database: &str) -> String {
        self.url_at(self.port, database)
    }

    /// The same through another port, behind which somebody forwards to it.
    pub fn url_at(&self, port: u16, database: &str) -> String {
        format!("postgresql://{USER}:{}@127.0.0.1:{port}/{database}", self.password)
    }

    /// Makes a database, empty.
    ///
    /// # Errors
    /// The server refuses.
    pub fn create_database(&self, name: &str) -> Result<(), PostgresError> {
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"))?;
        Ok(())
    }

    /// Runs statements and gives what `psql` prints.
    ///
    /// # Errors
    /// The server refuses.
    pub fn sql(&self, database: &str, statements: &str) -> Result<String, PostgresError> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-c", statements]);
        let output = run(psql)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The server's process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Stops the server in one of PostgreSQL's modes: `fast` is clean, `immediate` is a crash. Connections are cut by both.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop(&self, mode: &str) -> Result<(), PostgresError> {
        let mut stop = self.program("pg_ctl");
        stop.args(["stop", "-w", "-m", mode, "-D"]).arg(self.data());
        run(stop).map(drop)
    }

    /// Kills the server's first process as a crash would. Its others notice and leave.
    pub fn kill(&self) {
        let pid = self.pid().and_then(process);
        if let Some(pid) = pid {
            // It may have gone by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Starts it again after a stop or a crash, and waits until it takes connections. Does nothing if it runs.
    ///
    /// # Errors
    /// It does not come up.
    pub fn launch(&self) -> Result<(), PostgresError> {
        let log = self.dir.join("log");
        let began = Instant::now();
        let start = || {
            let mut start = self.program("pg_ctl");
            start.args(["start", "-w", "-t", "60", "-l"]).arg(&log).arg("-D").arg(self.data());
            run(start)
        };
        while let Err(error) = start() {
            if self.sql("postgres", "SELECT 1").is_ok() {
                // It runs already.
                return Ok(());
            }
            // What is left of a killed server may still be leaving.
            if began.elapsed() > READY {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        while self.sql("postgres", "SELECT 1").is_err() {
            if began.elapsed() > READY {
                return Err(PostgresError::NotReady(log));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn make(&self, password_file: &Path) -> Result<(), PostgresError> {
        let io = |error| PostgresError::Io { path: password_file.to_owned(), error };
        write_private(password_file, &self.password, self.runs_as).map_err(io)?;
        let mut initdb = self.program("initdb");
        initdb.args(["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-instructions", "--pwfile"]);
        initdb.arg(password_file).arg("-D").arg(self.data());
        let made = run(initdb).map(drop);
        if made.is_err() {
            // The next start begins anew.
            let _ = fs::remove_file(password_file);
        }
        made
    }

    fn write_settings(&self, options: &PostgresOptions) -> io::Result<()> {
        let on = |on: bool| if on { "on" } else { "off" };
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nmax_connections = {}\n\
            fsync = {}\nsynchronous_commit = on\nfull_page_writes = {}\nshared_buffers = 256MB\nmax_wal_size = 4GB\n\
            checkpoint_timeout = 15min\nlog_min_messages = warning\nlog_min_error_statement = fatal\n",
            self.port,
            options.max_connections,
            on(options.fsync),
            on(options.fsync)
        );
        let file = self.data().join("postgresql.auto.conf");
        fs::write(&file, settings)?;
        match self.runs_as {
            Some((user, group)) => chown(&file, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        // Some read the directory that they start in.
        command.current_dir(&self.dir).env("PGCONNECT_TIMEOUT", "5");
        if let Some((user, group)) = self.runs_as {
            command.uid(user).gid(group);
        }
        command
    }
}

fn run(mut command: Command) -> Result<Output, PostgresError> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |told: String| PostgresError::Failed { program: program.clone(), told };
    // Not pipes: a server that is started keeps them open.
    let quiet = program == "pg_ctl";
    let output = if quiet {
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null()).status().map(|status| Output {
            status,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    } else {
        command.output()
    };
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output);
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let last = told.trim().lines().next_back().unwrap_or_default();
    Err(failed(if last.is_empty() { output.status.to_string() } else { last.to_owned() }))
}

/// The directory of the newest release on this machine that is new enough.
fn programs() -> Option<PathBuf> {
    let releases = fs::read_dir(RELEASES).into_iter().flatten().flatten();
    let newest = releases.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    let newest = newest.filter(|(release, path)| *release >= OLDEST && path.join("bin/initdb").exists()).max();
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|dir| dir.join("initdb").exists() && dir.join("pg_ctl").exists())
    };
    newest.map(|(_, path)| path.join("bin")).or_else(on_path)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user and group of the package, or nobody's.
fn unprivileged() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    ids("postgres").or_else(|| ids("nobody"))
}

fn write_private(path: &Path, text: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?.write_all(text.as_bytes())?;
    match owner {
        Some((user, group)) => chown(path, Some(user), Some(group)),
        None => Ok(()),
    }
}
