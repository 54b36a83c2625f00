//! Logs go to stderr: one line each, for people or as JSON. They carry no message content and no tokens.

use std::io::IsTerminal;

pub use tracing_subscriber::EnvFilter;
pub use tracing_subscriber::filter::ParseError;

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

/// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or per target, as in `info,tern_gateway=debug`.
///
/// # Errors
/// It is neither.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(directives)
}

/// Starts logging for the process. Only the first call counts: a test may have started it before.
pub fn start(filter: EnvFilter, format: Format) {
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_levels_or_targets_with_levels() {
        for good in ["info", "off", "info,tern_gateway=debug"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["tern=loud", "info,tern=9"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
