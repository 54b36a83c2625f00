//! What an operator sets about Redis, NATS and routes, for the services that have to do with them.

use std::time::Duration;

use tern_runtime::settings::Settings;

use super::Servers;
use crate::in_redis::Target;
use crate::recent::CONFIRM;
use crate::routes::LIFETIME;

/// How Redis is found.
#[derive(Clone, Copy)]
enum Mode {
    One,
    Sentinel,
    Cluster,
}

const MODES: [(&str, Mode); 3] = [("one", Mode::One), ("sentinel", Mode::Sentinel), ("cluster", Mode::Cluster)];
/// What sentinels are commonly told to call it.
const MASTER: &str = "mymaster";

/// Reads the settings of the section `redis`. `None` if something is wrong with them.
pub fn redis(from: &mut Settings) -> Option<Target> {
    let url = from.secret_url("redis.url", "redis.url_file", "redis://user:password@host:6379");
    let mode = from.one_of("redis.mode", &MODES, Mode::One);
    let master = from.parsed("redis.master", |name| Ok(name.to_owned())).unwrap_or_else(|| MASTER.to_owned());
    let authority =
        from.parsed("redis.ca_file", |path| std::fs::read(path).map_err(|error| format!("cannot be read: {error}")));
    if url.is_empty() {
        return None; // Said already.
    }
    let authority = authority.as_deref();
    let target = match mode {
        Mode::One => Target::one(&url, authority),
        Mode::Sentinel => Target::sentinel(&url, &master, authority),
        Mode::Cluster => Target::cluster(&url, authority),
    };
    target.map_err(|bad| from.refuse("redis.url", &bad.to_string())).ok()
}

/// Reads the settings of the section `nats`. `None` if something is wrong with them.
pub fn nats(from: &mut Settings) -> Option<Servers> {
    let url = from.secret_url("nats.url", "nats.url_file", "nats://user:password@host:4222");
    let authority = from.path("nats.ca_file");
    if url.is_empty() {
        return None; // Said already.
    }
    let servers: Option<Servers> = url.parse().map_err(|bad: String| from.refuse("nats.url", &bad)).ok();
    servers.map(|servers| servers.trusting(authority))
}

/// Within which time the routes of a gateway that was killed are gone; the same for every service.
pub fn route_lifetime(from: &mut Settings) -> Duration {
    let second = Duration::from_secs(1);
    from.duration("link.route_lifetime", LIFETIME, second * 3..=second * 600)
}

/// For how long Redis may say that a device has nothing new, after storage has said so.
pub fn confirm(from: &mut Settings) -> Duration {
    from.duration("redis.confirm", CONFIRM, Duration::ZERO..=CONFIRM)
}
