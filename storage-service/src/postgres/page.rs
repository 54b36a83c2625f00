//! Pages of timelines: the rows of all that are asked for at once, and what each makes of its own.

use tern_postgres::Failure;
use tern_proto::key::{Class, Version};
use tern_proto::v1;
use tern_proto::v1::entry::Body;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::connection::Connection;
use super::looks::{change, media, place};
use super::numbers::from_ordered;
use super::reader::Answer;
use super::transaction::{class, names, version};
use crate::room::Room;
use crate::{Page, PageRequest};

/// What the database says about a batch of pages.
pub(super) struct Rows {
    heads: Vec<Row>,
    messages: Vec<Row>,
    receipts: Vec<Row>,
}

/// What retention has dropped of a user's messages.
#[derive(Clone, Copy, Default)]
struct Gap {
    up_to: Version,
    count: u64,
    reason: i32,
}

/// Asks for everything at once, one more entry of each class than fits.
pub(super) async fn rows(connection: &Connection, asked: &[(PageRequest, Answer<Page>)]) -> Result<Rows, Error> {
    let Connection { client, statements, .. } = connection;
    if asked.is_empty() {
        return Ok(Rows { heads: Vec::new(), messages: Vec::new(), receipts: Vec::new() });
    }
    let (users, devices) = names(asked.iter().map(|(request, _)| &request.device));
    let above = |class: Class| -> Vec<Option<i64>> {
        asked.iter().map(|(request, _)| request.above[class as usize].map(u64::cast_signed)).collect()
    };
    let (messages, receipts) = (above(Class::Messages), above(Class::Receipts));
    let most: Vec<i64> =
        asked.iter().map(|(request, _)| at_most(request.max_entries.max(1)).saturating_add(1)).collect();
    let bytes: Vec<i64> = asked.iter().map(|(request, _)| at_most(request.max_bytes)).collect();
    let texts: Vec<bool> = asked.iter().map(|(request, _)| request.texts).collect();
    let (heads, messages, receipts) = tokio::join!(
        biased;
        async { client.query(&statements.page_heads, &[&users]).await },
        async {
            let asked: [&(dyn ToSql + Sync); 6] = [&users, &devices, &messages, &most, &bytes, &texts];
            client.query(&statements.page_messages, &asked).await
        },
        async { client.query(&statements.page_receipts, &[&users, &receipts, &most]).await },
    );
    Ok(Rows { heads: heads?, messages: messages?, receipts: receipts? })
}

fn at_most(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// The pages, from rows that are sorted by page and version.
pub(super) fn build(epoch: u64, asked: &[(PageRequest, Answer<Page>)], rows: Rows) -> Result<Vec<Page>, Failure> {
    let mut pages: Vec<Page> =
        asked.iter().map(|(request, _)| Page { epoch, after: request.above, ..Page::default() }).collect();
    let mut gaps = vec![Gap::default(); asked.len()];
    for row in &rows.heads {
        let place = place(row)?;
        let class = class(row.get(1))?;
        let page = pages.get_mut(place).ok_or(Failure::Damaged("a place"))?;
        page.heads[class as usize] = version(row, 2);
        if class == Class::Messages {
            gaps[place] = Gap { up_to: version(row, 3), count: version(row, 4), reason: row.get::<_, i16>(5).into() };
        }
    }
    let mut messages = of_each(&rows.messages, asked.len())?;
    let mut receipts = of_each(&rows.receipts, asked.len())?;
    for (place, page) in pages.iter_mut().enumerate() {
        let rows = (std::mem::take(&mut messages[place]), std::mem::take(&mut receipts[place]));
        fill(page, &asked[place].0, gaps[place], rows)?;
    }
    Ok(pages)
}

/// The rows of each page.
fn of_each(rows: &[Row], pages: usize) -> Result<Vec<&[Row]>, Failure> {
    let mut each: Vec<&[Row]> = vec![&[]; pages];
    for rows in rows.chunk_by(|a, b| a.get::<_, i64>(0) == b.get::<_, i64>(0)) {
        *each.get_mut(place(&rows[0])?).ok_or(Failure::Damaged("a place"))? = rows;
    }
    Ok(each)
}

fn fill(
    page: &mut Page,
    request: &PageRequest,
    gap: Gap,
    (messages, receipts): (&[Row], &[Row]),
) -> Result<(), Failure> {
    let mut room = Room::new(request.max_entries, request.max_bytes);
    let [above_messages, above_receipts] = request.above;
    if let Some(above) = above_messages {
        let mut last = above.max(gap.up_to);
        if above > 0 && above < gap.up_to {
            let hole = v1::Hole { reason: gap.reason, count: gap.count };
            let hole = entry(Class::Messages, gap.up_to, Body::Hole(hole));
            room.take(&hole);
            page.entries.push(hole);
        }
        for row in messages {
            let entry = entry(Class::Messages, version(row, 1), message(row, request));
            if !room.take(&entry) {
                break;
            }
            last = entry.version;
            page.entries.push(entry);
        }
        page.after[Class::Messages as usize] = Some(last);
    }
    if let Some(above) = above_receipts.filter(|_| room.is_open()) {
        let mut last = above;
        for row in receipts {
            let receipt = v1::Receipt {
                conversation: row.get::<_, &str>(2).to_owned(),
                member: row.get::<_, &str>(3).to_owned(),
                kind: row.get::<_, i16>(4).into(),
                seq: version(row, 5),
                time_ms: row.get(6),
            };
            let entry = entry(Class::Receipts, version(row, 1), Body::Receipt(receipt));
            if !room.take(&entry) {
                break;
            }
            last = entry.version;
            page.entries.push(entry);
        }
        page.after[Class::Receipts as usize] = Some(last);
    }
    page.more = std::array::from_fn(|class| page.after[class].is_some_and(|after| after < page.heads[class]));
    Ok(())
}

fn entry(class: Class, version: Version, body: Body) -> v1::Entry {
    v1::Entry { class: class.number(), version, body: Some(body) }
}

/// What stands at a version for this reader. What cannot be understood is handed out as damaged: it stops nobody's sync.
fn message(row: &Row, request: &PageRequest) -> Body {
    let (conversation, seq) = (row.get::<_, &str>(2).to_owned(), version(row, 3));
    let Some(server_msg_id) = row.get::<_, Option<i64>>(4).map(i64::cast_unsigned) else {
        return Body::Damaged(v1::Damaged { conversation, seq });
    };
    let (from, device): (&str, &str) = (row.get(5), row.get(6));
    let (client_msg_id, time_ms) = (from_ordered(row.get(7)), row.get(8));
    if from == request.device.user.as_str() && device == request.device.id.as_str() {
        return Body::Stub(v1::Stub { client_msg_id, server_msg_id, conversation, seq, time_ms });
    }
    let from = from.to_owned();
    match (String::from_utf8(row.get(9)), change(row.get(10)), media(row.get(11))) {
        (Ok(text), Ok(change), Ok(media)) => Body::Message(v1::Message {
            from,
            conversation,
            seq,
            server_msg_id,
            client_msg_id,
            text,
            time_ms,
            change,
            media,
        }),
        _ => Body::Damaged(v1::Damaged { conversation, seq }),
    }
}
