//! `tern standalone`: the four services in this process, with the embedded store.
//!
//! Settings → build (may fail: open the store, bind) → serve (cannot fail) → drain. This is where the services are wired: nothing in
//! them knows that they share a process.

mod settings;
mod welcome;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tern_gateway::setup::{bind, warn_of_descriptors};
use tern_gateway::{Gateway, KeySetRefresher, Registry};
use tern_media::setup::InDirectory;
use tern_runtime::service::About;
use tern_runtime::settings::{Flag, Sources};
use tern_runtime::shutdown::{self, Stop};
use tern_runtime::watch::Watch;
use tern_storage::Durability;
use tern_storage::embedded::{Embedded, Options};
use tern_storage::setup::{Keep, retain};
use tern_sync::SyncService;
use tokio::net::TcpListener;

use settings::Standalone;
use welcome::Welcome;

/// Where the data is, unless the operator says otherwise.
pub(crate) const DEFAULT_DATA: &str = "tern-data";

const ABOUT: About =
    About { name: "tern", version: env!("CARGO_PKG_VERSION"), what: "The four services in one process" };

/// At a stop, the longest wait for acknowledgements and receipts that follow the last requests. A crash would lose as much.
const QUIET: Duration = Duration::from_secs(5);

/// The settings that have a flag. Their values are judged with all the others, so that everything wrong is told at once.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Args {
    /// The data directory; made if it is not there [default: ./tern-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Where the long link listens; port 0 takes a free one [default: 127.0.0.1:7180]
    #[arg(long, value_name = "ADDR")]
    long_link: Option<String>,
    /// Where the short link listens; port 0 takes a free one [default: 127.0.0.1:7181]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// A TOML file with settings; docs/operations.md has the table [env: TERN_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the server until SIGTERM or SIGINT. `log` takes the place of the setting `log.level`.
///
/// # Errors
/// [`tern_runtime::settings::BadSettings`], or why the start failed.
pub(crate) async fn run(args: Args, log: Option<String>) -> Result<()> {
    let settings = Standalone::read(args.sources(log))?;
    let server = Server::build(settings).await?;
    let stop = shutdown::on_signal().context("handling signals")?;
    server.welcome.print();
    server.serve(stop).await;
    Ok(())
}

impl Args {
    fn sources(self, log: Option<String>) -> Sources {
        let flags = [
            ("--data", "storage.dir", self.data),
            ("--long-link", "listen.long_link", self.long_link),
            ("--http", "listen.http", self.http),
            ("--log", "log.level", log),
        ];
        let given = flags.into_iter().filter_map(|(flag, name, value)| Some(Flag { flag, name, value: value? }));
        // Read here and not by the parser, which is not asked when `tern` is started without a command.
        let file =
            self.config.or_else(|| std::env::var_os("TERN_CONFIG").filter(|file| !file.is_empty()).map(PathBuf::from));
        Sources::of_process(file, given.collect())
    }
}

/// Everything that serves, with both listeners bound.
struct Server {
    welcome: Welcome,
    long_link: TcpListener,
    http: TcpListener,
    watch: Watch,
    gateway: Arc<Gateway>,
    /// There if a key set is behind a URL.
    refresher: Option<KeySetRefresher>,
    sync: Arc<SyncService>,
    store: Arc<Embedded>,
    media: InDirectory,
    retain_every: Duration,
}

impl Server {
    async fn build(settings: Standalone) -> Result<Server> {
        let mut watch = Watch::start(ABOUT, settings.watch).await?;
        warn_of_descriptors(settings.gateway.max_links);
        let store = open(&settings.data, settings.durability, &settings.keep, settings.segment_bytes).await?;
        let (verifier, refresher) = settings.tokens.verifier(Some(&settings.data)).await?;
        let long_link = bind("long link", settings.long_link)?;
        let http = bind("short link", settings.http)?;
        let welcome = Welcome {
            long_link: long_link.local_addr()?,
            http: http.local_addr()?,
            metrics: watch.address(),
            data: settings.data,
            secret: settings.tokens.secret,
            durability: settings.durability,
        };

        let registry = Registry::new();
        let media = settings.media.in_directory(&welcome.data.join("media"), settings.bucket.as_ref()).await?;
        let sync = SyncService::new(store.clone(), Some(media.service.clone()), registry.clone());
        let gateway = Gateway::new(sync.clone(), Some(media.service.clone()), registry, settings.gateway, verifier);
        gateway.report_to(&mut watch.metrics);
        sync.report_to(&mut watch.metrics);
        store.counters().report_to(&mut watch.metrics);
        media.report_to(&mut watch.metrics);
        Ok(Server {
            welcome,
            long_link,
            http,
            watch,
            gateway,
            refresher,
            sync,
            store,
            media,
            retain_every: settings.keep.retain_every,
        })
    }

    /// Serves until the stop, then drains from the outside in: links, what they left to do, the store.
    async fn serve(self, stop: Stop) {
        self.sync.recover();
        if let Some(refresher) = self.refresher {
            tokio::spawn(refresher.run(stop.clone()));
        }
        let tracer = self.watch.serve(self.gateway.clone(), stop.clone());
        tokio::spawn(retain(self.store.clone(), self.retain_every, stop.clone()));
        let InDirectory { uploads, objects, lifetime, .. } = self.media;
        tokio::spawn(tern_media::collect((uploads, objects), self.sync.clone(), lifetime, stop.clone()));
        // A task of its own: it runs on the runtime's workers, and if it breaks off the store is closed all the same.
        let links = tokio::spawn(tern_gateway::serve(self.long_link, self.http, self.gateway, stop));
        if let Err(error) = links.await {
            tracing::error!(%error, "serving the links broke off");
        }
        if tokio::time::timeout(QUIET, self.sync.quiet()).await.is_err() {
            tracing::warn!(
                "acknowledgements or receipts could not be stored in time; they follow after the next start"
            );
        }
        let store = self.store;
        // Commits what waits and writes a checkpoint; a thread of its own, because it blocks.
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "closing the store broke off; the next start reads the log");
        }
        tracer.finish().await;
        tracing::info!("stopped");
    }
}

/// Opens the store. It takes the data directory's lock, and everything else in the directory is done under that.
async fn open(data: &Path, durability: Durability, keep: &Keep, segment_bytes: u64) -> Result<Arc<Embedded>> {
    let options = Options {
        durability,
        history: keep.history,
        device_silence: keep.device_silence,
        keep_results: keep.results,
        max_entries: keep.max_user_entries,
        max_bytes: keep.max_user_bytes,
        segment_bytes,
        ..Options::new(data)
    };
    let opened = tokio::task::spawn_blocking(move || Embedded::open(options)).await.context("opening the store")?;
    Ok(Arc::new(opened?))
}
