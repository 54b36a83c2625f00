//! What a client of the scene asks, over and over until there is an answer.

use std::time::Duration;

use bytes::BytesMut;
use tern_proto::v1::{self, Code};
use tern_proto::{Command, Packet};
use tokio::time::{Instant, sleep};

use super::At;
use crate::long_link::{LongLink, Lost};
use crate::short_link::{Response, ShortLink};

/// No answer of a server that is up takes so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries, while the server is away.
pub(super) const AGAIN: Duration = Duration::from_millis(30);

/// What a request in JSON says of itself.
const JSON: &str = "Content-Type: application/json\r\n";

/// A device, and where the server is.
#[derive(Clone)]
pub(super) struct Wire {
    at: At,
    token: String,
}

impl Wire {
    pub(super) fn new(at: At, token: String) -> Wire {
        Wire { at, token }
    }

    /// Asks until the server has answered, and not that it cannot.
    async fn ask(&mut self, method: &str, path: &str, more: &str, body: &[u8]) -> Response {
        loop {
            let to = self.at.borrow().http();
            let mut link = ShortLink::new(to, self.token.clone(), "d1".into());
            match link.ask(method, path, more, body, PATIENCE).await {
                Ok(response) if response.status != 503 => return response,
                _ => sleep(AGAIN).await,
            }
        }
    }

    async fn upload(&mut self, method: &str, path: &str, more: &str, body: &[u8]) -> Result<v1::MediaUpload, Code> {
        let response = self.ask(method, path, more, body).await;
        match response.status {
            200 => serde_json::from_slice(&response.body).map_err(|_| Code::BadBody),
            _ => Err(code_of(&response)),
        }
    }

    pub(super) async fn begin(&mut self, request: &v1::MediaBegin) -> Result<v1::MediaUpload, Code> {
        let body = serde_json::to_vec(request).unwrap_or_default();
        self.upload("POST", "/v1/media", "", &body).await
    }

    pub(super) async fn part(&mut self, id: &str, index: u32, bytes: &[u8]) -> Result<v1::MediaUpload, Code> {
        let crc32 = format!("Tern-Crc32: {:08x}\r\n", crc32fast::hash(bytes));
        self.upload("POST", &format!("/v1/media/{id}/parts/{index}"), &crc32, bytes).await
    }

    pub(super) async fn stands(&mut self, id: &str) -> Result<v1::MediaUpload, Code> {
        self.upload("GET", &format!("/v1/media/{id}/upload"), "", b"").await
    }

    pub(super) async fn complete(&mut self, id: &str) -> Result<v1::MediaUpload, Code> {
        self.upload("POST", &format!("/v1/media/{id}/complete"), "", b"").await
    }

    pub(super) async fn fetch(&mut self, id: &str) -> Result<Vec<u8>, Code> {
        let response = self.ask("GET", &format!("/v1/media/{id}"), "", b"").await;
        if response.status == 200 { Ok(response.body) } else { Err(code_of(&response)) }
    }

    /// A long link that has said hello.
    pub(super) async fn open(&self, device: &str) -> Result<LongLink, Lost> {
        let to = self.at.borrow().long();
        let mut link = LongLink::connect(to, 0, PATIENCE).await?;
        let hello = v1::HelloRequest {
            protocol: 1,
            token: self.token.clone(),
            device_id: device.to_owned(),
            start: v1::Start::Heads.into(),
            ..Default::default()
        };
        let mut out = BytesMut::new();
        Packet::new(Command::Hello.number(), 1, &hello).encode(&mut out);
        link.write(out.freeze(), 0, PATIENCE).await?;
        let answer = link.read(Instant::now() + PATIENCE).await?.ok_or(Lost)?;
        if answer.command == Command::Hello.reply() { Ok(link) } else { Err(Lost) }
    }

    /// The newest message of a conversation below a position; 0 is above all.
    pub(super) async fn newest(&mut self, conversation: &str, before_seq: u64) -> Option<v1::Message> {
        let request = v1::HistoryRequest { conversation: conversation.to_owned(), before_seq, limit: 1 };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        let response = self.ask("POST", "/v1/history", JSON, &body).await;
        serde_json::from_slice::<v1::HistoryReply>(&response.body).ok()?.messages.pop()
    }

    /// Sends a message, and again until its outcome is known.
    pub(super) async fn send(&mut self, message: v1::OutMessage) -> Code {
        self.result(message).await.map_or_else(|code| code, |result| result.code())
    }

    /// [`Wire::send`], with all that is told.
    pub(super) async fn result(&mut self, message: v1::OutMessage) -> Result<v1::SendResult, Code> {
        let request = v1::SendRequest { messages: vec![message], ..Default::default() };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        loop {
            let response = self.ask("POST", "/v1/send", JSON, &body).await;
            let reply: v1::SendReply = serde_json::from_slice(&response.body).unwrap_or_default();
            match reply.results.into_iter().next() {
                Some(result) if !result.code().is_retryable() => return Ok(result),
                None if response.status != 200 => return Err(code_of(&response)),
                _ => sleep(AGAIN).await,
            }
        }
    }
}

fn code_of(response: &Response) -> Code {
    let error: v1::Error = serde_json::from_slice(&response.body).unwrap_or_default();
    error.code()
}
