//! A short link: HTTP/1.1 requests on a connection that is kept open, as much of HTTP as docs/protocol.md needs.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::long_link::Lost;

/// The longest head and body that are read: several pages.
const RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// Where requests go and as whom.
pub(crate) struct ShortLink {
    to: SocketAddr,
    token: String,
    device: String,
    stream: Option<TcpStream>,
}

/// What came back.
pub(crate) struct Response {
    /// The status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl ShortLink {
    /// For one device; connects with the first request.
    pub(crate) fn new(to: SocketAddr, token: String, device: String) -> ShortLink {
        ShortLink { to, token, device, stream: None }
    }

    /// Posts a body and reads the response.
    ///
    /// # Errors
    /// No whole response within `patience`. The connection is dropped; the request may have been carried out.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        kind: &str,
        body: &[u8],
        patience: Duration,
    ) -> Result<Response, Lost> {
        self.ask("POST", path, &format!("Content-Type: {kind}\r\n"), body, patience).await
    }

    /// Asks by a method, with more lines of the head, and reads the response.
    ///
    /// # Errors
    /// As [`ShortLink::post`].
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        more: &str,
        body: &[u8],
        patience: Duration,
    ) -> Result<Response, Lost> {
        let kept = self.stream.take();
        let exchange = async {
            let mut stream = match kept {
                Some(stream) => stream,
                None => TcpStream::connect(self.to).await?,
            };
            stream.set_nodelay(true)?;
            stream.write_all(&self.head(method, path, more, body.len())).await?;
            stream.write_all(body).await?;
            let response = read_response(&mut stream).await?;
            std::io::Result::Ok((stream, response))
        };
        let (stream, response) = timeout(patience, exchange).await.map_err(|_| Lost)?.map_err(|_| Lost)?;
        self.stream = Some(stream);
        Ok(response)
    }

    fn head(&self, method: &str, path: &str, more: &str, length: usize) -> Vec<u8> {
        let ShortLink { to, token, device, .. } = self;
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {to}\r\nAuthorization: Bearer {token}\r\nTern-Device: {device}\r\n\
             {more}Content-Length: {length}\r\n\r\n"
        )
        .into_bytes()
    }
}

async fn read_response(stream: &mut TcpStream) -> std::io::Result<Response> {
    let mut input = Vec::new();
    let head_length = loop {
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        read_more(stream, &mut input).await?;
    };
    let head = String::from_utf8_lossy(&input[..head_length]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).ok_or_else(bad)?;
    while input.len() < head_length + length {
        read_more(stream, &mut input).await?;
    }
    Ok(Response { status, body: input[head_length..head_length + length].to_vec() })
}

async fn read_more(stream: &mut TcpStream, input: &mut Vec<u8>) -> std::io::Result<()> {
    let count = stream.read_buf(input).await?;
    if count == 0 || input.len() > RESPONSE_BYTES { Err(bad()) } else { Ok(()) }
}

fn bad() -> std::io::Error {
    std::io::ErrorKind::InvalidData.into()
}
