//! Where a key set is fetched, and how: one GET over a connection of its own, bounded in time and size.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{BadKey, Key, keys_of_set};

/// The largest key set that is read.
const KEY_SET_BYTES: usize = 256 << 10;

/// The longest that a fetch may take, from the look-up of the name to the last byte.
const FETCH_WAIT: Duration = Duration::from_secs(5);

/// An `http` URL of a JSON Web Key Set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetUrl {
    /// Host and port, as the URL has them.
    authority: String,
    /// Host and port to connect to.
    address: String,
    /// Path and query.
    target: String,
}

/// A text is not a URL from which a key set can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeySetUrl {
    /// It needs TLS, which the gateway does not have.
    #[error("is an https URL, and TLS is not supported")]
    Https,
    /// Of another scheme, without a host, with a user name, or no URL at all.
    #[error("is not a URL such as http://host:8080/keys.json")]
    Invalid,
}

/// A key set could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no answer within {} s", FETCH_WAIT.as_secs())]
    Timeout,
    #[error("connecting failed: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the exchange failed: {0}")]
    Http(#[from] hyper::Error),
    /// A redirect as well: keys come only from where the operator said.
    #[error("the answer is {0}, not 200")]
    Status(StatusCode),
    #[error("the answer is larger than {KEY_SET_BYTES} bytes or was cut off")]
    Body,
    #[error(transparent)]
    Keys(#[from] BadKey),
}

impl FromStr for KeySetUrl {
    type Err = BadKeySetUrl;

    fn from_str(text: &str) -> Result<KeySetUrl, BadKeySetUrl> {
        let uri: Uri = text.parse().map_err(|_| BadKeySetUrl::Invalid)?;
        match uri.scheme_str() {
            Some("http") => (),
            Some("https") => return Err(BadKeySetUrl::Https),
            _ => return Err(BadKeySetUrl::Invalid),
        }
        let authority = uri.authority().ok_or(BadKeySetUrl::Invalid)?;
        // What follows a second colon or is no number: the URL type lets it pass.
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str() == authority.host() => 80,
            None => return Err(BadKeySetUrl::Invalid),
        };
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(BadKeySetUrl::Invalid);
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Ok(KeySetUrl {
            authority: authority.to_string(),
            address: format!("{}:{port}", authority.host()),
            target: target.to_owned(),
        })
    }
}

impl KeySetUrl {
    /// Host and port: what a log may show, since a query may hold a secret.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The keys that are there now.
    pub(super) async fn fetch(&self) -> Result<Vec<Key>, FetchError> {
        let json = timeout(FETCH_WAIT, self.get()).await.map_err(|_| FetchError::Timeout)??;
        Ok(keys_of_set(&json)?)
    }

    async fn get(&self) -> Result<Bytes, FetchError> {
        let request = Request::get(&self.target)
            .header(header::HOST, &self.authority)
            .header(header::ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .expect("the parts of a URL that was read can stand in a request");
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            if answer.status() != StatusCode::OK {
                return Err(FetchError::Status(answer.status()));
            }
            let body = Limited::new(answer.into_body(), KEY_SET_BYTES).collect().await;
            Ok(body.map_err(|_| FetchError::Body)?.to_bytes())
        };
        tokio::pin!(answer);
        // Both in this task: the connection ends with the fetch, also when that is cancelled.
        tokio::select! {
            done = &mut answer => done,
            // The server closed; what it sent before is still there to be read.
            _ = connection => answer.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_what_a_request_needs() {
        for (text, authority, address, target) in [
            ("http://keys.example/a/b?c=d", "keys.example", "keys.example:80", "/a/b?c=d"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1:8080", "/"),
            ("http://[::1]:81/", "[::1]:81", "[::1]:81", "/"),
            ("http://[::1]/k", "[::1]", "[::1]:80", "/k"),
        ] {
            let url: KeySetUrl = text.parse().unwrap();
            assert_eq!((&*url.authority, &*url.address, &*url.target), (authority, address, target), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        assert_eq!("https://keys.example/".parse::<KeySetUrl>(), Err(BadKeySetUrl::Https));
        for text in ["", "/keys", "keys.example", "ftp://keys.example/", "http://", "http://a:b@keys.example/"] {
            assert_eq!(text.parse::<KeySetUrl>(), Err(BadKeySetUrl::Invalid), "{text}");
        }
        assert_eq!("http://keys.example:99999/".parse::<KeySetUrl>(), Err(BadKeySetUrl::Invalid));
    }
}
