//! The short link: HTTP/1.1 requests on one connection that is kept alive and opened again as needed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::http::response::Parts;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use tern_proto::{Command, Packet, packet, v1};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{CONNECT_WAIT, LinkError, REPLY_WAIT, RequestError, open};

/// The largest answer that is read: sixteen packets.
const ANSWER_BYTES: usize = 1 << 20;

/// How much longer an answer may take for each byte of a part: a link of one kilobyte a second is slow, and works.
const BYTE_WAIT: Duration = Duration::from_millis(1);

/// A client of the HTTP paths. One request at a time.
#[derive(Debug)]
pub struct ShortLink {
    address: String,
    token: String,
    device: String,
    connection: Option<SendRequest<Full<Bytes>>>,
    sequence: u32,
}

impl ShortLink {
    /// For the server at `host:port`; connects with the first request.
    pub fn new(address: &str, token: &str, device: &str) -> ShortLink {
        let (address, token, device) = (address.to_owned(), token.to_owned(), device.to_owned());
        ShortLink { address, token, device, connection: None, sequence: 0 }
    }

    /// Posts packets and gives the packets of the answer, at most [`REPLY_WAIT`] longer than `wait`.
    ///
    /// # Errors
    /// [`LinkError`]; the next call connects again.
    pub async fn packets(&mut self, packets: &[Packet], wait: Duration) -> Result<Vec<Packet>, LinkError> {
        let mut body = BytesMut::new();
        packets.iter().for_each(|packet| packet.encode(&mut body));
        let post = self.post("/v1/packets", "application/octet-stream", body.freeze());
        let (status, answer) = timeout(wait + REPLY_WAIT, post).await.map_err(|_| LinkError::Timeout)??;
        if status != 200 {
            return Err(refusal(status, &answer));
        }
        let mut answer = BytesMut::from(answer);
        let mut packets = Vec::new();
        while let Some(packet) = packet::decode(&mut answer)? {
            packets.push(packet);
        }
        if answer.is_empty() { Ok(packets) } else { Err(LinkError::Answer("it ends in mid-packet")) }
    }

    /// Posts JSON to one of the JSON paths and gives the status and the JSON of the answer.
    ///
    /// # Errors
    /// [`LinkError`]; a status that is not 200 is not an error here.
    pub async fn json(&mut self, path: &str, body: String, wait: Duration) -> Result<(u16, String), LinkError> {
        let post = self.post(path, "application/json", body.into());
        let (status, answer) = timeout(wait + REPLY_WAIT, post).await.map_err(|_| LinkError::Timeout)??;
        let answer = String::from_utf8(answer.into()).map_err(|_| LinkError::Answer("it is not UTF-8"))?;
        Ok((status, answer))
    }

    /// One request as a packet, and its reply.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request<Reply: prost::Message + Default>(
        &mut self,
        command: Command,
        body: &impl prost::Message,
        wait: Duration,
    ) -> Result<Reply, RequestError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let packet = Packet::new(command.number(), self.sequence, body);
        match self.packets(&[packet], wait).await?.as_slice() {
            [answer] => open(command, answer),
            _ => Err(RequestError::BadReply(command)),
        }
    }

    /// Begins an upload, or finds it.
    ///
    /// # Errors
    /// [`LinkError`]; the next call connects again. So of all the calls below.
    pub async fn media_begin(&mut self, request: &v1::MediaBegin) -> Result<v1::MediaUpload, LinkError> {
        let body = serde_json::to_vec(request).map_err(|_| LinkError::Answer("the request has no JSON form"))?;
        self.media(Method::POST, "/v1/media", None, body.into()).await
    }

    /// Stores a part of an upload.
    pub async fn media_part(&mut self, id: &str, index: u32, bytes: Bytes) -> Result<v1::MediaUpload, LinkError> {
        let crc32 = ("tern-crc32", format!("{:08x}", crc32fast::hash(&bytes)));
        self.media(Method::POST, &format!("/v1/media/{id}/parts/{index}"), Some(crc32), bytes).await
    }

    /// Asks where an upload stands.
    pub async fn media_upload(&mut self, id: &str) -> Result<v1::MediaUpload, LinkError> {
        self.media(Method::GET, &format!("/v1/media/{id}/upload"), None, Bytes::new()).await
    }

    /// Completes an upload, again if need be.
    pub async fn media_complete(&mut self, id: &str) -> Result<v1::MediaUpload, LinkError> {
        self.media(Method::POST, &format!("/v1/media/{id}/complete"), None, Bytes::new()).await
    }

    /// Fetches at most `bytes` from `from` on of what a path of media has, and tells how many there are in all. A path may give all of them at once.
    pub async fn media_range(&mut self, path: &str, from: u64, bytes: u64) -> Result<(Bytes, u64), LinkError> {
        let range = ("range", format!("bytes={from}-{}", from.saturating_add(bytes.max(1)) - 1));
        let (head, body) = self.within_reply_wait(Method::GET, path, Some(range), Bytes::new()).await?;
        let whole = body.len() as u64;
        match head.status.as_u16() {
            200 if from == 0 => Ok((body, whole)),
            206 => {
                let range = head.headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
                let range = range.and_then(|range| range.strip_prefix(&format!("bytes {from}-")));
                let length = range.and_then(|range| range.rsplit_once('/')?.1.parse().ok());
                Ok((body, length.ok_or(LinkError::Answer("another range than was asked for"))?))
            }
            200 => Err(LinkError::Answer("the whole in the place of a range")),
            status => Err(refusal(status, &body)),
        }
    }

    /// Whether the server answers at all.
    pub async fn healthy(&mut self) -> Result<(), LinkError> {
        match self.within_reply_wait(Method::GET, "/healthz", None, Bytes::new()).await?.0.status.as_u16() {
            200 => Ok(()),
            status => Err(LinkError::Status(status)),
        }
    }

    async fn media(
        &mut self,
        method: Method,
        path: &str,
        more: Option<(&'static str, String)>,
        body: Bytes,
    ) -> Result<v1::MediaUpload, LinkError> {
        let (head, answer) = self.within_reply_wait(method, path, more, body).await?;
        match head.status.as_u16() {
            200 => serde_json::from_slice(&answer).map_err(|_| LinkError::Answer("it is not of an upload")),
            status => Err(refusal(status, &answer)),
        }
    }

    async fn within_reply_wait(
        &mut self,
        method: Method,
        path: &str,
        more: Option<(&'static str, String)>,
        body: Bytes,
    ) -> Result<(Parts, Bytes), LinkError> {
        let more: Vec<_> = more.into_iter().collect();
        let wait = REPLY_WAIT + BYTE_WAIT * body.len() as u32; // At most a part.
        timeout(wait, self.ask(method, path, &more, body)).await.map_err(|_| LinkError::Timeout)?
    }

    async fn post(&mut self, path: &str, kind: &'static str, body: Bytes) -> Result<(u16, Bytes), LinkError> {
        let kind = ("content-type", kind.to_owned());
        let (head, body) = self.ask(Method::POST, path, &[kind], body).await?;
        Ok((head.status.as_u16(), body))
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        more: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<(Parts, Bytes), LinkError> {
        // Taken, not borrowed: a request that fails or is cancelled leaves no half-used connection behind.
        if let Some(mut kept) = self.connection.take()
            && kept.ready().await.is_ok()
            && let Ok(answer) = self.exchange(kept, (&method, path), more, body.clone()).await
        {
            return Ok(answer);
        }
        // The server may close a kept connection just as a request sets out. Every request may be repeated.
        let fresh = self.connect().await?;
        self.exchange(fresh, (&method, path), more, body).await
    }

    async fn exchange(
        &mut self,
        mut connection: SendRequest<Full<Bytes>>,
        (method, path): (&Method, &str),
        more: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<(Parts, Bytes), LinkError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header("Tern-Device", &self.device);
        let request = more.iter().fold(request, |request, (name, value)| request.header(*name, value));
        let request = request
            .body(Full::new(body))
            .map_err(|_| LinkError::Answer("the address, token or device cannot stand in a header"))?;
        let answer = connection.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let body = body.map_err(|_| LinkError::Answer("it is too large or was cut off"))?.to_bytes();
        self.connection = Some(connection);
        Ok((head, body))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, LinkError> {
        let connect = TcpStream::connect(&self.address);
        let stream = timeout(CONNECT_WAIT, connect).await.map_err(|_| LinkError::Timeout)??;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Carries the bytes of this one connection; ends when `sender` is dropped or the server closes.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn refusal(status: u16, answer: &[u8]) -> LinkError {
    match serde_json::from_slice::<v1::Error>(answer) {
        Ok(error) if error.code != 0 => LinkError::Refused {
            code: error.code(),
            retry_after: Duration::from_millis(error.retry_after_ms.into()),
            message: error.message,
        },
        _ => LinkError::Status(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_stranger() {
        let json = br#"{"code":"CODE_BUSY","message":"later","retryAfterMs":1500}"#;
        let wait = Duration::from_millis(1_500);
        assert!(
            matches!(refusal(429, json), LinkError::Refused { code: v1::Code::Busy, retry_after, .. } if retry_after == wait)
        );
        assert!(matches!(refusal(502, b"<html>Bad Gateway</html>"), LinkError::Status(502)));
        assert!(matches!(refusal(404, b"{}"), LinkError::Status(404)));
    }
}
