//! `tern-media`: uploads and what becomes of them, over PostgreSQL and an object store.
//!
//! Settings → build (may fail: connect, bind) → serve (cannot fail) → drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tern_media::MediaService;
use tern_media::objects::{Bucket, Objects};
use tern_media::remote::{self, Asked};
use tern_media::setup::{self, Media};
use tern_media::uploads::Uploads;
use tern_media::uploads::postgres::{Options, Postgres};
use tern_rpc::{Serving, Target};
use tern_runtime::service::{self, About};
use tern_runtime::settings::{BadSettings, Settings, Sources};
use tern_runtime::shutdown::{self, Stop};
use tern_runtime::watch::{self, Watch};
use tokio::net::TcpListener;

/// Short-lived buffers on many threads are what this process allocates most; mimalloc gives them back to each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ABOUT: About = About {
    name: "tern-media",
    version: env!("CARGO_PKG_VERSION"),
    what: "Tern's images and audio, over PostgreSQL and an object store",
};
/// Where it listens, unless the operator says otherwise.
const PORT: u16 = 7204;

fn main() -> ExitCode {
    service::main(ABOUT, async |sources| {
        let settings = Medias::read(sources)?;
        let server = Server::build(settings).await?;
        let stop = shutdown::on_signal().context("handling signals")?;
        service::say_ready(ABOUT, &[("rpc", server.listener.local_addr()?)], server.watch.address());
        server.serve(stop).await;
        Ok(())
    })
}

/// Everything that it is told.
struct Medias {
    listen: SocketAddr,
    serving: Serving,
    uploads: Options,
    objects: Place,
    sync: Target,
    media: Media,
    watch: watch::Settings,
}

/// Where objects are.
enum Place {
    /// One that all replicas have.
    Directory(PathBuf),
    Bucket(Bucket),
}

impl Medias {
    /// # Errors
    /// Everything that is wrong, at once.
    fn read(sources: Sources) -> Result<Medias, BadSettings> {
        let mut from = Settings::read(sources);
        let (listen, serving) = tern_rpc::settings(&mut from, PORT);
        let sync = from.needed("rpc.sync", "as in 127.0.0.1:7202", str::parse);
        let media = Media::read(&mut from);
        let url = from.secret_url("postgres.url", "postgres.url_file", "postgresql://user:password@host/database");
        let default = Options::new(&url);
        let mut count =
            |name, default: usize| usize::try_from(from.number(name, default as u64, 1..=64)).unwrap_or(default);
        let (writers, readers) =
            (count("postgres.writers", default.writers), count("postgres.readers", default.readers));
        let uploads = Options { writers, readers, lifetime: media.lifetime, ..default };
        let objects = match (from.path("media.directory"), setup::bucket(&mut from)) {
            (Some(directory), None) => Some(Place::Directory(directory)),
            (None, Some(bucket)) => Some(Place::Bucket(bucket)),
            (None, None) => {
                from.refuse("media.s3_bucket", "is needed, or media.directory, which all replicas must have");
                None
            }
            (Some(_), Some(_)) => {
                from.refuse("media.directory", "media.s3_bucket is set as well, and they exclude each other");
                None
            }
        };
        let watch = watch::Settings::read(&mut from);
        from.finish()?;
        let needed = sync.zip(objects).ok_or_else(|| BadSettings(Vec::new()))?;
        let (sync, objects) = needed;
        Ok(Medias { listen, serving, uploads, objects, sync, media, watch })
    }
}

/// Everything that serves, with the listener bound.
struct Server {
    listener: TcpListener,
    serving: Serving,
    uploads: Arc<Postgres>,
    objects: Objects,
    service: Arc<MediaService>,
    references: Arc<Asked>,
    media: Media,
    watch: Watch,
}

impl Server {
    async fn build(settings: Medias) -> Result<Server> {
        let mut watch = Watch::start(ABOUT, settings.watch).await?;
        let objects = match &settings.objects {
            Place::Directory(directory) => Objects::shared(directory)
                .with_context(|| format!("opening the objects in {} (media.directory)", directory.display()))?,
            Place::Bucket(bucket) => setup::objects_in(bucket).await?,
        };
        let uploads = Arc::new(Postgres::open(settings.uploads).await.context("the database")?);
        let service = settings.media.service(&(uploads.clone() as Arc<dyn Uploads>), &objects);
        let references = Arc::new(Asked::new(settings.sync));
        uploads.report_to(&mut watch.metrics);
        references.report_to(&mut watch.metrics);
        let listener = service::bind("rpc", settings.listen).await?;
        let (serving, media) = (settings.serving, settings.media);
        Ok(Server { listener, serving, uploads, objects, service, references, media, watch })
    }

    /// Serves until the stop, then drains from the outside in: calls, what waits for the database.
    async fn serve(self, stop: Stop) {
        let tracer = self.watch.serve(self.uploads.clone(), stop.clone());
        let kept = (self.uploads.clone() as Arc<dyn Uploads>, self.objects);
        tokio::spawn(tern_media::collect(kept, self.references, self.media.lifetime, stop.clone()));
        if let Err(error) = tern_rpc::serve(self.listener, remote::routes(self.service), self.serving, stop).await {
            tracing::error!(%error, "serving broke off");
        }
        self.uploads.close().await;
        tracer.finish().await;
        tracing::info!("stopped");
    }
}
