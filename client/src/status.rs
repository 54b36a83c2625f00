//! What an application shows about its connection.

use tern_proto::{UserId, v1};

use crate::options::Link;

/// The state of a client at one moment; see [`crate::Client::status`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The connection.
    pub link: LinkState,
    /// Everything that was committed when the server was last asked is in the inbox.
    pub caught_up: bool,
    /// Messages that are still sent.
    pub sending: usize,
    /// Messages that failed and wait for [`crate::Client::resend`].
    pub failed: usize,
    /// Messages refused since the client was opened.
    pub refused: u64,
    /// Entries since the client was opened that it could not read: damaged on the server, or of a later version of the protocol.
    /// They are acknowledged like any other.
    pub unreadable: u64,
    /// Entries since the client was opened that the server no longer keeps and this device never got, at most.
    pub missing: u64,
    /// Entries that are not confirmed.
    pub unconfirmed: usize,
}

/// The state of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The first attempt is under way.
    Connecting,
    /// The server has answered the hello on this link.
    Up(Link),
    /// No link; the client tries again by itself. Says why the last one ended.
    Down(String),
    /// The client does nothing more.
    Stopped(Stop),
}

/// Why a client stopped for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// [`crate::Client::close`], or every handle was dropped.
    #[error("closed")]
    Closed,
    /// The same device connected elsewhere.
    #[error("the same device connected elsewhere")]
    Displaced,
    /// The server will not have this client: its token, its device id or its protocol.
    #[error("the server refused the connection: {} {message}", code.as_str_name())]
    Refused {
        /// Why.
        code: v1::Code,
        /// The server's explanation, for developers.
        message: String,
    },
    /// The token is not for the user of this client; nothing was sent with it.
    #[error("the token is for {token}, not {user}")]
    OtherUser {
        /// The token's user.
        token: String,
        /// The client's.
        user: UserId,
    },
    /// The local store failed.
    #[error("{0}")]
    Store(String),
    /// Its task has panicked, in this library or in the provider of the token, or its runtime has ended. To open it again is to go on.
    #[error("the client's task has died")]
    Died,
}

impl Status {
    /// Why the client does nothing more, if so.
    pub fn stopped(&self) -> Option<&Stop> {
        match &self.link {
            LinkState::Stopped(stop) => Some(stop),
            _ => None,
        }
    }
}
