//! What an operator may set. `docs/operations.md` has the table.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tern_gateway::{BadKeySetUrl, KeySetUrl};
use tern_runtime::logs::{self, EnvFilter, Format};
use tern_runtime::settings::{BadSettings, Settings, Sources};
use tern_storage::Durability;
use tern_storage::embedded::Options;

use super::secret::SECRET_BYTES;

/// The port of the long link.
pub(crate) const LONG_LINK_PORT: u16 = 7180;
const MIB: u64 = 1024 * 1024;
/// The port of the short link.
pub(crate) const HTTP_PORT: u16 = 7181;

/// Everything that `tern standalone` is told.
pub(crate) struct Standalone {
    pub(crate) long_link: SocketAddr,
    pub(crate) http: SocketAddr,
    /// Metrics are served only if it is given.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) data: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) keep: Keep,
    pub(crate) tokens: Tokens,
    pub(crate) gateway: tern_gateway::Settings,
    pub(crate) log_filter: EnvFilter,
    pub(crate) log_format: Format,
}

/// What the store keeps for how long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) history: Duration,
    pub(crate) device_silence: Duration,
    pub(crate) results: Duration,
    pub(crate) max_user_entries: u64,
    pub(crate) max_user_bytes: u64,
    /// Of a new store.
    pub(crate) segment_bytes: u64,
    /// Between two looks at what may go.
    pub(crate) retain_every: Duration,
}

/// Which tokens are taken.
pub(crate) struct Tokens {
    pub(crate) secret: Secret,
    pub(crate) eddsa_public_key_file: Option<PathBuf>,
    pub(crate) key_set_file: Option<PathBuf>,
    pub(crate) key_set_url: Option<KeySetUrl>,
    pub(crate) audience: Option<String>,
}

/// Where the secret that signs tokens is. Shows nothing of it in `Debug`.
pub(crate) enum Secret {
    /// Here.
    Given(Vec<u8>),
    /// In this file.
    File(PathBuf),
    /// In the data directory, made at the first start.
    Own,
}

impl Standalone {
    /// # Errors
    /// Everything that is wrong, at once.
    pub(crate) fn read(sources: Sources) -> Result<Standalone, BadSettings> {
        let mut from = Settings::read(sources);
        let standalone = Standalone {
            long_link: from.addr("listen.long_link", loopback(LONG_LINK_PORT)),
            http: from.addr("listen.http", loopback(HTTP_PORT)),
            metrics: from.optional_addr("listen.metrics"),
            data: from.path("storage.dir").unwrap_or_else(|| super::DEFAULT_DATA.into()),
            durability: from.one_of("storage.durability", &DURABILITIES, Durability::Disk),
            keep: keep(&mut from),
            tokens: Tokens {
                secret: secret(&mut from),
                eddsa_public_key_file: from.path("token.eddsa_public_key_file"),
                key_set_file: from.path("token.key_set_file"),
                key_set_url: from.parsed("token.key_set_url", key_set_url),
                audience: from.parsed("token.audience", audience),
            },
            gateway: gateway(&mut from),
            log_filter: log_filter(&mut from),
            log_format: from.one_of("log.format", &Format::ALL, Format::Text),
        };
        from.finish().map(|()| standalone)
    }
}

/// This machine alone: the default, since plain links and a first try belong there.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Given(_) => "Given",
            Secret::File(_) => "File",
            Secret::Own => "Own",
        })
    }
}

const DURABILITIES: [(&str, Durability); 2] = [("disk", Durability::Disk), ("os", Durability::Os)];

fn secret(from: &mut Settings) -> Secret {
    match (from.secret("token.secret", SECRET_BYTES), from.path("token.secret_file")) {
        (Some(secret), None) => Secret::Given(secret),
        (None, Some(file)) => Secret::File(file),
        (None, None) => Secret::Own,
        (Some(_), Some(_)) => {
            from.refuse("token.secret", "token.secret_file is set as well, and they exclude each other");
            Secret::Own
        }
    }
}

fn keep(from: &mut Settings) -> Keep {
    let default = Options::new("");
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    let mut time = |name, default| from.duration(name, default, second..=day * 3650);
    let (history, device_silence) =
        (time("storage.history", default.history), time("storage.device_silence", default.device_silence));
    Keep {
        history,
        device_silence,
        results: from.duration("storage.keep_results", default.keep_results, second..=day * 30),
        max_user_entries: from.number("storage.max_user_entries", default.max_entries, 100..=1_000_000_000),
        max_user_bytes: from.number("storage.max_user_bytes", default.max_bytes, MIB..=1 << 40),
        segment_bytes: from.parsed("storage.segment_bytes", segment_bytes).unwrap_or(default.segment_bytes),
        retain_every: from.duration("storage.retain_every", Duration::from_secs(60), second..=day),
    }
}

fn segment_bytes(text: &str) -> Result<u64, String> {
    let bytes = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
    let fits = (MIB..=1024 * MIB).contains(&bytes) && u64::is_multiple_of(bytes, 4096);
    if fits { Ok(bytes) } else { Err(format!("{bytes} is not a multiple of 4096 from {MIB} to {}", 1024 * MIB)) }
}

fn audience(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty".into()) } else { Ok(text.into()) }
}

fn key_set_url(text: &str) -> Result<KeySetUrl, String> {
    text.parse().map_err(|bad| match bad {
        BadKeySetUrl::Https => format!("{bad}; until it is, put the key set in a file and set token.key_set_file"),
        BadKeySetUrl::Invalid => bad.to_string(),
    })
}

fn gateway(from: &mut Settings) -> tern_gateway::Settings {
    let default = tern_gateway::Settings::default();
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let mut count = |name, default: usize| {
        let count = from.number(name, default as u64, 1..=1_000_000);
        usize::try_from(count).unwrap_or(default)
    };
    let max_links = count("link.max_long_links", default.max_links);
    let max_short_links = count("link.max_short_links", default.max_short_links);
    tern_gateway::Settings {
        heartbeat: from.duration("link.heartbeat", default.heartbeat, second..=minute * 60),
        write_stall: from.duration("link.write_stall", default.write_stall, second..=minute * 10),
        drain_window: from.duration("drain.window", default.drain_window, Duration::ZERO..=minute * 10),
        drain_grace: from.duration("drain.grace", default.drain_grace, Duration::ZERO..=minute * 10),
        max_links,
        max_short_links,
        ..default
    }
}

fn log_filter(from: &mut Settings) -> EnvFilter {
    let given = from.parsed("log.level", |text| logs::filter(text).map_err(|error| error.to_string()));
    given.unwrap_or_else(|| EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Standalone, BadSettings> {
        let environment = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Standalone::read(Sources { environment, ..Sources::default() })
    }

    #[test]
    fn without_any_setting_the_server_is_on_the_loopback_and_durable() {
        let standalone = read(&[]).ok().unwrap();
        assert!(standalone.long_link.ip().is_loopback() && standalone.http.ip().is_loopback());
        assert_eq!((standalone.durability, standalone.metrics), (Durability::Disk, None));
        assert!(matches!(standalone.tokens.secret, Secret::Own));
        assert_eq!(standalone.gateway, tern_gateway::Settings::default());
    }

    #[test]
    fn the_environment_reaches_every_part() {
        let standalone = read(&[
            ("TERN_LISTEN__HTTP", "[::1]:0"),
            ("TERN_LISTEN__METRICS", "127.0.0.1:9"),
            ("TERN_STORAGE__DURABILITY", "os"),
            ("TERN_STORAGE__HISTORY", "8s"),
            ("TERN_STORAGE__SEGMENT_BYTES", "2097152"),
            ("TERN_TOKEN__SECRET_FILE", "/run/secret"),
            ("TERN_TOKEN__KEY_SET_FILE", "/run/keys"),
            ("TERN_TOKEN__KEY_SET_URL", "http://keys.example/set"),
            ("TERN_TOKEN__AUDIENCE", "tern"),
            ("TERN_LINK__HEARTBEAT", "5s"),
            ("TERN_LINK__MAX_LONG_LINKS", "3"),
            ("TERN_LOG__FORMAT", "json"),
        ]);
        let standalone = standalone.ok().unwrap();
        assert!(standalone.http.is_ipv6());
        assert_eq!(standalone.metrics, Some(loopback(9)));
        assert_eq!(standalone.durability, Durability::Os);
        assert_eq!((standalone.keep.history, standalone.keep.segment_bytes), (Duration::from_secs(8), 2 * MIB));
        assert!(matches!(standalone.tokens.secret, Secret::File(path) if path == std::path::Path::new("/run/secret")));
        assert_eq!(standalone.tokens.key_set_file, Some("/run/keys".into()));
        assert_eq!(standalone.tokens.key_set_url, "http://keys.example/set".parse().ok());
        assert_eq!(standalone.tokens.audience.as_deref(), Some("tern"));
        assert_eq!((standalone.gateway.heartbeat, standalone.gateway.max_links), (Duration::from_secs(5), 3));
        assert_eq!(standalone.log_format, Format::Json);
    }

    #[test]
    fn a_segment_is_whole_blocks() {
        assert!(read(&[("TERN_STORAGE__SEGMENT_BYTES", "1048577")]).is_err());
        assert!(read(&[("TERN_STORAGE__SEGMENT_BYTES", "4096")]).is_err());
        let default = read(&[]).ok().unwrap().keep;
        assert_eq!((default.segment_bytes, default.max_user_bytes), (32 * MIB, 1024 * MIB));
    }

    #[test]
    fn two_secrets_are_one_too_many_and_a_short_one_is_none() {
        let long = "x".repeat(SECRET_BYTES);
        let both = read(&[("TERN_TOKEN__SECRET", &long), ("TERN_TOKEN__SECRET_FILE", "f")]).err().unwrap();
        let short = read(&[("TERN_TOKEN__SECRET", &long[1..])]).err().unwrap();
        assert_eq!((both.0.len(), short.0.len()), (1, 1));
        assert!(read(&[("TERN_TOKEN__AUDIENCE", "")]).is_err(), "an empty audience would refuse every token");
    }

    #[test]
    fn a_key_set_url_that_needs_tls_is_refused_and_the_file_named() {
        let bad = read(&[("TERN_TOKEN__KEY_SET_URL", "https://keys.example/set")]).err().unwrap();
        assert!(bad.0.len() == 1 && bad.0[0].to_string().contains("token.key_set_file"), "{bad:?}");
        assert!(read(&[("TERN_TOKEN__KEY_SET_URL", "keys example")]).is_err());
    }
}
