//! What is read beside pages: where devices stand, conversations, history.

use prost::Message as _;
use tern_postgres::Failure;
use tern_proto::key::CLASSES;
use tern_proto::{ConversationId, v1};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::connection::Connection;
use super::numbers::from_ordered;
use super::reader::{Answer, Look};
use super::transaction::{conversation_id, device, member, names, title, user, version};
use crate::room::Room;
use crate::{Conversation, Device, DeviceState, History, HistoryRequest, Listed, Member, Unavailable};

/// The answer to a look that has a statement of its own.
pub(super) enum Other {
    Underived(Vec<Device>),
    Conversations(Vec<Listed>),
    Conversation(Option<Conversation>),
    History(History),
    References(Vec<(ConversationId, u64)>),
    Ready,
}

pub(super) async fn device_rows(
    connection: &Connection,
    asked: &[(Device, Answer<DeviceState>)],
) -> Result<Vec<Row>, Error> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let (users, devices) = names(asked.iter().map(|(device, _)| device));
    connection.client.query(&connection.statements.devices, &[&users, &devices]).await
}

/// Where each of the devices stands.
pub(super) fn devices(
    epoch: u64,
    asked: &[(Device, Answer<DeviceState>)],
    rows: &[Row],
) -> Result<Vec<DeviceState>, Failure> {
    let nowhere = DeviceState {
        epoch,
        heads: [0; CLASSES],
        known: false,
        acked: [0; CLASSES],
        derived: 0,
        foreign: 0,
        heard_ms: 0,
    };
    let mut states = vec![nowhere; asked.len()];
    let or_0 = |row: &Row, column| row.get::<_, Option<i64>>(column).unwrap_or(0).cast_unsigned();
    for row in rows {
        let state = states.get_mut(place(row)?).ok_or(Failure::Damaged("a place"))?;
        state.heads = [or_0(row, 1), or_0(row, 3)];
        state.foreign = or_0(row, 2);
        state.known = row.get::<_, Option<i64>>(7).is_some();
        state.acked = [or_0(row, 4), or_0(row, 5)];
        state.derived = or_0(row, 6);
        state.heard_ms = row.get::<_, Option<i64>>(7).unwrap_or(0);
    }
    Ok(states)
}

pub(super) async fn highest_ids(connection: &Connection, asked: &[(Device, Answer<u64>)]) -> Result<Vec<u64>, Failure> {
    let mut highest = vec![0; asked.len()];
    if asked.is_empty() {
        return Ok(highest);
    }
    let (users, devices) = names(asked.iter().map(|(device, _)| device));
    for row in connection.client.query(&connection.statements.highest_ids, &[&users, &devices]).await? {
        *highest.get_mut(place(&row)?).ok_or(Failure::Damaged("a place"))? = from_ordered(row.get(1));
    }
    Ok(highest)
}

/// The place in the arrays of a request, which the database counts from 1.
pub(super) fn place(row: &Row) -> Result<usize, Failure> {
    usize::try_from(row.get::<_, i64>(0) - 1).map_err(|_| Failure::Damaged("a place"))
}

pub(super) async fn other(connection: &Connection, look: &Look) -> Result<Other, Failure> {
    let Connection { client, statements, .. } = connection;
    match look {
        Look::Underived(after, limit, _) => {
            let after = after.as_ref().map(|device| (device.user.as_str(), device.id.as_str())).unwrap_or_default();
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            let rows = client.query(&statements.underived, &[&after.0, &after.1, &limit]).await?;
            let devices = rows.iter().map(|row| device(row.get(0), row.get(1)));
            Ok(Other::Underived(devices.collect::<Result<_, _>>()?))
        }
        Look::Conversations(user, after, limit, _) => {
            let after = after.as_ref().map_or("", |after| after.as_str());
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            let rows = client.query(&statements.conversations, &[&user.as_str(), &after, &limit]).await?;
            let listed = |row: &Row| {
                Ok(Listed {
                    id: conversation_id(row.get(0))?,
                    title: title(row.get(1))?,
                    seq: version(row, 2),
                    time_ms: row.get(3),
                    members: version(row, 4) as usize,
                    member: Member {
                        user: user.clone(),
                        joined: version(row, 5),
                        last_sent: version(row, 6),
                        delivered: version(row, 7),
                        read: version(row, 8),
                    },
                })
            };
            Ok(Other::Conversations(rows.iter().map(listed).collect::<Result<_, Failure>>()?))
        }
        Look::Conversation(id, _) => {
            let names = vec![id.as_str()];
            let (row, members) =
                tokio::join!(async { client.query_opt(&statements.conversation, &[&id.as_str()]).await }, async {
                    client.query(&statements.members, &[&names]).await
                },);
            let (row, rows) = (row?, members?);
            let members = rows.iter().map(|row| member(row, 1)).collect::<Result<Vec<_>, _>>()?;
            let Some(row) = row else {
                let of_two = id.pair().map(crate::conversation::Conversation::of_two);
                return Ok(Other::Conversation(of_two.map(|of_two| of_two.state)));
            };
            Ok(Other::Conversation(Some(Conversation {
                seq: version(&row, 0),
                time_ms: row.get(1),
                title: title(row.get(2))?,
                owner: row.get::<_, Option<&str>>(3).map(user).transpose()?,
                members,
            })))
        }
        Look::History(request, _) => history(connection, request).await.map(Other::History),
        Look::References(media, reader, after, limit, _) => {
            let media = media.as_u128().to_be_bytes();
            let after = after.as_ref().map_or("", |after| after.as_str());
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            let rows = match reader {
                None => client.query(&statements.references, &[&&media[..], &after, &limit]).await?,
                Some(reader) => {
                    let asked: [&(dyn ToSql + Sync); 4] = [&&media[..], &after, &limit, &reader.as_str()];
                    client.query(&statements.references_for, &asked).await?
                }
            };
            let reference = |row: &Row| Ok((conversation_id(row.get(0))?, version(row, 1)));
            Ok(Other::References(rows.iter().map(reference).collect::<Result<_, Failure>>()?))
        }
        Look::Page(..) | Look::Device(..) | Look::HighestId(..) | Look::Ready(_) => Ok(Other::Ready),
    }
}

async fn history(connection: &Connection, request: &HistoryRequest) -> Result<History, Failure> {
    let Connection { client, statements, .. } = connection;
    let signed = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
    let limit = signed(request.max_entries.max(1) as u64).saturating_add(1);
    let conversation = request.conversation.as_str();
    let rows = client
        .query(&statements.history, &[&conversation, &signed(request.from), &signed(request.before), &limit])
        .await?;
    let mut room = Room::new(request.max_entries, request.max_bytes);
    let mut history = History::default();
    for row in &rows {
        let message = v1::Message {
            from: row.get::<_, &str>(2).to_owned(),
            conversation: conversation.to_owned(),
            seq: version(row, 0),
            server_msg_id: version(row, 1),
            client_msg_id: from_ordered(row.get(3)),
            // What is damaged has no text.
            text: String::from_utf8(row.get(5)).unwrap_or_default(),
            time_ms: row.get(4),
            change: change(row.get(6))?,
            media: media(row.get(7))?,
        };
        if !room.take(&message) {
            history.more = true;
            break;
        }
        history.messages.push(message);
    }
    history.messages.reverse();
    Ok(history)
}

/// The change to a group that a message makes.
pub(super) fn change(bytes: Option<&[u8]>) -> Result<Option<v1::GroupChange>, Failure> {
    bytes.map(v1::GroupChange::decode).transpose().map_err(|_| Failure::Damaged("a change"))
}

/// What a message is about.
pub(super) fn media(bytes: Option<&[u8]>) -> Result<Option<v1::Media>, Failure> {
    bytes.map(v1::Media::decode).transpose().map_err(|_| Failure::Damaged("what a message is about"))
}

pub(super) fn tell(look: Look, answer: Other) {
    match (look, answer) {
        (Look::Underived(.., to), Other::Underived(devices)) => drop(to.send(Ok(devices))),
        (Look::Conversations(.., to), Other::Conversations(listed)) => drop(to.send(Ok(listed))),
        (Look::Conversation(_, to), Other::Conversation(conversation)) => drop(to.send(Ok(conversation))),
        (Look::History(_, to), Other::History(history)) => drop(to.send(Ok(history))),
        (Look::References(.., to), Other::References(references)) => drop(to.send(Ok(references))),
        (Look::Ready(to), _) => drop(to.send(Ok(()))),
        // Each look makes its own kind of answer; a caller that gets none is told that the store is closed.
        _ => {}
    }
}

pub(super) fn refuse(look: Look, why: &Unavailable) {
    let why = why.clone();
    match look {
        Look::Page(_, to) => drop(to.send(Err(why))),
        Look::Device(_, to) => drop(to.send(Err(why))),
        Look::HighestId(_, to) => drop(to.send(Err(why))),
        Look::Underived(.., to) => drop(to.send(Err(why))),
        Look::Conversations(.., to) => drop(to.send(Err(why))),
        Look::Conversation(_, to) => drop(to.send(Err(why))),
        Look::History(_, to) => drop(to.send(Err(why))),
        Look::References(.., to) => drop(to.send(Err(why))),
        Look::Ready(to) => drop(to.send(Err(why))),
    }
}
