//! A long link: a TCP connection and the packets on it. Written from docs/protocol.md; shares only the packet codec with the product.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tern_proto::Packet;
use tern_proto::packet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// No answer came: the link is gone, silent or speaks nonsense. What was asked may have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer")]
pub(crate) struct Lost;

/// An open connection.
pub(crate) struct LongLink {
    stream: TcpStream,
    input: BytesMut,
    /// Names the link in the history.
    pub(crate) number: u64,
}

impl LongLink {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers within `patience`.
    pub(crate) async fn connect(to: SocketAddr, number: u64, patience: Duration) -> Result<LongLink, Lost> {
        let stream = timeout(patience, TcpStream::connect(to)).await.map_err(|_| Lost)?.map_err(|_| Lost)?;
        stream.set_nodelay(true).map_err(|_| Lost)?;
        Ok(LongLink { stream, input: BytesMut::new(), number })
    }

    /// Writes bytes; `cut` bytes first and the rest in a write of its own.
    ///
    /// # Errors
    /// The link is gone, or does not take them within `patience`.
    pub(crate) async fn write(&mut self, mut bytes: Bytes, cut: usize, patience: Duration) -> Result<(), Lost> {
        let rest = bytes.split_off(cut.min(bytes.len()));
        for part in [bytes, rest] {
            timeout(patience, self.stream.write_all(&part)).await.map_err(|_| Lost)?.map_err(|_| Lost)?;
        }
        Ok(())
    }

    /// The next packet; `None` if none comes before the deadline. Nothing is lost by asking again.
    ///
    /// # Errors
    /// The link is gone or is no longer understood.
    pub(crate) async fn read(&mut self, deadline: Instant) -> Result<Option<Packet>, Lost> {
        loop {
            if let Some(packet) = packet::decode(&mut self.input).map_err(|_| Lost)? {
                return Ok(Some(packet));
            }
            match timeout_at(deadline, self.stream.read_buf(&mut self.input)).await {
                Err(_) => return Ok(None),
                Ok(Ok(0) | Err(_)) => return Err(Lost),
                Ok(Ok(_)) => {}
            }
        }
    }
}
