//! Messages of a conversation: where they stand say the index and the decider, what they say the log.

use tern_proto::v1;

use super::frame::{Found, Want};
use super::lists::Seen;
use super::reader::Reader;
use super::record::Fact;
use super::{Failure, Shared};
use crate::room::Room;
use crate::{History, HistoryRequest};

impl Shared {
    /// Sequence and position of the messages asked for, newest first: at least one more than fits, if there are so many. First those that
    /// the index does not have, so that what enters it in between is seen twice, and not missed.
    pub(super) fn places(&self, request: &HistoryRequest) -> Result<Seen<Vec<(u64, u64)>>, Failure> {
        let HistoryRequest { conversation, before, from, .. } = request;
        let (mut places, noted) = {
            let decider = self.decider();
            (decider.conversations.recent(conversation, *from, *before), decider.noted)
        };
        let wanted = request.max_entries.max(1).saturating_add(1);
        let oldest = places.first().map_or(*before, |&(seq, _)| seq);
        places.reverse();
        places.truncate(wanted);
        if places.len() < wanted {
            let room = wanted - places.len();
            places.extend(self.index.history(conversation, *from, oldest, room)?);
        }
        Ok(Seen { value: places, noted })
    }

    /// What stands at these places, as much as fits, ascending.
    pub(super) fn history(&self, request: &HistoryRequest, places: Vec<(u64, u64)>) -> Result<History, Failure> {
        let mut history = History::default();
        let mut room = Room::new(request.max_entries, request.max_bytes);
        let mut reader = Reader::new(&self.log);
        for (seq, position) in places {
            let Some(message) = self.message_at(&mut reader, request, seq, position)? else { break };
            if !room.take(&message) {
                history.more = true;
                break;
            }
            history.messages.push(message);
        }
        history.messages.reverse();
        Ok(history)
    }

    /// Of a record that cannot be read any more, what is known of it. `None` where the log does not reach back to it: nor does it to what is older.
    fn message_at(
        &self,
        reader: &mut Reader<'_>,
        request: &HistoryRequest,
        seq: u64,
        position: u64,
    ) -> Result<Option<v1::Message>, Failure> {
        let conversation = request.conversation.to_string();
        let known = v1::Message { conversation, seq, server_msg_id: position, ..v1::Message::default() };
        let Some(Found { meta, body, .. }) = self.moved.read(reader, &self.index, position, Want::All)? else {
            return Ok((position >= self.log.first()).then_some(known));
        };
        let Some(Fact::Message(message)) = meta.fact else { return Ok(Some(known)) };
        if message.seq != seq || message.conversation(position).as_ref() != Some(&request.conversation) {
            return Ok(Some(known));
        }
        let text = body.and_then(|body| String::from_utf8(body).ok()).unwrap_or_default();
        let (from, client_msg_id, time_ms) = (message.from, message.client_msg_id, message.time_ms);
        Ok(Some(v1::Message {
            from,
            client_msg_id,
            text,
            time_ms,
            change: message.change,
            media: message.media.map(|media| *media),
            ..known
        }))
    }
}
