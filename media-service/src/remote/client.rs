//! The media service as a gateway and a sync service see it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use tern_proto::v1::{self, Code};
use tern_proto::{MediaId, Refusal, UserId};
use tern_rpc::tonic::transport::Channel;
use tern_rpc::v1::media_answer::Answer;
use tern_rpc::v1::media_ask::Ask;
use tern_rpc::v1::media_bytes::Read;
use tern_rpc::v1::media_client::MediaClient;
use tern_rpc::v1::{self as rpc};
use tern_rpc::{Batcher, Failed, MESSAGE_BYTES, Replicas, Target, Unanswered};
use tern_runtime::metrics::Metrics;
use tern_runtime::queue::Meters;
use tern_runtime::traces::{Trace, Traces};

use crate::uploads::SHORT;
use crate::{MediaApi, Opened};

/// The longest wait for an answer, over all attempts.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The same of whoever is waited for itself, and so has less time.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(3);
/// Calls under way that store, and those that look.
const STORES: usize = 2;
const LOOKS: usize = 2;
/// Bytes that are read with one call.
const PIECE: u64 = 256 * 1024;

type Batch = Batcher<rpc::MediaAsk, rpc::MediaAnswer>;

/// Asks the media service.
pub struct Client {
    stores: Batch,
    looks: Batch,
    replicas: Arc<Replicas>,
    patience: Duration,
    meters: Meters,
}

impl Client {
    /// Asks the replicas at `target`, each question for at most `patience`: what takes longer goes on there, and is done when it is asked again. Needs a Tokio runtime.
    pub fn new(target: Target, patience: Duration) -> Client {
        let replicas = Arc::new(Replicas::of("media", target));
        let meters = Meters::default();
        let batcher = |queue, lanes| {
            let replicas = replicas.clone();
            let call = move |asks, traces| -> BoxFuture<'static, Vec<rpc::MediaAnswer>> {
                let replicas = replicas.clone();
                Box::pin(async move { call(&replicas, asks, &traces, patience).await })
            };
            Batcher::new(lanes, meters.of(queue), call)
        };
        let (stores, looks) = (batcher("media_store", STORES), batcher("media_look", LOOKS));
        Client { stores, looks, replicas, patience, meters }
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.meters.report_to(metrics);
        self.replicas.report_to(metrics);
    }

    async fn ask(&self, with: &Batch, user: Option<&UserId>, ask: Ask) -> Result<Answer, Refusal> {
        match with.ask(asked(user, ask)).await {
            Ok(answer) => wanted(answer),
            Err(Unanswered::Full) => Err(away("too many requests wait for the media service")),
            Err(Unanswered::Lost) => Err(away("the media service has not answered")),
        }
    }

    /// What may take long goes alone, so that nothing waits for it that has come at the same time.
    async fn ask_alone(&self, user: &UserId, ask: Ask) -> Result<Answer, Refusal> {
        let (asks, traces) = (vec![asked(Some(user), ask)], Traces::of([Trace::current()]));
        wanted(call(&self.replicas, asks, &traces, self.patience).await.pop().unwrap_or_default())
    }
}

fn asked(user: Option<&UserId>, ask: Ask) -> rpc::MediaAsk {
    rpc::MediaAsk { user: user.map(UserId::to_string).unwrap_or_default(), ask: Some(ask) }
}

fn wanted(answer: rpc::MediaAnswer) -> Result<Answer, Refusal> {
    match answer.answer {
        Some(Answer::Refusal(refused)) => Err(refused.into()),
        Some(answer) => Ok(answer),
        None => Err(odd()),
    }
}

/// Whatever is asked may be asked again, so it need not be told whether it was begun.
fn away(why: &str) -> Refusal {
    Refusal::new(Code::Unavailable, why)
}

fn odd() -> Refusal {
    away("the media service has answered something else; are all services of the same release?")
}

async fn call(
    replicas: &Replicas,
    asks: Vec<rpc::MediaAsk>,
    traces: &Traces,
    patience: Duration,
) -> Vec<rpc::MediaAnswer> {
    let count = asks.len();
    let asked = async |channel: Channel, request| client(channel).ask(request).await;
    match replicas.call(patience, rpc::MediaAskRequest { asks }, traces, asked).await {
        Ok(reply) => reply.into_inner().answers,
        Err(failed) => {
            let refused = Answer::Refusal(unanswered(&failed, count).into());
            vec![rpc::MediaAnswer { answer: Some(refused) }; count]
        }
    }
}

async fn read(replicas: Arc<Replicas>, id: MediaId, range: Range<u64>) -> Result<Bytes, Refusal> {
    let message = rpc::MediaReadRequest { id: id.to_string(), first: range.start, end: range.end };
    let asked = async |channel: Channel, request| client(channel).read(request).await;
    match replicas.call(PATIENCE, message, &Traces::default(), asked).await {
        Ok(reply) => match reply.into_inner().read {
            Some(Read::Bytes(bytes)) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            Some(Read::Refusal(refused)) => Err(refused.into()),
            _ => Err(odd()),
        },
        Err(failed) => Err(unanswered(&failed, 1)),
    }
}

fn unanswered(failed: &Failed, asks: usize) -> Refusal {
    tracing::warn!(error = %failed, asks, "not answered");
    away("the media service has not answered")
}

fn client(channel: Channel) -> MediaClient<Channel> {
    let client = MediaClient::new(channel);
    client.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
}

/// The one kind of answer that is wanted.
macro_rules! wanted {
    ($answer:expr, $kind:ident) => {
        match $answer {
            Answer::$kind(told) => Ok(told),
            _ => Err(odd()),
        }
    };
}

#[async_trait]
impl MediaApi for Client {
    async fn begin(&self, user: &UserId, request: v1::MediaBegin) -> Result<v1::MediaUpload, Refusal> {
        wanted!(self.ask(&self.stores, Some(user), Ask::Begin(request)).await?, Upload)
    }

    async fn part(&self, user: &UserId, id: MediaId, index: u32, crc32: u32, bytes: Bytes) -> Result<u32, Refusal> {
        let part = rpc::MediaPart { id: id.to_string(), index, crc32, bytes };
        wanted!(self.ask(&self.stores, Some(user), Ask::Part(part)).await?, Left)
    }

    async fn upload(&self, user: &UserId, id: MediaId) -> Result<v1::MediaUpload, Refusal> {
        wanted!(self.ask(&self.looks, Some(user), Ask::Upload(id.to_string())).await?, Upload)
    }

    async fn complete(&self, user: &UserId, id: MediaId) -> Result<v1::MediaUpload, Refusal> {
        wanted!(self.ask_alone(user, Ask::Complete(id.to_string())).await?, Upload)
    }

    async fn chunks(&self, user: &UserId, chunks: Vec<v1::Chunk>) -> Vec<v1::ChunksStored> {
        match self.ask(&self.stores, Some(user), Ask::Chunks(rpc::MediaChunks { chunks })).await {
            Ok(Answer::Chunks(told)) => told.stored,
            // Their messages are told.
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    async fn clip(&self, user: &UserId, clip: v1::MediaBegin) -> Result<v1::Media, Refusal> {
        // A longer one may have to go into the object store first.
        let answer = match clip.bytes <= SHORT {
            true => self.ask(&self.looks, Some(user), Ask::Clip(clip)).await?,
            false => self.ask_alone(user, Ask::Clip(clip)).await?,
        };
        wanted!(answer, Media)
    }

    async fn lease(&self, id: MediaId) -> Result<v1::Media, Refusal> {
        wanted!(self.ask(&self.looks, None, Ask::Lease(id.to_string())).await?, Media)
    }

    async fn open(&self, id: MediaId) -> Result<Opened, Refusal> {
        let opened = wanted!(self.ask(&self.looks, None, Ask::Open(id.to_string())).await?, Opened)?;
        let rpc::MediaOpened { owner, media, thumbnail, content, as_nothing } = opened;
        let owner = UserId::new(&owner).map_err(|_| odd())?;
        let (Some(media), Some(as_nothing)) = (media, as_nothing) else { return Err(odd()) };
        Ok(Opened { owner, media, thumbnail, content, as_nothing: as_nothing.into() })
    }

    /// In pieces, each by a call of its own: who reads slowly holds nothing open, and each may go to another replica.
    async fn read(
        &self,
        id: MediaId,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Refusal>>, Refusal> {
        let Range { start, end } = range;
        let first = read(self.replicas.clone(), id, start..end.min(start.saturating_add(PIECE))).await?;
        let (next, replicas) = (start + first.len() as u64, self.replicas.clone());
        let rest = stream::try_unfold(next, move |from| {
            let replicas = replicas.clone();
            async move {
                let next = end.min(from.saturating_add(PIECE));
                Ok(if from < end { Some((read(replicas, id, from..next).await?, next)) } else { None })
            }
        });
        Ok(stream::once(async { Ok(first) }).chain(rest).boxed())
    }
}
