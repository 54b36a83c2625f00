//! What the server prints once it serves: where it is, and what to try.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tern_gateway::setup::{HTTP_PORT, LONG_LINK_PORT, Secret, secret};
use tern_storage::Durability;

use super::DEFAULT_DATA;
use super::settings::loopback;
use crate::cli::program::{program, quoted};

/// The addresses are those that were bound.
#[derive(Debug)]
pub(crate) struct Welcome {
    pub(crate) long_link: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) data: PathBuf,
    pub(crate) secret: Secret,
    pub(crate) durability: Durability,
}

impl Welcome {
    /// Prints it in one write. Whoever started the server may not listen; that is no reason to stop serving.
    pub(crate) fn print(&self) {
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(self.to_string().as_bytes()).and_then(|()| stdout.flush());
    }

    /// The options that a client needs because they differ from its defaults.
    fn client_options(&self) -> String {
        let mut options = String::new();
        if self.long_link != loopback(LONG_LINK_PORT) {
            options += &format!(" --long-link {}", self.long_link);
        }
        if self.http != loopback(HTTP_PORT) {
            options += &format!(" --http {}", self.http);
        }
        match &self.secret {
            Secret::Own if self.data == Path::new(DEFAULT_DATA) => (),
            Secret::Own => options += &format!(" --secret-file {}", quoted(&self.data.join(secret::FILE))),
            Secret::File(file) => options += &format!(" --secret-file {}", quoted(file)),
            Secret::Given(_) => options += " --token TOKEN",
        }
        options
    }
}

impl fmt::Display for Welcome {
    /// The first line is for programs too: they wait for `ready` and read the words behind `long-link`, `http` and `metrics`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Welcome { long_link, http, data, .. } = self;
        write!(f, "tern ready: long-link {long_link} http {http} ")?;
        if let Some(metrics) = self.metrics {
            write!(f, "metrics {metrics} ")?;
        }
        writeln!(f, "data {}", data.display())?;
        if self.durability == Durability::Os {
            writeln!(f, "durability os: what is acknowledged survives this process, but not a power loss")?;
        }
        let (tern, options) = (program(), self.client_options());
        writeln!(f, "Try it, in two other terminals:")?;
        writeln!(f, "  {tern} chat --as alice --to bob{options}")?;
        writeln!(f, "  {tern} chat --as bob --to alice{options}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome() -> Welcome {
        let (long_link, http) = (loopback(LONG_LINK_PORT), loopback(HTTP_PORT));
        let (data, durability) = (DEFAULT_DATA.into(), Durability::Disk);
        Welcome { long_link, http, metrics: None, data, secret: Secret::Own, durability }
    }

    #[test]
    fn with_the_defaults_the_commands_need_no_options() {
        let text = welcome().to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "tern ready: long-link 127.0.0.1:7180 http 127.0.0.1:7181 data tern-data");
        assert!(lines[2].ends_with("chat --as alice --to bob"), "{text}");
        let with_metrics = Welcome { metrics: Some(loopback(9)), ..welcome() }.to_string();
        assert!(with_metrics.contains(" http 127.0.0.1:7181 metrics 127.0.0.1:9 data "), "{with_metrics}");
        assert!(lines[3].ends_with("chat --as bob --to alice"), "{text}");
    }

    #[test]
    fn what_differs_from_the_defaults_is_in_the_commands() {
        let elsewhere = Welcome { long_link: loopback(9), data: "/srv/tern".into(), ..welcome() };
        assert_eq!(elsewhere.client_options(), " --long-link 127.0.0.1:9 --secret-file /srv/tern/token-secret");
        let spaced = Welcome { data: "/my data".into(), ..welcome() };
        assert_eq!(spaced.client_options(), " --secret-file '/my data/token-secret'");
        let secret = Secret::Given(b"hush".to_vec());
        let text = Welcome { secret, durability: Durability::Os, ..welcome() }.to_string();
        assert!(
            text.contains("not a power loss") && text.contains("--token TOKEN") && !text.contains("hush"),
            "{text}"
        );
    }
}
