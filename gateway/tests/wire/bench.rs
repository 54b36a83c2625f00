//! A gateway with both listeners on free ports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tern_gateway::{Gateway, Registry, Settings, TokenVerifier, listen, mint, serve};
use tern_media::objects::Objects;
use tern_media::setup::Media;
use tern_media::uploads::Uploads;
use tern_media::uploads::local::Local;
use tern_proto::UserId;
use tern_runtime::queue::Meters;
use tern_runtime::settings::{Settings as Read, Sources};
use tern_runtime::shutdown::{self, Stopper};
use tern_sync::GatewayId;
use tern_sync::routes::{Memory, renewal};
use tokio::task::JoinHandle;

use crate::peer::{PATIENCE, Peer};
use crate::service::Service;

/// Short, so that the end of it can be waited for.
pub(crate) const LIFETIME: Duration = Duration::from_secs(3);
pub(crate) const SECRET: &[u8] = b"a secret of the tests";

pub(crate) struct Bench {
    pub(crate) service: Arc<Service>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) stopper: Stopper,
    pub(crate) long_link: SocketAddr,
    pub(crate) http: SocketAddr,
    /// Ends when everything is drained.
    serving: JoinHandle<()>,
    /// Where its media is.
    _directory: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn start() -> Bench {
        Bench::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Bench {
        Bench::of(settings, Registry::new(), Arc::new(Memory::new(LIFETIME)))
    }

    /// One of several gateways, whose routes are kept there.
    pub(crate) fn routed(id: u64, routes: Arc<Memory>) -> Bench {
        let registry = Registry::routed(GatewayId::of(id));
        let bench = Bench::of(Settings::default(), Arc::clone(&registry), routes);
        let (service, (stopper, stop)) = (Arc::clone(&bench.service) as _, shutdown::channel());
        tokio::spawn(async move {
            let _stopper = stopper;
            registry.keep_routes(service, renewal(LIFETIME), stop).await;
        });
        bench
    }

    fn of(settings: Settings, registry: Arc<Registry>, routes: Arc<Memory>) -> Bench {
        let service = Service::new(Arc::clone(&registry), routes);
        let verifier = TokenVerifier::default().with_secret(SECRET).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let settings_of_media = Media::read(&mut Read::read(Sources::default()));
        let uploads = Local::open(directory.path(), settings_of_media.lifetime, &Meters::default()).unwrap();
        let objects = Objects::in_directory(directory.path()).unwrap();
        let media = settings_of_media.service(&(Arc::new(uploads) as Arc<dyn Uploads>), &objects);
        let gateway = Gateway::new(Arc::clone(&service) as _, Some(media), registry, settings, verifier);
        let (stopper, stop) = shutdown::channel();
        let bind = || listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (long_link, http) = (bind(), bind());
        Bench {
            service,
            stopper,
            long_link: long_link.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            serving: tokio::spawn(serve(long_link, http, Arc::clone(&gateway), stop)),
            gateway,
            _directory: directory,
        }
    }

    /// Waits until both links are drained.
    pub(crate) async fn drained(self) {
        tokio::time::timeout(PATIENCE, self.serving).await.expect("the drain ends").unwrap();
    }

    /// A connection on the long link that has said nothing yet.
    pub(crate) async fn connect(&self) -> Peer {
        Peer::connect(self.long_link).await
    }

    /// A long link that said hello.
    pub(crate) async fn enter(&self, user: &str, device: &str) -> Peer {
        let mut peer = self.connect().await;
        peer.greet(user, device).await;
        peer
    }
}

/// A token that is good for a while.
pub(crate) fn token(user: &str) -> String {
    mint(SECRET, &UserId::new(user).unwrap(), Duration::from_secs(600))
}
