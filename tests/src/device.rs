//! What a device knows: a fold over its own events, so that a killed client starts again from its history alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tern_proto::v1::{self, entry::Body};

use crate::event::{Reply, Request, What};

/// How many settled messages are remembered for resends; the old ones stay in part.
const SETTLED: usize = 128;
/// How many skipped ids are kept for late use.
const SKIPPED: usize = 16;
/// How many earlier keys are kept to be asked again.
const EARLIER: usize = 16;

/// The state of a device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The last number of an ask or push.
    pub(crate) last_n: u64,
    /// The highest client_msg_id used.
    pub(crate) last_id: u64,
    /// Ids below it that were left out.
    pub(crate) skipped: Vec<u64>,
    /// The key, once there is one.
    pub(crate) key: Option<v1::SyncKey>,
    /// Keys that it had before.
    pub(crate) earlier: Vec<v1::SyncKey>,
    /// Sent and not settled, by id.
    pub(crate) outbox: BTreeMap<u64, v1::OutMessage>,
    /// Some of what is settled.
    pub(crate) settled: Vec<v1::OutMessage>,
    /// The highest seq seen, by conversation.
    pub(crate) heads: BTreeMap<String, u64>,
}

impl State {
    /// The state after these events of the device.
    pub(crate) fn after<'e>(events: impl IntoIterator<Item = &'e What>) -> State {
        let mut state = State::default();
        events.into_iter().for_each(|what| state.note(what));
        state
    }

    /// Takes in one event.
    pub(crate) fn note(&mut self, what: &What) {
        match what {
            What::Ask { n, request, .. } => {
                self.last_n = self.last_n.max(*n);
                if let Request::Send(request) = request {
                    request.messages.iter().for_each(|message| self.sent(message));
                }
            }
            What::Answer { reply: Reply::Send(reply), .. } => {
                reply.results.iter().for_each(|result| self.answered(result));
            }
            What::Answer { reply: Reply::Sync(reply), .. } => self.saw(&reply.entries),
            What::Push { n, delta, .. } => {
                self.last_n = self.last_n.max(*n);
                self.saw(&delta.entries);
            }
            What::Applied { key, .. } | What::Replaced { key } => {
                let earlier = self.key.replace(key.clone());
                if self.earlier.len() == EARLIER {
                    // The newest every other time, the one before it every fourth: so some are very old.
                    let newer = self.last_n.trailing_zeros() as usize;
                    self.earlier.remove((EARLIER - 1).saturating_sub(newer));
                }
                self.earlier.extend(earlier);
            }
            What::Answer { .. }
            | What::Notify { .. }
            | What::Displaced { .. }
            | What::Waited { .. }
            | What::Twin { .. } => {}
        }
    }

    fn sent(&mut self, message: &v1::OutMessage) {
        let id = message.client_msg_id;
        let is_settled = self.settled.iter().any(|settled| settled.client_msg_id == id);
        let is_new = id > self.last_id || self.skipped.contains(&id);
        if is_new && !is_settled {
            self.outbox.insert(id, message.clone());
        }
        self.skipped.retain(|skipped| *skipped != id);
        if id > self.last_id {
            let room = SKIPPED.saturating_sub(self.skipped.len());
            self.skipped.extend((self.last_id + 1..id).take(room));
            self.last_id = id;
        }
    }

    fn answered(&mut self, result: &v1::SendResult) {
        if result.code().is_retryable() {
            return;
        }
        self.reached(&result.conversation, result.seq);
        let Some(message) = self.outbox.remove(&result.client_msg_id) else { return };
        if self.settled.len() < SETTLED {
            self.settled.push(message);
        } else {
            let place = message.client_msg_id.wrapping_mul(0x9e37_79b9) as usize % SETTLED;
            self.settled[place] = message;
        }
    }

    fn saw(&mut self, entries: &[v1::Entry]) {
        for entry in entries {
            let (conversation, seq) = match &entry.body {
                Some(Body::Message(message)) => (&message.conversation, message.seq),
                Some(Body::Stub(stub)) => (&stub.conversation, stub.seq),
                _ => continue,
            };
            self.reached(conversation, seq);
        }
    }

    /// A conversation is known to have come to a seq; one without a name is that of a refusal.
    fn reached(&mut self, conversation: &str, seq: u64) {
        if !conversation.is_empty() {
            let head = self.heads.entry(conversation.into()).or_default();
            *head = seq.max(*head);
        }
    }

    /// Whether something was sent under this id.
    pub(crate) fn has_sent(&self, id: u64) -> bool {
        id > 0 && id <= self.last_id && !self.skipped.contains(&id)
    }

    /// The groups that it has heard of.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        self.heads.keys().map(String::as_str).filter(|name| is_group(name))
    }
}

/// Whether the conversation of this name is a group.
pub(crate) fn is_group(name: &str) -> bool {
    name.starts_with("g/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Via;

    fn ask(n: u64, id: u64, text: &str) -> What {
        let message = v1::OutMessage { client_msg_id: id, to: "ben".into(), text: text.into(), ..Default::default() };
        What::Ask {
            n,
            via: Via::Packets,
            request: Request::Send(v1::SendRequest { messages: vec![message], ..Default::default() }),
        }
    }

    fn answer(n: u64, id: u64, code: v1::Code) -> What {
        let results = vec![v1::SendResult { client_msg_id: id, code: code as i32, ..Default::default() }];
        What::Answer { n, reply: Reply::Send(v1::SendReply { results }) }
    }

    #[test]
    fn what_is_not_settled_stays_in_the_outbox() {
        let state = State::after(&[
            ask(1, 1, "a"),
            ask(2, 4, "b"),
            answer(1, 1, v1::Code::Ok),
            answer(2, 4, v1::Code::OutcomeUnknown),
            ask(3, 1, "other"),
            answer(3, 1, v1::Code::Conflict),
            ask(4, 2, "late"),
        ]);
        assert_eq!(state.outbox.keys().copied().collect::<Vec<_>>(), [2, 4]);
        assert_eq!(state.settled.iter().map(|message| &message.text).collect::<Vec<_>>(), ["a"]);
        assert_eq!((state.last_n, state.last_id, state.skipped), (4, 4, vec![3]));
    }

    #[test]
    fn the_key_is_that_of_the_last_applied() {
        let key = |version| v1::SyncKey { epoch: 1, classes: vec![v1::Position { class: 1, version }] };
        let state = State::after(&[What::Applied { from: 1, key: key(5) }, What::Replaced { key: key(3) }]);
        assert_eq!((state.key, state.earlier), (Some(key(3)), vec![key(5)]));
    }
}
