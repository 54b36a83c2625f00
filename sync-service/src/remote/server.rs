//! The sync service as it is called.

use std::sync::Arc;
use std::time::Duration;

use tern_proto::key::Key;
use tern_proto::{DeviceId, UserId, v1};
use tern_rpc::tonic::service::Routes;
use tern_rpc::tonic::{Request, Response, Status, async_trait};
use tern_rpc::v1::answer::Answer;
use tern_rpc::v1::ask::Ask;
use tern_rpc::v1::sync_server::{Sync as Service, SyncServer};
use tern_rpc::v1::{self as rpc};
use tern_rpc::{MESSAGE_BYTES, traces_of};
use tern_storage::Device;
use tracing::Instrument as _;

use crate::{Came, GatewayId, Held, Kept, Pushed, Refusal, Route, Standing, SyncApi};

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
        let traces = traces_of(request.metadata());
        let answers = request.into_inner().asks.into_iter().enumerate().map(|(place, ask)| {
            let span = traces.span(place, name(&ask));
            answer(&*self.0, ask).instrument(span)
        });
        let answers = futures_util::future::try_join_all(answers).await?;
        Ok(Response::new(rpc::AskReply { answers }))
    }
}

/// For traces.
fn name(ask: &rpc::Ask) -> &'static str {
    match &ask.ask {
        Some(Ask::Hello(_)) => "sync.hello",
        Some(Ask::Send(_)) => "sync.send",
        Some(Ask::Sync(_)) => "sync.sync",
        Some(Ask::Check(_)) => "sync.check",
        Some(Ask::Ack(_)) => "sync.ack",
        Some(Ask::Read(_)) => "sync.read",
        Some(Ask::Conversations(_)) => "sync.conversations",
        Some(Ask::History(_)) => "sync.history",
        Some(Ask::Members(_)) => "sync.members",
        Some(Ask::SeesMedia(_)) => "sync.sees_media",
        Some(Ask::RefersTo(_)) => "sync.refers_to",
        Some(Ask::Push(_)) => "sync.push",
        Some(Ask::KeepRoutes(_) | Ask::LeaveRoutes(_)) => "sync.routes",
        Some(Ask::Ready(_)) | None => "sync.ready",
    }
}

async fn answer(sync: &dyn SyncApi, ask: rpc::Ask) -> Result<rpc::Answer, Status> {
    let request = ask.ask.ok_or_else(|| Status::invalid_argument("nothing is asked"))?;
    let answer = match (request, ask.device) {
        (Ask::Ready(_), _) => sync.ready().await.map(|()| Answer::Ready(rpc::Ready {})),
        (Ask::RefersTo(id), _) => {
            let id = id.parse().map_err(|_| Status::invalid_argument("not the id of media"))?;
            sync.refers_to(id).await.map(Answer::RefersTo)
        }
        (Ask::KeepRoutes(of), _) => {
            let routes = of.routes.into_iter().map(kept).collect::<Result<_, _>>()?;
            let kept = sync.keep_routes(routes).await;
            kept.map(|all| Answer::KeepRoutes(told(&all)))
        }
        (Ask::LeaveRoutes(of), _) => {
            let routes = of.routes.into_iter().map(routed).collect::<Result<_, _>>()?;
            sync.leave_routes(routes).await;
            Ok(Answer::LeaveRoutes(rpc::Ready {}))
        }
        (_, None) => return Err(Status::invalid_argument("no device")),
        (request, Some(named)) => of_device(sync, &device(&named)?, request).await,
    };
    let answer = answer.unwrap_or_else(|refused| Answer::Refusal(refused.into()));
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
        Ask::SeesMedia(id) => {
            let bad = |_| Refusal::new(v1::Code::BadBody, "not the id of media");
            Answer::SeesMedia(sync.sees_media(device, id.parse().map_err(bad)?).await?)
        }
        Ask::Push(above) => Answer::Push(match sync.push(device, &Key::from(&above)).await? {
            Pushed::Nothing => rpc::Pushed::default(),
            Pushed::Delta(entries, after) => rpc::Pushed { too_much: false, entries, after: Some((&after).into()) },
            Pushed::TooMuch => rpc::Pushed { too_much: true, ..rpc::Pushed::default() },
        }),
        // Answered before: they are of no device.
        Ask::Ready(_) | Ask::KeepRoutes(_) | Ask::LeaveRoutes(_) | Ask::RefersTo(_) => {
            return Err(Refusal::new(tern_proto::v1::Code::BadBody, "not of a device"));
        }
    })
}

pub(super) fn routed(of: rpc::Routed) -> Result<(Device, Route), Status> {
    let bad = || Status::invalid_argument("not a route");
    let rpc::Route { gateway, link, is_wait } = of.route.ok_or_else(bad)?;
    let route = Route { gateway: GatewayId::of(gateway), link, is_wait };
    Ok((device(&of.device.ok_or_else(bad)?)?, route))
}

fn kept(of: rpc::Routed) -> Result<Kept, Status> {
    let (age, came) = (Duration::from_micros(of.age_us), Came::of(of.came_us));
    let (device, route) = routed(of)?;
    Ok(Kept { device, route, age, came })
}

fn told(all: &[Held]) -> rpc::Kept {
    let standing = |held: &Held| match held.standing {
        Standing::Stands => rpc::Standing::Stands,
        Standing::New => rpc::Standing::New,
        Standing::Displaced => rpc::Standing::Displaced,
        Standing::Undated => rpc::Standing::Undated,
    };
    rpc::Kept {
        standings: all.iter().map(|held| standing(held).into()).collect(),
        came_us: all.iter().map(|held| held.came.map_or(0, Came::micros)).collect(),
    }
}
