//! A server of services: health, limits, and an end within a given time whatever the peers do.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tern_runtime::settings::Settings;
use tern_runtime::shutdown::Stop;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

/// Calls of one connection at the same time; more wait.
const CALLS: usize = 1024;
/// A call takes no longer, whatever its caller says.
const CALL: Duration = Duration::from_secs(30);
/// A peer that answers no ping for this time is gone.
const PING: Duration = Duration::from_secs(10);
/// How long callers have to notice that this replica is leaving, before it takes no more calls.
const NOTICE: Duration = Duration::from_millis(1_200);
/// After that, how long the calls under way may take. A peer can keep a connection open for ever, so the end does not wait for all of them to close.
const GRACE: Duration = Duration::from_secs(8);

/// The committed description of the services.
const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");

/// How services are served.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serving {
    /// Whether the services describe themselves to whoever asks.
    pub reflection: bool,
}

/// Reads the settings of the section `rpc` that every service has: where it listens, by default on this machine at `port`, and how it serves.
pub fn settings(from: &mut Settings, port: u16) -> (SocketAddr, Serving) {
    let listen = from.addr("rpc.listen", (Ipv4Addr::LOCALHOST, port).into());
    (listen, Serving { reflection: from.bool("rpc.reflection", false) })
}

/// Serves until the stop: then says that it is leaving, gives callers time to notice, and ends what is under way.
///
/// # Errors
/// The listener fails, or the description of the services is not understood.
pub async fn serve(listener: TcpListener, routes: Routes, serving: Serving, stop: Stop) -> Result<(), String> {
    let (health, health_service) = health_reporter();
    let mut routes = routes.add_service(health_service);
    if serving.reflection {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .build_v1()
            .map_err(|error| error.to_string())?;
        routes = routes.add_service(reflection);
    }
    let leaving = stop.clone();
    let left = async move {
        leaving.stopped().await;
        health.set_service_status("", ServingStatus::NotServing).await;
        tokio::time::sleep(NOTICE).await;
    };
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .concurrency_limit_per_connection(CALLS)
        .timeout(CALL)
        .add_routes(routes)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), left);
    tokio::select! {
        ended = server => ended.map_err(|error| error.to_string()),
        () = late(stop) => Ok(()),
    }
}

/// Ends when a stop has taken too long.
async fn late(stop: Stop) {
    stop.stopped().await;
    tokio::time::sleep(NOTICE + GRACE).await;
    tracing::warn!("connections of other services were still open when the grace was over");
}
