//! The seam between the sync service and the gateway, both ways.

use async_trait::async_trait;
use tern_proto::key::Key;
use tern_proto::{MediaId, Refusal, UserId, v1};
use tern_storage::Device;

use crate::{Held, Kept, News, Route};

/// What a hello learns; the gateway adds the session and the link's settings.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// Something lies above the key.
    pub pending: bool,
    /// The highest `client_msg_id` seen from the device.
    pub highest_client_msg_id: u64,
    /// What to do with the key.
    pub key_order: v1::KeyOrder,
    /// The start or the replacement; `None` where the client's key stands.
    pub key: Option<Key>,
}

/// The entries between two keys, for a long link.
#[derive(Clone, Debug)]
pub enum Pushed {
    /// Nothing that the device has to be told: nothing at all, or only its own stubs.
    Nothing,
    /// The entries above the key, and the key after them.
    Delta(Vec<v1::Entry>, Key),
    /// More than a delta carries: tell the device to sync.
    TooMuch,
}

/// What the gateway asks of the sync service. One handler for both links.
#[async_trait]
pub trait SyncApi: Send + Sync + 'static {
    /// A device arrives: registers it, judges its key, acknowledges it unless it peeks.
    ///
    /// # Errors
    /// A [`Refusal`] with a retryable code when storage is unavailable.
    async fn hello(&self, device: &Device, request: &v1::HelloRequest) -> Result<Welcome, Refusal>;

    /// Sends messages in order; one result for each. Never fails as a whole: a storage that is unavailable is a retryable code in each result.
    async fn send(&self, device: &Device, messages: Vec<v1::OutMessage>) -> Vec<v1::SendResult>;

    /// Hands out a page above the key and acknowledges the key unless it peeks.
    ///
    /// # Errors
    /// A retryable [`Refusal`] when storage is unavailable.
    async fn sync(&self, device: &Device, request: v1::SyncRequest) -> Result<v1::SyncReply, Refusal>;

    /// Whether something lies above the key, now. Waiting is the gateway's, which holds the hints.
    ///
    /// # Errors
    /// A retryable [`Refusal`] when storage is unavailable.
    async fn check(&self, device: &Device, request: &v1::CheckRequest) -> Result<v1::CheckReply, Refusal>;

    /// Acknowledges a key; returns once that is durable.
    ///
    /// # Errors
    /// [`v1::Code::BadBody`] without a key; retryable when storage is unavailable.
    async fn ack(&self, device: &Device, request: v1::AckRequest) -> Result<v1::AckReply, Refusal>;

    /// Marks a conversation as read; returns once that is durable.
    ///
    /// # Errors
    /// [`v1::Code::NotAMember`], [`v1::Code::BeyondHead`], or retryable.
    async fn read(&self, device: &Device, request: v1::ReadRequest) -> Result<v1::ReadReply, Refusal>;

    /// Lists conversations of the user. A `limit` of 0 or above [`tern_proto::limits::LIST`] means that.
    ///
    /// # Errors
    /// [`v1::Code::BadBody`] if `after` names no conversation; retryable when storage is unavailable.
    async fn conversations(
        &self,
        device: &Device,
        request: v1::ConversationsRequest,
    ) -> Result<v1::ConversationsReply, Refusal>;

    /// Messages of a conversation that the user may see. A `limit` of 0 or above [`tern_proto::limits::PAGE_ENTRIES`] means that.
    ///
    /// # Errors
    /// [`v1::Code::NotAMember`], or retryable.
    async fn history(&self, device: &Device, request: v1::HistoryRequest) -> Result<v1::HistoryReply, Refusal>;

    /// Who is in a conversation of the user.
    ///
    /// # Errors
    /// [`v1::Code::NotAMember`], or retryable.
    async fn members(&self, device: &Device, request: v1::MembersRequest) -> Result<v1::MembersReply, Refusal>;

    /// Whether the user may see a message that is about this media.
    ///
    /// # Errors
    /// A retryable [`Refusal`] when storage is unavailable.
    async fn sees_media(&self, device: &Device, media: MediaId) -> Result<bool, Refusal>;

    /// Whether any message is about this media, of all that may be acknowledged by now.
    ///
    /// # Errors
    /// A retryable [`Refusal`] when storage is unavailable.
    async fn refers_to(&self, media: MediaId) -> Result<bool, Refusal>;

    /// What a long link whose last key is `above` should be told after a hint.
    ///
    /// # Errors
    /// A retryable [`Refusal`] when storage is unavailable.
    async fn push(&self, device: &Device, above: &Key) -> Result<Pushed, Refusal>;

    /// Leads the hints of the users to these links for another while; what has become of each. An older long link of a device, wherever it is, is told that it is displaced.
    ///
    /// # Errors
    /// A retryable [`Refusal`] when that cannot be told; hints may go astray then.
    async fn keep_routes(&self, routes: Vec<Kept>) -> Result<Vec<Held>, Refusal>;

    /// Leads no more hints there. May have no effect: what is not kept again ends by itself.
    async fn leave_routes(&self, routes: Vec<(Device, Route)>);

    /// Whether requests can be expected to succeed; for readiness.
    ///
    /// # Errors
    /// A retryable [`Refusal`] when storage is unavailable.
    async fn ready(&self) -> Result<(), Refusal>;

    /// What an acknowledgement proves, for the hello reply.
    fn durability(&self) -> v1::Durability;
}

/// Hints to the links of a user. A lost, doubled or late hint costs latency only.
pub trait Hints: Send + Sync + 'static {
    /// Something new is committed in a timeline of `user`; `except` is the device that caused it and needs no hint; one of another user leaves nobody out.
    fn owed(&self, user: &UserId, except: Option<&Device>);

    /// The same for everybody in whose timeline it stands, with what it is, for who can use that. In the order of versions as far as possible.
    fn news(&self, news: News) {
        for placed in &news.places {
            self.owed(&placed.user, Some(&news.by));
        }
    }

    /// This link of the device was displaced by another.
    fn displaced(&self, _device: &Device, _route: Route) {}

    /// Hints may have been missed, of anybody.
    fn missed(&self) {}

    /// Whether anybody here wants the hints of this user. Where it says no, they need not be given.
    fn is_wanted(&self, _user: &UserId) -> bool {
        true
    }
}
