use std::sync::Mutex;

use jsonwebtoken::{EncodingKey, Header};
use tern_runtime::clock;
use tern_runtime::shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::auth::{BadToken, TokenVerifier};

/// How long a test waits for what has to happen.
const DEADLINE: Duration = Duration::from_secs(30);

/// An HTTP server that gives every request the answer that is set, then closes; without one it closes at once.
#[derive(Default)]
struct Issuer {
    answer: Mutex<Option<String>>,
    requests: Mutex<Vec<String>>,
}

impl Issuer {
    async fn start() -> (Arc<Issuer>, KeySetUrl) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys?of=tests", listener.local_addr().unwrap());
        let issuer = Arc::new(Issuer::default());
        tokio::spawn(Arc::clone(&issuer).serve(listener));
        (issuer, url.parse().unwrap())
    }

    async fn serve(self: Arc<Issuer>, listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            self.requests.lock().unwrap().push(String::from_utf8(request).unwrap());
            let answer = self.answer.lock().unwrap().clone();
            // The client hangs up early when the answer is too large.
            let _ = stream.write_all(answer.unwrap_or_default().as_bytes()).await;
        }
    }

    fn answer(&self, head: &str, body: &str) {
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        *self.answer.lock().unwrap() = Some(answer);
    }

    fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

/// A set of one key with the id.
fn set(kid: &str) -> String {
    // The k is base64url: "first".
    format!(r#"{{"keys":[{{"kty":"oct","kid":"{kid}","k":"Zmlyc3Q"}}]}}"#)
}

/// Whether a good token that names the key is taken.
fn taken(verifier: &TokenVerifier, kid: &str) -> bool {
    let header = Header { kid: Some(kid.into()), ..Header::default() };
    let claims = serde_json::json!({"sub": "alice", "exp": clock::unix_millis() / 1000 + 600});
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(b"first")).unwrap();
    match verifier.verify(&token) {
        Ok(_) => true,
        Err(bad) => {
            assert_eq!(bad, BadToken::Invalid);
            false
        }
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let polls = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(DEADLINE, polls).await.is_ok(), "in vain: {what}");
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_when_a_token_names_it() {
    let (issuer, url) = Issuer::start().await;
    issuer.answer("200 OK", &set("1"));
    let (verifier, mut refresher) = TokenVerifier::default().with_key_set_url(url);
    refresher.refresh().await;
    assert!(issuer.requests.lock().unwrap()[0].starts_with("GET /keys?of=tests HTTP/1.1\r\n"));
    let (stopper, stop) = shutdown::channel();
    let running = tokio::spawn(refresher.run(stop));
    assert!(taken(&verifier, "1"));

    issuer.answer("200 OK", &set("2"));
    assert!(taken(&verifier, "1"));
    assert!(!taken(&verifier, "2"), "nothing has been fetched since");
    until("the new key", || taken(&verifier, "2")).await;
    assert!(!taken(&verifier, "1"), "the old key is no longer in the set");

    stopper.stop();
    timeout(DEADLINE, running).await.unwrap().unwrap();
    assert_eq!(
        issuer.requests(),
        2,
        "the refused tokens came within {ASKED_APART:?} of a fetch that one of them had caused"
    );
}

#[tokio::test]
async fn without_an_answer_at_the_start_it_is_tried_again() {
    let (issuer, url) = Issuer::start().await;
    let (verifier, mut refresher) = TokenVerifier::default().with_key_set_url(url);
    refresher.refresh().await;
    assert_eq!((issuer.requests(), refresher.failures), (1, 1));
    issuer.answer("200 OK", &set("1"));
    let (_stopper, stop) = shutdown::channel();
    // No token asks: until the answer is there, the verifier is not used.
    let fetched = Arc::clone(&refresher.fetched);
    tokio::spawn(refresher.run(stop));
    until("the retry", || !fetched.current().is_empty()).await;
    assert!(taken(&verifier, "1"));
}

#[tokio::test]
async fn an_answer_that_is_not_a_good_set_changes_nothing() {
    let (issuer, url) = Issuer::start().await;
    let (verifier, mut refresher) = TokenVerifier::default().with_key_set_url(url.clone());
    issuer.answer("200 OK", &set("1"));
    refresher.refresh().await;

    let oversize = set("2") + &" ".repeat(256 << 10);
    let redirect = format!("302 Found\r\nLocation: http://{}/", url.authority());
    for (head, body) in [
        ("200 OK", &*oversize),
        ("500 Internal Server Error", &*set("2")),
        (&*redirect, &*set("2")),
        ("200 OK", r#"{"keys":[]}"#),
        ("200 OK\r\nContent-Length: 1000", "x"),
    ] {
        let before = issuer.requests();
        issuer.answer(head, body);
        refresher.refresh().await;
        assert_eq!(issuer.requests(), before + 1, "{head}");
        assert!(taken(&verifier, "1") && !taken(&verifier, "2"), "{head}");
    }
    assert_eq!(refresher.failures, 5);

    issuer.answer("200 OK", &(set("2") + &" ".repeat((256 << 10) - set("2").len())));
    refresher.refresh().await;
    assert!(taken(&verifier, "2"), "a set of just the largest size is taken");
    assert_eq!(refresher.failures, 0);
}

#[tokio::test]
async fn a_server_that_is_down_changes_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: KeySetUrl = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let issuer = Arc::new(Issuer::default());
    issuer.answer("200 OK", &set("1"));
    let serving = tokio::spawn(Arc::clone(&issuer).serve(listener));
    let (verifier, mut refresher) = TokenVerifier::default().with_key_set_url(url);
    refresher.refresh().await;
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    refresher.refresh().await;
    assert_eq!((refresher.failures, issuer.requests()), (1, 1));
    assert!(taken(&verifier, "1"));
}

#[tokio::test]
async fn the_wait_after_failures_grows_to_a_limit() {
    let (_, url) = Issuer::start().await;
    let (_, mut refresher) = TokenVerifier::default().with_key_set_url(url);
    for (failures, longest) in [(1, FIRST_RETRY), (2, FIRST_RETRY * 2), (4, FIRST_RETRY * 8), (u32::MAX, LAST_RETRY)] {
        refresher.failures = failures;
        let pause = refresher.pause();
        assert!(longest / 2 <= pause && pause <= longest, "{failures}: {pause:?}");
    }
    refresher.failures = 0;
    assert_eq!(refresher.pause(), REFRESH_EVERY);
}
