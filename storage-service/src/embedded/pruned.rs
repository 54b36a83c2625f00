//! The index from retention's side: who has too much, who has what is old, and what is to be forgotten.

use redb::{ReadableTable, WriteTransaction};
use tern_proto::UserId;

use super::index::Index;
use super::rows::{ResultBlock, UserRow, VersionBlock, unpack};
use super::tables::{self, HISTORY, IndexError, MOVED, Result, TIMELINES, USERS};

/// Blocks that one transaction looks at, so that no checkpoint waits long.
const STEP: usize = 4096;
/// The smallest name behind a name is the name and this.
const BEHIND: &str = "\0";

impl Index {
    /// Where the copy of a version stands, if it was moved.
    pub(super) fn moved(&self, version: u64) -> Result<Option<u64>> {
        Ok(self.begin_read()?.open_table(MOVED)?.get(version)?.map(|position| position.value()))
    }

    /// Of `limit` users, from the name `from` on, those that `wanted` picks; and where to go on, unless there are no more.
    pub(super) fn users_where(
        &self,
        from: &str,
        limit: usize,
        wanted: impl Fn(&UserRow) -> bool,
    ) -> Result<(Vec<UserId>, Option<String>)> {
        let table = self.begin_read()?.open_table(USERS)?;
        let mut found = Vec::new();
        for (count, row) in table.range(from..)?.enumerate() {
            let (name, row) = row?;
            if count == limit {
                return Ok((found, Some(name.value().to_owned())));
            }
            if wanted(&unpack(row.value())?) {
                found.push(user(name.value())?);
            }
        }
        Ok((found, None))
    }

    /// Of `limit` users, from the name `from` on, those whose timelines have entries below `boundary`; and where to go on, unless there are no more.
    pub(super) fn users_below(&self, from: &str, boundary: u64, limit: usize) -> Result<(Vec<UserId>, Option<String>)> {
        let table = self.begin_read()?.open_table(TIMELINES)?;
        let (mut found, mut from) = (Vec::new(), from.to_owned());
        for _ in 0..limit {
            let Some(row) = table.range((from.as_str(), 0)..)?.next() else { return Ok((found, None)) };
            let (key, block) = row?;
            let (name, _) = key.value();
            let oldest = unpack::<VersionBlock>(block.value())?.versions().next();
            if oldest.is_some_and(|oldest| oldest < boundary) {
                found.push(user(name)?);
            }
            from = format!("{name}{BEHIND}");
        }
        Ok((found, Some(from)))
    }

    /// Forgets history below `boundary`, and copies that stand there: all that is still owed stands above.
    pub(super) fn forget_below(&self, boundary: u64) -> Result<()> {
        let mut next = Some((String::new(), 0));
        while let Some(from) = next {
            let transaction = self.begin_write()?;
            next = forget_history(&transaction, from, boundary)?;
            transaction.commit()?;
        }
        let transaction = self.begin_write()?;
        transaction.open_table(MOVED)?.retain(|_, position| position >= boundary)?;
        Ok(transaction.commit()?)
    }

    /// Notes, on disk, where the log begins.
    pub(super) fn record_first(&self, first: u64) -> Result<()> {
        let transaction = self.begin_write()?;
        tables::set_first(&transaction, first)?;
        Ok(transaction.commit()?)
    }
}

/// Forgets the blocks wholly below `boundary`, looking at some from the key `from` on; and says where to go on, unless there are no more.
fn forget_history(
    transaction: &WriteTransaction,
    mut from: (String, u64),
    boundary: u64,
) -> Result<Option<(String, u64)>> {
    let mut table = transaction.open_table(HISTORY)?;
    for _ in 0..STEP {
        let Some(row) = table.range((from.0.as_str(), from.1)..)?.next() else { return Ok(None) };
        let (conversation, last, newest) = {
            let (key, block) = row?;
            let (conversation, last) = key.value();
            let newest = unpack::<ResultBlock>(block.value())?.results().last();
            (conversation.to_owned(), last, newest.map_or(0, |(_, position)| position))
        };
        from = if newest < boundary {
            table.remove((conversation.as_str(), last))?;
            (conversation, last + 1)
        } else {
            (conversation + BEHIND, 0)
        };
    }
    Ok(Some(from))
}

fn user(name: &str) -> Result<UserId> {
    UserId::new(name).map_err(|_| IndexError::Damaged)
}
