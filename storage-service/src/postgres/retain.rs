//! Retention: which entries leave the timelines, and which messages the tables.
//!
//! One replica at a time walks over the users (a lease says who, and how far it has come): who has too much loses the oldest entries, and everybody those that are old and
//! that every live device has acknowledged. A message that stands in no timeline any more goes once its result need not be kept; the floor of its sender rises
//! in the same transaction, so that a late resend is told that it is too old.

use std::sync::Arc;
use std::time::Duration;

use tern_postgres::Failure;
use tern_proto::key::Version;
use tern_proto::v1;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::connection::Connection;
use super::options::Options;
use super::transaction::version;
use crate::Retained;

/// Users that are looked at in one go.
const USERS: i64 = 500;
/// How often in one call: it bounds what the database is asked for.
const LOOKS: usize = 40;
/// Entries that one transaction drops.
const ENTRIES: i64 = 1000;
/// Messages that one transaction deletes, and how often in one call.
const MESSAGES: i64 = 1000;
const SWEEPS: usize = 20;
/// Where a user who had too much is left, in percent of the cap: a little below, so that not every message drops one.
const KEPT_PERCENT: u64 = 95;

const LEASE: &str = "INSERT INTO leases AS l (name, holder, token, expires, position)
    VALUES ('retention', $1, 1, now() + interval '60 seconds', '')
    ON CONFLICT (name) DO UPDATE SET holder = $1, token = l.token + 1, expires = excluded.expires
    WHERE l.holder = $1 OR l.expires < now() RETURNING token, position";
const COME_TO: &str = "UPDATE leases SET position = $3, expires = now() + interval '60 seconds'
    WHERE name = 'retention' AND holder = $1 AND token = $2";
const LOOK: &str = "SELECT h.user_id, h.entries, h.bytes, (
        SELECT m.time_ms FROM timeline t JOIN messages m ON m.conversation = t.conversation AND m.seq = t.seq
        WHERE t.user_id = h.user_id ORDER BY t.version LIMIT 1)
    FROM heads h WHERE h.class = 1 AND h.user_id > $1 ORDER BY h.user_id LIMIT $2";
const CURSORS: &str = "SELECT acked_messages, derived, heard_ms FROM cursors WHERE user_id = $1";
const HEAD: &str = "SELECT entries, bytes, gap_reason FROM heads WHERE user_id = $1 AND class = 1 FOR UPDATE";
const OLDEST: &str = "SELECT t.version, t.conversation, t.seq, t.bytes::int8, m.time_ms
    FROM timeline t LEFT JOIN messages m ON m.conversation = t.conversation AND m.seq = t.seq
    WHERE t.user_id = $1 ORDER BY t.version LIMIT $2";
const DROP: &str = "DELETE FROM timeline WHERE user_id = $1 AND version <= $2";
const RELEASE: &str = "UPDATE messages m SET refs = refs - 1
    FROM unnest($1::text[], $2::int8[]) AS a (conversation, seq)
    WHERE m.conversation = a.conversation AND m.seq = a.seq";
const SETTLE: &str = "UPDATE heads SET entries = entries - $2, bytes = bytes - $3, gap_up_to = $4,
    gap_count = gap_count + $2, gap_reason = $5 WHERE user_id = $1 AND class = 1";
const DERIVE: &str = "UPDATE cursors SET derived = $2 WHERE user_id = $1 AND derived < $2";
const MARKED: &str = "SELECT user_id FROM underived u WHERE NOT EXISTS (
        SELECT 1 FROM cursors c WHERE c.user_id = u.user_id AND c.acked_messages > c.derived)
    ORDER BY user_id LIMIT $1";
const LOCK_MARKED: &str = "SELECT 1 FROM cursors WHERE user_id = ANY($1) ORDER BY user_id, device_id FOR UPDATE";
const UNMARK: &str = "DELETE FROM underived u WHERE u.user_id = ANY($1) AND NOT EXISTS (
    SELECT 1 FROM cursors c WHERE c.user_id = u.user_id AND c.acked_messages > c.derived)";
const UNREFERENCED: &str = "SELECT user_id, device_id, client_msg_id, conversation, seq, octet_length(body)::int8
    FROM messages WHERE refs = 0 AND time_ms < $1 ORDER BY time_ms LIMIT $2";
const REFUSED: &str = "SELECT user_id, device_id, client_msg_id FROM refusals WHERE time_ms < $1
    ORDER BY time_ms LIMIT $2";
const RAISE_FLOORS: &str = "INSERT INTO senders AS s (user_id, device_id, floor, highest, highest_before)
    SELECT user_id, device_id, max(id), max(id), max(id)
    FROM unnest($1::text[], $2::text[], $3::int8[]) AS a (user_id, device_id, id)
    GROUP BY user_id, device_id ORDER BY user_id COLLATE \"C\", device_id COLLATE \"C\"
    ON CONFLICT (user_id, device_id) DO UPDATE SET floor = GREATEST(s.floor, excluded.floor)";
const DELETE_MESSAGES: &str = "DELETE FROM messages m USING unnest($1::text[], $2::int8[]) AS a (conversation, seq)
    WHERE m.conversation = a.conversation AND m.seq = a.seq AND m.refs = 0";
const DELETE_REFUSALS: &str = "DELETE FROM refusals r
    USING unnest($1::text[], $2::text[], $3::int8[]) AS a (user_id, device_id, id)
    WHERE r.user_id = a.user_id AND r.device_id = a.device_id AND r.client_msg_id = a.id";

/// Runs the passes of this replica.
pub(super) struct Retention {
    options: Arc<Options>,
    connection: Option<Connection>,
    /// Names this replica to the others.
    holder: i64,
}

/// The rules, in the terms of one pass.
struct Rules {
    /// What is younger stays.
    old_ms: i64,
    /// A device that was not heard since holds nothing back.
    silent_ms: i64,
    /// Results older than this are forgotten.
    forgotten_ms: i64,
    max_entries: u64,
    max_bytes: u64,
}

impl Rules {
    fn of(options: &Options, now_ms: i64) -> Rules {
        let before = |time: Duration| now_ms.saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        Rules {
            old_ms: before(options.history.max(options.keep_results)),
            silent_ms: before(options.device_silence),
            forgotten_ms: before(options.keep_results),
            max_entries: options.max_entries,
            max_bytes: options.max_bytes,
        }
    }

    fn is_over(&self, entries: u64, bytes: u64) -> bool {
        entries > self.max_entries || bytes > self.max_bytes
    }
}

impl Retention {
    pub(super) fn new(options: Arc<Options>) -> Retention {
        Retention { options, connection: None, holder: fastrand::i64(1..) }
    }

    /// One pass, or as much of it as one call does; nothing while another replica is at it.
    pub(super) async fn run(&mut self, now_ms: i64) -> Result<Retained, Failure> {
        let rules = Rules::of(&self.options, now_ms);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.options).await?,
        };
        let retained = pass(&mut connection.client, self.holder, &rules).await;
        if retained.as_ref().err().is_none_or(Failure::leaves_the_connection) {
            self.connection = Some(connection);
        }
        retained
    }
}

async fn pass(client: &mut Client, holder: i64, rules: &Rules) -> Result<Retained, Failure> {
    let Some(lease) = client.query_opt(LEASE, &[&holder]).await? else { return Ok(Retained::default()) };
    let (token, mut position): (i64, String) = (lease.get(0), lease.get(1));
    let mut retained = Retained::default();
    for _ in 0..LOOKS {
        let users = client.query(LOOK, &[&position, &USERS]).await?;
        for row in &users {
            let user: &str = row.get(0);
            let is_old = row.get::<_, Option<i64>>(3).is_some_and(|time_ms| time_ms <= rules.old_ms);
            if is_old || rules.is_over(version(row, 1), version(row, 2)) {
                retained.dropped += drop_oldest(client, user, rules).await?;
            }
            position = user.to_owned();
        }
        let is_last = users.len() < USERS as usize;
        if is_last {
            position.clear();
        }
        if client.execute(COME_TO, &[&holder, &token, &position]).await? == 0 || is_last {
            break;
        }
    }
    unmark(client).await?;
    for _ in 0..SWEEPS {
        let freed = delete_unreferenced(client, rules).await?;
        retained.freed += freed;
        if freed == 0 {
            break;
        }
    }
    Ok(retained)
}

/// Takes the marks of users away who have no device that is behind. Under the locks of their cursors, so that none is set in between.
async fn unmark(client: &mut Client) -> Result<(), Failure> {
    let transaction = client.transaction().await?;
    let marked = transaction.query(MARKED, &[&USERS]).await?;
    let users: Vec<&str> = marked.iter().map(|row| row.get(0)).collect();
    transaction.query(LOCK_MARKED, &[&users]).await?;
    transaction.execute(UNMARK, &[&users]).await?;
    transaction.commit().await?;
    Ok(())
}

/// Drops what may go of one user's messages.
async fn drop_oldest(client: &mut Client, user: &str, rules: &Rules) -> Result<u64, Failure> {
    let mut all = 0;
    loop {
        let dropped = drop_some(client, user, rules).await?;
        all += dropped;
        if dropped < ENTRIES as u64 {
            return Ok(all);
        }
    }
}

/// One transaction. The devices are locked first, then the head; a device that comes locks the head too, so those that are read then are all.
async fn drop_some(client: &mut Client, user: &str, rules: &Rules) -> Result<u64, Failure> {
    let transaction = client.transaction().await?;
    transaction.query(&format!("{CURSORS} ORDER BY device_id FOR UPDATE"), &[&user]).await?;
    let Some(head) = transaction.query_opt(HEAD, &[&user]).await? else { return Ok(0) };
    let cursors = transaction.query(CURSORS, &[&user]).await?;
    let oldest = transaction.query(OLDEST, &[&user, &ENTRIES]).await?;

    let over = over(rules, (version(&head, 0), version(&head, 1)), &oldest);
    let settled = settled(rules, &cursors, &oldest[over..]);
    let gone = &oldest[..over + settled];
    let Some(last) = gone.last() else { return Ok(0) };
    let by_cap = over > 0 || i32::from(head.get::<_, i16>(2)) == v1::HoleReason::Cap as i32;
    let reason = if by_cap { v1::HoleReason::Cap } else { v1::HoleReason::Window };
    let (up_to, count): (i64, i64) = (last.get(0), gone.len() as i64);
    let bytes: i64 = gone.iter().map(|row| row.get::<_, i64>(3)).sum();
    let mut messages: Vec<(&str, i64)> = gone.iter().map(|row| (row.get(1), row.get(2))).collect();
    messages.sort_unstable();
    let (conversations, seqs): (Vec<&str>, Vec<i64>) = messages.into_iter().unzip();
    let steps: [(&str, &[&(dyn ToSql + Sync)]); 4] = [
        (DROP, &[&user, &up_to]),
        (RELEASE, &[&conversations, &seqs]),
        (SETTLE, &[&user, &count, &bytes, &up_to, &(reason as i16)]),
        (DERIVE, &[&user, &up_to]),
    ];
    for (statement, values) in steps {
        transaction.execute(statement, values).await?;
    }
    transaction.commit().await?;
    Ok(count.cast_unsigned())
}

/// How many of the oldest are too many.
fn over(rules: &Rules, (mut entries, mut bytes): (u64, u64), oldest: &[Row]) -> usize {
    let left = |max: u64| max / 100 * KEPT_PERCENT + max % 100 * KEPT_PERCENT / 100;
    let (too_many, too_long) = (entries > rules.max_entries, bytes > rules.max_bytes);
    let is_excess = |row: &&Row| {
        let excess = too_many && entries > left(rules.max_entries) || too_long && bytes > left(rules.max_bytes);
        (entries, bytes) = (entries.saturating_sub(1), bytes.saturating_sub(version(row, 3)));
        excess
    };
    oldest.iter().take_while(is_excess).count()
}

/// How many of the oldest are old and owed to nobody. What is acknowledged but not yet derived counts as owed. A message that is not there any more is old.
fn settled(rules: &Rules, cursors: &[Row], oldest: &[Row]) -> usize {
    let live = cursors.iter().filter(|row| row.get::<_, i64>(2) >= rules.silent_ms);
    let up_to: Version = live.map(|row| version(row, 0).min(version(row, 1))).min().unwrap_or(Version::MAX);
    let is_old = |row: &Row| row.get::<_, Option<i64>>(4).is_none_or(|time_ms| time_ms <= rules.old_ms);
    oldest.iter().take_while(|row| version(row, 0) <= up_to && is_old(row)).count()
}

/// Deletes messages and refusals whose results need not be known any more. Gives how many bytes that were, about.
async fn delete_unreferenced(client: &mut Client, rules: &Rules) -> Result<u64, Failure> {
    let transaction = client.transaction().await?;
    let messages = transaction.query(UNREFERENCED, &[&rules.forgotten_ms, &MESSAGES]).await?;
    let refusals = transaction.query(REFUSED, &[&rules.forgotten_ms, &MESSAGES]).await?;
    if messages.is_empty() && refusals.is_empty() {
        return Ok(0);
    }
    let all = || messages.iter().chain(&refusals);
    let names = |column: usize| all().map(|row| row.get::<_, &str>(column)).collect::<Vec<_>>();
    let ids: Vec<i64> = all().map(|row| row.get(2)).collect();
    transaction.execute(RAISE_FLOORS, &[&names(0), &names(1), &ids]).await?;
    let conversations: Vec<&str> = messages.iter().map(|row| row.get(3)).collect();
    let seqs: Vec<i64> = messages.iter().map(|row| row.get(4)).collect();
    transaction.execute(DELETE_MESSAGES, &[&conversations, &seqs]).await?;
    let of_refusals = |column: usize| refusals.iter().map(|row| row.get::<_, &str>(column)).collect::<Vec<_>>();
    let refused: Vec<i64> = refusals.iter().map(|row| row.get(2)).collect();
    transaction.execute(DELETE_REFUSALS, &[&of_refusals(0), &of_refusals(1), &refused]).await?;
    transaction.commit().await?;
    let bytes: u64 = messages.iter().map(|row| version(row, 5)).sum();
    Ok(bytes + 100 * (messages.len() + refusals.len()) as u64)
}
