//! The short link: the requests of the long link over HTTP, as packets or as JSON. Beside them it has the paths of [`media`].

use std::error::Error;
use std::mem;
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
use tern_proto::{Command, limits, packet, v1};
use tern_runtime::shutdown::Stop;
use tern_sync::{Device, Refusal};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::accept::{accept, turn_away};
use crate::places::{Place, Places};
use crate::request::{
    Request, Taken, bad_packet, busy, error, json, millis, put_answer, put_link_error, put_stored, refusal, too_many,
};
use crate::{Gateway, media};

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
/// When a body's packets have been carried out for so long, the rest is not: the longest wait of a check and as much again
/// as a body may take to come.
const PACKETS_WAIT: Duration = limits::CHECK_WAIT.saturating_add(BODY_WAIT);

const DEVICE: &str = "tern-device";

/// What the handlers of a listener share.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) gateway: Arc<Gateway>,
    stop: Stop,
}

/// Accepts short links until `closing`; each runs in a task and a place of its own. From the `stop` on it says that the
/// process is not ready.
pub(crate) async fn accept_short_links(
    listener: TcpListener,
    gateway: &Arc<Gateway>,
    places: &Arc<Places>,
    stop: &Stop,
    closing: &Stop,
) {
    let router = router(Served { gateway: Arc::clone(gateway), stop: stop.clone() });
    while let Some(stream) = accept(&listener, &gateway.settings, closing).await {
        match places.take(gateway.next_session()) {
            Some(place) => {
                tokio::spawn(serve_connection(stream, router.clone(), place));
            }
            None => turn_away(&stream, &too_many_response(gateway.settings.spread())),
        }
    }
}

fn router(served: Served) -> Router {
    let json_paths = [
        ("/v1/hello", Command::Hello),
        ("/v1/send", Command::Send),
        ("/v1/sync", Command::Sync),
        ("/v1/check", Command::Check),
        ("/v1/ack", Command::Ack),
        ("/v1/read", Command::Read),
        ("/v1/conversations", Command::Conversations),
        ("/v1/history", Command::History),
        ("/v1/members", Command::Members),
    ];
    let mut router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/v1/packets", post(packets))
        .merge(media::routes());
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
        return failure(StatusCode::SERVICE_UNAVAILABLE, &refusal(v1::Code::Unavailable, "stopping"), 0);
    }
    match served.gateway.sync.ready().await {
        Ok(()) => Response::new("ready".into()),
        Err(refused) => failure(StatusCode::SERVICE_UNAVAILABLE, &refused, 0),
    }
}

async fn answer_json(served: Served, command: Command, request: HttpRequest) -> Response<Body> {
    let answer = async {
        let (device, body) = admit(&served.gateway, request).await?;
        served.gateway.counters.packet(Some(command));
        served.gateway.answer(&device, Vec::new(), Request::from_json(command, &body)?).await
    };
    match answer.await {
        Ok(reply) => response(StatusCode::OK, "application/json", reply.to_json()),
        Err(refused) => failure(status(refused.code), &refused, command.number()),
    }
}

async fn packets(State(served): State<Served>, request: HttpRequest) -> Response<Body> {
    match admit(&served.gateway, request).await {
        Ok((device, body)) => {
            let answers = answer_packets(&served.gateway, &device, body, Instant::now() + PACKETS_WAIT).await;
            response(StatusCode::OK, "application/octet-stream", answers.freeze())
        }
        Err(refused) => failure(status(refused.code), &refused, 0),
    }
}

/// Carries out the packets one after the other. All checks together wait as long as one may. What comes after the `end`,
/// or when the answers are too many, is refused as busy; a request begun before is carried out to its end.
async fn answer_packets(gateway: &Gateway, device: &Device, body: Bytes, end: Instant) -> BytesMut {
    let (mut input, mut out) = (BytesMut::from(body), BytesMut::new());
    let waits_end = Instant::now() + limits::CHECK_WAIT;
    // They wait for their message: the body bounds them.
    let mut chunks = Vec::new();
    let broken = loop {
        match packet::decode(&mut input) {
            Ok(Some(packet)) => {
                gateway.counters.packet(packet.known_command());
                let request = match Taken::from_packet(&packet) {
                    Ok(Taken::Chunk(chunk)) => {
                        chunks.push(chunk);
                        continue;
                    }
                    Ok(Taken::Request(request)) => Ok(request),
                    Err(refused) => Err(refused),
                };
                let is_send = matches!(request, Ok(Request::Send(_)));
                let before = if is_send { mem::take(&mut chunks) } else { Vec::new() };
                let answer = match request {
                    Ok(_) if out.len() > ANSWER_BYTES => Err(busy("the answers to one HTTP request are too many")),
                    Ok(_) if Instant::now() >= end => Err(busy("one HTTP request asks for too much work")),
                    Ok(request) => gateway.answer(device, before, wait_until(request, waits_end)).await,
                    Err(refused) => Err(refused),
                };
                put_answer(&mut out, packet.command, packet.sequence, &answer);
            }
            Ok(None) if input.is_empty() => break None,
            Ok(None) => break Some(refusal(v1::Code::BadHeader, "the body ends within a packet")),
            Err(broken) => break Some(bad_packet(broken)),
        }
    };
    put_stored(&mut out, &gateway.store(device, chunks).await);
    if let Some(broken) = broken {
        put_link_error(&mut out, &broken);
    }
    out
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
pub(crate) async fn admit(gateway: &Gateway, request: HttpRequest) -> Result<(Device, Bytes), Refusal> {
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

pub(crate) fn authenticate(gateway: &Gateway, headers: &HeaderMap) -> Result<Device, Refusal> {
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

pub(crate) fn status(code: v1::Code) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(crate) fn failure(status: StatusCode, refused: &Refusal, command: u32) -> Response<Body> {
    let mut response = response(status, "application/json", json(&error(refused, command)));
    if !refused.retry_after.is_zero() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(whole_seconds(refused.retry_after)));
    }
    response
}

pub(crate) fn response(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Rounded up, so that nobody comes too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// What one connection too many is told, written without hyper, which would wait for its request.
fn too_many_response(retry_after: Duration) -> Vec<u8> {
    let body = json(&error(&too_many(retry_after), 0));
    let head = format!(
        "HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\nretry-after: {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        whole_seconds(retry_after),
        body.len()
    );
    [head.into_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use tern_proto::packet::Packet;
    use tern_proto::{DeviceId, UserId};

    use super::*;
    use crate::nothing;

    fn device() -> Device {
        Device { user: UserId::new("bob").unwrap(), id: DeviceId::new("d1").unwrap() }
    }

    #[tokio::test]
    async fn what_a_body_asks_beyond_its_time_is_refused_as_busy() {
        let mut body = BytesMut::new();
        (1..=3).for_each(|sequence| Packet::empty(Command::Heartbeat.number(), sequence).encode(&mut body));
        let end = Instant::now() + PACKETS_WAIT;
        let busy = Command::Error.number();
        for (end, command) in [(end, Command::Heartbeat.reply()), (Instant::now(), busy)] {
            let mut answers = answer_packets(&nothing::gateway(), &device(), body.clone().freeze(), end).await;
            for sequence in 1..=3 {
                let answer = packet::decode(&mut answers).unwrap().unwrap();
                assert_eq!((answer.command, answer.sequence), (command, sequence));
                if command == busy {
                    let error = <v1::Error as prost::Message>::decode(answer.body).unwrap();
                    assert_eq!(error.code(), v1::Code::Busy);
                }
            }
        }
    }
}
