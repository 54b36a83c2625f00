//! An uploader: parts by a few connections that are kept, and nothing of the client library between the bench and the wire.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use sha2::Digest as _;
use tern_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::samples::Samples;
use crate::token;

/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// A GIF of one pixel: an image that costs nothing to look at, whatever stands behind its end.
const PIXEL: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

/// Bytes that are made up and digested at once. In between whoever waits for the core goes first: phones are elsewhere, and do not hold up the server.
const PIECE: usize = 64 * 1024;

/// An image of so many bytes that nobody has.
pub(crate) fn image(bytes: usize) -> Bytes {
    let mut whole = PIXEL.to_vec();
    whole.resize(bytes.max(PIXEL.len()), 0);
    for piece in whole[PIXEL.len()..].chunks_mut(PIECE) {
        fastrand::fill(piece);
        std::thread::yield_now();
    }
    whole.into()
}

/// Who uploads to where.
#[derive(Clone)]
pub(crate) struct Uploader {
    http: SocketAddr,
    token: Rc<str>,
}

impl Uploader {
    pub(crate) fn new(http: SocketAddr, secret: &[u8], user: &str) -> Uploader {
        Uploader { http, token: token::mint(secret, user).into() }
    }

    pub(crate) async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.http).await.context("connecting to the short link")?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, token: self.token.clone(), answer: Vec::new() })
    }

    /// Begins an upload of these bytes.
    pub(crate) async fn begin(&self, media_type: &str, whole: &[u8], part_bytes: u32) -> Result<v1::MediaUpload> {
        let mut digest = sha2::Sha256::new();
        for piece in whole.chunks(PIECE) {
            digest.update(piece);
            std::thread::yield_now();
        }
        let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let request = v1::MediaBegin { bytes: whole.len() as u64, sha256, r#type: media_type.into(), part_bytes };
        self.connect().await?.post("/v1/media", "", &serde_json::to_vec(&request)?).await
    }
}

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    token: Rc<str>,
    answer: Vec<u8>,
}

impl Connection {
    /// Brings a part, and gives the answer.
    pub(crate) async fn part(&mut self, id: &str, index: u32, bytes: &[u8]) -> Result<v1::MediaUpload> {
        let crc32 = format!("tern-crc32: {:08x}\r\n", crc32fast::hash(bytes));
        self.post(&format!("/v1/media/{id}/parts/{index}"), &crc32, bytes).await
    }

    async fn post(&mut self, path: &str, more: &str, body: &[u8]) -> Result<v1::MediaUpload> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: tern\r\nauthorization: Bearer {}\r\ntern-device: bench\r\n{more}content-length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let exchange = async {
            self.stream.write_all(&[head.as_bytes(), body].concat()).await?;
            self.answer.clear();
            loop {
                if let Some(length) = length_of(&self.answer)
                    && self.answer.len() >= length
                {
                    return anyhow::Ok(());
                }
                ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the server closed the connection");
            }
        };
        timeout(PATIENCE, exchange).await.map_err(anyhow::Error::from).flatten().with_context(|| path.to_owned())?;
        let end = self.answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(0) + 4;
        let (head, body) = self.answer.split_at(end);
        if !head.starts_with(b"HTTP/1.1 200 ") {
            bail!("{path} was answered: {}", String::from_utf8_lossy(&self.answer));
        }
        serde_json::from_slice(body).with_context(|| format!("the answer to {path}"))
    }
}

/// How many bytes an answer has with its head, once that has come.
fn length_of(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok())?;
    Some(end + length)
}

/// The parts of one upload, brought by several connections.
pub(crate) struct Parts {
    pub(crate) upload: v1::MediaUpload,
    pub(crate) whole: Bytes,
    /// The next one.
    next: Cell<u32>,
    /// Those from here on are left out.
    end: u32,
    times: RefCell<Samples>,
    answer: RefCell<Option<v1::MediaUpload>>,
}

impl Parts {
    /// All but the last `left` of them.
    pub(crate) fn of(upload: v1::MediaUpload, whole: Bytes, left: u32) -> Rc<Parts> {
        let end = upload.parts.saturating_sub(left);
        Rc::new(Parts { upload, whole, next: Cell::new(0), end, times: RefCell::default(), answer: RefCell::default() })
    }

    /// Brings them by these connections.
    pub(crate) async fn bring(self: &Rc<Parts>, connections: Vec<Connection>) -> Result<Vec<Connection>> {
        let mut lanes = JoinSet::new();
        for connection in connections {
            lanes.spawn_local(Rc::clone(self).lane(connection));
        }
        let mut connections = Vec::new();
        while let Some(lane) = lanes.join_next().await {
            connections.push(lane??);
        }
        Ok(connections)
    }

    async fn lane(self: Rc<Parts>, mut connection: Connection) -> Result<Connection> {
        while self.next.get() < self.end {
            let index = self.next.replace(self.next.get() + 1);
            let part = self.upload.part_bytes as usize;
            let start = index as usize * part;
            let bytes = self.whole.slice(start..(start + part).min(self.whole.len()));
            let asked = Instant::now();
            let answer = connection.part(&self.upload.id, index, &bytes).await?;
            self.times.borrow_mut().record(asked.elapsed().as_nanos() as u64);
            if answer.media.is_some() {
                self.answer.replace(Some(answer));
            }
        }
        Ok(connection)
    }

    /// How many there are to bring.
    pub(crate) fn count(&self) -> u32 {
        self.end
    }

    /// How long each took.
    pub(crate) fn take_times(&self) -> Samples {
        self.times.take()
    }

    /// The answer to the last one of the upload.
    pub(crate) fn take_answer(&self) -> Option<v1::MediaUpload> {
        self.answer.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_its_head_says() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(length_of(answer), Some(answer.len()));
        assert_eq!(length_of(&answer[..30]), None);
        assert_eq!(length_of(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
