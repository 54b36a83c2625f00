//! The limits of the protocol. The hello reply carries them to the client.

use std::time::Duration;

/// Bytes of one packet, header included, in either direction.
pub const PACKET_BYTES: usize = 64 * 1024;
/// Bytes of one text.
pub const TEXT_BYTES: usize = 16 * 1024;
/// Messages in one send request.
pub const SEND_MESSAGES: usize = 256;
/// Entries in one page.
pub const PAGE_ENTRIES: usize = 1_000;
/// Encoded bytes of the entries of one page: a packet less its header and the keys.
pub const PAGE_BYTES: usize = PACKET_BYTES - 512;
/// Requests without a reply on one link.
pub const IN_FLIGHT: usize = 256;
/// Bytes of a token.
pub const TOKEN_BYTES: usize = 4 * 1024;
/// Bytes of a client name.
pub const CLIENT_NAME_BYTES: usize = 64;
/// The longest wait of a check.
pub const CHECK_WAIT: Duration = Duration::from_secs(60);
/// A hello must come within this time of the connect.
pub const HELLO_WAIT: Duration = Duration::from_secs(10);
/// For how long a result is published: the same id gets the same answer. Storage keeps it a day longer, so that an
/// hour's clock error is harmless.
pub const DEDUP: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many devices of one user are remembered; the longest silent yields.
pub const DEVICES: usize = 16;
/// Members of one group.
pub const MEMBERS: usize = 200;
/// Bytes of a group's title.
pub const TITLE_BYTES: usize = 128;
/// Conversations in one list.
pub const LIST: usize = 100;
/// Bytes of a part of an upload, if the client does not say.
pub const PART_BYTES: u32 = 1536;
/// Bytes of each chunk of a clip but the last. Source: S12 of the protocol notes.
pub const CHUNK_BYTES: u32 = PART_BYTES;
/// How often it is told which chunks of a clip are stored: after as many. A clip of two seconds has two.
pub const CHUNKS_TOLD: u32 = 8;
/// The fewest bytes that a client may choose for parts.
pub const MIN_PART_BYTES: u32 = 1024;
/// The most bytes that a client may choose for parts.
pub const MAX_PART_BYTES: u32 = 256 * 1024;
/// Runs of missing parts in one answer.
pub const MISSING_RUNS: usize = 1_000;
