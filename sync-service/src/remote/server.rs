//! The sync service as it is called.

use std::sync::Arc;

use tern_proto::key::Key;
use tern_proto::{DeviceId, UserId, v1};
use tern_rpc::MESSAGE_BYTES;
use tern_rpc::tonic::service::Routes;
use tern_rpc::tonic::{Request, Response, Status, async_trait};
use tern_rpc::v1::answer::Answer;
use tern_rpc::v1::ask::Ask;
use tern_rpc::v1::sync_server::{Sync as Service, SyncServer};
use tern_rpc::v1::{self as rpc};
use tern_storage::Device;

use crate::{GatewayId, Pushed, Refusal, Route, Standing, SyncApi};

/// The service in front of what decides.
struct Server(Arc<dyn SyncApi>);

/// The paths of the service, to be served.
pub fn routes(sync: Arc<dyn SyncApi>) -> Routes {
    let service =
        SyncServer::new(Server(sync)).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
    Routes::new(service)
}

#[async_trait]
impl Service for Server {
    async fn ask(&self, request: Request<rpc::AskRequest>) -> Result<Response<rpc::AskReply>, Status> {
        let answers = request.into_inner().asks.into_iter().map(|ask| answer(&*self.0, ask));
        let answers = futures_util::future::try_join_all(answers).await?;
        Ok(Response::new(rpc::AskReply { answers }))
    }
}

async fn answer(sync: &dyn SyncApi, ask: rpc::Ask) -> Result<rpc::Answer, Status> {
    let request = ask.ask.ok_or_else(|| Status::invalid_argument("nothing is asked"))?;
    let answer = match (request, ask.device) {
        (Ask::Ready(_), _) => sync.ready().await.map(|()| Answer::Ready(rpc::Ready {})),
        (Ask::Renew(of), _) => {
            let standings = sync.renew(routes_of(of)?).await.into_iter().map(|standing| i32::from(told(standing)));
            Ok(Answer::Renew(rpc::Renewed { standings: standings.collect() }))
        }
        (Ask::Leave(of), _) => {
            sync.leave(routes_of(of)?).await;
            Ok(Answer::Leave(rpc::Ready {}))
        }
        (_, None) => return Err(Status::invalid_argument("no device")),
        (request, Some(named)) => of_device(sync, &device(&named)?, request).await,
    };
    let answer = answer.unwrap_or_else(|Refusal { code, message, retry_after }| {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        Answer::Refusal(rpc::Refusal { code: code.into(), message, retry_after_ms })
    });
    Ok(rpc::Answer { answer: Some(answer) })
}

pub(super) fn device(named: &rpc::Device) -> Result<Device, Status> {
    let bad = |_| Status::invalid_argument("not a device");
    Ok(Device { user: UserId::new(&named.user).map_err(bad)?, id: DeviceId::new(&named.id).map_err(bad)? })
}

async fn of_device(sync: &dyn SyncApi, device: &Device, request: Ask) -> Result<Answer, Refusal> {
    Ok(match request {
        Ask::Hello(request) => {
            let welcome = sync.hello(device, &request).await?;
            Answer::Hello(rpc::Welcome {
                pending: welcome.pending,
                highest_client_msg_id: welcome.highest_client_msg_id,
                key_order: welcome.key_order.into(),
                key: welcome.key.as_ref().map(Into::into),
                durability: sync.durability().into(),
            })
        }
        Ask::Send(request) => Answer::Send(v1::SendReply { results: sync.send(device, request.messages).await }),
        Ask::Sync(request) => Answer::Sync(sync.sync(device, request).await?),
        Ask::Check(request) => Answer::Check(sync.check(device, &request).await?),
        Ask::Ack(request) => Answer::Ack(sync.ack(device, request).await?),
        Ask::Read(request) => Answer::Read(sync.read(device, request).await?),
        Ask::Conversations(request) => Answer::Conversations(sync.conversations(device, request).await?),
        Ask::History(request) => Answer::History(sync.history(device, request).await?),
        Ask::Members(request) => Answer::Members(sync.members(device, request).await?),
        Ask::Push(above) => Answer::Push(match sync.push(device, &Key::from(&above)).await? {
            Pushed::Nothing => rpc::Pushed::default(),
            Pushed::Delta(entries, after) => rpc::Pushed { too_much: false, entries, after: Some((&after).into()) },
            Pushed::TooMuch => rpc::Pushed { too_much: true, ..rpc::Pushed::default() },
        }),
        Ask::Attend(of) => {
            sync.attend(device, route(of)).await;
            Answer::Attend(rpc::Ready {})
        }
        Ask::Ready(_) | Ask::Renew(_) | Ask::Leave(_) => Answer::Ready(rpc::Ready {}),
    })
}

pub(super) fn route(of: rpc::Route) -> Route {
    Route { gateway: GatewayId::of(of.gateway), link: of.link, is_wait: of.is_wait }
}

pub(super) fn routed(of: rpc::Routed) -> Result<(Device, Route), Status> {
    let bad = || Status::invalid_argument("not a route");
    Ok((device(&of.device.ok_or_else(bad)?)?, route(of.route.ok_or_else(bad)?)))
}

fn routes_of(of: rpc::Routes) -> Result<Vec<(Device, Route)>, Status> {
    of.routes.into_iter().map(routed).collect()
}

fn told(standing: Standing) -> rpc::Standing {
    match standing {
        Standing::Stands => rpc::Standing::Stands,
        Standing::Restored => rpc::Standing::Restored,
        Standing::Displaced => rpc::Standing::Displaced,
    }
}
