//! The index: where in the log things stand, as of the last checkpoint. It can be rebuilt from the log at any time.
//!
//! A redb database written in one transaction for each checkpoint: last values of users, conversations, senders
//! and receipts, and for what grows, blocks: a row holds up to [`BLOCK`] of what one user or device gained since the checkpoint before.

use std::ops::Bound;
use std::path::Path;

use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use tern_proto::{ConversationId, MediaId, UserId};

use super::database::Handle;
use super::index_file::CheckFn;
use super::rows::{
    ConversationRow, LateRow, ReceiptKey, ReceiptRow, ResultBlock, SenderRow, UserRow, VersionBlock, pack, unpack,
};
use super::tables::{
    self, CONVERSATIONS, EXPIRY, HISTORY, IndexError, LATE_RESULTS, MEMBERSHIPS, MOVED, RECEIPTS, REFERENCES, RESULTS,
    Result, SENDERS, TIMELINES, UNDERIVED, USERS,
};
use crate::Device;

/// How many expired results one checkpoint forgets at most; more if it brings more, so that it never falls behind.
const EXPIRE_STEP: usize = 20_000;
/// Entries in one block of what grows: as much is read to find one.
const BLOCK: usize = 1024;

/// Everything that changed since the last checkpoint.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The log up to here is in the index once this is written.
    pub applied: u64,
    pub epoch: u64,
    pub users: Vec<(UserId, UserRow)>,
    pub versions: Vec<(UserId, Vec<u64>)>,
    /// Up to where class 1 was dropped since the last checkpoint.
    pub dropped: Vec<(UserId, u64)>,
    /// Version and position of the copy.
    pub moved: Vec<(u64, u64)>,
    /// Media, conversation, sequence.
    pub references: Vec<(MediaId, ConversationId, u64)>,
    pub receipts: Vec<(UserId, ReceiptKey, ReceiptRow)>,
    pub conversations: Vec<(ConversationId, ConversationRow)>,
    /// By conversation the messages above its last block: sequence and position, ascending.
    pub history: Vec<(ConversationId, Vec<(u64, u64)>)>,
    /// Who is in a conversation now, or is no more.
    pub memberships: Vec<(UserId, ConversationId, bool)>,
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
    database: Handle,
    before_write: Option<CheckFn>,
}

impl Index {
    /// Opens or creates the database with all its tables.
    pub(super) fn open(path: &Path, before_write: Option<CheckFn>) -> Result<Index> {
        let database = Handle::open(path)?;
        let transaction = database.begin_write()?;
        tables::create(&transaction)?;
        transaction.commit()?;
        Ok(Index { database, before_write })
    }

    /// Closes the database; whoever asks from now on gets [`IndexError::Closed`].
    pub(super) fn close(&self) {
        self.database.close();
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction> {
        self.database.begin_read()
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction> {
        self.database.begin_write()
    }

    /// Where the log begins: what stood below was cleaned.
    pub(super) fn first(&self) -> Result<u64> {
        tables::first(&self.database.begin_read()?)
    }

    /// How far the log is in the index, and the epoch then; 0 if nothing is.
    pub(super) fn applied(&self) -> Result<(u64, u64)> {
        tables::applied(&self.database.begin_read()?)
    }

    pub(super) fn user(&self, user: &UserId) -> Result<Option<UserRow>> {
        let table = self.database.begin_read()?.open_table(USERS)?;
        table.get(user.as_str())?.map(|row| unpack(row.value())).transpose()
    }

    pub(super) fn conversation(&self, conversation: &ConversationId) -> Result<Option<ConversationRow>> {
        let table = self.database.begin_read()?.open_table(CONVERSATIONS)?;
        table.get(conversation.as_str())?.map(|row| unpack(row.value())).transpose()
    }

    /// At most `limit` conversations of a user, behind `after`, in order.
    pub(super) fn memberships(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>> {
        let table = self.database.begin_read()?.open_table(MEMBERSHIPS)?;
        let after = (user.as_str(), after.map_or("", ConversationId::as_str));
        let mut found = Vec::new();
        for row in table.range::<(&str, &str)>((Bound::Excluded(after), Bound::Unbounded))? {
            let (key, _) = row?;
            let (of, conversation) = key.value();
            if of != user.as_str() || found.len() >= limit {
                break;
            }
            found.push(ConversationId::new(conversation).map_err(|_| IndexError::Damaged)?);
        }
        Ok(found)
    }

    /// The newest messages of a conversation with `from <= seq < before`, newest first: sequence and position. At most `limit`.
    pub(super) fn history(
        &self,
        conversation: &ConversationId,
        from: u64,
        before: u64,
        limit: usize,
    ) -> Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        let (name, Some(last)) = (conversation.as_str(), before.checked_sub(1)) else { return Ok(found) };
        if from > last {
            return Ok(found);
        }
        let table = self.database.begin_read()?.open_table(HISTORY)?;
        // Of the blocks that end at `last` or later only the first can reach below it.
        let reaching = table.range((name, last)..=(name, u64::MAX))?.next();
        for block in reaching.into_iter().chain(table.range((name, from)..(name, last))?.rev()) {
            let (_, block) = block?;
            let mut messages: Vec<_> = unpack::<ResultBlock>(block.value())?.results().collect();
            messages.retain(|(seq, _)| (from..before).contains(seq));
            found.extend(messages.into_iter().rev());
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// At most `limit` conversations that refer to the media, behind `after`, in order, each with its newest message that does.
    pub(super) fn references(
        &self,
        media: MediaId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<(ConversationId, u64)>> {
        let table = self.database.begin_read()?.open_table(REFERENCES)?;
        let after = (media.as_u128(), after.map_or("", ConversationId::as_str));
        let mut found = Vec::new();
        for row in table.range::<(u128, &str)>((Bound::Excluded(after), Bound::Unbounded))? {
            let (key, seq) = row?;
            let (of, conversation) = key.value();
            if of != media.as_u128() || found.len() >= limit {
                break;
            }
            found.push((ConversationId::new(conversation).map_err(|_| IndexError::Damaged)?, seq.value()));
        }
        Ok(found)
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
        self.before_write.as_ref().map_or(Ok(()), |check| check())?;
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
                for block in versions.chunks(BLOCK) {
                    timelines
                        .insert((user.as_str(), block[block.len() - 1]), pack(&VersionBlock::of(block)).as_slice())?;
                }
            }
            for (user, up_to) in &changes.dropped {
                timelines.retain_in((user.as_str(), 0)..=(user.as_str(), *up_to), |_, _| false)?;
            }
            let mut moved = transaction.open_table(MOVED)?;
            for (version, position) in &changes.moved {
                moved.insert(version, position)?;
            }
            let mut references = transaction.open_table(REFERENCES)?;
            for (media, conversation, seq) in &changes.references {
                references.insert((media.as_u128(), conversation.as_str()), seq)?;
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
            write_members(&transaction, changes)?;
            tables::set_applied(&transaction, changes.applied, changes.epoch)?;
        }
        transaction.commit()?;
        Ok(raised)
    }
}

/// Writes what was said where, and who is there.
fn write_members(transaction: &redb::WriteTransaction, changes: &Changes) -> Result<()> {
    let mut history = transaction.open_table(HISTORY)?;
    for (conversation, messages) in &changes.history {
        for block in messages.chunks(BLOCK) {
            let (last, _) = block[block.len() - 1];
            history.insert((conversation.as_str(), last), pack(&ResultBlock::of(block)).as_slice())?;
        }
    }
    let mut memberships = transaction.open_table(MEMBERSHIPS)?;
    for (user, conversation, is_member) in &changes.memberships {
        let key = (user.as_str(), conversation.as_str());
        if *is_member {
            memberships.insert(key, ())?;
        } else {
            memberships.remove(key)?;
        }
    }
    Ok(())
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
    let mut brought = changes.late_results.len();
    for (device, new) in &changes.results {
        let (user, name) = (device.user.as_str(), device.id.as_str());
        for block in new.chunks(BLOCK) {
            let (last, _) = block[block.len() - 1];
            results.insert((user, name, last), pack(&ResultBlock::of(block)).as_slice())?;
            expiry.insert((changes.now_ms, user, name, last, false), ())?;
            brought += 1;
        }
    }
    for (device, id, position) in &changes.late_results {
        let (user, name) = (device.user.as_str(), device.id.as_str());
        late_results.insert((user, name, *id), pack(&LateRow { position: *position }).as_slice())?;
        expiry.insert((changes.now_ms, user, name, *id, true), ())?;
    }
    let step = EXPIRE_STEP.max(2 * brought);
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
