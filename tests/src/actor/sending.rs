//! Steps that send: new messages, resends, conflicts, refusals.

use tern_proto::{limits, v1};

use super::Actor;
use crate::event::Request;
use crate::long_link::Lost;
use crate::wire::Path;

impl Actor {
    /// Sends what is unanswered and then some new messages, in id order, in one request or in several without waiting.
    pub(crate) async fn send_new(&mut self) -> Result<(), Lost> {
        self.resend_outbox().await?;
        let count = self.rng.usize(1..=5);
        let messages: Vec<v1::OutMessage> = self.new_messages(count);
        let path = self.path();
        self.send(path, messages).await
    }

    /// Resends the outbox, on any link that is up: the reply that was lost came over another, as like as not.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn resend_outbox(&mut self) -> Result<(), Lost> {
        let unanswered: Vec<v1::OutMessage> = self.wire.state.outbox.values().cloned().collect();
        if unanswered.is_empty() {
            return Ok(());
        }
        let path = self.path();
        self.send(path, unanswered).await
    }

    /// Sends one new message to every peer.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn greet_all(&mut self) -> Result<(), Lost> {
        for to in self.manner.peers.clone() {
            let message = self.message(to);
            let path = self.path();
            self.send(path, vec![message]).await?;
        }
        Ok(())
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
        let requests = messages.chunks(size.min(limits::SEND_MESSAGES));
        let requests = requests.map(|some| Request::Send(v1::SendRequest { messages: some.to_vec() }));
        let cut = if self.chance(0.2) { self.rng.usize(1..64) } else { 0 };
        let answers = self.wire.ask_all(path, requests.collect(), cut).await;
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
            let to = self.recipient();
            messages.push(self.message_with(id, to));
        }
        messages
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
        let filler = "~".repeat(if self.rng.u32(0..40) == 0 { self.rng.usize(1..4000) } else { 0 });
        let text = format!("{}/{}/{id} {:08x}{filler}", identity.user, identity.device, self.rng.u32(..));
        v1::OutMessage { client_msg_id: id, to, text }
    }
}
