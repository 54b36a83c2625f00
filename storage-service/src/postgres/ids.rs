//! Message ids, a block at a time: they are unique, and nothing else is asked of them.

use std::ops::Range;

use tern_postgres::Failure;

use super::connection::Connection;

/// How many the sequence in the schema steps by.
const BLOCK: u64 = 65_536;

/// What is left of a block.
#[derive(Default)]
pub(super) struct Ids(Range<u64>);

impl Ids {
    /// Takes some. Those that are not used are given back, or lost.
    pub(super) async fn take(&mut self, connection: &Connection, count: usize) -> Result<Range<u64>, Failure> {
        let count = count as u64;
        if self.0.end - self.0.start < count {
            let next = connection.client.query_one(&connection.statements.next_ids, &[]).await?;
            let first = next.get::<_, i64>(0).cast_unsigned();
            self.0 = first..first + BLOCK;
        }
        let taken = self.0.start..self.0.start + count;
        self.0.start = taken.end;
        Ok(taken)
    }

    /// Gives back the rest of what was taken last.
    pub(super) fn give_back(&mut self, rest: Range<u64>) {
        if rest.end == self.0.start {
            self.0.start = rest.start;
        }
    }
}
