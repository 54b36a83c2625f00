//! What is done to the Redis of a cluster, and a second one that copies it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Cluster, ClusterError, Kind, free_port, installed};

/// Where a Redis writes what it knows when it is told to.
const SAVED: &str = "dump.rdb";
/// The longest wait for an answer, and for a copy.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a copy that is being made.
const LOOK: Duration = Duration::from_millis(10);

impl Cluster {
    /// Makes Redis forget everything.
    ///
    /// # Errors
    /// It cannot be told so.
    pub fn flush_redis(&self) -> Result<(), ClusterError> {
        self.tell_redis("FLUSHALL")
    }

    /// Has Redis write down what it knows now. Its next start reads it, until [`Cluster::forget_saved`].
    ///
    /// # Errors
    /// It cannot be told so.
    pub fn save_redis(&self) -> Result<(), ClusterError> {
        self.tell_redis("SAVE")
    }

    /// Removes what Redis has written down.
    ///
    /// # Errors
    /// The operating system does not let.
    pub fn forget_saved(&self) -> Result<(), ClusterError> {
        let path = self.dir().join(SAVED);
        fs::remove_file(&path).map_err(|error| ClusterError::Io { path, error })
    }

    /// Starts a Redis that copies this one, which it reaches at a port of its own choice, and returns once it has the copy.
    ///
    /// # Errors
    /// It does not start, or gets no copy.
    pub fn replicate_redis(&self, reached_at: u16) -> Result<Replica, ClusterError> {
        let password = self.password()?;
        Replica::start(self.dir().join("replica"), reached_at, password).map_err(|error| failed("replica", error))
    }

    fn tell_redis(&self, command: &str) -> Result<(), ClusterError> {
        let redis = self.services.iter().find(|service| service.kind == Kind::Redis);
        let port = redis.and_then(|service| service.port).unwrap_or(0);
        must(port, &self.password()?, command).map_err(|error| failed("redis-1", error))
    }
}

/// A Redis that copies another one. Killed when it is dropped.
pub struct Replica {
    child: Child,
    port: u16,
    dir: PathBuf,
    password: String,
}

impl Replica {
    fn start(dir: PathBuf, of: u16, password: String) -> io::Result<Replica> {
        fs::create_dir_all(&dir)?;
        let program = installed("redis-server").ok_or_else(|| io::Error::other("redis-server is missing"))?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.arg("-").process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let config = format!(
            "bind 127.0.0.1\nport {port}\nrequirepass {password}\nmasterauth {password}\nreplicaof 127.0.0.1 {of}\ndir {}\nsave \"\"\n",
            dir.display()
        );
        // Closed behind it: that is the end of the file.
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(config.as_bytes()))?;
        let replica = Replica { child, port, dir, password };
        let began = Instant::now();
        while !tell(port, &replica.password, "INFO replication")
            .is_ok_and(|told| told.contains("master_link_status:up"))
        {
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other("it gets no copy"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(replica)
    }

    /// Writes down what it knows as if the Redis that it copies had done so, and ends.
    ///
    /// # Errors
    /// It cannot be told so.
    pub fn bequeath(self) -> Result<(), ClusterError> {
        let saved = self.dir.join(SAVED);
        let of_the_other = self.dir.parent().map_or_else(PathBuf::new, |dir| dir.join(SAVED));
        let done = must(self.port, &self.password, "SAVE").and_then(|()| fs::rename(saved, of_the_other));
        done.map_err(|error| failed("replica", error))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(name: &str, error: io::Error) -> ClusterError {
    ClusterError::Service { name: name.into(), error }
}

/// Says something that is answered by OK.
fn must(port: u16, password: &str, command: &str) -> io::Result<()> {
    match tell(port, password, command)?.as_str() {
        "+OK\r\n+OK\r\n+OK\r\n" => Ok(()),
        answer => Err(io::Error::other(format!("Redis answers {answer:?}"))),
    }
}

/// All that is answered, to the password and to the farewell too.
fn tell(port: u16, password: &str, command: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("AUTH {password}\r\n{command}\r\nQUIT\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
