//! The command table. `docs/protocol.md` has it for people; a number is never used again for something else.

/// Added to a request's command to give its reply's.
///
/// Source: seen in WeChat captures, heartbeat 6 is answered by 1000000006 and send 237 by 1000000237.
pub const REPLY: u32 = 1_000_000_000;

/// Numbers that goim clients use as requests in the same 16-byte header; they stay free so that such clients can be admitted.
pub const RESERVED: [u32; 6] = [2, 4, 7, 12, 14, 16];

/// What a packet asks or tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Command {
    /// Keeps the link and its path alive; no body. The number is WeChat's.
    Heartbeat = 6,
    /// [`crate::v1::SyncRequest`]. The number is WeChat's.
    Sync = 138,
    /// [`crate::v1::SendRequest`]. The number is WeChat's.
    Send = 237,
    /// [`crate::v1::HelloRequest`].
    Hello = 1001,
    /// [`crate::v1::CheckRequest`].
    Check = 1002,
    /// [`crate::v1::AckRequest`].
    Ack = 1003,
    /// [`crate::v1::ReadRequest`].
    Read = 1004,
    /// [`crate::v1::ConversationsRequest`].
    Conversations = 1005,
    /// [`crate::v1::HistoryRequest`].
    History = 1006,
    /// [`crate::v1::MembersRequest`].
    Members = 1007,
    /// One-way, from the client: [`crate::v1::Chunk`].
    Chunk = 1008,
    /// One-way, from the server, no body: something is owed, sync.
    Notify = 1101,
    /// One-way, from the server: [`crate::v1::Delta`].
    Delta = 1102,
    /// One-way, from the server: [`crate::v1::GoAway`].
    GoAway = 1103,
    /// From the server: [`crate::v1::Error`], in the place of a reply or, with sequence 0, about the link.
    Error = 1104,
    /// One-way, from the server: [`crate::v1::ChunksStored`].
    ChunksStored = 1105,
}

impl Command {
    /// Every command, in the order of the table.
    pub const ALL: [Command; 16] = [
        Command::Heartbeat,
        Command::Sync,
        Command::Send,
        Command::Hello,
        Command::Check,
        Command::Ack,
        Command::Read,
        Command::Conversations,
        Command::History,
        Command::Members,
        Command::Chunk,
        Command::Notify,
        Command::Delta,
        Command::GoAway,
        Command::Error,
        Command::ChunksStored,
    ];

    /// The command with this number, if the table has one.
    pub fn from_number(number: u32) -> Option<Command> {
        Command::ALL.into_iter().find(|command| command.number() == number)
    }

    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The number of the reply to this command.
    pub const fn reply(self) -> u32 {
        self as u32 + REPLY
    }

    /// Its name in metrics, traces and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Command::Heartbeat => "heartbeat",
            Command::Sync => "sync",
            Command::Send => "send",
            Command::Hello => "hello",
            Command::Check => "check",
            Command::Ack => "ack",
            Command::Read => "read",
            Command::Conversations => "conversations",
            Command::History => "history",
            Command::Members => "members",
            Command::Chunk => "chunk",
            Command::Notify => "notify",
            Command::Delta => "delta",
            Command::GoAway => "go_away",
            Command::Error => "error",
            Command::ChunksStored => "chunks_stored",
        }
    }

    /// Whether a client may send it as a request, which has a reply.
    pub const fn is_request(self) -> bool {
        !matches!(
            self,
            Command::Chunk
                | Command::Notify
                | Command::Delta
                | Command::GoAway
                | Command::Error
                | Command::ChunksStored
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_leave_the_reserved_ones_free() {
        for (i, a) in Command::ALL.into_iter().enumerate() {
            assert_eq!(Command::from_number(a.number()), Some(a));
            assert!(!RESERVED.contains(&a.number()), "{a:?} uses a number of goim");
            assert!(Command::ALL[i + 1..].iter().all(|b| a.number() != b.number()));
        }
        assert_eq!(Command::Heartbeat.reply(), 1_000_000_006);
        assert_eq!(Command::Send.reply(), 1_000_000_237);
        assert_eq!(Command::from_number(7), None);
    }
}
