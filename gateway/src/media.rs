//! Media over the short link: uploads in parts, and fetching with ranges.

use std::ops::Range;
use std::str::FromStr;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use axum::routing::{get, post};
use bytes::Bytes;
use tern_media::{MediaApi, Opened};
use tern_proto::{MediaId, v1};
use tern_runtime::planted::{self, Fault};
use tern_runtime::traces;
use tern_sync::Refusal;
use tracing::Instrument as _;

use crate::Gateway;
use crate::request::{from_json, json, refusal};
use crate::short_link::{Served, admit, authenticate, failure, response, status};

/// Has the CRC-32 of a part, in hexadecimal digits.
const CRC32: &str = "tern-crc32";

/// What a thumbnail is.
const THUMBNAIL: &str = "image/jpeg";

/// What never changes may be kept by who was allowed to fetch it.
const FOREVER: &str = "private, max-age=31536000, immutable";

/// The paths of media.
pub(crate) fn routes() -> Router<Served> {
    Router::new()
        .route("/v1/media", post(begin))
        .route("/v1/media/{id}", get(original))
        .route("/v1/media/{id}/thumbnail", get(thumbnail))
        .route("/v1/media/{id}/upload", get(upload))
        .route("/v1/media/{id}/complete", post(complete))
        .route("/v1/media/{id}/parts/{index}", post(put_part))
}

async fn begin(State(served): State<Served>, request: HttpRequest) -> Response<Body> {
    let asked = async {
        let (device, body) = admit(&served.gateway, request).await?;
        // Nothing counts as a request without fields, as on the other paths.
        let body = if body.is_empty() { b"{}" } else { &body[..] };
        media(&served.gateway)?.begin(&device.user, from_json(body)?).await
    };
    told(asked.instrument(traces::root("media_begin", None)).await)
}

async fn put_part(
    State(served): State<Served>,
    Path((id, index)): Path<(String, String)>,
    request: HttpRequest,
) -> Response<Body> {
    let asked = async {
        let crc32 = crc32_of(request.headers());
        let (device, bytes) = admit(&served.gateway, request).await?;
        let index =
            number(&index).ok_or_else(|| refusal(v1::Code::BadPart, "the index of a part is a number from 0"))?;
        let (media, id) = (media(&served.gateway)?, id_of(&id)?);
        match media.part(&device.user, id, index, crc32?, bytes).await? {
            0 => media.complete(&device.user, id).await,
            left => Ok(v1::MediaUpload { id: id.to_string(), left, ..Default::default() }),
        }
    };
    told(asked.instrument(traces::root("media_part", None)).await)
}

async fn upload(State(served): State<Served>, Path(id): Path<String>, headers: HeaderMap) -> Response<Body> {
    let asked = async {
        let device = authenticate(&served.gateway, &headers)?;
        media(&served.gateway)?.upload(&device.user, id_of(&id)?).await
    };
    told(asked.await)
}

async fn complete(State(served): State<Served>, Path(id): Path<String>, request: HttpRequest) -> Response<Body> {
    let asked = async {
        let (device, _) = admit(&served.gateway, request).await?;
        media(&served.gateway)?.complete(&device.user, id_of(&id)?).await
    };
    told(asked.instrument(traces::root("media_complete", None)).await)
}

async fn original(
    State(served): State<Served>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let answer = async {
        let (id, opened) = open(&served.gateway, &headers, &id).await?;
        let file = File { etag: format!("\"{id}\""), length: opened.media.bytes, kind: opened.media.r#type };
        let content = opened.content;
        let gateway = &served.gateway;
        file.answer(&method, &headers, async |range| match content.is_empty() {
            true => Ok(Body::from_stream(media(gateway)?.read(id, range).await?)),
            false => Ok(part(&content, range)),
        })
        .await
    };
    fetched_or_refused(answer.await)
}

async fn thumbnail(
    State(served): State<Served>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let answer = async {
        let (id, Opened { thumbnail, .. }) = open(&served.gateway, &headers, &id).await?;
        if thumbnail.is_empty() {
            return Err(refusal(v1::Code::NoSuchMedia, "audio has no thumbnail"));
        }
        let (etag, length) = (format!("\"{id}-thumbnail\""), thumbnail.len() as u64);
        let file = File { etag, length, kind: THUMBNAIL.to_owned() };
        file.answer(&method, &headers, async |range| Ok(part(&thumbnail, range))).await
    };
    fetched_or_refused(answer.await)
}

fn part(whole: &Bytes, range: Range<u64>) -> Body {
    let end = whole.len().min(usize::try_from(range.end).unwrap_or(usize::MAX));
    whole.slice(end.min(range.start as usize)..end).into()
}

/// What can be fetched; it never changes.
struct File {
    etag: String,
    length: u64,
    /// A media type.
    kind: String,
}

impl File {
    /// The answer to a request for it; `bytes` gives those of a range.
    async fn answer(
        &self,
        method: &Method,
        headers: &HeaderMap,
        bytes: impl AsyncFnOnce(Range<u64>) -> Result<Body, Refusal>,
    ) -> Result<Response<Body>, Refusal> {
        let File { etag, length, kind } = self;
        Ok(match asked_for(method, headers, etag, *length) {
            Asked::Unchanged => unchanged(etag),
            Asked::Beyond => beyond(*length),
            Asked::Head => fetched(StatusCode::OK, kind, etag, *length, Body::empty()),
            Asked::Whole => fetched(StatusCode::OK, kind, etag, *length, bytes(0..*length).await?),
            Asked::Part(range) => part_of(range.clone(), *length, kind, etag, bytes(range).await?),
        })
    }
}

fn media(gateway: &Gateway) -> Result<&dyn MediaApi, Refusal> {
    gateway.media.as_deref().ok_or_else(|| Refusal::new(v1::Code::Unavailable, "media is not served here"))
}

/// Media that this request may fetch.
async fn open(gateway: &Gateway, headers: &HeaderMap, id: &str) -> Result<(MediaId, Opened), Refusal> {
    let device = authenticate(gateway, headers)?;
    let id = id_of(id)?;
    let media = media(gateway)?;
    let opened = media.open(id).await?;
    let may_fetch = opened.owner == device.user
        || planted::active(Fault::MediaForAll)
        || gateway.sync.sees_media(&device, id).await?;
    if may_fetch { Ok((id, opened)) } else { Err(opened.as_nothing) }
}

fn id_of(id: &str) -> Result<MediaId, Refusal> {
    MediaId::from_str(id).map_err(|_| no_such())
}

fn no_such() -> Refusal {
    refusal(v1::Code::NoSuchMedia, "no such upload or media")
}

fn crc32_of(headers: &HeaderMap) -> Result<u32, Refusal> {
    let text = headers.get(CRC32).and_then(|value| value.to_str().ok());
    let digits = text.filter(|text| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| refusal(v1::Code::BadPart, "the header `Tern-Crc32: <8 hexadecimal digits>` is missing"))
}

fn told(upload: Result<v1::MediaUpload, Refusal>) -> Response<Body> {
    match upload {
        Ok(upload) => response(StatusCode::OK, "application/json", json(&upload)),
        Err(refused) => failure(status(refused.code), &refused, 0),
    }
}

fn fetched_or_refused(fetched: Result<Response<Body>, Refusal>) -> Response<Body> {
    fetched.unwrap_or_else(|refused| failure(status(refused.code), &refused, 0))
}

/// What of the bytes a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    /// What is said of the whole, without it.
    Head,
    Part(Range<u64>),
    /// The client has them.
    Unchanged,
    /// The range lies behind the end.
    Beyond,
}

/// By RFC 9110, sections 13 and 14. What cannot be understood, and several ranges, ask for the whole.
fn asked_for(method: &Method, headers: &HeaderMap, etag: &str, length: u64) -> Asked {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let lines = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    let mut known = lines.flat_map(|line| line.split(',')).map(str::trim);
    if known.any(|known| known == "*" || known.trim_start_matches("W/") == etag) {
        return Asked::Unchanged;
    }
    // Ranges are of GET alone.
    if *method == Method::HEAD {
        return Asked::Head;
    }
    if text(IF_RANGE).is_some_and(|known| known != etag) {
        return Asked::Whole;
    }
    match text(RANGE).and_then(range) {
        None => Asked::Whole,
        Some((None, 0)) => Asked::Beyond,
        Some((None, last)) => Asked::Part(length.saturating_sub(last)..length),
        Some((Some(first), _)) if first >= length => Asked::Beyond,
        Some((Some(first), last)) => Asked::Part(first..last.saturating_add(1).min(length)),
    }
}

/// Digits alone: no sign, as the parser would take it.
fn number<N: FromStr>(text: &str) -> Option<N> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The one range of bytes that is asked for: the first and the last, or so many of the last ones.
fn range(text: &str) -> Option<(Option<u64>, u64)> {
    let (unit, ranges) = text.split_once('=')?;
    let (first, last) = ranges.split_once('-').filter(|_| unit.eq_ignore_ascii_case("bytes"))?;
    match (first, last) {
        ("", last) => Some((None, number(last)?)),
        (first, "") => Some((Some(number(first)?), u64::MAX)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((Some(first), last))
        }
    }
}

fn unchanged(etag: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    set(&mut response, ETAG, etag);
    set(&mut response, CACHE_CONTROL, FOREVER);
    response
}

fn beyond(length: u64) -> Response<Body> {
    let refused = refusal(v1::Code::BadBody, format!("the range lies behind the {length} bytes that there are"));
    let mut response = failure(StatusCode::RANGE_NOT_SATISFIABLE, &refused, 0);
    set(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
    response
}

/// What others have uploaded is never taken for a page or a script, whatever it is at the same time.
fn fetched(status: StatusCode, kind: &str, etag: &str, length: u64, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, kind);
    set(&mut response, CONTENT_LENGTH, &length.to_string());
    set(&mut response, ACCEPT_RANGES, "bytes");
    set(&mut response, ETAG, etag);
    set(&mut response, CACHE_CONTROL, FOREVER);
    set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut response, CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox");
    response
}

fn part_of(range: Range<u64>, length: u64, kind: &str, etag: &str, body: Body) -> Response<Body> {
    let mut response = fetched(StatusCode::PARTIAL_CONTENT, kind, etag, range.end - range.start, body);
    set(&mut response, CONTENT_RANGE, &format!("bytes {}-{}/{length}", range.start, range.end - 1));
    response
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    // What cannot be a header's value cannot stand in what these are made of.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(HeaderName, &str)]) -> Asked {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        asked_for(&Method::GET, &headers.collect(), "\"tag\"", 100)
    }

    #[test]
    fn a_range_is_cut_to_what_is_there() {
        for (range, part) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=10-19", Asked::Part(10..20)),
            ("bytes=90-", Asked::Part(90..100)),
            ("bytes=90-18446744073709551615", Asked::Part(90..100)),
            ("bytes=-10", Asked::Part(90..100)),
            ("Bytes=0-0", Asked::Part(0..1)),
            ("bytes=-1000", Asked::Part(0..100)),
            ("bytes=100-", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=2-1", Asked::Whole),
            ("bytes=0-1,5-6", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("lines=0-1", Asked::Whole),
        ] {
            assert_eq!(asked(&[(RANGE, range)]), part, "{range}");
        }
    }

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        for known in ["\"tag\"", "W/\"tag\"", "\"other\", \"tag\"", "*"] {
            assert_eq!(asked(&[(IF_NONE_MATCH, known), (RANGE, "bytes=0-1")]), Asked::Unchanged, "{known}");
        }
        assert_eq!(asked(&[(IF_NONE_MATCH, "\"other\"")]), Asked::Whole);
        let ranged = [(RANGE, HeaderValue::from_static("bytes=0-1"))].into_iter().collect();
        assert_eq!(asked_for(&Method::HEAD, &ranged, "\"tag\"", 100), Asked::Head);
        assert_eq!(asked(&[(IF_RANGE, "\"tag\""), (RANGE, "bytes=0-1")]), Asked::Part(0..2));
        assert_eq!(asked(&[(IF_RANGE, "\"other\""), (RANGE, "bytes=0-1")]), Asked::Whole);
    }
}
