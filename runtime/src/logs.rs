//! Logs go to stderr: one line each, for people or as JSON. They carry no message content and no tokens.

use std::io::IsTerminal;

pub use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::Settings;
use crate::traces::{self, Tracer};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// Every format with its name in the settings.
    pub const ALL: [(&'static str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];
}

/// It does not say what to log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither {levels}, nor a list by target such as info,tern_gateway=debug", levels = LEVELS.join(", "))]
pub struct BadFilter(String);

/// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or per target, as in `info,tern_gateway=debug`.
///
/// # Errors
/// It is neither.
pub fn filter(directives: &str) -> Result<EnvFilter, BadFilter> {
    let bad = || BadFilter(directives.into());
    // The parser takes any single word for a target of which everything is logged, and so would not find a misspelt level.
    if !directives.split(',').all(is_directive) {
        return Err(bad());
    }
    EnvFilter::builder().parse(directives).map_err(|_| bad())
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// A level, or a target and its level.
fn is_directive(text: &str) -> bool {
    let (target, level) = text.split_once('=').unwrap_or(("all", text));
    let is_target = !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c));
    is_target && LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known))
}

/// Reads the settings of the section `log`.
pub fn read(from: &mut Settings) -> (EnvFilter, Format) {
    let given = from.parsed("log.level", |text| filter(text).map_err(|error| error.to_string()));
    (given.unwrap_or_else(|| EnvFilter::new("info")), from.one_of("log.format", &Format::ALL, Format::Text))
}

/// Starts logging and tracing for the process. Only the first call counts: a test may have started it before.
pub fn start(filter: EnvFilter, format: Format, tracer: &Tracer) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    // Without traces the filter is that of everything, so that a span which nobody wants costs nothing.
    let _ = match tracer.layer() {
        None => tracing_subscriber::registry().with(lines).with(filter).try_init(),
        Some(layer) => {
            // So that a line says in which trace it was written, whatever else is logged.
            let filter = filter.add_directive(traces::TARGET.parse().unwrap_or_else(|_| tracing::Level::INFO.into()));
            tracing_subscriber::registry().with(lines.with_filter(filter)).with(layer).try_init()
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_levels_or_targets_with_levels() {
        for good in ["info", "off", "WARN", "info,tern_gateway=debug", "tern_sync::receipts=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "", "info,", "tern", "tern=loud", "info,tern=9", "=info", "tern=", "[span]=info"] {
            assert_eq!(filter(bad).unwrap_err(), BadFilter(bad.into()));
        }
        let told = filter("loud").unwrap_err().to_string();
        assert!(told.starts_with("\"loud\" is neither error, warn,"), "{told}");
    }
}
