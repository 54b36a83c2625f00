//! The last flight of a transaction: every new row, and the commit.

use std::collections::BTreeMap;

use tern_postgres::Failure;
use tern_proto::key::Class;
use tern_proto::{ConversationId, MediaId, UserId};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use super::connection::Connection;
use super::effects::{Effects, NewEntry, NewMessage, NewReceipt, NewRefusal, ReceiptKey};
use super::known::{Cursor, Known, Loaded};
use super::numbers::ordered;
use super::transaction::{Bases, names};
use crate::{Device, Member};

/// Columns of a statement, owned: one vector per column.
type Columns<'a> = Vec<Box<dyn ToSql + Sync + Send + 'a>>;

/// Writes all of it and commits. One flight: that a statement before the commit has failed makes the commit a rollback.
pub(super) async fn everything(
    connection: &Connection,
    known: &Known,
    effects: Effects,
    bases: &Bases,
) -> Result<(), Failure> {
    let Connection { client, statements, .. } = connection;
    let changed: Vec<(&ConversationId, &Loaded)> =
        known.conversations.iter().filter(|(_, loaded)| loaded.changed).collect();
    let members = Members::of(&changed);
    let cursors =
        |device: &Device| known.cursors.get(&device.user).and_then(|cursors| cursors.get(&device.id)).copied();
    let moved: Vec<(&Device, Cursor)> =
        effects.cursors.iter().filter_map(|device| Some((device, cursors(device)?))).collect();

    let mut behind: Vec<&str> =
        moved.iter().filter(|(_, cursor)| cursor.is_behind()).map(|(device, _)| device.user.as_str()).collect();
    behind.dedup();
    let none_is_behind = behind.is_empty();

    let steps: [(&Statement, Columns<'_>, bool); 12] = [
        (&statements.delete_cursors, devices(effects.gone.iter()), effects.gone.is_empty()),
        (&statements.insert_messages, messages(&effects.messages), effects.messages.is_empty()),
        (&statements.upsert_references, references(&effects.references), effects.references.is_empty()),
        (&statements.insert_refusals, refusals(&effects.refusals), effects.refusals.is_empty()),
        (&statements.insert_timeline, timeline(&effects.entries, bases)?, effects.entries.is_empty()),
        (&statements.upsert_receipts, receipts(&effects.receipts, bases)?, effects.receipts.is_empty()),
        (&statements.upsert_groups, groups(&changed), !changed.iter().any(|(id, _)| id.is_group())),
        (&statements.delete_members, members.left(), members.left.is_empty()),
        (&statements.insert_members, members.joined(), members.joined.is_empty()),
        (&statements.raise_members, members.raised(), members.raised.is_empty()),
        (&statements.upsert_cursors, cursor_columns(&moved), moved.is_empty()),
        (&statements.mark_underived, vec![Box::new(behind)], none_is_behind),
    ];
    let steps = steps.iter().filter(|(.., is_empty)| !is_empty);
    let steps = futures_util::future::join_all(steps.map(|(statement, columns, _)| run(client, statement, columns)));
    // Polled in this order, and so sent in it.
    let (written, committed) = tokio::join!(biased; steps, client.batch_execute("COMMIT"));
    written.into_iter().collect::<Result<(), Error>>()?;
    Ok(committed?)
}

async fn run(client: &Client, statement: &Statement, columns: &Columns<'_>) -> Result<(), Error> {
    let columns: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect();
    client.execute(statement, &columns).await.map(|_| ())
}

/// One column of the rows.
fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Box<dyn ToSql + Sync + Send + 'a>
where
    T: ToSql + Sync + Send + 'a,
{
    Box::new(rows.iter().map(value).collect::<Vec<T>>())
}

fn messages(rows: &[NewMessage]) -> Columns<'_> {
    vec![
        column(rows, |row| row.conversation.as_str()),
        column(rows, |row| row.seq.cast_signed()),
        column(rows, |row| row.server_msg_id.cast_signed()),
        column(rows, |row| row.from.user.as_str()),
        column(rows, |row| row.from.id.as_str()),
        column(rows, |row| ordered(row.client_msg_id)),
        column(rows, |row| row.time_ms),
        column(rows, |row| row.hash.cast_signed()),
        column(rows, |row| row.refs as i16),
        column(rows, |row| row.text.as_bytes()),
        column(rows, |row| row.change.as_ref().map(prost::Message::encode_to_vec)),
        column(rows, |row| row.media.as_ref().map(prost::Message::encode_to_vec)),
    ]
}

fn references(rows: &BTreeMap<(MediaId, ConversationId), u64>) -> Columns<'_> {
    vec![
        Box::new(rows.keys().map(|(media, _)| media.as_u128().to_be_bytes().to_vec()).collect::<Vec<_>>()),
        Box::new(rows.keys().map(|(_, conversation)| conversation.as_str()).collect::<Vec<_>>()),
        Box::new(rows.values().map(|seq| seq.cast_signed()).collect::<Vec<_>>()),
    ]
}

fn refusals(rows: &[NewRefusal]) -> Columns<'_> {
    vec![
        column(rows, |row| row.from.user.as_str()),
        column(rows, |row| row.from.id.as_str()),
        column(rows, |row| ordered(row.client_msg_id)),
        column(rows, |row| row.time_ms),
        column(rows, |row| row.hash.cast_signed()),
        column(rows, |row| i32::from(row.code)),
    ]
}

fn timeline<'a>(rows: &'a [NewEntry], bases: &Bases) -> Result<Columns<'a>, Failure> {
    let mut versions = Vec::with_capacity(rows.len());
    for row in rows {
        versions.push(version(bases, &row.user, Class::Messages, row.place)?);
    }
    Ok(vec![
        column(rows, |row| row.user.as_str()),
        Box::new(versions),
        column(rows, |row| row.conversation.as_str()),
        column(rows, |row| row.seq.cast_signed()),
        column(rows, |row| row.bytes as i32),
    ])
}

fn receipts<'a>(rows: &'a BTreeMap<ReceiptKey, NewReceipt>, bases: &Bases) -> Result<Columns<'a>, Failure> {
    let mut versions = Vec::with_capacity(rows.len());
    for (key, row) in rows {
        versions.push(version(bases, &key.user, Class::Receipts, row.place)?);
    }
    let keys = |value: fn(&ReceiptKey) -> &str| Box::new(rows.keys().map(value).collect::<Vec<_>>());
    Ok(vec![
        keys(|key| key.user.as_str()),
        keys(|key| key.conversation.as_str()),
        keys(|key| key.member.as_str()),
        Box::new(rows.keys().map(|key| key.kind as i16).collect::<Vec<_>>()),
        Box::new(versions),
        Box::new(rows.values().map(|row| row.seq.cast_signed()).collect::<Vec<_>>()),
        Box::new(rows.values().map(|row| row.time_ms).collect::<Vec<_>>()),
    ])
}

fn version(bases: &Bases, user: &UserId, class: Class, place: u64) -> Result<i64, Failure> {
    let base = bases.get(&(user.clone(), class)).ok_or(Failure::Damaged("a head"))?;
    Ok((base + place).cast_signed())
}

fn groups<'a>(changed: &[(&'a ConversationId, &'a Loaded)]) -> Columns<'a> {
    let groups: Vec<_> = changed.iter().filter(|(id, _)| id.is_group()).collect();
    let states = || groups.iter().map(|(_, loaded)| &loaded.conversation.state);
    vec![
        Box::new(groups.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>()),
        Box::new(states().map(|state| state.seq.cast_signed()).collect::<Vec<_>>()),
        Box::new(states().map(|state| state.time_ms).collect::<Vec<_>>()),
        Box::new(states().map(|state| state.title.as_bytes()).collect::<Vec<_>>()),
        Box::new(states().map(|state| state.owner.as_ref().map(UserId::as_str)).collect::<Vec<_>>()),
    ]
}

/// What changes in the table of members.
#[derive(Default)]
struct Members<'a> {
    left: Vec<(&'a ConversationId, &'a Member)>,
    joined: Vec<(&'a ConversationId, &'a Member, i16)>,
    raised: Vec<(&'a ConversationId, &'a Member)>,
}

impl<'a> Members<'a> {
    fn of(changed: &[(&'a ConversationId, &'a Loaded)]) -> Members<'a> {
        let mut members = Members::default();
        for (id, loaded) in changed {
            members.compare(id, loaded);
        }
        members
    }

    /// Who has left and come back is another member than before.
    fn compare(&mut self, id: &'a ConversationId, loaded: &'a Loaded) {
        let now = &loaded.conversation.state.members;
        let stored: &[Member] = if loaded.is_new { &[] } else { &loaded.stored };
        let of = |members: &'a [Member], other: &Member| {
            members.iter().find(|member| member.user == other.user && member.joined == other.joined)
        };
        self.left.extend(stored.iter().filter(|member| of(now, member).is_none()).map(|member| (id, member)));
        let mut places: BTreeMap<u64, i16> = BTreeMap::new();
        for member in now {
            let place = places.entry(member.joined).or_default();
            match of(stored, member) {
                None => self.joined.push((id, member, *place)),
                Some(stored) if stored != member => self.raised.push((id, member)),
                Some(_) => {}
            }
            *place += 1;
        }
    }

    fn left(&self) -> Columns<'a> {
        let rows = &self.left;
        vec![
            Box::new(rows.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>()),
            Box::new(rows.iter().map(|(_, member)| member.user.as_str()).collect::<Vec<_>>()),
        ]
    }

    fn joined(&self) -> Columns<'a> {
        let rows = &self.joined;
        let numbers = |value: fn(&Member) -> u64| {
            Box::new(rows.iter().map(|(_, member, _)| value(member).cast_signed()).collect::<Vec<_>>())
        };
        vec![
            Box::new(rows.iter().map(|(id, ..)| id.as_str()).collect::<Vec<_>>()),
            Box::new(rows.iter().map(|(_, member, _)| member.user.as_str()).collect::<Vec<_>>()),
            numbers(|member| member.joined),
            Box::new(rows.iter().map(|(.., place)| *place).collect::<Vec<_>>()),
            numbers(|member| member.last_sent),
            numbers(|member| member.delivered),
            numbers(|member| member.read),
        ]
    }

    fn raised(&self) -> Columns<'a> {
        let rows = &self.raised;
        let numbers = |value: fn(&Member) -> u64| {
            Box::new(rows.iter().map(|(_, member)| value(member).cast_signed()).collect::<Vec<_>>())
        };
        vec![
            Box::new(rows.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>()),
            Box::new(rows.iter().map(|(_, member)| member.user.as_str()).collect::<Vec<_>>()),
            numbers(|member| member.last_sent),
            numbers(|member| member.delivered),
            numbers(|member| member.read),
        ]
    }
}

fn devices<'a>(devices: impl Iterator<Item = &'a Device>) -> Columns<'a> {
    let (users, devices) = names(devices);
    vec![Box::new(users), Box::new(devices)]
}

fn cursor_columns<'a>(moved: &[(&'a Device, Cursor)]) -> Columns<'a> {
    let mut columns = devices(moved.iter().map(|(device, _)| *device));
    let numbers =
        |value: fn(&Cursor) -> i64| Box::new(moved.iter().map(|(_, cursor)| value(cursor)).collect::<Vec<_>>());
    columns.push(numbers(|cursor| cursor.acked[Class::Messages as usize].cast_signed()));
    columns.push(numbers(|cursor| cursor.acked[Class::Receipts as usize].cast_signed()));
    columns.push(numbers(|cursor| cursor.derived.cast_signed()));
    columns.push(numbers(|cursor| cursor.heard_ms));
    columns
}
