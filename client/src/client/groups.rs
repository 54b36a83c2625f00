//! Making and changing groups. A change is a message: it has an id, waits in the outbox, is sent until it is settled, and its
//! state is that of [`Client::outcome`] and the events.

use tern_proto::{ConversationId, UserId, v1};

use super::Client;
use crate::store::StoreError;

impl Client {
    /// Makes a group of this user, who owns it, and `members`, or with a title of this user alone; gives the `client_msg_id`. Once it is sent,
    /// [`crate::Sent::conversation`] is the name of the group: see [`Client::settled`].
    ///
    /// # Errors
    /// As [`Client::change`].
    pub async fn create_group(&self, title: Option<&str>, members: &[UserId]) -> Result<u64, StoreError> {
        let change = v1::GroupChange { title: title.map(str::to_owned), add: names(members), remove: Vec::new() };
        self.enqueue_change(String::new(), change).await
    }

    /// Changes a group: its title, who joins, who leaves; gives the `client_msg_id`. It is on disk when this returns. Any
    /// member may add, the owner may remove anybody, everybody else only themselves.
    ///
    /// # Errors
    /// [`StoreError::BadChange`], [`StoreError::OutboxFull`], or that of a failed store; nothing is sent then.
    pub async fn change(&self, group: &ConversationId, change: v1::GroupChange) -> Result<u64, StoreError> {
        self.enqueue_change(group.to_string(), change).await
    }

    /// Adds users to a group. They see it from the message that adds them.
    ///
    /// # Errors
    /// As [`Client::change`].
    pub async fn add(&self, group: &ConversationId, users: &[UserId]) -> Result<u64, StoreError> {
        self.change(group, v1::GroupChange { add: names(users), ..Default::default() }).await
    }

    /// Removes members from a group, which its owner may.
    ///
    /// # Errors
    /// As [`Client::change`].
    pub async fn remove(&self, group: &ConversationId, users: &[UserId]) -> Result<u64, StoreError> {
        self.change(group, v1::GroupChange { remove: names(users), ..Default::default() }).await
    }

    /// Leaves a group. If the owner leaves, the member who joined first of those who stay owns it.
    ///
    /// # Errors
    /// As [`Client::change`].
    pub async fn leave(&self, group: &ConversationId) -> Result<u64, StoreError> {
        self.remove(group, std::slice::from_ref(&self.user)).await
    }

    async fn enqueue_change(&self, to: String, change: v1::GroupChange) -> Result<u64, StoreError> {
        let message = v1::OutMessage { to, change: Some(change), ..Default::default() };
        let ids = self.enqueue(vec![message], None).await?;
        ids.first().copied().ok_or(StoreError::NoIdsLeft)
    }
}

fn names(users: &[UserId]) -> Vec<String> {
    users.iter().map(UserId::to_string).collect()
}
