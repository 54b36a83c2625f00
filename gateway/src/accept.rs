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
use crate::settings::Settings;

/// Connections that may wait to be accepted: a restart brings many at once.
const BACKLOG: u32 = 4096;
/// When what was sent stays unacknowledged for this much longer than a write may stall, the peer is gone. Longer, because
/// the kernel counts a client that takes nothing as well, and that one is the session's to close.
const USER_TIMEOUT_BEYOND_STALL: Duration = Duration::from_secs(10);
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

/// Accepts long links until the stop; each runs in a task and a place of its own.
pub(crate) async fn accept_long_links(
    listener: TcpListener,
    gateway: &Arc<Gateway>,
    places: &Arc<Places>,
    until: &Stop,
) {
    while let Some(stream) = accept(&listener, &gateway.settings, until).await {
        match places.take(gateway.next_session()) {
            Some(place) => {
                gateway.counters.take();
                tokio::spawn(Link::new(Arc::clone(gateway), stream, place).run());
            }
            None => {
                let mut packet = BytesMut::new();
                put_link_error(&mut packet, &too_many(gateway.settings.spread()));
                turn_away(&stream, &packet);
                gateway.counters.count(Ending::TooMany);
            }
        }
    }
}

/// The next connection; `None` at the stop.
pub(crate) async fn accept(listener: &TcpListener, settings: &Settings, until: &Stop) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = until.stopped() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| prepare(&stream, settings).map(|()| stream)) {
            Ok(stream) => return Some(stream),
            Err(error) if is_about_one_connection(&error) => (),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tells a client why it is not served, as far as that goes without waiting for it.
pub(crate) fn turn_away(stream: &TcpStream, why: &[u8]) {
    // A new connection has room for it; if it does not, the client sees the close alone.
    let _ = stream.try_write(why);
}

fn prepare(stream: &TcpStream, settings: &Settings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.set_tcp_user_timeout(Some(settings.write_stall + USER_TIMEOUT_BEYOND_STALL))
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | InvalidInput | NotConnected)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Else the kernel resets a link whose client takes nothing before the session says why.
    #[tokio::test]
    async fn the_kernel_waits_longer_than_a_write_may_stall() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let settings = Settings { write_stall: Duration::from_secs(90), ..Settings::default() };
        prepare(&stream, &settings).unwrap();
        assert!(SockRef::from(&stream).tcp_user_timeout().unwrap() > Some(settings.write_stall));
    }
}
