//! Progress on stderr: a live line on a terminal, else now and then a plain one, and nothing for short inputs.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tern_client::{LinkState, Status};

/// Shorter runs show nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two plain lines.
const PLAIN: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// Lines of this run in the outbox or through it.
    taken: usize,
    started: Instant,
    shown: Instant,
}

impl Progress {
    pub(super) fn new() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {pos} lines acknowledged, {rate} {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()).with_key("rate", rate))
        });
        let now = Instant::now();
        Progress { bar, taken: 0, started: now, shown: now }
    }

    /// Lines entered the outbox.
    pub(super) fn taken(&mut self, lines: usize) {
        self.taken += lines;
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self, status: &Status) {
        let acknowledged = self.taken.saturating_sub(status.sending + status.failed);
        let trouble = match &status.link {
            LinkState::Down(reason) => format!("(no connection: {reason}; trying again)"),
            _ => String::new(),
        };
        match &self.bar {
            Some(bar) if self.started.elapsed() >= PATIENCE => {
                bar.set_position(acknowledged as u64);
                bar.set_message(trouble);
            }
            None if self.shown.elapsed() >= PLAIN => {
                self.shown = Instant::now();
                eprintln!("tern send: {acknowledged} lines acknowledged {trouble}");
            }
            _ => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn rate(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    // A string takes whatever is written to it.
    let _ = write!(out, "{}/s", HumanCount(state.per_sec().round() as u64));
}
