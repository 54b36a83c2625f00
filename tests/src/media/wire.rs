//! What a client of the scene asks, over and over until there is an answer.

use std::time::Duration;

use tern_proto::v1::{self, Code};
use tokio::time::sleep;

use super::At;
use crate::short_link::{Response, ShortLink};

/// No answer of a server that is up takes so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries, while the server is away.
const AGAIN: Duration = Duration::from_millis(30);

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
            let mut link = ShortLink::new(*self.at.borrow(), self.token.clone(), "d1".into());
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

    /// Sends a message, and again until its outcome is known.
    pub(super) async fn send(&mut self, message: v1::OutMessage) -> Code {
        let request = v1::SendRequest { messages: vec![message], ..Default::default() };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        loop {
            let response = self.ask("POST", "/v1/send", "Content-Type: application/json\r\n", &body).await;
            let reply: v1::SendReply = serde_json::from_slice(&response.body).unwrap_or_default();
            match reply.results.first().map(v1::SendResult::code) {
                Some(code) if !code.is_retryable() => return code,
                None if response.status != 200 => return code_of(&response),
                _ => sleep(AGAIN).await,
            }
        }
    }
}

fn code_of(response: &Response) -> Code {
    let error: v1::Error = serde_json::from_slice(&response.body).unwrap_or_default();
    error.code()
}
