//! What messages are about, as the sync service tells it.

use std::time::Duration;

use async_trait::async_trait;
use tern_proto::v1::Code;
use tern_proto::{MediaId, Refusal};
use tern_rpc::tonic::transport::Channel;
use tern_rpc::v1::answer::Answer;
use tern_rpc::v1::ask::Ask;
use tern_rpc::v1::sync_client::SyncClient;
use tern_rpc::v1::{self as rpc};
use tern_rpc::{Replicas, Target};
use tern_runtime::metrics::Metrics;
use tern_runtime::traces::Traces;

use crate::References;

/// The longest wait for an answer, over all attempts. Nobody waits for it but who removes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the sync service.
pub struct Asked(Replicas);

impl Asked {
    /// Asks the replicas at `target`. Needs a Tokio runtime.
    pub fn new(target: Target) -> Asked {
        Asked(Replicas::of("sync", target))
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.0.report_to(metrics);
    }
}

#[async_trait]
impl References for Asked {
    async fn refers(&self, id: MediaId) -> Result<bool, Refusal> {
        let away = |why: String| Refusal::new(Code::Unavailable, why);
        let asks = vec![rpc::Ask { device: None, ask: Some(Ask::RefersTo(id.to_string())) }];
        let asked = async |channel: Channel, request| SyncClient::new(channel).ask(request).await;
        let reply = self.0.call(PATIENCE, rpc::AskRequest { asks }, &Traces::default(), asked).await;
        let answer = reply.map_err(|failed| away(failed.to_string()))?.into_inner().answers.pop();
        match answer.and_then(|answer| answer.answer) {
            Some(Answer::RefersTo(refers)) => Ok(refers),
            Some(Answer::Refusal(refused)) => Err(refused.into()),
            _ => Err(away("the sync service has answered something else".into())),
        }
    }
}
