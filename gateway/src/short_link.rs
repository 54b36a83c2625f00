//! The short link: the requests of the long link over HTTP, as packets or as JSON.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{self, Body};
use axum::extract::{Request as HttpRequest, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use http_body_util::LengthLimitError;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tern_proto::{Command, DeviceId, UserId, limits, packet, v1};
use tern_runtime::shutdown::Stop;
use tern_sync::{Device, Refusal};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::Gateway;
use crate::accept::{accept, drain};
use crate::places::{Place, Places};
use crate::request::{Request, bad_packet, busy, error, json, millis, put_answer, put_link_error, refusal, too_many};

/// Bytes of a request's body.
const BODY_BYTES: usize = 256 * 1024;
/// A request's body must come within this time.
const BODY_WAIT: Duration = Duration::from_secs(30);
/// A request's headers must come within this time of the connect or of the last answer.
const HEADER_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a request's headers, and of what hyper reads ahead.
const BUFFER_BYTES: usize = 32 * 1024;
/// Above this many bytes of answers the rest of a body's packets are not carried out.
const ANSWER_BYTES: usize = 1024 * 1024;

const DEVICE: &str = "tern-device";

#[derive(Clone)]
struct Served {
    gateway: Arc<Gateway>,
    stop: Stop,
}

/// Serves the short link until the stop, then drains: requests under way are answered, waiting checks at once. Returns
/// when all connections have ended, or after the grace.
pub async fn serve_short_link(listener: TcpListener, gateway: Arc<Gateway>, stop: Stop) {
    let places = Places::new(gateway.settings.max_short_links);
    let router = router(Served { gateway: Arc::clone(&gateway), stop: stop.clone() });
    while let Some(stream) = accept(&listener, &stop).await {
        match places.take(gateway.next_session()) {
            Some(place) => {
                tokio::spawn(serve_connection(stream, router.clone(), place));
            }
            None => turn_away(&stream, &gateway),
        }
    }
    drop(listener);
    gateway.registry.end_waits();
    drain(&places, &gateway, "short link").await;
}

fn router(served: Served) -> Router {
    let json_paths = [
        ("/v1/hello", Command::Hello),
        ("/v1/send", Command::Send),
        ("/v1/sync", Command::Sync),
        ("/v1/check", Command::Check),
        ("/v1/ack", Command::Ack),
        ("/v1/read", Command::Read),
    ];
    let mut router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/v1/packets", post(packets));
    for (path, command) in json_paths {
        let handler = async move |State(served): State<Served>, request| answer_json(served, command, request).await;
        router = router.route(path, post(handler));
    }
    // The last of these counts only for routes that stand already.
    router
        .fallback(async || failure(StatusCode::NOT_FOUND, &refusal(v1::Code::UnknownCommand, "no such path"), 0))
        .method_not_allowed_fallback(async || {
            let refused = refusal(v1::Code::UnknownCommand, "not a method of this path");
            failure(StatusCode::METHOD_NOT_ALLOWED, &refused, 0)
        })
        .with_state(served)
}

async fn serve_connection(stream: TcpStream, router: Router, place: Place) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // How a client ends its connection is no concern of ours.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = place.signal.raised() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Whether requests can be served: not during a drain, nor while storage is away.
async fn ready(State(served): State<Served>) -> Response<Body> {
    if served.stop.is_stopped() {
        return unavailable("stopping");
    }
    let probe = UserId::new("readyz").and_then(|user| Ok(Device { user, id: DeviceId::new("probe")? }));
    let request = v1::CheckRequest { peek: true, ..Default::default() };
    match probe {
        Ok(device) if served.gateway.sync.check(&device, &request).await.is_ok() => Response::new("ready".into()),
        _ => unavailable("storage is unavailable"),
    }
}

fn unavailable(why: &str) -> Response<Body> {
    failure(StatusCode::SERVICE_UNAVAILABLE, &refusal(v1::Code::Unavailable, why), 0)
}

async fn answer_json(served: Served, command: Command, request: HttpRequest) -> Response<Body> {
    let answer = async {
        let (device, body) = admit(&served.gateway, request).await?;
        served.gateway.answer(&device, Request::from_json(command, &body)?).await
    };
    match answer.await {
        Ok(reply) => response(StatusCode::OK, "application/json", reply.to_json()),
        Err(refused) => failure(status(refused.code), &refused, command.number()),
    }
}

async fn packets(State(served): State<Served>, request: HttpRequest) -> Response<Body> {
    match admit(&served.gateway, request).await {
        Ok((device, body)) => {
            let answers = answer_packets(&served.gateway, &device, body).await;
            response(StatusCode::OK, "application/octet-stream", answers.freeze())
        }
        Err(refused) => failure(status(refused.code), &refused, 0),
    }
}

/// Carries out the packets one after the other. Answers and waits are bounded as a whole; what is over the answers'
/// bound is refused as busy.
async fn answer_packets(gateway: &Gateway, device: &Device, body: Bytes) -> BytesMut {
    let (mut input, mut out) = (BytesMut::from(body), BytesMut::new());
    let deadline = Instant::now() + limits::CHECK_WAIT;
    loop {
        match packet::decode(&mut input) {
            Ok(Some(packet)) => {
                let answer = match Request::from_packet(&packet) {
                    Ok(_) if out.len() > ANSWER_BYTES => Err(busy("the answers to one HTTP request are too many")),
                    Ok(request) => gateway.answer(device, wait_until(request, deadline)).await,
                    Err(refused) => Err(refused),
                };
                put_answer(&mut out, packet.command, packet.sequence, &answer);
            }
            Ok(None) if input.is_empty() => return out,
            Ok(None) => {
                put_link_error(&mut out, &refusal(v1::Code::BadHeader, "the body ends within a packet"));
                return out;
            }
            Err(broken) => {
                put_link_error(&mut out, &bad_packet(broken));
                return out;
            }
        }
    }
}

/// The request with a wait that ends at the deadline.
fn wait_until(mut request: Request, deadline: Instant) -> Request {
    if let Request::Check(check) = &mut request {
        let left = deadline.saturating_duration_since(Instant::now());
        check.wait_ms = check.wait_ms.min(millis(left));
    }
    request
}

/// Who asks, and the whole body.
async fn admit(gateway: &Gateway, request: HttpRequest) -> Result<(Device, Bytes), Refusal> {
    let (head, body) = request.into_parts();
    let device = authenticate(gateway, &head.headers)?;
    let body = tokio::time::timeout(BODY_WAIT, body::to_bytes(body, BODY_BYTES)).await;
    match body {
        Ok(Ok(body)) => Ok((device, body)),
        Ok(Err(error)) if error.source().is_some_and(|why| why.is::<LengthLimitError>()) => {
            Err(refusal(v1::Code::PacketTooLarge, format!("the body is over {BODY_BYTES} bytes")))
        }
        Ok(Err(_)) => Err(refusal(v1::Code::BadBody, "the body broke off")),
        Err(_) => Err(refusal(v1::Code::BadBody, "the body took too long")),
    }
}

fn authenticate(gateway: &Gateway, headers: &HeaderMap) -> Result<Device, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let token = text(AUTHORIZATION.as_str())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| refusal(v1::Code::BadToken, "the header `Authorization: Bearer <token>` is missing"))?;
    let device =
        text(DEVICE).ok_or_else(|| refusal(v1::Code::BadDevice, "the header `Tern-Device: <device id>` is missing"))?;
    gateway.authenticate(token, device)
}

fn status(code: v1::Code) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn failure(status: StatusCode, refused: &Refusal, command: u32) -> Response<Body> {
    let mut response = response(status, "application/json", json(&error(refused, command)));
    if !refused.retry_after.is_zero() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(whole_seconds(refused.retry_after)));
    }
    response
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Rounded up, so that nobody comes too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Tells a client why it is not served, as far as that goes without waiting for it.
fn turn_away(stream: &TcpStream, gateway: &Gateway) {
    let refused = too_many(gateway.settings.spread());
    let body = json(&error(&refused, 0));
    let head = format!(
        "HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\nretry-after: {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        whole_seconds(refused.retry_after),
        body.len()
    );
    // A new connection has room for it; if it does not, the client sees the close alone.
    let _ = stream.try_write(&[head.into_bytes(), body].concat());
}
