//! The sync service as a gateway sees it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tern_proto::MediaId;
use tern_proto::key::Key;
use tern_proto::v1::{self, Code};
use tern_rpc::tonic::transport::Channel;
use tern_rpc::v1::answer::Answer;
use tern_rpc::v1::ask::Ask;
use tern_rpc::v1::sync_client::SyncClient;
use tern_rpc::v1::{self as rpc};
use tern_rpc::{Batcher, Failed, MESSAGE_BYTES, Replicas, Target, Unanswered};
use tern_runtime::metrics::Metrics;
use tern_runtime::planted::{self, Fault};
use tern_runtime::queue::Meters;
use tern_runtime::traces::Traces;
use tern_storage::Device;

use crate::media::is_about_media;
use crate::send::refusal;
use crate::{Came, Held, Kept, Pushed, Refusal, Route, Standing, SyncApi, Welcome};

/// The longest wait for an answer, over all attempts. What the sync service waits for itself takes a little less.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls under way with sends: few, so that they are large where there is much.
const SENDS: usize = 1;
/// The same with messages about media: more, for a call lasts as long as the slowest clip in it.
const SENDS_ABOUT_MEDIA: usize = 4;
/// Calls under way that ask who may see media.
const MEDIA: usize = 2;
/// Calls under way that are answered at once.
const QUICK: usize = 1;
/// Calls under way about routes: one, so that none overtakes another.
const ROUTES: usize = 1;
/// Those whose answer waits for company, acknowledgements in storage and read marks at their pace, go to the same replica for each user: it
/// keeps the pace, and knows from the last acknowledgements what there is to derive.
const HOMES: usize = 4;
/// Calls under way to each.
const ACKS: usize = 1;
const READS: usize = 2;

/// Asks the sync service.
pub struct Client {
    sends: Batcher<rpc::Ask, rpc::Answer>,
    /// With messages about media, for which another service is asked first: no text waits for that.
    sends_about_media: Batcher<rpc::Ask, rpc::Answer>,
    quick: Batcher<rpc::Ask, rpc::Answer>,
    /// About media: apart from the others, for it may stand in many conversations.
    media: Batcher<rpc::Ask, rpc::Answer>,
    /// Where links are: apart from the others, because what keeps that may be slow.
    routes: Batcher<rpc::Ask, rpc::Answer>,
    /// By user.
    acks: [Batcher<rpc::Ask, rpc::Answer>; HOMES],
    reads: [Batcher<rpc::Ask, rpc::Answer>; HOMES],
    /// As the last hello was told.
    durability: AtomicI32,
    meters: Meters,
    replicas: Arc<Replicas>,
}

impl Client {
    /// Asks the replicas at `target`. Needs a Tokio runtime.
    pub fn new(target: Target) -> Client {
        let replicas = Arc::new(Replicas::of("sync", target));
        let meters = Meters::default();
        let batcher = |queue, lanes, replicas: &Arc<Replicas>| {
            let replicas = replicas.clone();
            let call = move |asks, traces| -> BoxFuture<'static, Vec<rpc::Answer>> {
                Box::pin(call(replicas.clone(), asks, traces))
            };
            Batcher::new(lanes, meters.of(queue), call)
        };
        let durability = AtomicI32::new(v1::Durability::Unspecified.into());
        Client {
            sends: batcher("sync_send", SENDS, &replicas),
            sends_about_media: batcher("sync_send_media", SENDS_ABOUT_MEDIA, &replicas),
            quick: batcher("sync_quick", QUICK, &replicas),
            media: batcher("sync_media", MEDIA, &replicas),
            routes: batcher("sync_routes", ROUTES, &replicas),
            acks: std::array::from_fn(|home| batcher("sync_ack", ACKS, &Arc::new(replicas.at_home(home)))),
            reads: std::array::from_fn(|home| batcher("sync_read", READS, &Arc::new(replicas.at_home(home)))),
            durability,
            meters,
            replicas,
        }
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.meters.report_to(metrics);
        self.replicas.report_to(metrics);
    }

    async fn ask(
        &self,
        with: &Batcher<rpc::Ask, rpc::Answer>,
        device: Option<&Device>,
        ask: Ask,
    ) -> Result<Answer, Refusal> {
        let device = device.map(named);
        let answer = with.ask(rpc::Ask { device, ask: Some(ask) }).await;
        match answer.map(|answer| answer.answer) {
            Ok(Some(Answer::Refusal(refusal))) => Err(refusal.into()),
            Ok(Some(answer)) => Ok(answer),
            Err(Unanswered::Full) => {
                Err(Refusal::new(Code::Unavailable, "too many requests wait for the sync service"))
            }
            Ok(None) | Err(Unanswered::Lost) => {
                Err(Refusal::new(Code::OutcomeUnknown, "the sync service has not answered"))
            }
        }
    }
}

/// The same for all devices of a user, in every gateway.
fn home(device: &Device) -> usize {
    let mut hasher = DefaultHasher::new();
    device.user.hash(&mut hasher);
    hasher.finish() as usize % HOMES
}

pub(super) fn routed(device: &Device, route: Route) -> rpc::Routed {
    let route = rpc::Route { gateway: route.gateway.number(), link: route.link, is_wait: route.is_wait };
    rpc::Routed { device: Some(named(device)), route: Some(route), ..rpc::Routed::default() }
}

fn dated(Kept { device, route, age, came }: &Kept) -> rpc::Routed {
    let (age_us, came_us) = (age.as_micros() as u64, came.map_or(0, Came::micros));
    rpc::Routed { age_us, came_us, ..routed(device, *route) }
}

fn standing(told: i32) -> Standing {
    match rpc::Standing::try_from(told) {
        Ok(rpc::Standing::Displaced) => Standing::Displaced,
        Ok(rpc::Standing::New) => Standing::New,
        Ok(rpc::Standing::Undated) => Standing::Undated,
        _ => Standing::Stands,
    }
}

pub(super) fn named(device: &Device) -> rpc::Device {
    rpc::Device { user: device.user.to_string(), id: device.id.to_string() }
}

async fn call(replicas: Arc<Replicas>, asks: Vec<rpc::Ask>, traces: Traces) -> Vec<rpc::Answer> {
    let asked = async |channel: Channel, request| {
        let client = SyncClient::new(channel);
        client.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES).ask(request).await
    };
    let sent: Vec<Sent> = asks.iter().map(Sent::of).collect();
    let request = rpc::AskRequest { asks };
    let patience = if planted::active(Fault::AckOnTimeout) { Duration::from_millis(200) } else { PATIENCE };
    match replicas.call(patience, request, &traces, asked).await {
        Ok(reply) => reply.into_inner().answers,
        Err(failed) => {
            tracing::warn!(error = %failed, asks = sent.len(), "not answered");
            sent.into_iter().map(|sent| unanswered(sent, &failed)).collect()
        }
    }
}

/// What is to be answered to an ask, whatever becomes of the call.
enum Sent {
    /// A result for each of these ids.
    Messages(Vec<u64>),
    Other,
}

impl Sent {
    fn of(ask: &rpc::Ask) -> Sent {
        match &ask.ask {
            Some(Ask::Send(send)) => {
                Sent::Messages(send.messages.iter().map(|message| message.client_msg_id).collect())
            }
            _ => Sent::Other,
        }
    }
}

/// What a client is told when nobody has answered the gateway. Of messages it is told for each, and never that one is not stored when it may be.
fn unanswered(sent: Sent, failed: &Failed) -> rpc::Answer {
    let code = match failed {
        _ if planted::active(Fault::AckOnTimeout) && matches!(sent, Sent::Messages(_)) => Code::Ok,
        Failed::Nobody(_) => Code::Unavailable,
        Failed::Unanswered { .. } => Code::OutcomeUnknown,
    };
    let answer = match sent {
        Sent::Messages(ids) => {
            Answer::Send(v1::SendReply { results: ids.into_iter().map(|id| refusal(id, code)).collect() })
        }
        Sent::Other => Answer::Refusal(Refusal::new(code, "the sync service has not answered").into()),
    };
    rpc::Answer { answer: Some(answer) }
}

fn odd() -> Refusal {
    Refusal::new(
        Code::Unavailable,
        "the sync service has answered something else; are all services of the same release?",
    )
}

/// The one kind of answer that is wanted.
macro_rules! wanted {
    ($answer:expr, $kind:ident) => {
        match $answer {
            Answer::$kind(reply) => Ok(reply),
            _ => Err(odd()),
        }
    };
}

#[async_trait]
impl SyncApi for Client {
    async fn hello(&self, device: &Device, request: &v1::HelloRequest) -> Result<Welcome, Refusal> {
        let answer = self.ask(&self.quick, Some(device), Ask::Hello(request.clone())).await?;
        let welcome = wanted!(answer, Hello)?;
        self.durability.store(welcome.durability, Ordering::Relaxed);
        Ok(Welcome {
            pending: welcome.pending,
            highest_client_msg_id: welcome.highest_client_msg_id,
            key_order: welcome.key_order(),
            key: welcome.key.as_ref().map(Key::from),
        })
    }

    async fn send(&self, device: &Device, messages: Vec<v1::OutMessage>) -> Vec<v1::SendResult> {
        let ids: Vec<u64> = messages.iter().map(|message| message.client_msg_id).collect();
        if planted::active(Fault::RetryAfterNewer) && fastrand::u8(0..4) == 0 {
            // As if it had gone to a replica that does not answer.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        // A device has one call under way, so its order does not depend on which of the two it is in.
        let with = if messages.iter().any(is_about_media) { &self.sends_about_media } else { &self.sends };
        let ask = Ask::Send(v1::SendRequest { messages, ..Default::default() });
        match self.ask(with, Some(device), ask).await {
            Ok(Answer::Send(reply)) if reply.results.len() == ids.len() => reply.results,
            Ok(_) => ids.into_iter().map(|id| refusal(id, Code::OutcomeUnknown)).collect(),
            Err(Refusal { code, .. }) => ids.into_iter().map(|id| refusal(id, code)).collect(),
        }
    }

    async fn sync(&self, device: &Device, request: v1::SyncRequest) -> Result<v1::SyncReply, Refusal> {
        wanted!(self.ask(&self.quick, Some(device), Ask::Sync(request)).await?, Sync)
    }

    async fn check(&self, device: &Device, request: &v1::CheckRequest) -> Result<v1::CheckReply, Refusal> {
        wanted!(self.ask(&self.quick, Some(device), Ask::Check(request.clone())).await?, Check)
    }

    async fn ack(&self, device: &Device, request: v1::AckRequest) -> Result<v1::AckReply, Refusal> {
        wanted!(self.ask(&self.acks[home(device)], Some(device), Ask::Ack(request)).await?, Ack)
    }

    async fn read(&self, device: &Device, request: v1::ReadRequest) -> Result<v1::ReadReply, Refusal> {
        wanted!(self.ask(&self.reads[home(device)], Some(device), Ask::Read(request)).await?, Read)
    }

    async fn conversations(
        &self,
        device: &Device,
        request: v1::ConversationsRequest,
    ) -> Result<v1::ConversationsReply, Refusal> {
        wanted!(self.ask(&self.quick, Some(device), Ask::Conversations(request)).await?, Conversations)
    }

    async fn history(&self, device: &Device, request: v1::HistoryRequest) -> Result<v1::HistoryReply, Refusal> {
        wanted!(self.ask(&self.quick, Some(device), Ask::History(request)).await?, History)
    }

    async fn sees_media(&self, device: &Device, media: MediaId) -> Result<bool, Refusal> {
        wanted!(self.ask(&self.media, Some(device), Ask::SeesMedia(media.to_string())).await?, SeesMedia)
    }

    async fn refers_to(&self, media: MediaId) -> Result<bool, Refusal> {
        wanted!(self.ask(&self.media, None, Ask::RefersTo(media.to_string())).await?, RefersTo)
    }

    async fn members(&self, device: &Device, request: v1::MembersRequest) -> Result<v1::MembersReply, Refusal> {
        wanted!(self.ask(&self.quick, Some(device), Ask::Members(request)).await?, Members)
    }

    async fn push(&self, device: &Device, above: &Key) -> Result<Pushed, Refusal> {
        let pushed = wanted!(self.ask(&self.quick, Some(device), Ask::Push(above.into())).await?, Push)?;
        Ok(match pushed.after.as_ref().map(Key::from) {
            _ if pushed.too_much => Pushed::TooMuch,
            Some(after) => Pushed::Delta(pushed.entries, after),
            None => Pushed::Nothing,
        })
    }

    async fn keep_routes(&self, routes: Vec<Kept>) -> Result<Vec<Held>, Refusal> {
        let count = routes.len();
        let dated = routes.iter().map(dated).collect();
        let answer = self.ask(&self.routes, None, Ask::KeepRoutes(rpc::Routes { routes: dated })).await?;
        let rpc::Kept { standings, came_us } = wanted!(answer, KeepRoutes)?;
        if standings.len() != count || came_us.len() != count {
            return Err(odd());
        }
        let held = |(told, came)| Held { standing: standing(told), came: Came::of(came) };
        Ok(standings.into_iter().zip(came_us).map(held).collect())
    }

    async fn leave_routes(&self, routes: Vec<(Device, Route)>) {
        let routed = routes.iter().map(|(device, route)| routed(device, *route)).collect();
        if let Err(refused) = self.ask(&self.routes, None, Ask::LeaveRoutes(rpc::Routes { routes: routed })).await {
            tracing::debug!(%refused, "routes end by themselves");
        }
    }

    async fn ready(&self) -> Result<(), Refusal> {
        match self.ask(&self.quick, None, Ask::Ready(true)).await {
            Ok(answer) => wanted!(answer, Ready).map(drop),
            // Nothing was to be done, so nothing about it is unknown.
            Err(Refusal { code: Code::OutcomeUnknown, message, .. }) => Err(Refusal::new(Code::Unavailable, message)),
            Err(refused) => Err(refused),
        }
    }

    fn durability(&self) -> v1::Durability {
        self.durability.load(Ordering::Relaxed).try_into().unwrap_or_default()
    }
}
