//! A gateway for unit tests in front of a service that nobody calls.

use std::sync::Arc;

use async_trait::async_trait;
use tern_proto::{Key, MediaId, v1};
use tern_sync::{Device, Held, Kept, Pushed, Refusal, Route, SyncApi, Welcome};

use crate::{Gateway, Registry, Settings, TokenVerifier};

pub(crate) fn gateway() -> Arc<Gateway> {
    Gateway::new(Arc::new(Nothing), None, Registry::new(), Settings::default(), TokenVerifier::default())
}

/// A service that nobody calls.
struct Nothing;

#[async_trait]
impl SyncApi for Nothing {
    async fn hello(&self, _: &Device, _: &v1::HelloRequest) -> Result<Welcome, Refusal> {
        unreachable!()
    }
    async fn send(&self, _: &Device, _: Vec<v1::OutMessage>) -> Vec<v1::SendResult> {
        unreachable!()
    }
    async fn sync(&self, _: &Device, _: v1::SyncRequest) -> Result<v1::SyncReply, Refusal> {
        unreachable!()
    }
    async fn check(&self, _: &Device, _: &v1::CheckRequest) -> Result<v1::CheckReply, Refusal> {
        unreachable!()
    }
    async fn ack(&self, _: &Device, _: v1::AckRequest) -> Result<v1::AckReply, Refusal> {
        unreachable!()
    }
    async fn read(&self, _: &Device, _: v1::ReadRequest) -> Result<v1::ReadReply, Refusal> {
        unreachable!()
    }
    async fn conversations(&self, _: &Device, _: v1::ConversationsRequest) -> Result<v1::ConversationsReply, Refusal> {
        unreachable!()
    }
    async fn history(&self, _: &Device, _: v1::HistoryRequest) -> Result<v1::HistoryReply, Refusal> {
        unreachable!()
    }
    async fn members(&self, _: &Device, _: v1::MembersRequest) -> Result<v1::MembersReply, Refusal> {
        unreachable!()
    }
    async fn sees_media(&self, _: &Device, _: MediaId) -> Result<bool, Refusal> {
        unreachable!()
    }
    async fn refers_to(&self, _: MediaId) -> Result<bool, Refusal> {
        unreachable!()
    }
    async fn push(&self, _: &Device, _: &Key) -> Result<Pushed, Refusal> {
        unreachable!()
    }
    async fn keep_routes(&self, _: Vec<Kept>) -> Result<Vec<Held>, Refusal> {
        unreachable!()
    }
    async fn leave_routes(&self, _: Vec<(Device, Route)>) {
        unreachable!()
    }
    async fn ready(&self) -> Result<(), Refusal> {
        unreachable!()
    }
    fn durability(&self) -> v1::Durability {
        unreachable!()
    }
}
