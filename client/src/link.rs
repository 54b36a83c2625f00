//! The two links as raw building blocks: connect, transmit, receive, request. No retries, no state beyond the bytes.
//!
//! [`crate::Client`] is built on them, and so are programs that want to say exactly what goes over the wire.

mod long;
mod short;

use std::time::Duration;

pub use long::LongLink;
pub use short::ShortLink;
use tern_proto::{Command, Packet, PacketError, v1};

/// How long a connect may take.
pub const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long a reply may take; after it the link is given up.
pub const REPLY_WAIT: Duration = Duration::from_secs(15);

/// The link failed; nothing can be said about requests without an answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Connecting, reading or writing failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The server closed the link.
    #[error("the server closed the link")]
    Closed,
    /// The server's bytes are not packets.
    #[error("the server does not speak the protocol: {0}")]
    Packet(#[from] PacketError),
    /// HTTP failed below the protocol.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    /// The short link refused the HTTP request as a whole, before any packet in it.
    #[error("refused: {} {message}", code.as_str_name())]
    Refused {
        /// Why.
        code: v1::Code,
        /// For developers.
        message: String,
        /// With a retryable code: how long to wait.
        retry_after: Duration,
    },
    /// Something that is not the server answered.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The answer is not what an HTTP short link gives: too large, or not made of packets.
    #[error("the HTTP answer is unusable: {0}")]
    Answer(&'static str),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
}

/// A request without its reply.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The link failed: the request may have been carried out.
    #[error(transparent)]
    Link(LinkError),
    /// The server answered with an error packet.
    #[error("refused: {} {}", code.as_str_name(), message)]
    Refused {
        /// Why.
        code: v1::Code,
        /// For developers.
        message: String,
        /// With a retryable code: how long to wait.
        retry_after: Duration,
    },
    /// The reply is not the one that belongs to the request.
    #[error("the reply to {0:?} cannot be understood")]
    BadReply(Command),
}

impl From<LinkError> for RequestError {
    /// What the short link refuses as a whole is refused like any other request.
    fn from(error: LinkError) -> RequestError {
        match error {
            LinkError::Refused { code, message, retry_after } => RequestError::Refused { code, message, retry_after },
            error => RequestError::Link(error),
        }
    }
}

/// Reads the answer to `command`.
fn open<Reply: prost::Message + Default>(command: Command, answer: &Packet) -> Result<Reply, RequestError> {
    let bad = |_| RequestError::BadReply(command);
    if answer.command == command.reply() {
        return Reply::decode(answer.body.clone()).map_err(bad);
    }
    if answer.known_command() != Some(Command::Error) {
        return Err(RequestError::BadReply(command));
    }
    let error = <v1::Error as prost::Message>::decode(answer.body.clone()).map_err(bad)?;
    let retry_after = Duration::from_millis(error.retry_after_ms.into());
    Err(RequestError::Refused { code: error.code(), message: error.message, retry_after })
}
