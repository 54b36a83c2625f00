//! The index: where in the log things stand, as of the last checkpoint. It can be rebuilt from the log at any time.
//!
//! A redb database written in one transaction for each checkpoint: last values of users, conversations, senders
//! and receipts, and for what grows, blocks: one row for all that one user or device gained since the checkpoint before.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tern_proto::{ConversationId, UserId, v1};

use crate::Device;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// user → [`UserRow`]
const USERS: TableDefinition<&str, &[u8]> = TableDefinition::new("users");
/// (user, last version of the block) → [`VersionBlock`]
const TIMELINES: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("timelines");
/// (user, conversation, member, kind) → [`ReceiptRow`]
const RECEIPTS: TableDefinition<(&str, &str, &str, u32), &[u8]> = TableDefinition::new("receipts");
/// conversation → [`ConversationRow`]
const CONVERSATIONS: TableDefinition<&str, &[u8]> = TableDefinition::new("conversations");
/// (user, device) → [`SenderRow`]
const SENDERS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("senders");
/// (user, device, last id of the block) → [`ResultBlock`]; the blocks of a device are disjoint and ascending.
const RESULTS: TableDefinition<(&str, &str, u64), &[u8]> = TableDefinition::new("results");
/// (user, device, id) → [`LateRow`], for ids that came below a block that was already there.
const LATE_RESULTS: TableDefinition<(&str, &str, u64), &[u8]> = TableDefinition::new("late_results");
/// (time in milliseconds, user, device, id, late) → nothing: when a row of the two tables above may be forgotten.
const EXPIRY: TableDefinition<(i64, &str, &str, u64, bool), ()> = TableDefinition::new("expiry");
/// (user, device) → nothing: acknowledged beyond what is derived.
const UNDERIVED: TableDefinition<(&str, &str), ()> = TableDefinition::new("underived");

const APPLIED: &str = "applied";
const EPOCH: &str = "epoch";
/// Memory that the database may use for its pages.
const CACHE_BYTES: usize = 64 * 1024 * 1024;
/// How many expired results one checkpoint forgets at most; more if it brings more, so that it never falls behind.
const EXPIRE_STEP: usize = 20_000;

/// Why the index failed; it is not needed for durability and can be deleted and rebuilt.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// The database refuses.
    #[error("the index: {0}")]
    Database(Box<redb::Error>),
    /// A row does not check out.
    #[error("the index is damaged; the next start rebuilds it from the log")]
    Damaged,
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for IndexError {
            fn from(error: $error) -> IndexError {
                IndexError::Database(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(redb::DatabaseError, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

type Result<T> = std::result::Result<T, IndexError>;

/// A user's last values.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct UserRow {
    /// By class.
    #[prost(uint64, repeated, tag = "1")]
    pub heads: Vec<u64>,
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<DeviceRow>,
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
struct LateRow {
    #[prost(uint64, tag = "1")]
    position: u64,
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

/// A conversation of two; the arrays are by member, in the order of its name.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ConversationRow {
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    #[prost(uint64, repeated, tag = "2")]
    pub last_sent: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pub read: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    pub delivered: Vec<u64>,
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

/// Everything that changed since the last checkpoint.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The log up to here is in the index once this is written.
    pub applied: u64,
    pub epoch: u64,
    pub users: Vec<(UserId, UserRow)>,
    pub versions: Vec<(UserId, Vec<u64>)>,
    pub receipts: Vec<(UserId, ReceiptKey, ReceiptRow)>,
    pub conversations: Vec<(ConversationId, ConversationRow)>,
    pub senders: Vec<(Device, SenderRow)>,
    /// By device the ids above its last block, ascending, with their positions.
    pub results: Vec<(Device, Vec<(u64, u64)>)>,
    /// Device, id, position.
    pub late_results: Vec<(Device, u64, u64)>,
    /// The newest time of any send: when these results may be forgotten counts from here.
    pub now_ms: i64,
    /// Results older than this are forgotten.
    pub forget_before_ms: i64,
}

pub(super) struct Index {
    database: Database,
}

impl Index {
    /// Opens or creates the database with all its tables.
    pub(super) fn open(path: &Path) -> Result<Index> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let transaction = database.begin_write()?;
        transaction.open_table(META)?;
        transaction.open_table(USERS)?;
        transaction.open_table(TIMELINES)?;
        transaction.open_table(RECEIPTS)?;
        transaction.open_table(CONVERSATIONS)?;
        transaction.open_table(SENDERS)?;
        transaction.open_table(RESULTS)?;
        transaction.open_table(LATE_RESULTS)?;
        transaction.open_table(EXPIRY)?;
        transaction.open_table(UNDERIVED)?;
        transaction.commit()?;
        Ok(Index { database })
    }

    /// How far the log is in the index, and the epoch then; 0 if nothing is.
    pub(super) fn applied(&self) -> Result<(u64, u64)> {
        let meta = self.database.begin_read()?.open_table(META)?;
        let get = |key| Ok::<_, IndexError>(meta.get(key)?.map_or(0, |value| value.value()));
        Ok((get(APPLIED)?, get(EPOCH)?))
    }

    pub(super) fn user(&self, user: &UserId) -> Result<Option<UserRow>> {
        let table = self.database.begin_read()?.open_table(USERS)?;
        table.get(user.as_str())?.map(|row| unpack(row.value())).transpose()
    }

    pub(super) fn conversation(&self, conversation: &ConversationId) -> Result<Option<ConversationRow>> {
        let table = self.database.begin_read()?.open_table(CONVERSATIONS)?;
        table.get(conversation.as_str())?.map(|row| unpack(row.value())).transpose()
    }

    pub(super) fn sender(&self, device: &Device) -> Result<Option<SenderRow>> {
        let table = self.database.begin_read()?.open_table(SENDERS)?;
        table.get((device.user.as_str(), device.id.as_str()))?.map(|row| unpack(row.value())).transpose()
    }

    /// The position of the record that answers this id.
    pub(super) fn result(&self, device: &Device, id: u64) -> Result<Option<u64>> {
        let (user, name) = (device.user.as_str(), device.id.as_str());
        let transaction = self.database.begin_read()?;
        if let Some(late) = transaction.open_table(LATE_RESULTS)?.get((user, name, id))? {
            return Ok(Some(unpack::<LateRow>(late.value())?.position));
        }
        let blocks = transaction.open_table(RESULTS)?;
        let block = blocks.range((user, name, id)..=(user, name, u64::MAX))?.next().transpose()?;
        let block: Option<ResultBlock> = block.map(|(_, block)| unpack(block.value())).transpose()?;
        Ok(block.and_then(|block| block.position(id)))
    }

    /// At most `limit` versions of class 1 with `above < version <= up_to`, ascending.
    pub(super) fn versions(&self, user: &UserId, above: u64, up_to: u64, limit: usize) -> Result<Vec<u64>> {
        let table = self.database.begin_read()?.open_table(TIMELINES)?;
        let mut versions = Vec::new();
        for block in table.range((user.as_str(), above + 1)..=(user.as_str(), u64::MAX))? {
            let (_, block) = block?;
            let block: VersionBlock = unpack(block.value())?;
            versions.extend(block.versions().skip_while(|&v| v <= above).take_while(|&v| v <= up_to));
            if versions.len() >= limit || versions.last().is_some_and(|&last| last >= up_to) {
                break;
            }
        }
        versions.truncate(limit);
        Ok(versions)
    }

    /// The user's receipts above a version, in no order.
    pub(super) fn receipts(&self, user: &UserId, above: u64) -> Result<Vec<(ReceiptKey, ReceiptRow)>> {
        let table = self.database.begin_read()?.open_table(RECEIPTS)?;
        let mut found = Vec::new();
        for row in table.range((user.as_str(), "", "", 0)..)? {
            let (key, row) = row?;
            let (owner, conversation, member, kind) = key.value();
            if owner != user.as_str() {
                break;
            }
            let row: ReceiptRow = unpack(row.value())?;
            if let (true, Ok(conversation), Ok(member)) =
                (row.version > above, ConversationId::new(conversation), UserId::new(member))
            {
                found.push((ReceiptKey { conversation, member, kind }, row));
            }
        }
        Ok(found)
    }

    /// Every device that has acknowledged more than is derived.
    pub(super) fn underived(&self) -> Result<Vec<Device>> {
        let table = self.database.begin_read()?.open_table(UNDERIVED)?;
        let mut devices = Vec::new();
        for row in table.iter()? {
            let (key, _) = row?;
            let (user, device) = key.value();
            devices.extend(super::record::device(user, device));
        }
        Ok(devices)
    }

    /// Writes a checkpoint: all of it or nothing, on disk when this returns. Gives the devices whose floor rose, with the new floor.
    pub(super) fn write(&self, changes: &Changes) -> Result<Vec<(Device, u64)>> {
        let transaction = self.database.begin_write()?;
        let raised = write_senders(&transaction, changes)?;
        {
            let mut users = transaction.open_table(USERS)?;
            let mut underived = transaction.open_table(UNDERIVED)?;
            for (user, row) in &changes.users {
                users.insert(user.as_str(), pack(row).as_slice())?;
                // Anew as a whole: a device that yielded to another must not stay.
                underived.retain_in((user.as_str(), "")..=(user.as_str(), "\u{7f}"), |_, ()| false)?;
                for device in row.devices.iter().filter(|device| device.acked.first() > Some(&device.derived)) {
                    underived.insert((user.as_str(), device.id.as_str()), ())?;
                }
            }
            let mut timelines = transaction.open_table(TIMELINES)?;
            for (user, versions) in &changes.versions {
                if let Some(&last) = versions.last() {
                    timelines.insert((user.as_str(), last), pack(&VersionBlock::of(versions)).as_slice())?;
                }
            }
            let mut receipts = transaction.open_table(RECEIPTS)?;
            for (user, key, row) in &changes.receipts {
                let key = (user.as_str(), key.conversation.as_str(), key.member.as_str(), key.kind);
                receipts.insert(key, pack(row).as_slice())?;
            }
            let mut conversations = transaction.open_table(CONVERSATIONS)?;
            for (conversation, row) in &changes.conversations {
                conversations.insert(conversation.as_str(), pack(row).as_slice())?;
            }
            let mut meta = transaction.open_table(META)?;
            meta.insert(APPLIED, changes.applied)?;
            meta.insert(EPOCH, changes.epoch)?;
        }
        transaction.commit()?;
        Ok(raised)
    }
}

/// A row with its checksum: the database notices damage only when it repairs itself.
fn pack(row: &impl prost::Message) -> Vec<u8> {
    let mut bytes = row.encode_to_vec();
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn unpack<M: prost::Message + Default>(bytes: &[u8]) -> Result<M> {
    let (row, crc) = bytes.split_last_chunk::<4>().ok_or(IndexError::Damaged)?;
    if crc32fast::hash(row) != u32::from_le_bytes(*crc) {
        return Err(IndexError::Damaged);
    }
    M::decode(row).map_err(|_| IndexError::Damaged)
}

/// Writes new results and forgets expired ones.
fn write_senders(transaction: &redb::WriteTransaction, changes: &Changes) -> Result<Vec<(Device, u64)>> {
    let mut senders = transaction.open_table(SENDERS)?;
    let mut results = transaction.open_table(RESULTS)?;
    let mut late_results = transaction.open_table(LATE_RESULTS)?;
    let mut expiry = transaction.open_table(EXPIRY)?;
    for (device, row) in &changes.senders {
        senders.insert((device.user.as_str(), device.id.as_str()), pack(row).as_slice())?;
    }
    for (device, block) in &changes.results {
        let (user, name) = (device.user.as_str(), device.id.as_str());
        if let Some(&(last, _)) = block.last() {
            results.insert((user, name, last), pack(&ResultBlock::of(block)).as_slice())?;
            expiry.insert((changes.now_ms, user, name, last, false), ())?;
        }
    }
    for (device, id, position) in &changes.late_results {
        let (user, name) = (device.user.as_str(), device.id.as_str());
        late_results.insert((user, name, *id), pack(&LateRow { position: *position }).as_slice())?;
        expiry.insert((changes.now_ms, user, name, *id, true), ())?;
    }
    let step = EXPIRE_STEP.max(2 * (changes.results.len() + changes.late_results.len()));
    let mut expired = Vec::new();
    for row in expiry.range(..(changes.forget_before_ms, "", "", 0, false))?.take(step) {
        let (key, _) = row?;
        let (time_ms, user, name, id, late) = key.value();
        expired.push((time_ms, user.to_owned(), name.to_owned(), id, late));
    }
    let mut raised = Vec::new();
    for (time_ms, user, name, id, late) in expired {
        let (user, name) = (user.as_str(), name.as_str());
        expiry.remove((time_ms, user, name, id, late))?;
        if late {
            late_results.remove((user, name, id))?;
        } else {
            results.remove((user, name, id))?;
        }
        let row = senders.get((user, name))?.map(|row| unpack(row.value())).transpose()?;
        let mut row: SenderRow = row.unwrap_or_default();
        row.floor = row.floor.max(id);
        senders.insert((user, name), pack(&row).as_slice())?;
        raised.extend(super::record::device(user, name).map(|device| (device, row.floor)));
    }
    Ok(raised)
}

impl VersionBlock {
    fn of(versions: &[u64]) -> VersionBlock {
        let mut last = 0;
        VersionBlock {
            steps: versions.iter().map(|&version| version - std::mem::replace(&mut last, version)).collect(),
        }
    }

    fn versions(&self) -> impl Iterator<Item = u64> {
        self.steps.iter().scan(0u64, |last, step| {
            *last = last.wrapping_add(*step);
            Some(*last)
        })
    }
}

impl ResultBlock {
    fn of(results: &[(u64, u64)]) -> ResultBlock {
        let (mut id, mut position) = (0, 0i64);
        let ids = results.iter().map(|&(next, _)| next - std::mem::replace(&mut id, next)).collect();
        let positions = results.iter().map(|&(_, next)| next as i64 - std::mem::replace(&mut position, next as i64));
        ResultBlock { ids, positions: positions.collect() }
    }

    fn position(&self, wanted: u64) -> Option<u64> {
        let (mut id, mut position) = (0u64, 0i64);
        for (id_step, step) in self.ids.iter().zip(&self.positions) {
            id = id.wrapping_add(*id_step);
            position = position.wrapping_add(*step);
            if id == wanted {
                return Some(position as u64);
            }
        }
        None
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
