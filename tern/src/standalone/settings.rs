//! What an operator may set. `docs/operations.md` has the table.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tern_gateway::setup::{HTTP_PORT, LONG_LINK_PORT, Tokens, links};
use tern_media::objects::Bucket;
use tern_media::setup::{self, Media};
use tern_runtime::settings::{BadSettings, Settings, Sources};
use tern_runtime::watch;
use tern_storage::Durability;
use tern_storage::embedded::Options;
use tern_storage::setup::{Keep, durability};

const MIB: u64 = 1024 * 1024;

/// Everything that `tern standalone` is told.
pub(crate) struct Standalone {
    pub(crate) long_link: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) keep: Keep,
    /// Of a new store.
    pub(crate) segment_bytes: u64,
    pub(crate) media: Media,
    /// Where the objects of media are, if that is not the data directory.
    pub(crate) bucket: Option<Bucket>,
    pub(crate) tokens: Tokens,
    pub(crate) gateway: tern_gateway::Settings,
    pub(crate) watch: watch::Settings,
}

impl Standalone {
    /// # Errors
    /// Everything that is wrong, at once.
    pub(crate) fn read(sources: Sources) -> Result<Standalone, BadSettings> {
        let mut from = Settings::read(sources);
        let standalone = Standalone {
            long_link: from.addr("listen.long_link", loopback(LONG_LINK_PORT)),
            http: from.addr("listen.http", loopback(HTTP_PORT)),
            data: from.path("storage.dir").unwrap_or_else(|| super::DEFAULT_DATA.into()),
            durability: durability(&mut from),
            keep: Keep::read(&mut from),
            segment_bytes: segment_bytes_of(&mut from),
            media: Media::read(&mut from),
            bucket: setup::bucket(&mut from),
            tokens: Tokens::read(&mut from),
            gateway: links(&mut from),
            watch: watch::Settings::read(&mut from),
        };
        from.finish().map(|()| standalone)
    }
}

/// This machine alone: the default, since plain links and a first try belong there.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn segment_bytes_of(from: &mut Settings) -> u64 {
    from.parsed("storage.segment_bytes", segment_bytes).unwrap_or(Options::new("").segment_bytes)
}

fn segment_bytes(text: &str) -> Result<u64, String> {
    let bytes = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
    let fits = (MIB..=1024 * MIB).contains(&bytes) && u64::is_multiple_of(bytes, 4096);
    if fits { Ok(bytes) } else { Err(format!("{bytes} is not a multiple of 4096 from {MIB} to {}", 1024 * MIB)) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tern_gateway::setup::Secret;
    use tern_gateway::setup::secret::SECRET_BYTES;
    use tern_runtime::logs::Format;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Standalone, BadSettings> {
        let environment = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Standalone::read(Sources { environment, ..Sources::default() })
    }

    #[test]
    fn without_any_setting_the_server_is_on_the_loopback_and_durable() {
        let standalone = read(&[]).ok().unwrap();
        assert!(standalone.long_link.ip().is_loopback() && standalone.http.ip().is_loopback());
        assert_eq!((standalone.durability, standalone.watch.metrics), (Durability::Disk, None));
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
        assert_eq!(standalone.watch.metrics, Some(loopback(9)));
        assert_eq!(standalone.durability, Durability::Os);
        assert_eq!((standalone.keep.history, standalone.segment_bytes), (Duration::from_secs(8), 2 * MIB));
        assert!(matches!(standalone.tokens.secret, Secret::File(path) if path == std::path::Path::new("/run/secret")));
        assert_eq!(standalone.tokens.key_set_file, Some("/run/keys".into()));
        assert_eq!(standalone.tokens.key_set_url, "http://keys.example/set".parse().ok());
        assert_eq!(standalone.tokens.audience.as_deref(), Some("tern"));
        assert_eq!((standalone.gateway.heartbeat, standalone.gateway.max_links), (Duration::from_secs(5), 3));
        assert_eq!(standalone.watch.log.1, Format::Json);
    }

    #[test]
    fn a_segment_is_whole_blocks() {
        assert!(read(&[("TERN_STORAGE__SEGMENT_BYTES", "1048577")]).is_err());
        assert!(read(&[("TERN_STORAGE__SEGMENT_BYTES", "4096")]).is_err());
        let default = read(&[]).ok().unwrap();
        assert_eq!((default.segment_bytes, default.keep.max_user_bytes), (32 * MIB, 1024 * MIB));
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
