//! The storage service as it is called.

use std::sync::Arc;

use tern_rpc::tonic::service::Routes;
use tern_rpc::tonic::{Request, Response, Status, async_trait};
use tern_rpc::v1::look::Look;
use tern_rpc::v1::seen::Seen;
use tern_rpc::v1::storage_server::{Storage as Service, StorageServer};
use tern_rpc::v1::{self as rpc};
use tern_rpc::{MESSAGE_BYTES, traces_of};
use tern_runtime::traces::note_batch;
use tracing::Instrument as _;

use super::convert::{self, NotUnderstood};
use crate::{Storage, Unavailable};

/// The service in front of an engine.
struct Server(Arc<dyn Storage>);

/// The routes of the service, to be served.
pub fn routes(storage: Arc<dyn Storage>) -> Routes {
    let service = StorageServer::new(Server(storage))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    Routes::new(service)
}

impl From<NotUnderstood> for Status {
    fn from(error: NotUnderstood) -> Status {
        Status::invalid_argument(error.to_string())
    }
}

#[async_trait]
impl Service for Server {
    async fn commit(&self, request: Request<rpc::CommitRequest>) -> Result<Response<rpc::CommitReply>, Status> {
        let spans = traces_of(request.metadata()).spans("storage.commit");
        let ops = request.into_inner().ops.into_iter().map(convert::to_op).collect::<Result<Vec<_>, _>>()?;
        spans.iter().for_each(|span| note_batch(span, ops.len()));
        let outcomes = self.0.commit(ops).await;
        drop(spans);
        Ok(Response::new(rpc::CommitReply { outcomes: outcomes.into_iter().map(convert::outcome).collect() }))
    }

    async fn look(&self, request: Request<rpc::LookRequest>) -> Result<Response<rpc::LookReply>, Status> {
        let traces = traces_of(request.metadata());
        let looks = request.into_inner().looks.into_iter().enumerate();
        let looks = looks.map(|(place, look)| seen(&*self.0, look).instrument(traces.span(place, "storage.look")));
        let seen = futures_util::future::try_join_all(looks).await?;
        Ok(Response::new(rpc::LookReply { seen }))
    }

    async fn retain(&self, request: Request<rpc::RetainRequest>) -> Result<Response<rpc::RetainReply>, Status> {
        let retained = self.0.retain(request.into_inner().now_ms).await;
        let retained = retained.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(rpc::RetainReply { dropped: retained.dropped, freed: retained.freed }))
    }
}

async fn seen(storage: &dyn Storage, look: rpc::Look) -> Result<rpc::Seen, NotUnderstood> {
    let seen = match answer(storage, look).await? {
        Ok(seen) => seen,
        Err(Unavailable(why)) => Seen::Unavailable(why),
    };
    Ok(rpc::Seen { seen: Some(seen) })
}

async fn answer(storage: &dyn Storage, look: rpc::Look) -> Result<Result<Seen, Unavailable>, NotUnderstood> {
    Ok(match look.look.ok_or(NotUnderstood("a look"))? {
        Look::Page(look) => {
            let page = storage.page(convert::to_page_request(look)?).await;
            page.map(|page| Seen::Page(convert::page(page)))
        }
        Look::Device(device) => {
            let state = storage.device(&convert::to_device(Some(device))?).await;
            state.map(|state| Seen::Device(convert::state(&state, storage.durability())))
        }
        Look::HighestId(device) => {
            storage.highest_client_msg_id(&convert::to_device(Some(device))?).await.map(Seen::HighestId)
        }
        Look::Underived(look) => {
            let after = look.after.map(|device| convert::to_device(Some(device))).transpose()?;
            let devices = storage.underived(after.as_ref(), look.limit as usize).await;
            devices
                .map(|devices| Seen::Underived(rpc::Devices { devices: devices.iter().map(convert::device).collect() }))
        }
        Look::Conversations(look) => {
            let after = if look.after.is_empty() { None } else { Some(convert::conversation(&look.after)?) };
            let (user, limit) = (convert::user(&look.user)?, convert::size(look.limit));
            let listed = storage.conversations(&user, after.as_ref(), limit).await;
            listed.map(|listed| {
                let conversations = listed.into_iter().map(convert::listed).collect();
                Seen::Conversations(rpc::Conversations { conversations })
            })
        }
        Look::Conversation(name) => {
            let conversation = storage.conversation(&convert::conversation(&name)?).await;
            conversation.map(|conversation| {
                let conversation = conversation.map(convert::of_conversation);
                Seen::Conversation(rpc::MaybeConversation { conversation })
            })
        }
        Look::History(look) => {
            let history = storage.history(convert::to_history_request(&look)?).await;
            history.map(|history| Seen::History(convert::history(history)))
        }
        Look::References(look) => {
            let after = if look.after.is_empty() { None } else { Some(convert::conversation(&look.after)?) };
            let media = look.media.parse().map_err(|_| NotUnderstood("a media id"))?;
            let reader = if look.reader.is_empty() { None } else { Some(convert::user(&look.reader)?) };
            let limit = convert::size(look.limit);
            let references = storage.references(media, reader.as_ref(), after.as_ref(), limit).await;
            references.map(|references| Seen::References(convert::references(references)))
        }
        Look::Ready(_) => storage.ready().await.map(|()| Seen::Ready(true)),
    })
}
