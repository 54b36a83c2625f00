//! How a client is set up.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tern_proto::{UserId, v1};

/// Everything that [`crate::Client::open`] needs. The fields without a default are arguments of [`ClientOptions::new`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// This device's directory; made at first use, locked while in use.
    pub data_dir: PathBuf,
    /// Whose device it is; a directory keeps its user.
    pub user: UserId,
    /// Proves the user to the server.
    pub token: Token,
    /// `host:port` of the long link. Default `127.0.0.1:7180`.
    pub long_link: String,
    /// `host:port` of the short link. Default `127.0.0.1:7181`.
    pub http: String,
    /// Which links are used. Default [`Link::Tcp`].
    pub link: Link,
    /// What to do about entries. Default [`Receive::All`].
    pub receive: Receive,
    /// Where a device without a key starts. Default [`v1::Start::Oldest`].
    pub start: v1::Start,
    /// Name and version of the application, for the operator; at most 64 bytes are sent.
    pub client_name: String,
    /// How often the server is asked although it gave no hint. Default and maximum 90 s.
    pub ask_every: Duration,
    /// Start again with messages that failed before, ahead of anything else. Default `false`: they wait for
    /// [`crate::Client::resend`].
    pub resend_failed: bool,
    /// How long the short link's long poll waits. Default 30 s, maximum 60 s.
    pub poll_wait: Duration,
}

impl ClientOptions {
    /// Options with every default.
    pub fn new(data_dir: impl Into<PathBuf>, user: UserId, token: Token) -> ClientOptions {
        ClientOptions {
            data_dir: data_dir.into(),
            user,
            token,
            long_link: "127.0.0.1:7180".to_owned(),
            http: "127.0.0.1:7181".to_owned(),
            link: Link::Tcp,
            receive: Receive::All,
            start: v1::Start::Oldest,
            client_name: concat!("tern-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            ask_every: Duration::from_secs(90),
            resend_failed: false,
            poll_wait: Duration::from_secs(30),
        }
    }
}

/// Which links are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// The long link, and the short link while it is down.
    Tcp,
    /// The short link alone, with a long poll.
    Http,
}

/// What to do about entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Receive, store and acknowledge them.
    All,
    /// Receive them without storing or acknowledging anything: the next client with this directory gets them again.
    /// Only the device id is stored. Sending is refused.
    Peek,
    /// Leave them on the server, unacknowledged: a device that only sends.
    Nothing,
}

/// Where tokens come from. Shows nothing of them in `Debug`.
#[derive(Clone)]
pub struct Token(Arc<dyn Fn() -> String + Send + Sync>);

impl Token {
    /// Always the same token.
    pub fn fixed(token: String) -> Token {
        Token(Arc::new(move || token.clone()))
    }

    /// Asks `provider` at each connect. It must not block for long.
    pub fn provider(provider: impl Fn() -> String + Send + Sync + 'static) -> Token {
        Token(Arc::new(provider))
    }

    /// A token to use now.
    pub(crate) fn get(&self) -> String {
        (self.0)()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}
