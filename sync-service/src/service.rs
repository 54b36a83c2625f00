//! The service: each request judged, carried out against storage, answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tern_media::{MediaApi, References};
use tern_proto::key::{CLASSES, Class, Key, Version};
use tern_proto::v1::{Code, KeyOrder};
use tern_proto::{MediaId, UserId, v1};
use tern_runtime::clock::unix_millis;
use tern_runtime::metrics::{By, Counter, Metrics, Ready};
use tern_runtime::planted::{self, Fault};
use tern_runtime::shutdown::Stop;
use tern_storage::{Device, DeviceState, Durability, Op, Outcome, Sent, Storage, Unavailable};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::acks::{self, Acknowledged, Acks};
use crate::delivered::{Deliver, Derivation, NotDerived, Sweep};
use crate::epoch::Epoch;
use crate::keys::{Judgement, is_behind, judge, user_epoch};
use crate::news::{News, Short};
use crate::paced::Paced;
use crate::reads::{ReadMark, Reads};
use crate::recent::{Answer, Looked, Shortcuts, named};
use crate::seen::Seen;
use crate::{
    Held, Hints, Kept, Pushed, RECEIPT_PACE, Recent, Refusal, Route, Routes, Standing, SyncApi, Welcome, conversations,
    media, page, send,
};

/// The sync service over a storage. Needs a Tokio runtime for what it does behind the requests.
pub struct SyncService {
    storage: Arc<dyn Storage>,
    /// None where media is not served.
    media: Option<Arc<dyn MediaApi>>,
    hints: Arc<dyn Hints>,
    /// None where there is one gateway, which hears everything.
    routes: Option<Arc<dyn Routes>>,
    derivation: Arc<Derivation>,
    sweep: Arc<Paced<Sweep>>,
    deliver: Arc<Paced<Deliver>>,
    acks: Arc<Paced<Acks>>,
    reads: Arc<Paced<Reads>>,
    epoch: Epoch,
    /// None where storage is as near as what would save asking it.
    shortcuts: Option<Arc<Shortcuts>>,
    /// By what was answered.
    messages: By<Counter>,
}

impl SyncService {
    /// A service that stores in `storage` and tells `hints` who is owed something. Messages may be about what is in `media`.
    pub fn new(storage: Arc<dyn Storage>, media: Option<Arc<dyn MediaApi>>, hints: Arc<dyn Hints>) -> Arc<SyncService> {
        Arc::new(SyncService { media, ..SyncService::with(storage, hints, None, None) })
    }

    /// The same where there are several replicas and gateways: hints follow the routes, and what was committed lately, which `hints` keeps up to date, saves questions to storage. Of a device
    /// that has nothing new storage is asked again after `confirm`.
    pub fn shared(
        storage: Arc<dyn Storage>,
        hints: Arc<dyn Hints>,
        routes: Arc<dyn Routes>,
        (recent, confirm): (Arc<dyn Recent>, Duration),
        media: Option<Arc<dyn MediaApi>>,
    ) -> Arc<SyncService> {
        let shortcuts = Arc::new(Shortcuts::new(recent, confirm));
        Arc::new(SyncService { media, ..SyncService::with(storage, hints, Some(routes), Some(shortcuts)) })
    }

    fn with(
        storage: Arc<dyn Storage>,
        hints: Arc<dyn Hints>,
        routes: Option<Arc<dyn Routes>>,
        shortcuts: Option<Arc<Shortcuts>>,
    ) -> SyncService {
        let derivation = Arc::new(Derivation { storage: storage.clone(), hints: hints.clone() });
        let sweep = Paced::new(Sweep { derivation: derivation.clone() }, RECEIPT_PACE);
        let deliver = Deliver { derivation: derivation.clone(), sweep: sweep.clone() };
        let deliver = Paced::new(deliver, RECEIPT_PACE);
        let acks = Acks { storage: storage.clone(), deliver: deliver.clone() };
        // Storage has a pace of its own for them.
        let acks = Paced::new(acks, Duration::ZERO);
        let reads = Paced::new(Reads { storage: storage.clone(), hints: hints.clone() }, RECEIPT_PACE);
        let (epoch, messages) = (Epoch::default(), By::default());
        let media = None;
        SyncService {
            storage,
            media,
            hints,
            routes,
            derivation,
            sweep,
            deliver,
            acks,
            reads,
            epoch,
            shortcuts,
            messages,
        }
    }

    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        metrics.register("tern_messages", "Messages by the code that answered them", self.messages.clone());
        if let Some(shortcuts) = &self.shortcuts {
            shortcuts.report_to(metrics);
        }
    }

    /// Goes on, in the background, with the delivered receipts that the last stop has left underived. Called once at start.
    pub fn recover(&self) {
        self.sweep.add((), ());
    }

    /// Goes on, again and again until the stop, with receipts that are left underived: another replica may have died over them.
    pub async fn recover_every(&self, every: Duration, stop: Stop) {
        loop {
            self.recover();
            tokio::select! {
                () = stop.stopped() => return,
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    /// Returns once everything that requests have left to do is done: before a stop, so that acknowledgements and receipts are
    /// stored. While storage is unavailable that may be never, so the caller sets a deadline.
    pub async fn quiet(&self) {
        self.reads.quiet().await;
        self.acks.quiet().await;
        self.deliver.quiet().await;
        self.sweep.quiet().await;
    }

    /// Acknowledges a key that stands in a store of this epoch, some time soon.
    fn acknowledge(&self, device: &Device, epoch: u64, key: &Key) {
        if key.versions.iter().any(|version| *version > Some(0)) {
            self.acks.add(device.clone(), Acknowledged { epoch, versions: key.versions });
        }
    }

    /// A device without a key: where it starts.
    async fn start(
        &self,
        device: &Device,
        request: &v1::HelloRequest,
        (state, highest): (DeviceState, u64),
    ) -> Result<Welcome, Refusal> {
        let position = match request.start() {
            // The client has its key whether or not the device is remembered already.
            v1::Start::Oldest => {
                if !request.peek {
                    self.acks.add(device.clone(), Acknowledged { epoch: state.epoch, versions: [Some(0); CLASSES] });
                }
                [0; CLASSES]
            }
            // A peek leaves no trace.
            v1::Start::Heads if request.peek => state.heads,
            v1::Start::Heads => self.start_at_heads(device, &state).await?,
        };
        let key = Key::at(user_epoch(state.epoch, &device.user), position);
        Ok(welcome((&state, highest), KeyOrder::Start, Some(key), &key))
    }

    /// Stored before the reply: if it were forgotten, the client's next acknowledgement would tell that all below was delivered.
    async fn start_at_heads(&self, device: &Device, state: &DeviceState) -> Result<[Version; CLASSES], Refusal> {
        // The start counts all below as derived, so what was acknowledged before is derived first.
        if state.acked[Class::Messages as usize] > state.derived {
            let (derivation, device) = (self.derivation.clone(), device.clone());
            // A link that ends meanwhile takes no hint with it.
            Seen::through(async move { derivation.derive([(device, None)]).await }).await?;
        }
        let op = Op::Start { device: device.clone(), start: v1::Start::Heads, time_ms: unix_millis() };
        match self.commit(op).await {
            Outcome::Started(position) => Ok(position),
            outcome => Err(not_stored(&outcome)),
        }
    }

    /// What a device with an invalid key goes on with: what it has acknowledged.
    async fn replacement(&self, device: &Device) -> Result<Key, Refusal> {
        Ok(acknowledged(device, &self.storage.device(device).await?))
    }

    /// What is known without storage of a device that presents a key. A key of another epoch than the last one that was seen is for storage to judge.
    async fn look(&self, device: &Device, presented: Option<&Key>, peek: bool) -> Option<Looked> {
        let (shortcuts, key, epoch) = (self.shortcuts.as_ref()?, presented?, self.epoch.last());
        if key.epoch != user_epoch(epoch, &device.user) {
            return None;
        }
        shortcuts.look(device, epoch, key, peek).await
    }

    /// What became of messages that are sent again, as far as that is known without storage.
    async fn recall(&self, device: &Device, messages: &[v1::OutMessage]) -> Vec<Option<Sent>> {
        match (&self.shortcuts, self.epoch.current()) {
            (Some(shortcuts), Some(epoch)) => shortcuts.recall(device, epoch, messages).await,
            _ => Vec::new(),
        }
    }

    async fn commit(&self, op: Op) -> Outcome {
        self.storage.commit(vec![op]).await.pop().unwrap_or(Outcome::Unknown)
    }
}

#[async_trait]
impl SyncApi for SyncService {
    async fn hello(&self, device: &Device, request: &v1::HelloRequest) -> Result<Welcome, Refusal> {
        let asked = Instant::now();
        let state = self.storage.device(device).await?;
        self.epoch.saw(state.epoch, asked);
        let highest = self.storage.highest_client_msg_id(device).await?;
        let Some(key) = request.key.as_ref().map(Key::from) else {
            return self.start(device, request, (state, highest)).await;
        };
        match judge(&key, user_epoch(state.epoch, &device.user), state.heads) {
            Judgement::Stands => {
                if acknowledges(request.peek) {
                    // Even at 0, so that the device is remembered.
                    self.acks.add(device.clone(), Acknowledged { epoch: state.epoch, versions: key.versions });
                }
                Ok(welcome((&state, highest), KeyOrder::None, None, &key))
            }
            Judgement::Replace(order) => {
                let key = acknowledged(device, &state);
                Ok(welcome((&state, highest), order, Some(key), &key))
            }
        }
    }

    async fn send(&self, device: &Device, messages: Vec<v1::OutMessage>) -> Vec<v1::SendResult> {
        let found = self.recall(device, &messages).await;
        let is_known = |place: usize| found.get(place).is_some_and(Option::is_some);
        let about = media::of((self.media.as_deref(), &*self.storage), &device.user, &messages, is_known).await;
        let known = send::known(found, &about);
        let ids: Vec<u64> = messages.iter().map(|message| message.client_msg_id).collect();
        let ops = send::ops(device, messages, (&known, about), unix_millis());
        let (storage, shortcuts, hints) = (self.storage.clone(), self.shortcuts.clone(), self.hints.clone());
        let asked = Instant::now();
        // A caller that goes away in the meantime takes neither the commit nor the hints with it.
        let outcomes = Seen::through(Way { storage, shortcuts, hints }.go(device.clone(), ops)).await;
        if let Some(epoch) = outcomes.iter().find_map(epoch_of) {
            self.epoch.saw(epoch, asked);
        }
        let results = send::results(&ids, known, outcomes);
        for result in &results {
            self.messages.get_or_create(&[("code", result.code().as_str_name())]).inc();
        }
        results
    }

    async fn sync(&self, device: &Device, request: v1::SyncRequest) -> Result<v1::SyncReply, Refusal> {
        let key = request.key.as_ref().map(Key::from);
        let above = key.map_or([Some(0); CLASSES], |key| key.versions);
        let asked = Instant::now();
        let page = self.storage.page(page::request(device, above, request.limit)).await?;
        self.epoch.saw(page.epoch, asked);
        if let Some(key) = key {
            match judge(&key, user_epoch(page.epoch, &device.user), page.heads) {
                Judgement::Stands if acknowledges(request.peek) => self.acknowledge(device, page.epoch, &key),
                Judgement::Stands => {}
                Judgement::Replace(order) => {
                    let key = Some((&self.replacement(device).await?).into());
                    return Ok(v1::SyncReply { key, key_order: order.into(), ..v1::SyncReply::default() });
                }
            }
        }
        Ok(page::reply(device, page))
    }

    async fn check(&self, device: &Device, request: &v1::CheckRequest) -> Result<v1::CheckReply, Refusal> {
        let presented = request.key.as_ref().map(Key::from);
        // One that waits asks storage: what woke it may be what Redis does not know.
        let look = if request.wait_ms == 0 { self.look(device, presented.as_ref(), request.peek).await } else { None };
        if let (Some(key), Some(Looked { epoch, answer: Some(answer), .. })) = (&presented, &look) {
            let pending = *answer == Answer::Pending;
            if pending && acknowledges(request.peek) {
                self.acknowledge(device, *epoch, key);
            }
            return Ok(v1::CheckReply { pending, ..v1::CheckReply::default() });
        }
        let asked = Instant::now();
        let state = self.storage.device(device).await?;
        self.epoch.saw(state.epoch, asked);
        if let (Some(shortcuts), Some(look)) = (&self.shortcuts, &look) {
            shortcuts.confirmed(device, &state, look.now);
        }
        let epoch = user_epoch(state.epoch, &device.user);
        let key = presented.unwrap_or(Key::oldest(epoch));
        match judge(&key, epoch, state.heads) {
            Judgement::Stands => {
                if acknowledges(request.peek) {
                    self.acknowledge(device, state.epoch, &key);
                }
                Ok(v1::CheckReply { pending: is_behind(&key, state.heads), ..v1::CheckReply::default() })
            }
            Judgement::Replace(order) => {
                let key = acknowledged(device, &state);
                let pending = is_behind(&key, state.heads);
                Ok(v1::CheckReply { pending, key_order: order.into(), key: Some((&key).into()) })
            }
        }
    }

    async fn ack(&self, device: &Device, request: v1::AckRequest) -> Result<v1::AckReply, Refusal> {
        let Some(key) = request.key.as_ref().map(Key::from) else {
            return Err(Refusal::new(Code::BadBody, "an ack carries a key"));
        };
        let mut epoch = self.epoch.last();
        if user_epoch(epoch, &device.user) != key.epoch {
            // A key that does not stand, or the epoch is another than this replica knows.
            let asked = Instant::now();
            let state = self.storage.device(device).await?;
            epoch = state.epoch;
            self.epoch.saw(epoch, asked);
            if let Judgement::Replace(order) = judge(&key, user_epoch(epoch, &device.user), state.heads) {
                return Ok(replaced(device, &state, order));
            }
        }
        // A client that acknowledges and closes the link takes the receipts with it as little as the acknowledgement.
        let (storage, deliver, of) = (self.storage.clone(), self.deliver.clone(), device.clone());
        let stored = Seen::through(async move { acks::store(&*storage, &deliver, &of, epoch, key.versions).await });
        let state = match stored.await {
            Outcome::Acked(state) => state,
            outcome => return Err(not_stored(&outcome)),
        };
        match judge(&key, user_epoch(state.epoch, &device.user), state.heads) {
            Judgement::Stands => Ok(v1::AckReply::default()),
            Judgement::Replace(order) => Ok(replaced(device, &state, order)),
        }
    }

    async fn read(&self, device: &Device, request: v1::ReadRequest) -> Result<v1::ReadReply, Refusal> {
        // Before anything is kept for it: a stranger cannot fill the map of marks with the conversations of others.
        let (conversation, _) = conversations::of_member(&*self.storage, &request.conversation, &device.user).await?;
        let (outcome, became) = oneshot::channel();
        let mark = ReadMark { by: device.clone(), seq: request.seq, outcome };
        self.reads.add((conversation, device.user.clone()), vec![mark]);
        match became.await.unwrap_or(Outcome::Unknown) {
            Outcome::Raised(_) => Ok(v1::ReadReply {}),
            Outcome::NotAMember => Err(conversations::not_a_member()),
            Outcome::BeyondHead => Err(Refusal::new(Code::BeyondHead, "no message has this seq yet")),
            outcome => Err(not_stored(&outcome)),
        }
    }

    async fn conversations(
        &self,
        device: &Device,
        request: v1::ConversationsRequest,
    ) -> Result<v1::ConversationsReply, Refusal> {
        conversations::list(&*self.storage, &device.user, request).await
    }

    async fn history(&self, device: &Device, request: v1::HistoryRequest) -> Result<v1::HistoryReply, Refusal> {
        conversations::history(&*self.storage, &device.user, request).await
    }

    async fn members(&self, device: &Device, request: v1::MembersRequest) -> Result<v1::MembersReply, Refusal> {
        conversations::members(&*self.storage, &device.user, &request.conversation).await
    }

    async fn refers_to(&self, id: MediaId) -> Result<bool, Refusal> {
        Ok(media::is_referred_to(&*self.storage, id).await?)
    }

    async fn sees_media(&self, device: &Device, id: MediaId) -> Result<bool, Refusal> {
        Ok(media::sees(&*self.storage, &device.user, id).await?)
    }

    async fn push(&self, device: &Device, above: &Key) -> Result<Pushed, Refusal> {
        let page = self.storage.page(page::request(device, above.versions, 0)).await?;
        match judge(above, user_epoch(page.epoch, &device.user), page.heads) {
            Judgement::Stands => {
                let epoch = page.epoch;
                let pushed = page::pushed(device, page);
                if let Pushed::Delta(_, after) = &pushed
                    && planted::active(Fault::HintTakenForDelivery)
                {
                    self.acknowledge(device, epoch, after);
                }
                Ok(pushed)
            }
            // The sync that it is told to make brings the order.
            Judgement::Replace(_) => Ok(Pushed::TooMuch),
        }
    }

    async fn keep_routes(&self, routes: Vec<Kept>) -> Result<Vec<Held>, Refusal> {
        let Some(all) = &self.routes else {
            return Ok(vec![Held { standing: Standing::Stands, came: None }; routes.len()]);
        };
        let kept = all.keep(&routes).await.map_err(|away| {
            tracing::debug!(%away, "routes are not kept");
            Refusal::new(Code::Unavailable, "the routes are away")
        })?;
        let told = kept.into_iter().zip(&routes).map(|((held, former), kept)| {
            if let Some(former) = former {
                self.hints.displaced(&kept.device, former);
            }
            held
        });
        Ok(told.collect())
    }

    async fn leave_routes(&self, routes: Vec<(Device, Route)>) {
        if let Some(all) = &self.routes
            && let Err(away) = all.leave(&routes).await
        {
            tracing::debug!(%away, "routes end by themselves");
        }
    }

    async fn ready(&self) -> Result<(), Refusal> {
        Ok(self.storage.ready().await?)
    }

    fn durability(&self) -> v1::Durability {
        match self.storage.durability() {
            Durability::Disk => v1::Durability::Disk,
            Durability::Os => v1::Durability::Os,
        }
    }
}

/// Where a batch of sends goes, in this order.
struct Way {
    storage: Arc<dyn Storage>,
    shortcuts: Option<Arc<Shortcuts>>,
    hints: Arc<dyn Hints>,
}

impl Way {
    /// Commits a batch of sends, notes the results, and hints whoever's timeline has something new, but not the sending device.
    async fn go(self, by: Device, ops: Vec<Op>) -> Vec<Outcome> {
        if ops.is_empty() {
            return Vec::new();
        }
        let shorts: Vec<Option<Short>> = ops.iter().map(Short::of).collect();
        let named: Option<Vec<_>> = self.shortcuts.as_ref().map(|_| ops.iter().map(named).collect());
        let outcomes = self.storage.commit(ops).await;
        if let (Some(shortcuts), Some(named)) = (&self.shortcuts, named) {
            shortcuts.stored(&by, &named, &outcomes);
        }
        let mut owed: BTreeSet<&UserId> = BTreeSet::new();
        for (outcome, short) in outcomes.iter().zip(shorts) {
            let Outcome::Sent(sent) = outcome else { continue };
            match News::of_message(&by, sent, short) {
                Some(news) => self.hints.news(news),
                None => owed.extend(&*sent.owed),
            }
        }
        owed.into_iter().for_each(|user| self.hints.owed(user, Some(&by)));
        outcomes
    }
}

fn epoch_of(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Sent(sent) => Some(sent.places.first()?.epoch),
        _ => None,
    }
}

fn acknowledges(peek: bool) -> bool {
    !peek || planted::active(Fault::PeekAcknowledges)
}

/// What the device has acknowledged, as a key; before everything if it is unknown.
fn acknowledged(device: &Device, state: &DeviceState) -> Key {
    Key::at(user_epoch(state.epoch, &device.user), state.acked)
}

/// The answer to an ack of a key that does not stand.
fn replaced(device: &Device, state: &DeviceState, order: KeyOrder) -> v1::AckReply {
    v1::AckReply { key_order: order.into(), key: Some((&acknowledged(device, state)).into()) }
}

/// `stands` is the key that the client goes on with.
fn welcome(
    (state, highest_client_msg_id): (&DeviceState, u64),
    key_order: KeyOrder,
    key: Option<Key>,
    stands: &Key,
) -> Welcome {
    Welcome { pending: is_behind(stands, state.heads), highest_client_msg_id, key_order, key }
}

fn not_stored(outcome: &Outcome) -> Refusal {
    match outcome {
        Outcome::Unavailable => Refusal::new(Code::Unavailable, "storage is unavailable"),
        _ => Refusal::new(Code::OutcomeUnknown, "storage has not answered; it may have been stored"),
    }
}

impl From<NotDerived> for Refusal {
    fn from(_: NotDerived) -> Refusal {
        Refusal::new(Code::Unavailable, "storage is unavailable")
    }
}

#[async_trait]
impl References for SyncService {
    async fn refers(&self, id: MediaId) -> Result<bool, Refusal> {
        self.refers_to(id).await
    }
}

impl Ready for SyncService {
    async fn ready(&self) -> Result<(), String> {
        self.storage.ready().await.map_err(|Unavailable(why)| why)
    }
}
