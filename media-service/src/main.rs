//! `tern-media`: will hold images and audio. It has its place, its settings and its health, and takes nothing yet.
//!
//! Settings → build (may fail: bind) → serve (cannot fail) → drain.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tern_rpc::Serving;
use tern_rpc::tonic::service::Routes;
use tern_runtime::service::{self, About};
use tern_runtime::settings::{BadSettings, Settings, Sources};
use tern_runtime::shutdown;
use tern_runtime::watch::{self, Watch};

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
        let watch = Watch::start(ABOUT, settings.watch).await?;
        let listener = service::bind("rpc", settings.listen).await?;
        let stop = shutdown::on_signal().context("handling signals")?;
        service::say_ready(ABOUT, &[("rpc", listener.local_addr()?)], watch.address());
        let tracer = watch.serve((), stop.clone());
        if let Err(error) = tern_rpc::serve(listener, Routes::default(), settings.serving, stop).await {
            tracing::error!(%error, "serving broke off");
        }
        tracer.finish().await;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Everything that it is told.
struct Media {
    listen: SocketAddr,
    serving: Serving,
    watch: watch::Settings,
}

impl Media {
    /// # Errors
    /// Everything that is wrong, at once.
    fn read(sources: Sources) -> Result<Media, BadSettings> {
        let mut from = Settings::read(sources);
        let (listen, serving) = tern_rpc::settings(&mut from, PORT);
        let media = Media { listen, serving, watch: watch::Settings::read(&mut from) };
        from.finish().map(|()| media)
    }
}
