//! A service in memory: one timeline per user, no dedup. It can be told to hold a kind of call back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tern_gateway::Registry;
use tern_proto::{DeviceId, Key, MediaId, UserId, v1};
use tern_sync::routes::Memory;
use tern_sync::{Device, Held, Hints, Kept, News, Placed, Pushed, Refusal, Route, Routes as _, SyncApi, Welcome};
use tokio::sync::Notify;

pub(crate) const EPOCH: u64 = 9;
const GROUP: &str = "g/7";

pub(crate) struct Service {
    registry: Arc<Registry>,
    routes: Arc<Memory>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    timelines: HashMap<UserId, Vec<v1::Entry>>,
    held: Vec<&'static str>,
    calls: Vec<Call>,
    away: bool,
    too_much: bool,
}

/// A call that came, in the order of arrival.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// The `client_msg_id`s of a send; of routes whether each is that of a wait.
    pub(crate) ids: Vec<u64>,
}

impl Service {
    pub(crate) fn new(registry: Arc<Registry>, routes: Arc<Memory>) -> Arc<Service> {
        Arc::new(Service { registry, routes, state: Mutex::default(), changed: Notify::new() })
    }

    /// Calls of this name wait until they are released.
    pub(crate) fn hold(&self, name: &'static str) {
        self.state.lock().unwrap().held.push(name);
    }

    pub(crate) fn release(&self, name: &'static str) {
        self.state.lock().unwrap().held.retain(|held| *held != name);
        self.changed.notify_waiters();
    }

    /// Everything but sends is refused.
    pub(crate) fn go_away(&self, away: bool) {
        self.state.lock().unwrap().away = away;
    }

    /// Pushes say that there is too much.
    pub(crate) fn have_too_much(&self) {
        self.state.lock().unwrap().too_much = true;
    }

    /// The calls of this name so far.
    pub(crate) fn calls(&self, name: &str) -> Vec<Call> {
        self.state.lock().unwrap().calls.iter().filter(|call| call.name == name).cloned().collect()
    }

    /// Waits until this many calls of the name have come.
    pub(crate) async fn reached(&self, name: &str, count: usize) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if self.calls(name).len() >= count {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the call did not come");
    }

    /// Commits an entry for the user and hints.
    pub(crate) fn commit(&self, user: &str, text: &str) {
        self.commit_quietly(user, text);
        self.hint(user);
    }

    pub(crate) fn commit_quietly(&self, user: &str, text: &str) {
        self.append(&UserId::new(user).unwrap(), text);
    }

    /// Commits an entry and hints with it, by this device.
    pub(crate) fn commit_with_news(&self, user: &str, text: &str, by: &str) {
        let user = UserId::new(user).unwrap();
        let version = self.append(&user, text);
        let by = Device { user: user.clone(), id: DeviceId::new(by).unwrap() };
        let message = v1::Message { text: text.into(), ..Default::default() };
        let place = Placed { user, epoch: EPOCH, before: version - 1, version };
        self.registry.news(News {
            by,
            body: Some(v1::entry::Body::Message(message)),
            places: vec![place],
            trace: None,
        });
    }

    pub(crate) fn displace(&self, device: &Device, route: Route) {
        self.registry.displaced(device, route);
    }

    pub(crate) fn hint(&self, user: &str) {
        self.registry.owed(&UserId::new(user).unwrap(), None);
    }

    fn append(&self, user: &UserId, text: &str) -> u64 {
        let mut state = self.state.lock().unwrap();
        let timeline = state.timelines.entry(user.clone()).or_default();
        let version = timeline.len() as u64 + 1;
        let body = v1::entry::Body::Message(v1::Message { text: text.into(), ..Default::default() });
        timeline.push(v1::Entry { class: 1, version, body: Some(body) });
        version
    }

    async fn arrive(&self, name: &'static str, ids: Vec<u64>) -> Result<(), Refusal> {
        self.state.lock().unwrap().calls.push(Call { name, ids });
        self.changed.notify_waiters();
        loop {
            let changed = self.changed.notified();
            if !self.state.lock().unwrap().held.contains(&name) {
                break;
            }
            changed.await;
        }
        let retry_after = Duration::from_millis(1500);
        if self.state.lock().unwrap().away {
            return Err(Refusal { code: v1::Code::Unavailable, message: "away".into(), retry_after });
        }
        Ok(())
    }

    /// Up to `limit` entries above the version, and whether there are more.
    fn above(&self, device: &Device, version: u64, limit: usize) -> (Vec<v1::Entry>, bool) {
        let state = self.state.lock().unwrap();
        let Some(timeline) = state.timelines.get(&device.user) else { return (Vec::new(), false) };
        let rest = &timeline[version as usize..];
        (rest[..limit.min(rest.len())].to_vec(), rest.len() > limit)
    }
}

fn version(key: &Option<v1::SyncKey>) -> u64 {
    key.as_ref().and_then(|key| Key::from(key).versions[0]).unwrap_or(0)
}

fn key(version: u64) -> Key {
    Key::at(EPOCH, [version, 0])
}

/// Everybody is in one group, and nobody in any other.
fn of_group(conversation: String) -> Result<String, Refusal> {
    if conversation == GROUP {
        return Ok(conversation);
    }
    Err(Refusal { code: v1::Code::NotAMember, message: "not yours".into(), retry_after: Duration::ZERO })
}

#[async_trait]
impl SyncApi for Service {
    async fn hello(&self, device: &Device, request: &v1::HelloRequest) -> Result<Welcome, Refusal> {
        self.arrive("hello", Vec::new()).await?;
        Ok(Welcome {
            pending: !self.above(device, version(&request.key), 1).0.is_empty(),
            highest_client_msg_id: 0,
            key_order: if request.key.is_some() { v1::KeyOrder::None } else { v1::KeyOrder::Start },
            key: request.key.is_none().then(|| key(0)),
        })
    }

    async fn send(&self, device: &Device, messages: Vec<v1::OutMessage>) -> Vec<v1::SendResult> {
        let _ = self.arrive("send", messages.iter().map(|message| message.client_msg_id).collect()).await;
        let store = |message: v1::OutMessage| {
            let to = UserId::new(&message.to).unwrap();
            let seq = self.append(&to, &message.text);
            self.registry.owed(&to, Some(device));
            v1::SendResult { client_msg_id: message.client_msg_id, seq, ..Default::default() }
        };
        messages.into_iter().map(store).collect()
    }

    async fn sync(&self, device: &Device, request: v1::SyncRequest) -> Result<v1::SyncReply, Refusal> {
        let above = version(&request.key);
        let limit = if request.limit == 0 { 1000 } else { request.limit as usize };
        let (entries, more) = self.above(device, above, limit);
        self.arrive("sync", Vec::new()).await?;
        let after = entries.last().map_or(above, |entry| entry.version);
        let more = if more { vec![1] } else { Vec::new() };
        Ok(v1::SyncReply { entries, key: Some((&key(after)).into()), more, key_order: 0 })
    }

    async fn check(&self, device: &Device, request: &v1::CheckRequest) -> Result<v1::CheckReply, Refusal> {
        let pending = !self.above(device, version(&request.key), 1).0.is_empty();
        self.arrive("check", Vec::new()).await?;
        Ok(v1::CheckReply { pending, ..Default::default() })
    }

    async fn ack(&self, _: &Device, request: v1::AckRequest) -> Result<v1::AckReply, Refusal> {
        self.arrive("ack", Vec::new()).await?;
        if request.key.is_none() {
            let message = "no key".into();
            return Err(Refusal { code: v1::Code::BadBody, message, retry_after: Duration::ZERO });
        }
        Ok(v1::AckReply::default())
    }

    async fn read(&self, _: &Device, request: v1::ReadRequest) -> Result<v1::ReadReply, Refusal> {
        self.arrive("read", Vec::new()).await?;
        if request.seq > 100 {
            let message = "beyond".into();
            return Err(Refusal { code: v1::Code::BeyondHead, message, retry_after: Duration::ZERO });
        }
        Ok(v1::ReadReply {})
    }

    async fn conversations(
        &self,
        _: &Device,
        request: v1::ConversationsRequest,
    ) -> Result<v1::ConversationsReply, Refusal> {
        self.arrive("conversations", Vec::new()).await?;
        let echo = v1::Conversation { name: request.after, seq: request.limit.into(), ..Default::default() };
        Ok(v1::ConversationsReply { conversations: vec![echo], more: true })
    }

    async fn history(&self, _: &Device, request: v1::HistoryRequest) -> Result<v1::HistoryReply, Refusal> {
        self.arrive("history", Vec::new()).await?;
        let conversation = of_group(request.conversation)?;
        let (seq, client_msg_id) = (request.before_seq, request.limit.into());
        let echo = v1::Message { conversation, seq, client_msg_id, ..Default::default() };
        Ok(v1::HistoryReply { messages: vec![echo], more: true })
    }

    async fn members(&self, device: &Device, request: v1::MembersRequest) -> Result<v1::MembersReply, Refusal> {
        self.arrive("members", Vec::new()).await?;
        let title = of_group(request.conversation)?;
        let user = device.user.to_string();
        let member = v1::Member { user: user.clone(), joined_seq: 1, delivered_seq: 2, read_seq: 3 };
        Ok(v1::MembersReply { title, owner: user, seq: 5, members: vec![member] })
    }

    /// Bob alone is told of all media.
    async fn refers_to(&self, _: MediaId) -> Result<bool, Refusal> {
        Ok(false)
    }
    async fn sees_media(&self, device: &Device, _: MediaId) -> Result<bool, Refusal> {
        Ok(device.user.as_str() == "bob")
    }

    async fn push(&self, device: &Device, above: &Key) -> Result<Pushed, Refusal> {
        let (entries, _) = self.above(device, above.versions[0].unwrap_or(0), usize::MAX);
        self.arrive("push", Vec::new()).await?;
        if self.state.lock().unwrap().too_much {
            return Ok(Pushed::TooMuch);
        }
        Ok(match entries.last().map(|entry| entry.version) {
            Some(last) => Pushed::Delta(entries, key(last)),
            None => Pushed::Nothing,
        })
    }

    async fn keep_routes(&self, routes: Vec<Kept>) -> Result<Vec<Held>, Refusal> {
        self.arrive("keep", routes.iter().map(|kept| u64::from(kept.route.is_wait)).collect()).await?;
        Ok(self.routes.keep(&routes).await.unwrap().into_iter().map(|(held, _)| held).collect())
    }

    async fn leave_routes(&self, routes: Vec<(Device, Route)>) {
        let _ = self.arrive("leave", routes.iter().map(|(_, route)| u64::from(route.is_wait)).collect()).await;
        self.routes.leave(&routes).await.unwrap();
    }

    async fn ready(&self) -> Result<(), Refusal> {
        self.arrive("ready", Vec::new()).await
    }

    fn durability(&self) -> v1::Durability {
        v1::Durability::Disk
    }
}
