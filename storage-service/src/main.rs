//! `tern-storage`: the durable timelines, over PostgreSQL.
//!
//! Settings → build (may fail: connect, bind) → serve (cannot fail) → drain.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tern_rpc::Serving;
use tern_runtime::service::{self, About};
use tern_runtime::settings::{BadSettings, Settings, Sources};
use tern_runtime::shutdown::{self, Stop};
use tern_runtime::watch::{self, Watch};
use tern_storage::postgres::{Isolation, Options, Postgres};
use tern_storage::setup::{Keep, durability, retain};
use tern_storage::{Durability, remote};
use tokio::net::TcpListener;

/// Short-lived buffers on many threads are what this process allocates most; mimalloc gives them back to each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ABOUT: About = About {
    name: "tern-storage",
    version: env!("CARGO_PKG_VERSION"),
    what: "Tern's durable timelines, over PostgreSQL",
};
/// Where it listens, unless the operator says otherwise.
const PORT: u16 = 7203;
const ISOLATIONS: [(&str, Isolation); 2] =
    [("read-committed", Isolation::ReadCommitted), ("serializable", Isolation::Serializable)];

fn main() -> ExitCode {
    service::main(ABOUT, async |sources| {
        let settings = Storage::read(sources)?;
        let server = Server::build(settings).await?;
        let stop = shutdown::on_signal().context("handling signals")?;
        service::say_ready(ABOUT, &[("rpc", server.listener.local_addr()?)], server.watch.address());
        server.serve(stop).await;
        Ok(())
    })
}

/// Everything that it is told.
struct Storage {
    listen: SocketAddr,
    serving: Serving,
    options: Options,
    keep: Keep,
    watch: watch::Settings,
}

impl Storage {
    /// # Errors
    /// Everything that is wrong, at once.
    fn read(sources: Sources) -> Result<Storage, BadSettings> {
        let mut from = Settings::read(sources);
        let (listen, serving) = tern_rpc::settings(&mut from, PORT);
        let keep = Keep::read(&mut from);
        let default = Options::new("");
        let lanes = 1..=64;
        let mut count =
            |name, default: usize| usize::try_from(from.number(name, default as u64, lanes.clone())).unwrap_or(default);
        let (writers, readers) =
            (count("postgres.writers", default.writers), count("postgres.readers", default.readers));
        let url = from.secret_url("postgres.url", "postgres.url_file", "postgresql://user:password@host/database");
        let options = Options {
            url,
            durability: durability(&mut from),
            isolation: from.one_of("postgres.isolation", &ISOLATIONS, default.isolation),
            writers,
            readers,
            nothing_lost: from.parsed("postgres.nothing_lost", str::parse),
            history: keep.history,
            device_silence: keep.device_silence,
            keep_results: keep.results,
            max_entries: keep.max_user_entries,
            max_bytes: keep.max_user_bytes,
        };
        let storage = Storage { listen, serving, options, keep, watch: watch::Settings::read(&mut from) };
        from.finish().map(|()| storage)
    }
}

/// Everything that serves, with the listener bound.
struct Server {
    listener: TcpListener,
    serving: Serving,
    store: Arc<Postgres>,
    keep: Keep,
    watch: Watch,
}

impl Server {
    async fn build(settings: Storage) -> Result<Server> {
        let mut watch = Watch::start(ABOUT, settings.watch).await?;
        let store = Postgres::open(settings.options).await.context("the database")?;
        if tern_storage::Storage::durability(&store) == Durability::Os {
            tracing::warn!("durability os: what is acknowledged does not survive a power loss");
        }
        let listener = service::bind("rpc", settings.listen).await?;
        store.report_to(&mut watch.metrics);
        Ok(Server { listener, serving: settings.serving, store: Arc::new(store), keep: settings.keep, watch })
    }

    /// Serves until the stop, then drains from the outside in: calls, what waits for the database.
    async fn serve(self, stop: Stop) {
        let tracer = self.watch.serve(self.store.clone(), stop.clone());
        tokio::spawn(retain(self.store.clone(), self.keep.retain_every, stop.clone()));
        if let Err(error) = tern_rpc::serve(self.listener, remote::routes(self.store.clone()), self.serving, stop).await
        {
            tracing::error!(%error, "serving broke off");
        }
        self.store.close().await;
        tracer.finish().await;
        tracing::info!("stopped");
    }
}
