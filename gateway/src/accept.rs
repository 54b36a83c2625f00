//! Accepts connections, with the socket options that both links want, until the stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tern_runtime::shutdown::Stop;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::Gateway;
use crate::counters::Ending;
use crate::link::Link;
use crate::places::Places;
use crate::request::{put_link_error, too_many};

/// Connections that may wait to be accepted: a restart brings many at once.
const BACKLOG: u32 = 4096;
/// When data that was sent stays unacknowledged for so long, the peer is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// After so long without traffic the kernel asks whether the peer is there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// The pause after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds a listener for either link.
///
/// # Errors
/// The operating system's, if the address cannot be bound.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves long links until the stop, then drains: every link gets a go-away and is closed. Returns when all have ended,
/// or after the grace.
pub async fn serve_long_link(listener: TcpListener, gateway: Arc<Gateway>, stop: Stop) {
    let places = Places::new(gateway.settings.max_links);
    while let Some(stream) = accept(&listener, &stop).await {
        match places.take(gateway.next_session()) {
            Some(place) => {
                tokio::spawn(Link::new(Arc::clone(&gateway), stream, place).run());
            }
            None => turn_away(&stream, &gateway),
        }
    }
    drop(listener);
    drain(&places, &gateway, "long link").await;
}

/// The next connection; `None` at the stop.
pub(crate) async fn accept(listener: &TcpListener, stop: &Stop) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.stopped() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| prepare(&stream).map(|()| stream)) {
            Ok(stream) => return Some(stream),
            Err(error) if is_about_one_connection(&error) => (),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Stops the connections and says if some would not.
pub(crate) async fn drain(places: &Places, gateway: &Gateway, listener: &'static str) {
    let left = places.drain(gateway.settings.drain_grace).await;
    if left > 0 {
        tracing::warn!(left, listener, "connections were still open when the grace was over");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | InvalidInput | NotConnected)
}

/// Tells a client why it is not served, as far as that goes without waiting for it.
fn turn_away(stream: &TcpStream, gateway: &Gateway) {
    let mut packet = BytesMut::new();
    put_link_error(&mut packet, &too_many(gateway.settings.spread()));
    // A new connection has room for it; if it does not, the client sees the close alone.
    let _ = stream.try_write(&packet);
    gateway.counters.count(Ending::TooMany);
}
