//! The media service as it is called.

use std::sync::Arc;

use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tern_proto::{MediaId, Refusal, UserId};
use tern_rpc::tonic::service::Routes;
use tern_rpc::tonic::{Request, Response, Status, async_trait};
use tern_rpc::v1::media_answer::Answer;
use tern_rpc::v1::media_ask::Ask;
use tern_rpc::v1::media_bytes::Read;
use tern_rpc::v1::media_server::{Media as Service, MediaServer};
use tern_rpc::v1::{self as rpc};
use tern_rpc::{MESSAGE_BYTES, traces_of};
use tracing::Instrument as _;

use crate::{MediaApi, Opened};

/// Bytes of one read: what the client asks for at once, and more.
const READ_BYTES: u64 = 1024 * 1024;

/// The service in front of what does it.
struct Server(Arc<dyn MediaApi>);

/// The paths of the service, to be served.
pub fn routes(media: Arc<dyn MediaApi>) -> Routes {
    let service = MediaServer::new(Server(media));
    Routes::new(service.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES))
}

#[async_trait]
impl Service for Server {
    async fn ask(&self, request: Request<rpc::MediaAskRequest>) -> Result<Response<rpc::MediaAskReply>, Status> {
        let traces = traces_of(request.metadata());
        let answers = request.into_inner().asks.into_iter().enumerate().map(|(place, ask)| {
            let span = traces.span(place, name(&ask));
            answer(&*self.0, ask).instrument(span)
        });
        Ok(Response::new(rpc::MediaAskReply { answers: try_join_all(answers).await? }))
    }

    async fn read(&self, request: Request<rpc::MediaReadRequest>) -> Result<Response<rpc::MediaBytes>, Status> {
        let rpc::MediaReadRequest { id, first, end } = request.into_inner();
        let id = media(&id)?;
        if first >= end || end - first > READ_BYTES {
            return Err(Status::invalid_argument("not a range that is read at once"));
        }
        let read = async {
            let bytes = self.0.read(id, first..end).await?;
            bytes.map(|bytes| bytes.map(|bytes| bytes.to_vec())).try_concat().await
        };
        let read: Result<Vec<u8>, Refusal> = read.await;
        let read = read.map_or_else(|refused| Read::Refusal(refused.into()), |bytes| Read::Bytes(bytes.into()));
        Ok(Response::new(rpc::MediaBytes { read: Some(read) }))
    }
}

/// For traces.
fn name(ask: &rpc::MediaAsk) -> &'static str {
    match &ask.ask {
        Some(Ask::Begin(_)) => "media.begin",
        Some(Ask::Part(_)) => "media.part",
        Some(Ask::Complete(_)) => "media.complete",
        Some(Ask::Chunks(_)) => "media.chunks",
        Some(Ask::Clip(_)) => "media.clip",
        Some(Ask::Lease(_)) => "media.lease",
        Some(Ask::Upload(_) | Ask::Open(_)) | None => "media.look",
    }
}

async fn answer(
    service: &dyn MediaApi,
    rpc::MediaAsk { user, ask }: rpc::MediaAsk,
) -> Result<rpc::MediaAnswer, Status> {
    let answer = match ask.ok_or_else(|| Status::invalid_argument("nothing is asked"))? {
        Ask::Lease(id) => service.lease(media(&id)?).await.map(Answer::Media),
        Ask::Open(id) => service.open(media(&id)?).await.map(|opened| Answer::Opened(told(opened))),
        ask => {
            let user = UserId::new(&user).map_err(|_| Status::invalid_argument("not a user"))?;
            of_user(service, &user, ask).await?
        }
    };
    Ok(rpc::MediaAnswer { answer: Some(answer.unwrap_or_else(|refused| Answer::Refusal(refused.into()))) })
}

async fn of_user(service: &dyn MediaApi, user: &UserId, ask: Ask) -> Result<Result<Answer, Refusal>, Status> {
    Ok(match ask {
        Ask::Begin(request) => service.begin(user, request).await.map(Answer::Upload),
        Ask::Part(rpc::MediaPart { id, index, crc32, bytes }) => {
            service.part(user, media(&id)?, index, crc32, bytes).await.map(Answer::Left)
        }
        Ask::Upload(id) => service.upload(user, media(&id)?).await.map(Answer::Upload),
        Ask::Complete(id) => service.complete(user, media(&id)?).await.map(Answer::Upload),
        Ask::Chunks(rpc::MediaChunks { chunks }) => {
            Ok(Answer::Chunks(rpc::MediaStored { stored: service.chunks(user, chunks).await }))
        }
        Ask::Clip(clip) => service.clip(user, clip).await.map(Answer::Media),
        // Answered before: they are of no user.
        Ask::Lease(_) | Ask::Open(_) => return Err(Status::invalid_argument("not of a user")),
    })
}

fn media(id: &str) -> Result<MediaId, Status> {
    id.parse().map_err(|_| Status::invalid_argument("not the id of media"))
}

fn told(Opened { owner, media, thumbnail, content, as_nothing }: Opened) -> rpc::MediaOpened {
    let (media, as_nothing) = (Some(media), Some(as_nothing.into()));
    rpc::MediaOpened { owner: owner.to_string(), media, thumbnail, content, as_nothing }
}
