//! The client library: the other half of the protocol, for applications.
//!
//! A [`Client`] is one device. It keeps a long link to the server, falls back to the short link while that is down, sends
//! what is in its outbox until the server has it, and receives what its user is owed, once and in order. Whatever it has
//! promised is in SQLite before it promises, so `kill -9` at any moment loses and doubles nothing.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tern_client::{Client, ClientOptions, Recipient, Token};
//!
//! let options = ClientOptions::new("/var/lib/app/tern", "alice".parse()?, Token::fixed("eyJ…".to_owned()));
//! let (client, mut inbox) = Client::open(options).await?;
//! let bob: Recipient = "bob".parse()?; // or a group, such as g/4128
//! let id = client.send(&bob, "hello").await?; // durable here; on its way to the server
//! while let Some(entry) = inbox.next().await? {
//!     // … show it, then:
//!     inbox.confirm(&[entry]).await?; // after a crash before this line the entry comes again
//! }
//! println!("{:?}", client.outcome(id).await?);
//! # Ok(()) }
//! ```
//!
//! - [`Client`]: sends, speaks, makes and changes groups, marks as read, tells states, asks for conversations, history and members;
//!   [`Inbox`]: hands out entries
//! - [`Uploads`]: brings images up in parts, and fetches what messages are about
//! - [`link`]: the raw links, for programs that want to say exactly what goes over the wire
//!
//! How it flows: `client` (handles) → `store` (SQLite, on a thread of its own) and `queries` (in memory) ← `driver` (the one task: connects, performs)
//! ↔ `session` (the protocol, without I/O) and `transport` (a long link, or two short ones that look like one).

mod backoff;
mod checked;
mod client;
mod clip;
mod driver;
pub mod link;
mod message;
mod options;
mod queries;
mod recipient;
mod session;
mod shared;
mod status;
mod store;
mod transport;
mod upload;

pub use backoff::ATTEMPTS;
pub use checked::{BadChange, BadText};
pub use client::{Client, ClientError, Clip, Inbox};
pub use message::{EntryBody, Event, InboxEntry, MessageState, Outgoing, Sent};
pub use options::{ClientOptions, Link, Receive, Token};
pub use queries::QueryError;
pub use recipient::{BadRecipient, Recipient};
pub use status::{LinkState, Status, Stop};
pub use store::{OpenError, StoreError};
/// What the calls of this library take and give.
pub use tern_proto::{ConversationId, UserId, v1};
pub use upload::{UploadError, Uploads};
