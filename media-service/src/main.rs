//! `tern-media`: will hold images and audio. It has its place, its settings and its health, and takes nothing yet.
//!
//! Settings → build (may fail: bind) → serve (cannot fail) → drain.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tern_rpc::Serving;
use tern_rpc::tonic::service::Routes;
use tern_runtime::logs;
use tern_runtime::metrics;
use tern_runtime::service::{self, About};
use tern_runtime::settings::{BadSettings, Settings, Sources};
use tern_runtime::shutdown;

const ABOUT: About = About {
    name: "tern-media",
    version: env!("CARGO_PKG_VERSION"),
    what: "Tern's images and audio; takes nothing yet",
};
/// Where it listens, unless the operator says otherwise.
const PORT: u16 = 7204;

fn main() -> ExitCode {
    service::main(ABOUT, async |sources| {
        let settings = Media::read(sources)?;
        service::start_log(settings.log.0, settings.log.1);
        let listener = service::bind("rpc", settings.listen).await?;
        let stop = shutdown::on_signal().context("handling signals")?;
        let watched = metrics::Listener::bind(settings.metrics).await?;
        service::say_ready(ABOUT, &[("rpc", listener.local_addr()?)], watched.address()?);
        watched.serve(metrics::of_process(ABOUT), (), stop.clone());
        if let Err(error) = tern_rpc::serve(listener, Routes::default(), settings.serving, stop).await {
            tracing::error!(%error, "serving broke off");
        }
        tracing::info!("stopped");
        Ok(())
    })
}

/// Everything that it is told.
struct Media {
    listen: SocketAddr,
    serving: Serving,
    metrics: Option<SocketAddr>,
    log: (logs::EnvFilter, logs::Format),
}

impl Media {
    /// # Errors
    /// Everything that is wrong, at once.
    fn read(sources: Sources) -> Result<Media, BadSettings> {
        let mut from = Settings::read(sources);
        let (listen, serving) = tern_rpc::settings(&mut from, PORT);
        let (metrics, log) = (metrics::listen(&mut from), logs::read(&mut from));
        let media = Media { listen, serving, metrics, log };
        from.finish().map(|()| media)
    }
}
