//! `tern-gateway`: the links of clients, in front of the sync service.
//!
//! Settings → build (may fail: keys, bind) → serve (cannot fail) → drain.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tern_gateway::setup::{HTTP_PORT, LONG_LINK_PORT, Secret, Tokens, bind, links, warn_of_descriptors};
use tern_gateway::{Gateway, KeySetRefresher, Registry};
use tern_media::MediaApi;
use tern_rpc::Target;
use tern_runtime::service::{self, About};
use tern_runtime::settings::{BadSettings, Settings, Sources};
use tern_runtime::shutdown::{self, Stop};
use tern_runtime::watch::{self, Watch};
use tern_sync::remote::{self, Bus, Servers};
use tern_sync::{GatewayId, routes};
use tokio::net::TcpListener;

/// Short-lived buffers on many threads are what this process allocates most; mimalloc gives them back to each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ABOUT: About = About {
    name: "tern-gateway",
    version: env!("CARGO_PKG_VERSION"),
    what: "Tern's links to clients: long link and short link",
};
/// A hint may be lost on its way; so late an entry may be then.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// At a stop, the longest wait until the routes of the last links are removed.
const FAREWELL: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    service::main(ABOUT, async |sources| {
        let settings = Gate::read(sources)?;
        let server = Server::build(settings).await?;
        let stop = shutdown::on_signal().context("handling signals")?;
        let places = [("long-link", server.long_link.local_addr()?), ("http", server.http.local_addr()?)];
        service::say_ready(ABOUT, &places, server.watch.address());
        server.serve(stop).await;
        Ok(())
    })
}

/// Everything that it is told.
struct Gate {
    long_link: SocketAddr,
    http: SocketAddr,
    sync: Target,
    /// None where media is not served.
    media: Option<Target>,
    nats: Servers,
    route_lifetime: Duration,
    tokens: Tokens,
    links: tern_gateway::Settings,
    look_again: Duration,
    watch: watch::Settings,
}

impl Gate {
    /// # Errors
    /// Everything that is wrong, at once.
    fn read(sources: Sources) -> Result<Gate, BadSettings> {
        let mut from = Settings::read(sources);
        let loopback = |port| (Ipv4Addr::LOCALHOST, port).into();
        let sync = from.needed("rpc.sync", "as in 127.0.0.1:7202", str::parse);
        let nats = remote::settings::nats(&mut from);
        let tokens = Tokens::read(&mut from);
        let keys = (&tokens.eddsa_public_key_file, &tokens.key_set_file, &tokens.key_set_url);
        if matches!((&tokens.secret, keys), (Secret::Own, (None, None, None))) {
            from.refuse("token.secret_file", "is needed, or another key by which tokens are judged");
        }
        tokens.refuse_examples(&mut from);
        let second = Duration::from_secs(1);
        let gate = |(sync, nats)| Gate {
            long_link: from.addr("listen.long_link", loopback(LONG_LINK_PORT)),
            http: from.addr("listen.http", loopback(HTTP_PORT)),
            sync,
            media: from.parsed("rpc.media", str::parse),
            nats,
            route_lifetime: remote::settings::route_lifetime(&mut from),
            tokens,
            links: links(&mut from),
            look_again: from.duration("link.look_again", LOOK_AGAIN, second..=second * 600),
            watch: watch::Settings::read(&mut from),
        };
        let gate = sync.zip(nats).map(gate);
        from.finish()?;
        gate.ok_or_else(|| BadSettings(Vec::new()))
    }
}

/// Everything that serves, with the listeners bound.
struct Server {
    long_link: TcpListener,
    http: TcpListener,
    gateway: Arc<Gateway>,
    id: GatewayId,
    registry: Arc<Registry>,
    sync: Arc<remote::Client>,
    bus: Arc<Bus>,
    look_again: Duration,
    route_lifetime: Duration,
    /// There if a key set is behind a URL.
    refresher: Option<KeySetRefresher>,
    watch: Watch,
}

impl Server {
    async fn build(settings: Gate) -> Result<Server> {
        let mut watch = Watch::start(ABOUT, settings.watch).await?;
        warn_of_descriptors(settings.links.max_links);
        let (verifier, refresher) = settings.tokens.verifier(None).await?;
        let id = GatewayId::random();
        let registry = Registry::routed(id);
        let sync = Arc::new(remote::Client::new(settings.sync));
        let bus = Bus::connect(settings.nats, ABOUT.name).await.map_err(anyhow::Error::msg).context("NATS")?;
        let media = settings.media.map(|target| {
            let media = tern_media::remote::Client::new(target, tern_media::remote::PATIENCE);
            media.report_to(&mut watch.metrics);
            Arc::new(media) as Arc<dyn MediaApi>
        });
        let gateway = Gateway::new(sync.clone(), media, registry.clone(), settings.links, verifier);
        gateway.report_to(&mut watch.metrics);
        sync.report_to(&mut watch.metrics);
        bus.report_to(&mut watch.metrics);
        Ok(Server {
            long_link: bind("long link", settings.long_link)?,
            http: bind("short link", settings.http)?,
            gateway,
            id,
            registry,
            sync,
            bus: Arc::new(bus),
            look_again: settings.look_again,
            route_lifetime: settings.route_lifetime,
            refresher,
            watch,
        })
    }

    /// Serves until the stop, then drains: links first, which hear hints to their end.
    async fn serve(self, stop: Stop) {
        let tracer = self.watch.serve(self.gateway.clone(), stop.clone());
        if let Some(refresher) = self.refresher {
            tokio::spawn(refresher.run(stop.clone()));
        }
        tokio::spawn(self.registry.clone().look_again(self.look_again, stop.clone()));
        let (deaf, deafened) = shutdown::channel();
        let renewal = routes::renewal(self.route_lifetime);
        let routes = tokio::spawn(self.registry.clone().keep_routes(self.sync, renewal, deafened.clone()));
        let hearing = tokio::spawn(remote::hear(self.bus, self.id, self.registry, deafened));
        // A task of its own, so that it runs on the runtime's workers.
        let links = tokio::spawn(tern_gateway::serve(self.long_link, self.http, self.gateway, stop));
        if let Err(error) = links.await {
            tracing::error!(%error, "serving the links broke off");
        }
        deaf.stop();
        // What it does not get to say is forgotten in time.
        let _ = tokio::time::timeout(FAREWELL, routes).await;
        if let Err(error) = hearing.await {
            tracing::error!(%error, "hearing hints broke off");
        }
        tracer.finish().await;
        tracing::info!("stopped");
    }
}
