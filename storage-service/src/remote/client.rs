//! The storage service as the sync service sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tern_proto::{ConversationId, MediaId, UserId, v1};
use tern_rpc::tonic::transport::Channel;
use tern_rpc::v1::look::Look;
use tern_rpc::v1::seen::Seen;
use tern_rpc::v1::storage_client::StorageClient;
use tern_rpc::v1::{self as rpc};
use tern_rpc::{Batcher, Failed, MESSAGE_BYTES, Replicas, Target, Unanswered};
use tern_runtime::metrics::Metrics;
use tern_runtime::queue::Meters;
use tern_runtime::traces::Traces;

use super::convert;
use crate::{
    Conversation, Device, DeviceState, Durability, History, HistoryRequest, Listed, Op, Outcome, Page, PageRequest,
    Retained, Storage, Unavailable,
};

/// The longest wait for an outcome, over all attempts. The engine gives up a little sooner.
const COMMIT: Duration = Duration::from_secs(9);
/// The longest wait for an answer to a look, over all attempts.
const LOOK: Duration = Duration::from_secs(9);
/// Commits that are under way: few, so that they are large where there is much.
const COMMITS: usize = 1;
/// Commits of lazy ops alone. Each waits up to [`crate::LAZY`] for others to travel with, so there are more.
const LAZY_COMMITS: usize = 2;
/// Looks that are under way.
const LOOKS: usize = 1;

/// Asks the storage service.
pub struct Client {
    replicas: Arc<Replicas>,
    commits: Batcher<rpc::CommitRequest, Vec<rpc::Outcome>>,
    lazy_commits: Batcher<rpc::CommitRequest, Vec<rpc::Outcome>>,
    looks: Batcher<rpc::Look, rpc::Seen>,
    meters: Meters,
    /// The storage service has said that what it stores is on disk.
    on_disk: AtomicBool,
}

impl Client {
    /// Asks the replicas at `target`. Needs a Tokio runtime.
    pub fn new(target: Target) -> Client {
        let replicas = Arc::new(Replicas::of("storage", target));
        let meters = Meters::default();
        let commits = |lanes, queue| {
            let replicas = replicas.clone();
            Batcher::new(lanes, meters.of(queue), move |calls, traces| {
                Box::pin(commit(replicas.clone(), calls, traces))
            })
        };
        let looking = replicas.clone();
        let looks = Batcher::new(LOOKS, meters.of("storage_look"), move |looks, traces| {
            Box::pin(look(looking.clone(), looks, traces))
        });
        Client {
            commits: commits(COMMITS, "storage_commit"),
            lazy_commits: commits(LAZY_COMMITS, "storage_lazy_commit"),
            looks,
            meters,
            replicas,
            on_disk: AtomicBool::new(false),
        }
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.meters.report_to(metrics);
        self.replicas.report_to(metrics);
    }

    async fn look(&self, look: Look) -> Result<Seen, Unavailable> {
        let seen = self.looks.ask(rpc::Look { look: Some(look) }).await;
        match seen.map(|seen| seen.seen) {
            Ok(Some(Seen::Unavailable(why))) => Err(Unavailable(why)),
            Ok(Some(seen)) => Ok(seen),
            Ok(None) => Err(odd()),
            Err(unanswered) => Err(Unavailable(unanswered.to_string())),
        }
    }
}

fn client(channel: Channel) -> StorageClient<Channel> {
    StorageClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
}

/// Several calls as one: their ops behind each other, and for each its own outcomes.
async fn commit(replicas: Arc<Replicas>, calls: Vec<rpc::CommitRequest>, traces: Traces) -> Vec<Vec<rpc::Outcome>> {
    let counts: Vec<usize> = calls.iter().map(|call| call.ops.len()).collect();
    let request = rpc::CommitRequest { ops: calls.into_iter().flat_map(|call| call.ops).collect() };
    let count = request.ops.len();
    let asked = async |channel, request| client(channel).commit(request).await;
    let outcomes = match replicas.call(COMMIT, request, &traces, asked).await {
        Ok(reply) => reply.into_inner().outcomes,
        Err(failed) => {
            tracing::warn!(error = %failed, ops = count, "not stored, or not certainly");
            let outcome = if matches!(failed, Failed::Nobody(_)) { Outcome::Unavailable } else { Outcome::Unknown };
            vec![convert::outcome(outcome); count]
        }
    };
    let mut outcomes = outcomes.into_iter();
    counts.into_iter().map(|count| outcomes.by_ref().take(count).collect()).collect()
}

async fn look(replicas: Arc<Replicas>, looks: Vec<rpc::Look>, traces: Traces) -> Vec<rpc::Seen> {
    let count = looks.len();
    let asked = async |channel, request| client(channel).look(request).await;
    match replicas.call(LOOK, rpc::LookRequest { looks }, &traces, asked).await {
        Ok(reply) => reply.into_inner().seen,
        Err(failed) => vec![rpc::Seen { seen: Some(Seen::Unavailable(failed.to_string())) }; count],
    }
}

/// The answer of another kind of look, or one that is not understood.
fn odd() -> Unavailable {
    Unavailable("the storage service has answered something else; are all services of the same release?".into())
}

#[async_trait]
impl Storage for Client {
    async fn commit(&self, ops: Vec<Op>) -> Vec<Outcome> {
        let count = ops.len();
        let is_lazy = ops.iter().all(Op::is_lazy);
        let request = rpc::CommitRequest { ops: ops.into_iter().map(convert::op).collect() };
        let commits = if is_lazy { &self.lazy_commits } else { &self.commits };
        let outcomes = match commits.ask(request).await {
            Ok(outcomes) => outcomes,
            Err(Unanswered::Full) => return vec![Outcome::Unavailable; count],
            Err(Unanswered::Lost) => return vec![Outcome::Unknown; count],
        };
        let mut outcomes: Vec<Outcome> = outcomes.into_iter().map(convert::to_outcome).collect();
        outcomes.resize(count, Outcome::Unknown);
        outcomes
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Unavailable> {
        match self.look(convert::page_look(&request)).await? {
            Seen::Page(page) => Ok(convert::to_page(page)),
            _ => Err(odd()),
        }
    }

    async fn device(&self, device: &Device) -> Result<DeviceState, Unavailable> {
        match self.look(Look::Device(convert::device(device))).await? {
            Seen::Device(state) => {
                self.on_disk.store(state.durability() == v1::Durability::Disk, Ordering::Relaxed);
                Ok(convert::to_state(&state))
            }
            _ => Err(odd()),
        }
    }

    async fn highest_client_msg_id(&self, device: &Device) -> Result<u64, Unavailable> {
        match self.look(Look::HighestId(convert::device(device))).await? {
            Seen::HighestId(id) => Ok(id),
            _ => Err(odd()),
        }
    }

    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let look = rpc::UnderivedLook { after: after.map(convert::device), limit };
        match self.look(Look::Underived(look)).await? {
            Seen::Underived(devices) => convert::to_devices(devices).map_err(|_| odd()),
            _ => Err(odd()),
        }
    }

    async fn conversations(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<Listed>, Unavailable> {
        let after = after.map(ConversationId::to_string).unwrap_or_default();
        let look = rpc::ConversationsLook { user: user.to_string(), after, limit: limit as u64 };
        match self.look(Look::Conversations(look)).await? {
            Seen::Conversations(listed) => {
                listed.conversations.into_iter().map(convert::to_listed).collect::<Result<_, _>>().map_err(|_| odd())
            }
            _ => Err(odd()),
        }
    }

    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, Unavailable> {
        match self.look(Look::Conversation(id.to_string())).await? {
            Seen::Conversation(rpc::MaybeConversation { conversation }) => {
                conversation.map(convert::to_conversation).transpose().map_err(|_| odd())
            }
            _ => Err(odd()),
        }
    }

    async fn history(&self, request: HistoryRequest) -> Result<History, Unavailable> {
        match self.look(convert::history_look(&request)).await? {
            Seen::History(history) => Ok(convert::to_history(history)),
            _ => Err(odd()),
        }
    }

    async fn references(
        &self,
        media: MediaId,
        reader: Option<&UserId>,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<(ConversationId, u64)>, Unavailable> {
        let after = after.map(ConversationId::to_string).unwrap_or_default();
        let reader = reader.map(UserId::to_string).unwrap_or_default();
        let look = rpc::ReferencesLook { media: media.to_string(), after, limit: limit as u64, reader };
        match self.look(Look::References(look)).await? {
            Seen::References(references) => convert::to_references(references).map_err(|_| odd()),
            _ => Err(odd()),
        }
    }

    async fn retain(&self, now_ms: i64) -> Result<Retained, Unavailable> {
        let asked = async |channel, request| client(channel).retain(request).await;
        match self.replicas.call(LOOK, rpc::RetainRequest { now_ms }, &Traces::default(), asked).await {
            Ok(reply) => {
                let rpc::RetainReply { dropped, freed } = reply.into_inner();
                Ok(Retained { dropped, freed })
            }
            Err(failed) => Err(Unavailable(failed.to_string())),
        }
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        self.look(Look::Ready(true)).await.map(drop)
    }

    /// As the last look at a device was told; before that, the least.
    fn durability(&self) -> Durability {
        if self.on_disk.load(Ordering::Relaxed) { Durability::Disk } else { Durability::Os }
    }
}
