//! Serves both links, and the order in which they stop.
//!
//! Stop → readiness fails and waiting checks are answered → long links leave, in groups → the short link closes. Until
//! then it serves on: it is what says that this process is not ready, and where clients go that have no long link.

use std::sync::Arc;
use std::time::Duration;

use tern_runtime::shutdown::{self, Stop};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::Gateway;
use crate::accept::accept_long_links;
use crate::places::Places;
use crate::short_link::accept_short_links;

/// Serves both links until the stop, then drains: each long link gets a go-away and the answers to what is under way;
/// then the short link answers what is under way and closes. Returns when all connections have ended, or after the grace.
pub async fn serve(long_link: TcpListener, short_link: TcpListener, gateway: Arc<Gateway>, stop: Stop) {
    let settings = &gateway.settings;
    let (long, short) = (Places::new(settings.max_links), Places::new(settings.max_short_links));
    let (closer, closing) = shutdown::channel();
    let long_links = async {
        accept_long_links(long_link, &gateway, &long, &stop).await;
        let stopped = Instant::now();
        gateway.registry.end_waits();
        long.drain(settings.pace(), stopped + settings.long_link_grace()).await;
        closer.stop();
        stopped + settings.drain_grace
    };
    let short_links = accept_short_links(short_link, &gateway, &short, &stop, &closing);
    let (end, ()) = tokio::join!(long_links, short_links);
    gateway.registry.end_all_waits();
    short.drain(Duration::ZERO, end).await;
    let left = (long.count(), short.count());
    if left != (0, 0) {
        tracing::warn!(long = left.0, short = left.1, "connections were still open when the grace was over");
    }
}
