//! What an operator sets about links and tokens, read and made ready; for every binary that has a gateway in it.

pub mod secret;

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tern_runtime::descriptors;
use tern_runtime::settings::{EXAMPLE, Settings, is_example};
use tokio::net::TcpListener;

use crate::{BadKeySetUrl, KeySetRefresher, KeySetUrl, TokenVerifier, listen};
use secret::SECRET_BYTES;

/// The port of the long link.
pub const LONG_LINK_PORT: u16 = 7180;
/// The port of the short link.
pub const HTTP_PORT: u16 = 7181;

/// Which tokens are taken.
pub struct Tokens {
    /// What signs tokens of the app's own.
    pub secret: Secret,
    /// A public key in PEM.
    pub eddsa_public_key_file: Option<PathBuf>,
    /// A JWK set in a file.
    pub key_set_file: Option<PathBuf>,
    /// A JWK set behind a URL.
    pub key_set_url: Option<KeySetUrl>,
    /// Whom tokens must be for.
    pub audience: Option<String>,
}

/// Where the secret that signs tokens is. Shows nothing of it in `Debug`.
pub enum Secret {
    /// Here.
    Given(Vec<u8>),
    /// In this file.
    File(PathBuf),
    /// In the data directory, made at the first start.
    Own,
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

impl Tokens {
    /// Reads the settings of the section `token`.
    pub fn read(from: &mut Settings) -> Tokens {
        Tokens {
            secret: secret(from),
            eddsa_public_key_file: from.path("token.eddsa_public_key_file"),
            key_set_file: from.path("token.key_set_file"),
            key_set_url: from.parsed("token.key_set_url", key_set_url),
            audience: from.text("token.audience"),
        }
    }

    /// Refuses a secret that everybody knows: for whoever serves more than a first try.
    pub fn refuse_examples(&self, from: &mut Settings) {
        let (name, secret) = match &self.secret {
            Secret::Given(secret) => ("token.secret", secret.clone()),
            // One that cannot be read is told of later.
            Secret::File(file) => ("token.secret_file", secret::read(file).unwrap_or_default()),
            Secret::Own => return,
        };
        if is_example(&String::from_utf8_lossy(&secret)) {
            from.refuse(name, EXAMPLE);
        }
    }

    /// What judges tokens, with every key of a file read once, and what keeps the keys of a URL fresh; those are read once before it returns, so that no good token
    /// is refused if they can be had. A secret of the directory's own is in `data`.
    ///
    /// # Errors
    /// A key that cannot be read.
    pub async fn verifier(&self, data: Option<&Path>) -> Result<(TokenVerifier, Option<KeySetRefresher>)> {
        let verifier = self.of_files(data)?;
        let Some(url) = self.key_set_url.clone() else { return Ok((verifier, None)) };
        let (verifier, mut refresher) = verifier.with_key_set_url(url);
        refresher.refresh().await;
        Ok((verifier, Some(refresher)))
    }

    fn of_files(&self, data: Option<&Path>) -> Result<TokenVerifier> {
        let secret = match (&self.secret, data) {
            (Secret::Given(secret), _) => Some(secret.clone()),
            (Secret::File(file), _) => Some(secret::read(file)?),
            (Secret::Own, Some(data)) => Some(secret::read_or_make(data)?),
            (Secret::Own, None) => None,
        };
        let mut verifier = TokenVerifier::default();
        if let Some(secret) = secret {
            verifier = verifier.with_secret(&secret)?;
        }
        if let Some(file) = &self.eddsa_public_key_file {
            let pem = fs::read(file).with_context(|| format!("reading the public key {}", file.display()))?;
            verifier = verifier.with_public_key(&pem).with_context(|| format!("the public key {}", file.display()))?;
        }
        if let Some(file) = &self.key_set_file {
            let json = fs::read_to_string(file).with_context(|| format!("reading the key set {}", file.display()))?;
            verifier = verifier.with_key_set(&json).with_context(|| format!("the key set {}", file.display()))?;
        }
        Ok(match &self.audience {
            Some(audience) => verifier.with_audience(audience),
            None => verifier,
        })
    }
}

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

fn key_set_url(text: &str) -> Result<KeySetUrl, String> {
    text.parse().map_err(|bad| match bad {
        BadKeySetUrl::Https => format!("{bad}; until it is, put the key set in a file and set token.key_set_file"),
        BadKeySetUrl::Invalid => bad.to_string(),
    })
}

/// Reads the settings of the sections `link` and `drain`.
pub fn links(from: &mut Settings) -> crate::Settings {
    let default = crate::Settings::default();
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let mut count = |name, default: usize| {
        let count = from.number(name, default as u64, 1..=1_000_000);
        usize::try_from(count).unwrap_or(default)
    };
    let max_links = count("link.max_long_links", default.max_links);
    let max_short_links = count("link.max_short_links", default.max_short_links);
    crate::Settings {
        heartbeat: from.duration("link.heartbeat", default.heartbeat, second..=minute * 60),
        write_stall: from.duration("link.write_stall", default.write_stall, second..=minute * 10),
        drain_window: from.duration("drain.window", default.drain_window, Duration::ZERO..=minute * 10),
        drain_grace: from.duration("drain.grace", default.drain_grace, Duration::ZERO..=minute * 10),
        max_links,
        max_short_links,
        ..default
    }
}

/// A link that finds no descriptor is not refused but left waiting.
pub fn warn_of_descriptors(max_links: usize) {
    let limit = descriptors::raise_limit();
    if limit <= max_links as u64 {
        tracing::info!(limit, max_links, "more links than the limit of open files (ulimit -n) will wait");
    }
}

/// Listens.
///
/// # Errors
/// Nothing can listen there, with what was to.
pub fn bind(name: &str, address: SocketAddr) -> Result<TcpListener> {
    listen(address).with_context(|| format!("the {name} cannot listen on {address}"))
}

#[cfg(test)]
mod tests {
    use tern_runtime::settings::Sources;

    use super::*;

    #[test]
    fn the_key_set_and_the_audience_reach_the_verifier() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("keys");
        // The k is base64url: "first".
        fs::write(&file, r#"{"keys":[{"kty":"oct","k":"Zmlyc3Q"}]}"#).unwrap();
        let tokens = |key_set_file, audience| Tokens {
            secret: Secret::Given(b"another".to_vec()),
            eddsa_public_key_file: None,
            key_set_file,
            key_set_url: None,
            audience,
        };
        let token = crate::mint(b"first", &tern_proto::UserId::new("alice").unwrap(), Duration::from_secs(60));
        let taken = |tokens: Tokens| tokens.of_files(Some(data.path())).unwrap().verify(&token).is_ok();
        assert!(taken(tokens(Some(file.clone()), None)));
        assert!(!taken(tokens(None, None)));
        assert!(!taken(tokens(Some(file), Some("tern".into()))), "it is for nobody in particular");
        assert!(tokens(Some(data.path().join("none")), None).of_files(Some(data.path())).is_err());
    }

    #[test]
    fn a_secret_that_everybody_knows_is_refused_by_name() {
        let refused = |secret: &str| {
            let mut from = Settings::read(Sources::default());
            let tokens = Tokens { secret: Secret::Given(secret.into()), ..Tokens::read(&mut from) };
            tokens.refuse_examples(&mut from);
            from.finish().err().map(|bad| bad.to_string())
        };
        let told = refused("change-me-change-me-change-me-change-me").unwrap();
        assert!(told.contains("token.secret") && told.contains("openssl rand"), "{told}");
        assert_eq!(refused("7c1be2a7f0d94d4ea2b67c1be2a7f0d94d4ea2b6"), None);
    }
}
