//! Media over the short link, with literal requests.

use std::net::SocketAddr;

use sha2::Digest as _;

use crate::bench::{Bench, token};
use crate::http::{Response, ask, ask_json};

/// A GIF of one pixel, and two kilobytes behind its end: as much as several parts.
fn gif() -> Vec<u8> {
    let pixel = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    [&pixel[..], &[7; 2_100]].concat()
}

fn begin(whole: &[u8]) -> String {
    let digest: String = sha2::Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(r#"{{"bytes":"{}","sha256":"{digest}","type":"image/gif","partBytes":1024}}"#, whole.len())
}

async fn part(http: SocketAddr, user: &str, id: &str, index: &str, bytes: &[u8], crc32: u32) -> Response {
    let head = format!(
        "POST /v1/media/{id}/parts/{index} HTTP/1.1\r\nauthorization: Bearer {}\r\ntern-device: d1\r\ntern-crc32: {crc32:08x}",
        token(user)
    );
    ask(http, &head, bytes).await
}

async fn good_part(http: SocketAddr, user: &str, id: &str, index: usize, whole: &[u8]) -> Response {
    let bytes = whole.chunks(1024).nth(index).unwrap();
    part(http, user, id, &index.to_string(), bytes, crc32fast::hash(bytes)).await
}

async fn get(http: SocketAddr, user: &str, path: &str, more: &str) -> Response {
    let head = format!(
        "GET {path} HTTP/1.1\r\nauthorization: Bearer {}\r\ntern-device: d1{}{more}",
        token(user),
        if more.is_empty() { "" } else { "\r\n" }
    );
    ask(http, &head, b"").await
}

fn code(response: &Response) -> (u16, String) {
    (response.status, response.json()["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn parts_become_an_image_that_is_fetched_with_ranges() {
    let bench = Bench::start();
    let (http, whole) = (bench.http, gif());
    let begun = ask_json(http, "alice", "d1", "/v1/media", &begin(&whole)).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    let begun = begun.json();
    let id = begun["id"].as_str().unwrap();
    assert_eq!((&begun["parts"], &begun["left"], &begun["missing"][0]["last"]), (&3.into(), &3.into(), &2.into()));
    assert_eq!(good_part(http, "alice", id, 2, &whole).await.json()["left"], 2);
    assert_eq!(good_part(http, "alice", id, 0, &whole).await.json()["left"], 1);
    let told = get(http, "alice", &format!("/v1/media/{id}/upload"), "").await.json();
    assert_eq!((&told["missing"][0]["first"], &told["missing"][0]["last"]), (&1.into(), &1.into()));
    let early = ask_json(http, "alice", "d1", &format!("/v1/media/{id}/complete"), "").await;
    assert_eq!(code(&early), (409, "CODE_UPLOAD_INCOMPLETE".into()));
    let last = good_part(http, "alice", id, 1, &whole).await.json();
    assert_eq!((&last["media"]["type"], &last["media"]["width"]), (&"image/gif".into(), &1.into()));
    assert!(last["thumbnail"].as_str().is_some_and(|thumbnail| thumbnail.starts_with("/9j/")), "{last}");
    let again = ask_json(http, "alice", "d1", &format!("/v1/media/{id}/complete"), "").await.json();
    assert_eq!(again["media"], last["media"]);
    let begun_again = ask_json(http, "alice", "d2", "/v1/media", &begin(&whole)).await.json();
    assert_eq!((&begun_again["id"], &begun_again["media"]), (&begun["id"], &last["media"]));

    let path = format!("/v1/media/{id}");
    let original = get(http, "alice", &path, "").await;
    assert_eq!((original.status, &original.body), (200, &whole));
    let etag = format!("\"{id}\"");
    for line in [
        "content-type: image/gif".to_owned(),
        format!("content-length: {}", whole.len()),
        format!("etag: {etag}"),
        "cache-control: private, max-age=31536000, immutable".into(),
        "accept-ranges: bytes".into(),
        "x-content-type-options: nosniff".into(),
        "content-security-policy: default-src 'none'; sandbox".into(),
    ] {
        assert!(original.head.contains(&line), "{line} is not in {}", original.head);
    }
    let range = get(http, "alice", &path, "range: bytes=1-5").await;
    assert_eq!((range.status, &range.body[..]), (206, &b"IF89a"[..]));
    assert!(range.head.contains(&format!("content-range: bytes 1-5/{}", whole.len())), "{}", range.head);
    assert_eq!(get(http, "alice", &path, "range: bytes=99999-").await.status, 416);
    let known = get(http, "alice", &path, &format!("if-none-match: {etag}")).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let of_bob = get(http, "bob", &path, "").await;
    assert_eq!((of_bob.status, &of_bob.body), (200, &whole), "a message to bob is about it");
    for path in [path.clone(), format!("{path}/thumbnail")] {
        assert_eq!(code(&get(http, "eve", &path, "").await), (404, "CODE_NO_SUCH_MEDIA".into()));
    }
    let thumbnail = get(http, "alice", &format!("{path}/thumbnail"), "").await;
    assert!(thumbnail.head.contains("content-type: image/jpeg") && thumbnail.body.starts_with(&[0xff, 0xd8]));
}

#[tokio::test]
async fn what_is_wrong_is_told_and_changes_nothing() {
    let bench = Bench::start();
    let (http, whole) = (bench.http, gif());
    let begun = ask_json(http, "alice", "d1", "/v1/media", &begin(&whole)).await.json();
    let id = begun["id"].as_str().unwrap();
    let first = &whole[..1024];
    let crc32 = crc32fast::hash(first);
    assert_eq!(good_part(http, "alice", id, 0, &whole).await.status, 200);
    let other = [9; 1024];
    let long = [1; 1025];
    let none = "0".repeat(32);
    let never = format!("{:032x}", u128::from(u64::MAX) << 64);
    for (user, id, index, bytes, crc32, status, name) in [
        ("alice", id, "1", first, crc32 ^ 1, 400, "CODE_BAD_PART"),
        ("alice", id, "0", &other[..], crc32fast::hash(&other), 409, "CODE_PART_CONFLICT"),
        ("alice", id, "1", &long[..], crc32fast::hash(&long), 400, "CODE_BAD_PART"),
        ("alice", id, "3", first, crc32, 400, "CODE_BAD_PART"),
        ("alice", id, "-1", first, crc32, 400, "CODE_BAD_PART"),
        ("alice", id, "4294967296", first, crc32, 400, "CODE_BAD_PART"),
        ("eve", id, "1", first, crc32, 404, "CODE_NO_SUCH_MEDIA"),
        ("alice", "x", "1", first, crc32, 404, "CODE_NO_SUCH_MEDIA"),
        ("alice", &never, "1", first, crc32, 404, "CODE_NO_SUCH_MEDIA"),
        ("alice", &none, "1", first, crc32, 410, "CODE_MEDIA_EXPIRED"),
    ] {
        let refused = part(http, user, id, index, bytes, crc32).await;
        assert_eq!(code(&refused), (status, name.to_owned()), "{user} {id} {index}");
    }
    let head =
        format!("POST /v1/media/{id}/parts/1 HTTP/1.1\r\nauthorization: Bearer {}\r\ntern-device: d1", token("alice"));
    let unsaid = ask(http, &head, first).await;
    assert!(unsaid.status == 400 && unsaid.text().contains("Tern-Crc32"), "{unsaid:?}");
    for body in ["", "{}", r#"{"bytes":"1","sha256":"00","type":"image/gif"}"#, r#"{"size":"1"}"#] {
        let refused = ask_json(http, "alice", "d1", "/v1/media", body).await;
        assert_eq!(code(&refused), (400, "CODE_BAD_BODY".into()), "{body}");
    }
    let large = begin(&whole).replacen(&format!("\"{}\"", whole.len()), "\"33554433\"", 1);
    let refused = ask_json(http, "alice", "d1", "/v1/media", &large).await;
    assert_eq!(code(&refused), (429, "CODE_MEDIA_QUOTA".into()));
    for path in [format!("/v1/media/{id}"), format!("/v1/media/{id}/thumbnail"), format!("/v1/media/{id}/upload")] {
        let (user, status) = if path.ends_with("upload") { ("eve", 404) } else { ("alice", 404) };
        assert_eq!(code(&get(http, user, &path, "").await).0, status, "{path}");
    }
    let missing = get(http, "alice", &format!("/v1/media/{id}/upload"), "").await.json();
    assert_eq!((&missing["left"], &missing["missing"][0]["first"]), (&2.into(), &1.into()));
    let anonymous = ask(http, &format!("GET /v1/media/{id} HTTP/1.1"), b"").await;
    assert_eq!(anonymous.status, 401);
}
