//! The rows of the index, and the blocks that hold what grows.

use tern_proto::{ConversationId, UserId, v1};

use super::tables::{IndexError, Result};

/// A user's last values.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct UserRow {
    /// By class.
    #[prost(uint64, repeated, tag = "1")]
    pub heads: Vec<u64>,
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<DeviceRow>,
    /// Entries of class 1 that are kept, and the bytes of their records.
    #[prost(uint64, tag = "10")]
    pub entries: u64,
    #[prost(uint64, tag = "11")]
    pub bytes: u64,
    /// Class 1 up to here was dropped; how many entries in all, and why the last of them.
    #[prost(uint64, tag = "12")]
    pub dropped_up_to: u64,
    #[prost(uint64, tag = "13")]
    pub dropped_count: u64,
    #[prost(enumeration = "v1::HoleReason", tag = "14")]
    pub dropped_reason: i32,
    /// The newest entry of class 1 that others sent.
    #[prost(uint64, tag = "15")]
    pub foreign: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeviceRow {
    #[prost(string, tag = "1")]
    pub id: String,
    /// By class.
    #[prost(uint64, repeated, tag = "2")]
    pub acked: Vec<u64>,
    #[prost(uint64, tag = "3")]
    pub derived: u64,
    #[prost(int64, tag = "4")]
    pub heard_ms: i64,
}

/// Ascending numbers as differences, so that most take two bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct VersionBlock {
    #[prost(uint64, repeated, tag = "1")]
    steps: Vec<u64>,
}

/// `ids` ascending; `positions` as signed differences.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResultBlock {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
    #[prost(sint64, repeated, tag = "2")]
    positions: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct LateRow {
    #[prost(uint64, tag = "1")]
    pub position: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct ReceiptRow {
    #[prost(uint64, tag = "1")]
    pub version: u64,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    #[prost(int64, tag = "3")]
    pub time_ms: i64,
}

/// What a receipt is about; a newer one of the same key takes the place of the older.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ReceiptKey {
    pub conversation: ConversationId,
    pub member: UserId,
    /// [`v1::ReceiptKind`] as a number.
    pub kind: u32,
}

impl ReceiptKey {
    pub(super) fn entry(&self, row: &ReceiptRow) -> v1::Receipt {
        v1::Receipt {
            conversation: self.conversation.to_string(),
            member: self.member.to_string(),
            kind: self.kind as i32,
            seq: row.seq,
            time_ms: row.time_ms,
        }
    }
}

/// A conversation's last values.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ConversationRow {
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    #[prost(int64, tag = "2")]
    pub time_ms: i64,
    #[prost(string, tag = "3")]
    pub title: String,
    /// Empty if there is none.
    #[prost(string, tag = "4")]
    pub owner: String,
    #[prost(message, repeated, tag = "5")]
    pub members: Vec<MemberRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MemberRow {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(uint64, tag = "2")]
    pub joined: u64,
    #[prost(uint64, tag = "3")]
    pub last_sent: u64,
    #[prost(uint64, tag = "4")]
    pub delivered: u64,
    #[prost(uint64, tag = "5")]
    pub read: u64,
}

/// A device as a sender.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct SenderRow {
    #[prost(uint64, tag = "1")]
    pub highest: u64,
    /// Ids up to here that are not found are too old to tell.
    #[prost(uint64, tag = "2")]
    pub floor: u64,
    /// The last id of the last block.
    #[prost(uint64, tag = "3")]
    pub indexed: u64,
}

/// A row with its checksum: the database notices damage only when it repairs itself.
pub(super) fn pack(row: &impl prost::Message) -> Vec<u8> {
    let mut bytes = row.encode_to_vec();
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn unpack<M: prost::Message + Default>(bytes: &[u8]) -> Result<M> {
    let (row, crc) = bytes.split_last_chunk::<4>().ok_or(IndexError::Damaged)?;
    if crc32fast::hash(row) != u32::from_le_bytes(*crc) {
        return Err(IndexError::Damaged);
    }
    M::decode(row).map_err(|_| IndexError::Damaged)
}

impl VersionBlock {
    pub(super) fn of(versions: &[u64]) -> VersionBlock {
        let mut last = 0;
        VersionBlock {
            steps: versions.iter().map(|&version| version - std::mem::replace(&mut last, version)).collect(),
        }
    }

    pub(super) fn versions(&self) -> impl Iterator<Item = u64> {
        self.steps.iter().scan(0u64, |last, step| {
            *last = last.wrapping_add(*step);
            Some(*last)
        })
    }
}

impl ResultBlock {
    pub(super) fn of(results: &[(u64, u64)]) -> ResultBlock {
        let (mut id, mut position) = (0, 0i64);
        let ids = results.iter().map(|&(next, _)| next - std::mem::replace(&mut id, next)).collect();
        let positions = results.iter().map(|&(_, next)| next as i64 - std::mem::replace(&mut position, next as i64));
        ResultBlock { ids, positions: positions.collect() }
    }

    pub(super) fn position(&self, wanted: u64) -> Option<u64> {
        self.results().find(|(id, _)| *id == wanted).map(|(_, position)| position)
    }

    /// Each with its position.
    pub(super) fn results(&self) -> impl Iterator<Item = (u64, u64)> {
        let steps = self.ids.iter().zip(&self.positions);
        steps.scan((0u64, 0i64), |(id, position), (id_step, step)| {
            *id = id.wrapping_add(*id_step);
            *position = position.wrapping_add(*step);
            Some((*id, *position as u64))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_give_back_what_was_put_in() {
        let versions = [4096, 4208, 70_000, 70_008];
        assert_eq!(VersionBlock::of(&versions).versions().collect::<Vec<_>>(), versions);
        let results = [(3, 9_000), (4, 8_000), (90, 8_008)];
        let block = ResultBlock::of(&results);
        assert!(results.iter().all(|&(id, position)| block.position(id) == Some(position)));
        assert_eq!(block.position(5), None);
    }

    #[test]
    fn a_row_with_a_flipped_bit_is_damaged() {
        let row = ReceiptRow { version: 4096, seq: 7, time_ms: 1_700_000_000_000 };
        let good = pack(&row);
        assert_eq!(unpack::<ReceiptRow>(&good).unwrap(), row);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(unpack::<ReceiptRow>(&bytes), Err(IndexError::Damaged)), "bit {bit}");
        }
        assert!(unpack::<ReceiptRow>(&good[..3]).is_err());
    }
}
