//! Steps that send: new messages, resends, conflicts, refusals.

use tern_proto::{limits, v1};

use super::Actor;
use crate::event::Request;
use crate::long_link::Lost;
use crate::wire::Path;

/// A device that has so many unanswered messages sends no new ones, and this many of them at a time.
const UNANSWERED: usize = 48;
/// Bytes of texts in one request at most, so that it fits a packet, unless one alone is longer.
const REQUEST_BYTES: usize = 48 * 1024;

impl Actor {
    /// Sends what is unanswered and then some new messages, in id order, in one request or in several without waiting.
    pub(crate) async fn send_new(&mut self) -> Result<(), Lost> {
        self.resend_outbox().await?;
        if self.wire.state.outbox.len() >= UNANSWERED {
            return Ok(());
        }
        let count = self.rng.usize(1..=5);
        let messages: Vec<v1::OutMessage> = self.new_messages(count);
        let path = self.path();
        self.send(path, messages).await
    }

    /// Resends the outbox, or what of it goes in one go, on any link that is up: the reply that was lost came over another, as like as not.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn resend_outbox(&mut self) -> Result<(), Lost> {
        let unanswered: Vec<v1::OutMessage> = self.wire.state.outbox.values().take(UNANSWERED).cloned().collect();
        if unanswered.is_empty() {
            return Ok(());
        }
        let path = self.path();
        self.send(path, unanswered).await
    }

    /// Sends one new message to every peer, and into every group that it has heard of.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn greet_all(&mut self) -> Result<(), Lost> {
        let groups: Vec<String> = self.wire.state.groups().map(str::to_owned).collect();
        for to in self.manner.peers.clone().into_iter().chain(groups) {
            self.greet(to).await?;
        }
        Ok(())
    }

    /// Sends one new message.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn greet(&mut self, to: String) -> Result<(), Lost> {
        let message = self.message(to);
        let path = self.path();
        self.send(path, vec![message]).await
    }

    /// Resends settled messages: the same results are due.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn resend_settled(&mut self) -> Result<(), Lost> {
        let count = self.rng.usize(1..=4);
        let settled = self.wire.state.settled.clone();
        let messages = self.rng.choose_multiple(settled, count);
        let path = self.path();
        self.send(path, messages).await
    }

    /// Sends other content under a settled id: a conflict is due.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn send_conflict(&mut self) -> Result<(), Lost> {
        let settled = self.wire.state.settled.clone();
        let Some(mut message) = self.rng.choice(settled) else { return Ok(()) };
        let another = self.manner.peers.iter().find(|peer| **peer != message.to).cloned();
        match another {
            Some(peer) if self.chance(0.3) => message.to = peer,
            _ => message.text.push('!'),
        }
        let path = self.path();
        self.send(path, vec![message]).await
    }

    /// Sends what must be refused.
    pub(crate) async fn send_refused(&mut self) -> Result<(), Lost> {
        self.resend_outbox().await?;
        let Some(mut message) = self.new_messages(1).pop() else { return Ok(()) };
        if message.change.is_some() || self.chance(0.3) {
            message = self.bad_change(message.client_msg_id);
            let path = self.path();
            return self.send(path, vec![message]).await;
        }
        match self.rng.u32(0..12) {
            0..4 => message.text.clear(),
            4..7 => message.to = self.wire.identity.user.clone(),
            7..9 => message.to = "not a name".into(),
            9 => message.text = message.text.repeat(limits::TEXT_BYTES / message.text.len() + 1),
            _ => message.client_msg_id = 0,
        }
        let path = self.path();
        self.send(path, vec![message]).await
    }

    async fn send(&mut self, path: Path, messages: Vec<v1::OutMessage>) -> Result<(), Lost> {
        if messages.is_empty() {
            return Ok(());
        }
        let size = if self.chance(0.5) { messages.len() } else { self.rng.usize(1..=messages.len()) };
        let cut = if self.chance(0.2) { self.rng.usize(1..64) } else { 0 };
        let answers = self.wire.ask_all(path, in_requests(messages, size), cut).await;
        if answers.iter().all(Option::is_some) { Ok(()) } else { Err(Lost) }
    }

    fn new_messages(&mut self, count: usize) -> Vec<v1::OutMessage> {
        let mut last = self.wire.state.last_id;
        let mut late = if self.chance(0.1) { self.wire.state.skipped.first().copied() } else { None };
        let mut messages = Vec::new();
        for _ in 0..count {
            let id =
                late.take().unwrap_or_else(|| last + if self.rng.u32(0..10) == 0 { self.rng.u64(2..4) } else { 1 });
            last = last.max(id);
            let message = self.compose(id);
            messages.push(message);
        }
        messages
    }

    /// A text to a user or a group, or a change of a group.
    fn compose(&mut self, id: u64) -> v1::OutMessage {
        let group = if self.chance(0.25) { self.group() } else { None };
        match group {
            Some(group) => self.message_with(id, group),
            None if self.chance(0.06) => self.change(id),
            None => {
                let to = self.recipient();
                self.message_with(id, to)
            }
        }
    }

    /// Half of the messages go to one user, so that many write to one timeline at a time.
    fn recipient(&mut self) -> String {
        let peers = &self.manner.peers;
        if self.rng.bool() { peers[0].clone() } else { peers[self.rng.usize(0..peers.len())].clone() }
    }

    fn message(&mut self, to: String) -> v1::OutMessage {
        self.message_with(self.wire.state.last_id + 1, to)
    }

    fn message_with(&mut self, id: u64, to: String) -> v1::OutMessage {
        let identity = &self.wire.identity;
        let filler =
            "~".repeat(if self.rng.u32(0..self.manner.one_is_long_in) == 0 { self.rng.usize(1..4000) } else { 0 });
        let text = format!("{}/{}/{id} {:08x}{filler}", identity.user, identity.device, self.rng.u32(..));
        v1::OutMessage { client_msg_id: id, to, text, ..Default::default() }
    }
}

/// The messages in requests of so many, or fewer where they are long.
fn in_requests(messages: Vec<v1::OutMessage>, size: usize) -> Vec<Request> {
    let mut requests: Vec<v1::SendRequest> = Vec::new();
    let mut bytes = 0;
    for message in messages {
        let fits = bytes + message.text.len() <= REQUEST_BYTES;
        match requests.last_mut().filter(|request| fits && request.messages.len() < size.min(limits::SEND_MESSAGES)) {
            Some(request) => {
                bytes += message.text.len();
                request.messages.push(message);
            }
            None => {
                bytes = message.text.len();
                requests.push(v1::SendRequest { messages: vec![message], ..Default::default() });
            }
        }
    }
    requests.into_iter().map(Request::Send).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_go_in_several_requests() {
        let message = |id: u64| v1::OutMessage { client_msg_id: id, text: "x".repeat(20_000), ..Default::default() };
        let sizes = |count: u64, size: usize| -> Vec<usize> {
            let requests = in_requests((1..=count).map(message).collect(), size);
            let count = |request: &Request| match request {
                Request::Send(send) => send.messages.len(),
                _ => 0,
            };
            requests.iter().map(count).collect()
        };
        assert_eq!(sizes(5, 5), [2, 2, 1]);
        assert_eq!(sizes(3, 1), [1, 1, 1]);
    }
}
