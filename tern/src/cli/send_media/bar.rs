//! How far a file has come, on a terminal.

use std::convert::Infallible;
use std::future::pending;
use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tern_client::Event;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// A bar for a file; gone when it is dropped.
pub(super) struct Bar(Option<ProgressBar>, u64);

impl Bar {
    /// On a terminal alone.
    pub(super) fn new(path: &Path, length: u64) -> Bar {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
            let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.with_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        });
        Bar(bar, length)
    }

    /// So many parts, of so many, are on the server.
    pub(super) fn show(&self, there: u32, parts: u32) {
        if let Bar(Some(bar), length) = self {
            bar.set_position(length * u64::from(there) / u64::from(parts.max(1)));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Shows which chunks of the clip of a message are on the server, until it is dropped.
pub(super) async fn show_chunks(path: &Path, length: u64, message: u64, events: &mut Receiver<Event>) -> Infallible {
    let mut bar = None;
    loop {
        match events.recv().await {
            Ok(Event::Clip { id, stored, chunks }) if id == message => {
                bar.get_or_insert_with(|| Bar::new(path, length)).show(stored, chunks);
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return pending().await,
        }
    }
}
