//! What a user may know of conversations: the list of its own, who is in one, and its messages back to where the user joined.
//!
//! Of two users the name of the conversation tells who is in it; of a group storage does.

use tern_proto::v1::Code;
use tern_proto::{ConversationId, UserId, limits, v1};
use tern_storage::{Conversation, HistoryRequest, Listed, Member, Storage};

use crate::Refusal;

/// A page of the user's conversations. One more than asked for is read, which tells whether there are more.
pub(crate) async fn list(
    storage: &dyn Storage,
    user: &UserId,
    request: v1::ConversationsRequest,
) -> Result<v1::ConversationsReply, Refusal> {
    let after = match request.after.as_str() {
        "" => None,
        name => {
            let named = ConversationId::new(name);
            Some(named.map_err(|_| Refusal::new(Code::BadBody, "`after` is not the name of a conversation"))?)
        }
    };
    let limit = at_most(request.limit, limits::LIST);
    let mut listed = storage.conversations(user, after.as_ref(), limit + 1).await?;
    let more = listed.len() > limit;
    listed.truncate(limit);
    Ok(v1::ConversationsReply { conversations: listed.into_iter().map(as_listed).collect(), more })
}

/// Messages of a conversation that the user may see.
pub(crate) async fn history(
    storage: &dyn Storage,
    user: &UserId,
    request: v1::HistoryRequest,
) -> Result<v1::HistoryReply, Refusal> {
    let (conversation, from) = of_member(storage, &request.conversation, user).await?;
    let before = if request.before_seq == 0 { u64::MAX } else { request.before_seq };
    let request = HistoryRequest {
        conversation,
        before,
        from,
        max_entries: at_most(request.limit, limits::PAGE_ENTRIES),
        max_bytes: limits::PAGE_BYTES,
    };
    let name = request.conversation.clone();
    let mut history = storage.history(request).await?;
    // Whoever was removed in between, or has come back since, may see what a member may see now.
    let (_, from) = of_member(storage, name.as_str(), user).await?;
    history.messages.retain(|message| message.seq >= from);
    Ok(v1::HistoryReply { messages: history.messages, more: history.more })
}

/// Who is in a conversation of the user, and how far each has come.
pub(crate) async fn members(storage: &dyn Storage, user: &UserId, name: &str) -> Result<v1::MembersReply, Refusal> {
    let conversation = storage.conversation(&named(name)?).await?.ok_or_else(not_a_member)?;
    joined(&conversation, user)?;
    Ok(v1::MembersReply {
        title: conversation.title,
        owner: conversation.owner.map(|owner| owner.to_string()).unwrap_or_default(),
        seq: conversation.seq,
        members: conversation.members.into_iter().map(as_member).collect(),
    })
}

/// The conversation of this name, and from where on the user may see it.
///
/// # Errors
/// [`Code::NotAMember`] if the user is not in it, and just so if there is none.
pub(crate) async fn of_member(
    storage: &dyn Storage,
    name: &str,
    user: &UserId,
) -> Result<(ConversationId, u64), Refusal> {
    let id = named(name)?;
    let from = if id.is_group() {
        joined(&storage.conversation(&id).await?.ok_or_else(not_a_member)?, user)?
    } else {
        id.other(user).map(|_| 1).ok_or_else(not_a_member)?
    };
    Ok((id, from))
}

/// The refusal of who is in no such conversation.
pub(crate) fn not_a_member() -> Refusal {
    Refusal::new(Code::NotAMember, "not a conversation of yours")
}

fn named(name: &str) -> Result<ConversationId, Refusal> {
    ConversationId::new(name).map_err(|_| not_a_member())
}

fn joined(conversation: &Conversation, user: &UserId) -> Result<u64, Refusal> {
    let member = conversation.members.iter().find(|member| member.user == *user);
    member.map(|member| member.joined).ok_or_else(not_a_member)
}

/// A `limit` that is 0 or too large means that of the protocol.
fn at_most(limit: u32, most: usize) -> usize {
    if limit == 0 { most } else { most.min(limit as usize) }
}

fn as_listed(listed: Listed) -> v1::Conversation {
    let unread = unread(listed.seq, &listed.member);
    v1::Conversation {
        name: listed.id.to_string(),
        title: listed.title,
        seq: listed.seq,
        time_ms: listed.time_ms,
        joined_seq: listed.member.joined,
        read_seq: listed.member.read,
        unread,
        members: listed.members as u32,
    }
}

/// Messages above what the member has read and above the newest that the member has sent; none from before it joined.
fn unread(head: u64, member: &Member) -> u64 {
    head.saturating_sub(member.read.max(member.last_sent).max(member.joined.saturating_sub(1)))
}

fn as_member(member: Member) -> v1::Member {
    v1::Member {
        user: member.user.to_string(),
        joined_seq: member.joined,
        delivered_seq: member.delivered,
        read_seq: member.read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_is_above_every_position_of_the_member() {
        let member = |joined, last_sent, read| {
            let user = "bob".parse().unwrap();
            Member { user, joined, last_sent, delivered: read, read }
        };
        assert_eq!(unread(0, &member(1, 0, 0)), 0);
        assert_eq!(unread(9, &member(1, 0, 0)), 9);
        assert_eq!(unread(9, &member(1, 4, 6)), 3);
        assert_eq!(unread(9, &member(1, 8, 6)), 1);
        assert_eq!(unread(9, &member(6, 0, 0)), 4, "nothing from before it joined");
        assert_eq!(unread(5, &member(1, 6, 0)), 0);
    }

    #[test]
    fn a_limit_of_0_or_too_large_is_that_of_the_protocol() {
        assert_eq!([0, 3, 100, u32::MAX].map(|limit| at_most(limit, 100)), [100, 3, 100, 100]);
    }
}
