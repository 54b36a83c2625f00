//! What each packet from the server does to the session.

use std::time::{Duration, Instant};

use tern_proto::{Command, Key, Packet, v1};

use crate::message::Fate;
use crate::queries::QueryError;

use super::{Action, Leave, Request, Session};

/// Waiting checks that are answered at once follow each other no faster.
const SHORTEST_POLL: Duration = Duration::from_millis(500);

type Taken = Result<(), Leave>;

impl Session {
    pub(super) fn take(&mut self, packet: &Packet, now: Instant) -> Taken {
        match packet.known_command() {
            Some(Command::Notify) => {
                self.hint();
                Ok(())
            }
            Some(Command::Delta) => self.on_delta(read(packet)?),
            Some(Command::ChunksStored) => {
                self.on_stored(&read(packet)?, now);
                Ok(())
            }
            Some(Command::GoAway) => Err(go_away(&read(packet)?)),
            Some(Command::Error) if packet.sequence == 0 => link_error(read(packet)?),
            _ => self.on_answer(packet, now),
        }
    }

    fn on_answer(&mut self, packet: &Packet, now: Instant) -> Taken {
        let Some(at) = self.in_flight.iter().position(|request| request.sequence == packet.sequence) else {
            return Ok(()); // An unknown command, or a reply that nobody waits for.
        };
        let request = self.in_flight.swap_remove(at).request;
        if packet.known_command() == Some(Command::Error) {
            return self.on_error(request, read(packet)?, now);
        }
        if packet.command != request.command().reply() {
            return Err(Leave::Broken("a reply to another command"));
        }
        match request {
            Request::Hello => self.on_hello(&read(packet)?, now),
            Request::Heartbeat => Ok(()),
            Request::Sync => self.on_page(read(packet)?, now),
            Request::Check => {
                let reply: v1::CheckReply = read(packet)?;
                let pending = reply.pending;
                if !pending {
                    self.hold_asking = self.hold_asking.max(self.last_asked + SHORTEST_POLL);
                }
                self.on_asked(reply.key_order(), reply.key.as_ref(), pending, now)
            }
            Request::Ack => {
                let reply: v1::AckReply = read(packet)?;
                self.obey(reply.key_order(), reply.key.as_ref(), now).map(drop)
            }
            Request::Send(ids) => self.on_results(&ids, read(packet)?, now),
            Request::Read(conversation, seq) => {
                self.actions.push_back(Action::ReadDone(conversation, seq));
                Ok(())
            }
            Request::Query(number, _) => {
                self.querying.reset();
                self.actions.push_back(Action::Answered(number, Ok(packet.body.clone())));
                Ok(())
            }
        }
    }

    fn on_hello(&mut self, reply: &v1::HelloReply, now: Instant) -> Taken {
        if reply.user != self.profile.user.as_str() {
            return Err(Leave::OtherUser(reply.user.clone()));
        }
        self.open = true;
        if reply.heartbeat_ms > 0 {
            self.heartbeat = Duration::from_millis(reply.heartbeat_ms.into());
        }
        self.actions.extend([Action::Opened, Action::GoOnAbove(reply.highest_client_msg_id)]);
        if !self.receives() {
            return Ok(());
        }
        self.on_asked(reply.key_order(), reply.key.as_ref(), reply.pending, now)
    }

    /// The answer of hello and check: is anything owed?
    fn on_asked(&mut self, order: v1::KeyOrder, key: Option<&v1::SyncKey>, pending: bool, now: Instant) -> Taken {
        let replaced = self.obey(order, key, now)?;
        self.owed |= pending || replaced;
        if !replaced {
            self.asking.reset();
        }
        self.tell_caught_up();
        Ok(())
    }

    fn on_page(&mut self, reply: v1::SyncReply, now: Instant) -> Taken {
        if self.obey(reply.key_order(), reply.key.as_ref(), now)? {
            self.owed = true;
            return Ok(());
        }
        let after = Key::from(reply.key.as_ref().ok_or(Leave::Broken("a page without a key"))?);
        let moved = self.apply(reply.entries, &after)?;
        self.owed |= !reply.more.is_empty() || self.hinted;
        self.hinted = false;
        if reply.more.is_empty() || moved {
            self.asking.reset();
        } else {
            // More of the same would be asked for without end.
            self.hold_asking = now + self.asking.wait(Duration::ZERO);
        }
        self.tell_caught_up();
        Ok(())
    }

    fn on_delta(&mut self, delta: v1::Delta) -> Taken {
        let before = delta.before.as_ref().map(Key::from);
        let syncing = self.is_under_way(|request| *request == Request::Sync);
        let (Some(after), false) = (&delta.after, before.is_none() || before != self.key || syncing || self.full)
        else {
            self.hint();
            return Ok(());
        };
        let after = Key::from(after);
        self.apply(delta.entries, &after).map(drop)
    }

    /// Chunks of a clip are stored: others may go out.
    fn on_stored(&mut self, told: &v1::ChunksStored, now: Instant) {
        let Some((mut speaking, until)) = self.speaking.take() else { return };
        if speaking.on_stored(told) {
            let (stored, chunks) = (told.chunks.min(speaking.chunks()), speaking.chunks());
            self.actions.extend(speaking.ids().into_iter().map(|id| Action::ClipStored(id, stored, chunks)));
            self.speak(speaking, now);
        } else {
            self.speaking = Some((speaking, until));
        }
    }

    /// Something is owed. During a sync it means one more after it.
    fn hint(&mut self) {
        if self.is_under_way(|request| *request == Request::Sync) {
            self.hinted = true;
        } else if self.receives() {
            self.owed = true;
            self.tell_caught_up();
        }
    }

    /// Hands entries on with the merged key; tells whether the key moved.
    fn apply(&mut self, entries: Vec<v1::Entry>, after: &Key) -> Result<bool, Leave> {
        let mut key = self.key.unwrap_or(*after);
        if key.epoch != after.epoch {
            return Err(Leave::Broken("another epoch without an order"));
        }
        key.merge(after);
        let moved = self.key != Some(key);
        self.key = Some(key);
        if moved || !entries.is_empty() {
            self.actions.push_back(Action::Apply(entries, key));
        }
        Ok(moved)
    }

    /// Carries out an order about the key; tells whether the key was replaced, so that entries may be owed.
    fn obey(&mut self, order: v1::KeyOrder, key: Option<&v1::SyncKey>, now: Instant) -> Result<bool, Leave> {
        if order == v1::KeyOrder::None {
            return Ok(false);
        }
        let key = Key::from(key.ok_or(Leave::Broken("an order without a key"))?);
        (self.key, self.presented) = (Some(key), Some(key));
        self.actions.push_back(Action::ReplaceKey(key));
        if order == v1::KeyOrder::Start {
            return Ok(false);
        }
        self.owed = true;
        // One order is obeyed at once; a server that gives one after the other is not asked without end.
        self.hold_asking = now + self.asking.wait(Duration::ZERO);
        Ok(true)
    }

    fn on_results(&mut self, ids: &[u64], reply: v1::SendReply, now: Instant) -> Taken {
        if !reply.results.iter().map(|result| &result.client_msg_id).eq(ids) {
            return Err(Leave::Broken("results that do not belong to the request"));
        }
        let again = |result: &&v1::SendResult| Fate::of(result.code) == Fate::Again;
        let wait = reply.results.iter().filter(again).map(|result| result.retry_after_ms).max();
        match wait {
            None => self.sending.reset(),
            Some(ms) => self.hold_sending = now + self.sending.wait(Duration::from_millis(ms.into())),
        }
        self.actions.push_back(Action::Settle(reply.results));
        Ok(())
    }

    fn on_error(&mut self, request: Request, error: v1::Error, now: Instant) -> Taken {
        let code = error.code();
        let retry_after = Duration::from_millis(error.retry_after_ms.into());
        if code.closes_link() || request == Request::Hello {
            return Err(Leave::Refused { code, message: error.message, retry_after });
        }
        match request {
            Request::Send(ids) => {
                self.hold_sending = now + self.sending.wait(retry_after);
                // No message was judged on its own, so none is settled by it.
                let known = Fate::of(error.code) == Fate::Again;
                let code = if known { error.code } else { v1::Code::Unavailable.into() };
                let result = |id| v1::SendResult { client_msg_id: id, code, ..Default::default() };
                self.actions.push_back(Action::Settle(ids.into_iter().map(result).collect()));
            }
            Request::Read(..) if code.is_retryable() => {
                self.hold_reading = now + retry_after.max(Duration::from_secs(1))
            }
            Request::Query(number, _) if code.is_retryable() => {
                self.hold_querying = now + self.querying.wait(retry_after);
                self.actions.push_back(Action::NotAnswered(number, code.as_str_name()));
            }
            Request::Query(number, _) => {
                let refused = QueryError::Refused { code, message: error.message };
                self.actions.push_back(Action::Answered(number, Err(refused)));
            }
            // The server will never take this mark.
            Request::Read(conversation, seq) => self.actions.push_back(Action::ReadDone(conversation, seq)),
            Request::Sync | Request::Check | Request::Ack if code.is_retryable() => {
                self.owed = true;
                self.hold_asking = now + self.asking.wait(retry_after);
            }
            _ => return Err(Leave::Refused { code, message: error.message, retry_after }),
        }
        Ok(())
    }

    fn tell_caught_up(&mut self) {
        let syncing = self.is_under_way(|request| *request == Request::Sync);
        self.actions.push_back(Action::CaughtUp(!self.owed && !syncing));
    }
}

fn read<T: prost::Message + Default>(packet: &Packet) -> Result<T, Leave> {
    T::decode(packet.body.clone()).map_err(|_| Leave::Broken("a body that cannot be read"))
}

fn go_away(body: &v1::GoAway) -> Leave {
    match body.reason() {
        v1::GoAwayReason::Displaced => Leave::Displaced,
        reason => Leave::GoAway(reason, Duration::from_millis(body.retry_after_ms.into())),
    }
}

fn link_error(error: v1::Error) -> Taken {
    let code = error.code();
    let retry_after = Duration::from_millis(error.retry_after_ms.into());
    Err(Leave::Refused { code, message: error.message, retry_after })
}
