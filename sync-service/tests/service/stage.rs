//! The service on a stage: a storage that can be watched and failed, and hints that are written down.

// What fails here fails the test.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tern_media::MediaApi;
use tern_proto::key::Key;
use tern_proto::v1::entry::Body;
use tern_proto::{ConversationId, MediaId, UserId, v1};
use tern_storage::reference::Reference;
use tern_storage::{
    Conversation, Device, DeviceState, Durability, History, HistoryRequest, Listed, Op, Outcome, Page, PageRequest,
    Retained, Storage, Unavailable,
};
use tern_sync::{Hints, News, Placed, SyncApi, SyncService, recent, routes};

/// The reference, with a record of what was committed and a switch to fail it.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) reference: Reference,
    commits: Mutex<Vec<Vec<Op>>>,
    pub(crate) down: AtomicBool,
    /// Commits, but does not tell.
    pub(crate) mute: AtomicBool,
    /// Commits, but tells a moment later, as a store with a disk does.
    pub(crate) slow: AtomicBool,
}

impl Watched {
    /// What was committed since it was last asked, call by call.
    pub(crate) fn take_commits(&self) -> Vec<Vec<Op>> {
        std::mem::take(&mut self.commits.lock().unwrap())
    }

    fn up(&self) -> Result<(), Unavailable> {
        if self.down.load(Ordering::SeqCst) { Err(Unavailable("switched off".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Storage for Watched {
    async fn commit(&self, ops: Vec<Op>) -> Vec<Outcome> {
        let count = ops.len();
        if self.up().is_err() {
            return vec![Outcome::Unavailable; count];
        }
        self.commits.lock().unwrap().push(ops.clone());
        let outcomes = self.reference.commit(ops).await;
        if self.slow.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        if self.mute.load(Ordering::SeqCst) { vec![Outcome::Unknown; count] } else { outcomes }
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Unavailable> {
        self.up()?;
        self.reference.page(request).await
    }

    async fn device(&self, device: &Device) -> Result<DeviceState, Unavailable> {
        self.up()?;
        self.reference.device(device).await
    }

    async fn highest_client_msg_id(&self, device: &Device) -> Result<u64, Unavailable> {
        self.up()?;
        self.reference.highest_client_msg_id(device).await
    }

    async fn underived(&self, after: Option<&Device>, limit: usize) -> Result<Vec<Device>, Unavailable> {
        self.up()?;
        self.reference.underived(after, limit).await
    }

    async fn conversations(
        &self,
        user: &UserId,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<Listed>, Unavailable> {
        self.up()?;
        self.reference.conversations(user, after, limit).await
    }

    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, Unavailable> {
        self.up()?;
        self.reference.conversation(id).await
    }

    async fn references(
        &self,
        media: MediaId,
        reader: Option<&UserId>,
        after: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<(ConversationId, u64)>, Unavailable> {
        self.reference.references(media, reader, after, limit).await
    }

    async fn history(&self, request: HistoryRequest) -> Result<History, Unavailable> {
        self.up()?;
        self.reference.history(request).await
    }

    async fn retain(&self, now_ms: i64) -> Result<Retained, Unavailable> {
        self.reference.retain(now_ms).await
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        self.reference.ready().await
    }

    fn durability(&self) -> Durability {
        self.reference.durability()
    }
}

/// Who was hinted and which device was spared, and what the hints carried.
#[derive(Default)]
pub(crate) struct Recorded {
    hints: Mutex<Vec<String>>,
    news: Mutex<Vec<News>>,
}

impl Hints for Recorded {
    fn owed(&self, user: &UserId, except: Option<&Device>) {
        let but = except
            .filter(|device| device.user == *user)
            .map(|device| format!(" but {}", device.id))
            .unwrap_or_default();
        self.hints.lock().unwrap().push(format!("{user}{but}"));
    }

    fn news(&self, news: News) {
        for Placed { user, .. } in &news.places {
            self.owed(user, Some(&news.by));
        }
        self.news.lock().unwrap().push(news);
    }
}

pub(crate) struct Stage {
    pub(crate) storage: Arc<Watched>,
    hints: Arc<Recorded>,
    pub(crate) service: Arc<SyncService>,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        Stage::over(Arc::default())
    }

    /// A service over a storage that is there already, as after a crash.
    pub(crate) fn over(storage: Arc<Watched>) -> Stage {
        let hints: Arc<Recorded> = Arc::default();
        Stage { storage: storage.clone(), hints: hints.clone(), service: SyncService::new(storage, None, hints) }
    }

    /// A service whose messages may be about media.
    pub(crate) fn with_media(media: Arc<dyn MediaApi>) -> Stage {
        let (storage, hints) = (Arc::<Watched>::default(), Arc::<Recorded>::default());
        let service = SyncService::new(storage.clone(), Some(media), hints.clone());
        Stage { storage, hints, service }
    }

    /// One of several replicas, with what is known of late commits. Nobody but the test raises heads there.
    pub(crate) fn shared() -> (Stage, Arc<recent::Memory>) {
        let (storage, hints, known) = (Arc::<Watched>::default(), Arc::<Recorded>::default(), Arc::default());
        let routes = Arc::new(routes::Memory::new(routes::LIFETIME));
        let recent: Arc<recent::Memory> = Arc::clone(&known);
        let service = SyncService::shared(storage.clone(), hints.clone(), routes, (recent, recent::CONFIRM), None);
        (Stage { storage, hints, service }, known)
    }

    /// The hints since it was last asked, in the order of names.
    pub(crate) fn take_hints(&self) -> Vec<String> {
        let mut hints = std::mem::take(&mut *self.hints.hints.lock().unwrap());
        hints.sort();
        hints
    }

    /// What the hints carried since it was last asked.
    pub(crate) fn take_news(&self) -> Vec<News> {
        std::mem::take(&mut *self.hints.news.lock().unwrap())
    }

    /// Sends a text that must be accepted.
    pub(crate) async fn send(&self, from: &str, client_msg_id: u64, to: &str, text: &str) -> v1::SendResult {
        let mut results = self.service.send(&device(from), vec![message(client_msg_id, to, text)]).await;
        assert_eq!((results.len(), results[0].code()), (1, v1::Code::Ok));
        results.remove(0)
    }

    /// Sends a change; an empty `to` makes a group.
    pub(crate) async fn change(
        &self,
        from: &str,
        client_msg_id: u64,
        to: &str,
        change: v1::GroupChange,
    ) -> v1::SendResult {
        self.service.send(&device(from), vec![asking(client_msg_id, to, change)]).await.remove(0)
    }

    /// Makes a group that must be made, with the sender as its owner; its name.
    pub(crate) async fn group(&self, owner: &str, client_msg_id: u64, others: &[&str]) -> String {
        let made = self.change(owner, client_msg_id, "", add(others)).await;
        assert_eq!(made.code(), v1::Code::Ok);
        made.conversation
    }

    /// Syncs without acknowledging.
    pub(crate) async fn peek(&self, of: &str, key: Option<Key>) -> v1::SyncReply {
        let request = v1::SyncRequest { key: key.map(|key| (&key).into()), peek: true, limit: 0 };
        self.service.sync(&device(of), request).await.unwrap()
    }

    /// Syncs and acknowledges what is presented.
    pub(crate) async fn sync(&self, of: &str, key: Key) -> v1::SyncReply {
        let request = v1::SyncRequest { key: Some((&key).into()), peek: false, limit: 0 };
        self.service.sync(&device(of), request).await.unwrap()
    }

    /// The key after all there is.
    pub(crate) async fn head(&self, of: &str) -> Key {
        key_of(self.peek(of, None).await.key)
    }

    pub(crate) async fn ack(&self, of: &str, key: Key) -> v1::AckReply {
        self.service.ack(&device(of), v1::AckRequest { key: Some((&key).into()) }).await.unwrap()
    }

    pub(crate) async fn read(&self, by: &str, of: &str, seq: u64) -> Result<v1::ReadReply, v1::Code> {
        let request = v1::ReadRequest { conversation: of.into(), seq };
        self.service.read(&device(by), request).await.map_err(|refusal| refusal.code)
    }

    pub(crate) async fn members(&self, by: &str, of: &str) -> Result<v1::MembersReply, v1::Code> {
        let request = v1::MembersRequest { conversation: of.into() };
        self.service.members(&device(by), request).await.map_err(|refusal| refusal.code)
    }

    pub(crate) async fn hello(&self, of: &str, request: v1::HelloRequest) -> tern_sync::Welcome {
        self.service.hello(&device(of), &request).await.unwrap()
    }

    pub(crate) async fn state(&self, of: &str) -> DeviceState {
        self.storage.reference.device(&device(of)).await.unwrap()
    }

    /// The receipts in a timeline: (member, kind, seq).
    pub(crate) async fn receipts(&self, of: &str) -> Vec<(String, v1::ReceiptKind, u64)> {
        let entries = self.peek(of, None).await.entries;
        let line = |entry: v1::Entry| match entry.body? {
            Body::Receipt(receipt) => Some((receipt.member.clone(), receipt.kind(), receipt.seq)),
            _ => None,
        };
        entries.into_iter().filter_map(line).collect()
    }
}

/// From `alice/d1`.
pub(crate) fn device(name: &str) -> Device {
    let (user, id) = name.split_once('/').unwrap();
    Device { user: user.parse().unwrap(), id: id.parse().unwrap() }
}

pub(crate) fn message(client_msg_id: u64, to: &str, text: &str) -> v1::OutMessage {
    v1::OutMessage { client_msg_id, to: to.into(), text: text.into(), ..Default::default() }
}

/// A message with a change instead of a text.
pub(crate) fn asking(client_msg_id: u64, to: &str, change: v1::GroupChange) -> v1::OutMessage {
    v1::OutMessage { change: Some(change), ..message(client_msg_id, to, "") }
}

pub(crate) fn add(users: &[&str]) -> v1::GroupChange {
    v1::GroupChange { add: users.iter().map(|user| user.to_string()).collect(), ..Default::default() }
}

pub(crate) fn remove(users: &[&str]) -> v1::GroupChange {
    v1::GroupChange { remove: users.iter().map(|user| user.to_string()).collect(), ..Default::default() }
}

pub(crate) fn key_of(wire: Option<v1::SyncKey>) -> Key {
    Key::from(&wire.unwrap())
}
