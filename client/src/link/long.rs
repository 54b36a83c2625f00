//! The long link: packets over one TCP connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use tern_proto::{Command, Packet, packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{CONNECT_WAIT, LinkError, REPLY_WAIT, RequestError, open};

/// How many packets that are no reply are kept while one request waits for its own.
const ASIDE: usize = 1_024;

/// One TCP connection. Saying hello is the caller's.
#[derive(Debug)]
pub struct LongLink {
    stream: TcpStream,
    /// What has arrived and is not yet a whole packet; at most a packet and one read.
    input: BytesMut,
    /// Packets that came while [`LongLink::request`] waited for another one; at most [`ASIDE`].
    aside: VecDeque<Packet>,
    sequence: u32,
}

impl LongLink {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// [`LinkError::Io`], or [`LinkError::Timeout`] after [`CONNECT_WAIT`].
    pub async fn connect(address: &str) -> Result<LongLink, LinkError> {
        let stream = timeout(CONNECT_WAIT, TcpStream::connect(address)).await.map_err(|_| LinkError::Timeout)??;
        stream.set_nodelay(true)?;
        Ok(LongLink { stream, input: BytesMut::new(), aside: VecDeque::new(), sequence: 0 })
    }

    /// Writes one packet. Not safe to cancel: drop the link instead of the future.
    ///
    /// # Errors
    /// [`LinkError::Io`], or [`LinkError::Timeout`] when the server takes no bytes for [`REPLY_WAIT`].
    pub async fn send(&mut self, packet: &Packet) -> Result<(), LinkError> {
        let mut bytes = BytesMut::new();
        packet.encode(&mut bytes);
        self.send_bytes(&bytes).await
    }

    /// Writes raw bytes: several packets, half a packet, or none at all.
    ///
    /// # Errors
    /// As [`LongLink::send`].
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        timeout(REPLY_WAIT, self.stream.write_all(bytes)).await.map_err(|_| LinkError::Timeout)??;
        Ok(())
    }

    /// The next packet. Waits as long as it takes, and may be cancelled without losing a byte.
    ///
    /// # Errors
    /// [`LinkError::Closed`], [`LinkError::Io`] or [`LinkError::Packet`]; the link is of no use afterwards.
    pub async fn receive(&mut self) -> Result<Packet, LinkError> {
        match self.aside.pop_front() {
            Some(packet) => Ok(packet),
            None => self.read_packet().await,
        }
    }

    /// Sends a request and waits for its answer, at most [`REPLY_WAIT`] longer than `wait`. Hints that come meanwhile are
    /// left for [`LongLink::receive`]. Not safe to cancel.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request_within<Reply: prost::Message + Default>(
        &mut self,
        command: Command,
        body: &impl prost::Message,
        wait: Duration,
    ) -> Result<Reply, RequestError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let sequence = self.sequence;
        self.send(&Packet::new(command.number(), sequence, body)).await?;
        let answer = timeout(wait + REPLY_WAIT, self.read_answer(sequence)).await.map_err(|_| LinkError::Timeout)??;
        open(command, &answer)
    }

    /// [`LongLink::request_within`] for a request that the server answers at once.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request<Reply: prost::Message + Default>(
        &mut self,
        command: Command,
        body: &impl prost::Message,
    ) -> Result<Reply, RequestError> {
        self.request_within(command, body, Duration::ZERO).await
    }

    async fn read_answer(&mut self, sequence: u32) -> Result<Packet, LinkError> {
        loop {
            let packet = self.read_packet().await?;
            let closes = packet.sequence == 0 && packet.known_command() == Some(Command::Error);
            if packet.sequence == sequence || closes {
                return Ok(packet);
            }
            if self.aside.len() == ASIDE {
                // Hints may be lost; a newer one says at least as much.
                self.aside.pop_front();
            }
            self.aside.push_back(packet);
        }
    }

    async fn read_packet(&mut self) -> Result<Packet, LinkError> {
        loop {
            if let Some(packet) = packet::decode(&mut self.input)? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }
}
