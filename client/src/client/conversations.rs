//! What the server knows of conversations. Each call is a query: it waits for a link, and is asked again as
//! docs/protocol.md says, 12 times at most. It may be cancelled.

use prost::Message;
use tern_proto::{Command, ConversationId, limits, v1};

use super::Client;
use crate::queries::QueryError;
use crate::status::Stop;

impl Client {
    /// All conversations of the user, by name: the groups that the user is in, and those of two that have a message.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn conversations(&self) -> Result<Vec<v1::Conversation>, QueryError> {
        let mut all: Vec<v1::Conversation> = Vec::new();
        loop {
            let after = all.last().map_or_else(String::new, |last| last.name.clone());
            let request = v1::ConversationsRequest { after: after.clone(), limit: 0 };
            let reply: v1::ConversationsReply = self.query(Command::Conversations, &request).await?;
            // The names rise, so a server that repeats itself is not asked without end.
            let rises = reply.conversations.last().is_some_and(|last| last.name > after);
            if reply.more && !rises {
                return Err(QueryError::BadReply(Command::Conversations));
            }
            all.extend(reply.conversations);
            if !reply.more {
                return Ok(all);
            }
        }
    }

    /// The newest messages of a conversation below the position `before`, or the newest of all if that is 0: ascending, in full,
    /// own ones too, at most `limit` and at most 1,000, and as many as fit one packet. `more` says that there are older ones:
    /// ask again with the first `seq` of the page. Acknowledges nothing.
    ///
    /// # Errors
    /// [`QueryError::Refused`] with [`v1::Code::NotAMember`] above all.
    pub async fn history(
        &self,
        conversation: &ConversationId,
        before: u64,
        limit: usize,
    ) -> Result<v1::HistoryReply, QueryError> {
        let limit = limit.clamp(1, limits::PAGE_ENTRIES) as u32;
        let request = v1::HistoryRequest { conversation: conversation.to_string(), before_seq: before, limit };
        self.query(Command::History, &request).await
    }

    /// Who is in a conversation, in the order in which they joined, and how far each has been delivered and has read.
    ///
    /// # Errors
    /// [`QueryError::Refused`] with [`v1::Code::NotAMember`] above all.
    pub async fn members(&self, conversation: &ConversationId) -> Result<v1::MembersReply, QueryError> {
        self.query(Command::Members, &v1::MembersRequest { conversation: conversation.to_string() }).await
    }

    async fn query<Reply: Message + Default>(
        &self,
        command: Command,
        body: &impl Message,
    ) -> Result<Reply, QueryError> {
        let answer = self.shared.queries.ask(command, body.encode_to_vec().into())?;
        self.shared.wake.notify_one();
        // What is taken in is answered, at the latest when the client stops.
        let body = answer.await.unwrap_or(Err(QueryError::Stopped(Stop::Closed)))?;
        Reply::decode(body).map_err(|_| QueryError::BadReply(command))
    }
}
