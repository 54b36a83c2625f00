//! `tern-sync`: decides, over the storage service, and tells the gateways that hold a link of whoever is owed something.
//!
//! Settings → build (may fail: bind) → serve (cannot fail) → drain.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tern_media::MediaApi;
use tern_rpc::{Serving, Target};
use tern_runtime::service::{self, About};
use tern_runtime::settings::{BadSettings, Settings, Sources};
use tern_runtime::shutdown::{self, Stop};
use tern_runtime::watch::{self, Watch};
use tern_sync::remote::Bus;
use tern_sync::{SyncService, in_redis, remote};
use tokio::net::TcpListener;

/// Short-lived buffers on many threads are what this process allocates most; mimalloc gives them back to each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ABOUT: About = About {
    name: "tern-sync",
    version: env!("CARGO_PKG_VERSION"),
    what: "Tern's decisions: dedup, keys, pages, receipts and hints",
};
/// Where it listens, unless the operator says otherwise.
const PORT: u16 = 7202;
/// Between two looks for receipts that a replica which died has left underived.
const RECOVER: Duration = Duration::from_secs(10);
/// At a stop, the longest wait for acknowledgements and receipts that follow the last requests. Another replica does the rest.
const QUIET: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    service::main(ABOUT, async |sources| {
        let settings = Sync::read(sources)?;
        let server = Server::build(settings).await?;
        let stop = shutdown::on_signal().context("handling signals")?;
        service::say_ready(ABOUT, &[("rpc", server.listener.local_addr()?)], server.watch.address());
        server.serve(stop).await;
        Ok(())
    })
}

/// Everything that it is told.
struct Sync {
    listen: SocketAddr,
    serving: Serving,
    storage: Target,
    /// None where media is not served.
    media: Option<Target>,
    redis: in_redis::Target,
    confirm: Duration,
    route_lifetime: Duration,
    nats: remote::Servers,
    watch: watch::Settings,
}

impl Sync {
    /// # Errors
    /// Everything that is wrong, at once.
    fn read(sources: Sources) -> Result<Sync, BadSettings> {
        let mut from = Settings::read(sources);
        let (listen, serving) = tern_rpc::settings(&mut from, PORT);
        let needed = (
            from.needed("rpc.storage", "as in 127.0.0.1:7203", str::parse),
            remote::settings::redis(&mut from),
            remote::settings::nats(&mut from),
        );
        let media = from.parsed("rpc.media", str::parse);
        let route_lifetime = remote::settings::route_lifetime(&mut from);
        let confirm = remote::settings::confirm(&mut from);
        let watch = watch::Settings::read(&mut from);
        from.finish()?;
        match needed {
            (Some(storage), Some(redis), Some(nats)) => {
                Ok(Sync { listen, serving, storage, media, redis, confirm, route_lifetime, nats, watch })
            }
            _ => Err(BadSettings(Vec::new())),
        }
    }
}

/// Everything that serves, with the listener bound.
struct Server {
    listener: TcpListener,
    serving: Serving,
    sync: Arc<SyncService>,
    hints: Arc<remote::Fanout>,
    watch: Watch,
}

impl Server {
    async fn build(settings: Sync) -> Result<Server> {
        let mut watch = Watch::start(ABOUT, settings.watch).await?;
        let storage = Arc::new(tern_storage::remote::Client::new(settings.storage));
        let redis = Arc::new(in_redis::Redis::new(settings.redis, settings.route_lifetime));
        let bus = Bus::connect(settings.nats, ABOUT.name).await.map_err(anyhow::Error::msg).context("NATS")?;
        let hints = Arc::new(remote::Fanout::new(Arc::new(bus), redis.clone(), redis.clone()));
        storage.report_to(&mut watch.metrics);
        redis.report_to(&mut watch.metrics);
        hints.report_to(&mut watch.metrics);
        let media = settings.media.map(|target| {
            let media = tern_media::remote::Client::new(target, tern_media::remote::SHORT_PATIENCE);
            media.report_to(&mut watch.metrics);
            Arc::new(media) as Arc<dyn MediaApi>
        });
        let sync = SyncService::shared(storage, hints.clone(), redis.clone(), (redis, settings.confirm), media);
        sync.report_to(&mut watch.metrics);
        let listener = service::bind("rpc", settings.listen).await?;
        Ok(Server { listener, serving: settings.serving, sync, hints, watch })
    }

    /// Serves until the stop, then drains from the outside in: calls, what they left to do.
    async fn serve(self, stop: Stop) {
        let tracer = self.watch.serve(self.sync.clone(), stop.clone());
        let sync = self.sync.clone();
        let stopping = stop.clone();
        tokio::spawn(async move { sync.recover_every(RECOVER, stopping).await });
        if let Err(error) = tern_rpc::serve(self.listener, remote::routes(self.sync.clone()), self.serving, stop).await
        {
            tracing::error!(%error, "serving broke off");
        }
        if tokio::time::timeout(QUIET, self.sync.quiet()).await.is_err() {
            tracing::warn!(
                "acknowledgements or receipts could not be stored in time; another replica sees to the receipts"
            );
        }
        self.hints.finish().await;
        tracer.finish().await;
        tracing::info!("stopped");
    }
}
