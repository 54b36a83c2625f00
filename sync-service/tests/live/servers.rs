//! Redis and NATS servers of a test's own. They end with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tern_cluster::{free_port, installed};
use tern_proto::UserId;
use tern_sync::Routes;

/// The longest wait for a server or a connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A server process.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) url: String,
    command: Vec<String>,
    child: Child,
    home: TempDir,
}

impl Server {
    fn start(program: &str, scheme: &str, arguments: impl Fn(u16, &Path) -> Vec<String>) -> Server {
        let (port, home) = (free_port().unwrap(), tempfile::tempdir().unwrap());
        let found = installed(program);
        let found = found.unwrap_or_else(|| panic!("{program} is missing; `cargo xtask test tools` installs it"));
        let program = found.display().to_string();
        let command: Vec<String> = [program].into_iter().chain(arguments(port, home.path())).collect();
        let child = spawn(&command);
        let server = Server { port, url: format!("{scheme}://127.0.0.1:{port}"), command, child, home };
        server.until_it_accepts();
        server
    }

    fn until_it_accepts(&self) {
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "{:?} does not accept", self.command);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// On the same port, with nothing of what it had.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.command);
        self.until_it_accepts();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// What `redis-cli` answers.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(command: &[String]) -> Child {
    let mut program = Command::new(&command[0]);
    let program = program.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    program.spawn().unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask test tools` installs it", command[0]))
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// One Redis that keeps nothing.
pub(crate) fn redis() -> Server {
    redis_with("")
}

fn redis_with(more: &str) -> Server {
    Server::start("redis-server", "redis", |port, home| {
        let of_all = format!(
            "--bind 127.0.0.1 --port {port} --appendonly no --repl-diskless-sync-delay 0 --dir {}{more}",
            home.display()
        );
        words(&of_all).into_iter().chain(["--save".into(), String::new()]).collect()
    })
}

/// Three masters with a replica each.
pub(crate) struct RedisCluster(pub(crate) Vec<Server>);

impl RedisCluster {
    pub(crate) fn urls(&self) -> String {
        self.0.iter().map(|node| node.url.as_str()).collect::<Vec<_>>().join(",")
    }
}

pub(crate) fn redis_cluster() -> RedisCluster {
    let node = |_| {
        // The nodes talk to each other at a port that is 10,000 higher unless they are told another.
        let bus = free_port().unwrap();
        redis_with(&format!(" --cluster-enabled yes --cluster-node-timeout 1000 --cluster-port {bus}"))
    };
    let nodes: Vec<Server> = (0..6).map(node).collect();
    let places: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let made = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(&places)
        .args(["--cluster-replicas", "1", "--cluster-yes"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    let began = Instant::now();
    let is_copied = |node: &Server| {
        let told = node.cli(&["info", "replication"]);
        told.contains("connected_slaves:1") || told.contains("master_link_status:up")
    };
    while !nodes.iter().all(|node| node.cli(&["cluster", "info"]).contains("cluster_state:ok") && is_copied(node)) {
        assert!(began.elapsed() < PATIENCE, "the cluster does not get well");
        std::thread::sleep(Duration::from_millis(50));
    }
    RedisCluster(nodes)
}

/// The name of the master.
pub(crate) const MASTER: &str = "tern";

/// A master with a replica, and three sentinels over them.
pub(crate) struct RedisSentinels {
    pub(crate) master: Server,
    _replica: Server,
    sentinels: Vec<Server>,
}

impl RedisSentinels {
    pub(crate) fn urls(&self) -> String {
        self.sentinels.iter().map(|sentinel| sentinel.url.as_str()).collect::<Vec<_>>().join(",")
    }
}

pub(crate) fn redis_sentinels() -> RedisSentinels {
    let master = redis();
    let replica = redis_with(&format!(" --replicaof 127.0.0.1 {}", master.port));
    let sentinel = |_| {
        Server::start("redis-server", "redis", |port, home| {
            let config = home.join("sentinel.conf");
            let of = master.port;
            let text = format!(
                "bind 127.0.0.1\nport {port}\nsentinel monitor {MASTER} 127.0.0.1 {of} 2\nsentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 3000\n"
            );
            std::fs::write(&config, text).unwrap();
            vec![config.display().to_string(), "--sentinel".into()]
        })
    };
    let sentinels: Vec<Server> = (0..3).map(sentinel).collect();
    let began = Instant::now();
    let knows_all = |sentinel: &Server| {
        let told = sentinel.cli(&["info", "sentinel"]);
        told.contains("slaves=1,sentinels=3")
    };
    while !sentinels.iter().all(knows_all) {
        assert!(began.elapsed() < PATIENCE, "the sentinels do not find each other");
        std::thread::sleep(Duration::from_millis(50));
    }
    RedisSentinels { master, _replica: replica, sentinels }
}

/// An authority, and a certificate for 127.0.0.1 signed by it, in this directory.
fn certify(home: &Path) {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2 \
        && openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out request.pem -subj /CN=127.0.0.1 \
        && printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > extensions \
        && openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile extensions";
    let made = Command::new("sh").args(["-c", script]).current_dir(home).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Redis that speaks TLS only, and the file with its authority.
pub(crate) fn redis_with_tls() -> (Server, PathBuf) {
    let server = Server::start("redis-server", "redis", |port, home| {
        certify(home);
        let home = home.display();
        words(&format!(
            "--bind 127.0.0.1 --port 0 --tls-port {port} --tls-auth-clients no --tls-ca-cert-file {home}/ca.pem --tls-cert-file {home}/cert.pem --tls-key-file {home}/key.pem --dir {home}"
        ))
    });
    let authority = server.home.path().join("ca.pem");
    (server, authority)
}

/// The same of NATS.
pub(crate) fn nats_with_tls() -> (Server, PathBuf) {
    let server = Server::start("nats-server", "nats", |port, home| {
        certify(home);
        let home = home.display();
        words(&format!("-a 127.0.0.1 -p {port} --tls --tlscert {home}/cert.pem --tlskey {home}/key.pem"))
    });
    let authority = server.home.path().join("ca.pem");
    (server, authority)
}

/// One NATS.
pub(crate) fn nats() -> Server {
    Server::start("nats-server", "nats", |port, _| words(&format!("-a 127.0.0.1 -p {port}")))
}

/// Three NATS servers that know each other.
pub(crate) fn nats_cluster() -> Vec<Server> {
    let ports: Vec<u16> = (0..3).map(|_| free_port().unwrap()).collect();
    let routes = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let node = |own: u16| {
        Server::start("nats-server", "nats", |port, _| {
            words(&format!(
                "-a 127.0.0.1 -p {port} --cluster_name tern --cluster nats://127.0.0.1:{own} --routes {routes}"
            ))
        })
    };
    ports.iter().map(|port| node(*port)).collect()
}

/// Until routes can be read.
pub(crate) async fn until_there(routes: &dyn Routes) {
    let began = Instant::now();
    while let Err(away) = routes.gateways(&[user("nobody")]).await {
        assert!(began.elapsed() < PATIENCE, "{away}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
