//! Random histories: the engine and the reference are told the same, and tell the same.
//!
//! Versions and message ids are the engine's own, so they are compared by rank: the n-th version of a timeline in the one is
//! the n-th in the other. Everything else is equal to the letter. A failure names the seed and the step.

use std::collections::BTreeMap;
use std::sync::Arc;

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::v1::entry::Body;
use tern_proto::{ConversationId, MediaId, UserId, v1};

use super::Place;
use super::author::Author;
use super::history::{epoch, timelines};
use super::pages::bytes;
use crate::reference::Reference;
use crate::{Content, Device, HistoryRequest, Op, Outcome, Page, PageRequest, Recipient, Sent, Storage, Told};

const SEEDS: u64 = 12;
const STEPS: usize = 30;
/// The id of no message.
const UNLIKE: u64 = 0;

/// Whatever is done, the engine answers as the reference.
pub async fn histories_equal_the_reference(place: &dyn Place) {
    run(place, None).await;
}

/// And stopping in between changes nothing.
pub async fn histories_with_restarts_equal_the_reference(place: &dyn Place) {
    run(place, Some(10)).await;
}

/// One store for all seeds, each with users of its own.
async fn run(place: &dyn Place, restart_every: Option<usize>) {
    let engine = place.open().await;
    let mut twins = Twins {
        epoch: epoch(&*engine).await,
        tells_places: place.tells_places(),
        engine,
        reference: Reference::default(),
        ranks: BTreeMap::new(),
        ids: Default::default(),
        names: BTreeMap::new(),
        groups: Vec::new(),
    };
    for seed in 0..SEEDS {
        let mut author = Author::new(seed);
        twins.groups.clear();
        for step in 0..STEPS {
            let context = format!("seed {seed}, step {step}");
            // The engine is dropped before its place is opened again.
            if restart_every.is_some_and(|every| step % every == every - 1) {
                twins.engine = Arc::new(Reference::default());
                twins.engine = place.open().await;
                for device in &author.devices {
                    twins.compare_timelines(device, &context).await;
                }
            }
            let ops = author.batch(&twins).await;
            twins.commit(ops, &author.devices, &context).await;
            for device in author.devices.clone() {
                twins.compare_device(&device, &context).await;
            }
            let request = author.page(&twins);
            twins.compare_page(request, &context).await;
            for user in &author.users {
                twins.compare_list(user, &context).await;
            }
            let request = author.history(&twins);
            twins.compare_history(request, &context).await;
            for media in author.media {
                let media = MediaId::from_u128(media);
                twins.compare_references(media, None, &context).await;
                for user in &author.users {
                    twins.compare_references(media, Some(user), &context).await;
                }
            }
        }
    }
}

/// The same version in both.
#[derive(Clone, Copy)]
pub(super) struct Rank {
    engine: Version,
    pub(super) reference: Version,
}

/// The engine and the reference, and what is the same in them. Ops and requests are written with the reference's versions.
pub(super) struct Twins {
    engine: Arc<dyn Storage>,
    /// Of the engine.
    epoch: u64,
    tells_places: bool,
    pub(super) reference: Reference,
    /// By timeline, ascending in both.
    ranks: BTreeMap<(UserId, Class), Vec<Rank>>,
    /// The reference's message id for each of the engine's, and the other way round: one for one.
    ids: [BTreeMap<u64, u64>; 2],
    /// The engine's name of a group by the reference's.
    names: BTreeMap<ConversationId, ConversationId>,
    /// Those of this history.
    pub(super) groups: Vec<ConversationId>,
}

impl Twins {
    pub(super) fn ranks(&self, user: &UserId, class: Class) -> &[Rank] {
        self.ranks.get(&(user.clone(), class)).map_or(&[], Vec::as_slice)
    }

    /// The engine's number for a version of the reference that was seen.
    fn of_engine(&self, user: &UserId, class: Class, version: Version) -> Version {
        let ranks = self.ranks(user, class);
        ranks.binary_search_by_key(&version, |rank| rank.reference).map_or(0, |at| ranks[at].engine)
    }

    fn all_of_engine(&self, user: &UserId, versions: [Option<Version>; CLASSES]) -> [Option<Version>; CLASSES] {
        Class::ALL.map(|class| versions[class as usize].map(|version| self.of_engine(user, class, version)))
    }

    /// How many versions of each timeline lie at or below.
    fn ranks_of(&self, user: &UserId, versions: [Version; CLASSES], number: fn(&Rank) -> Version) -> [usize; CLASSES] {
        Class::ALL.map(|class| self.ranks(user, class).partition_point(|rank| number(rank) <= versions[class as usize]))
    }

    fn assert_same_positions(
        &self,
        user: &UserId,
        engine: [Version; CLASSES],
        reference: [Version; CLASSES],
        what: &str,
    ) {
        let (engine, reference) =
            (self.ranks_of(user, engine, |rank| rank.engine), self.ranks_of(user, reference, |rank| rank.reference));
        assert_eq!(engine, reference, "{what}");
    }

    fn op_of_engine(&self, op: &Op) -> Op {
        let mut op = op.clone();
        match &mut op {
            Op::Ack { device, epoch, versions, .. } => {
                *versions = self.all_of_engine(&device.user, *versions);
                *epoch = self.epoch;
            }
            Op::Delivered { by, derived, positions, .. } => {
                *derived = self.of_engine(&by.user, Class::Messages, *derived);
                positions.iter_mut().for_each(|(conversation, _)| *conversation = self.name_of_engine(conversation));
            }
            Op::Read { conversation, .. } => *conversation = self.name_of_engine(conversation),
            Op::Send { content: Content::Text { to: Recipient::Group(group), .. }, .. }
            | Op::Send { content: Content::Change { group: Some(group), .. }, .. } => {
                *group = self.name_of_engine(group);
            }
            Op::Send { .. } | Op::Start { .. } => {}
        }
        op
    }

    async fn commit(&mut self, ops: Vec<Op>, readers: &[Device], context: &str) {
        let outcomes = self.engine.commit(ops.iter().map(|op| self.op_of_engine(op)).collect()).await;
        let wanted = self.reference.commit(ops.clone()).await;
        assert_eq!(outcomes.len(), wanted.len(), "{context}");
        for pair in outcomes.iter().zip(&wanted) {
            if let (Outcome::Sent(sent), Outcome::Sent(wanted)) = pair {
                self.learn_group(&sent.conversation, &wanted.conversation);
            }
        }
        self.learn_versions(readers, context).await;
        for ((op, outcome), wanted) in ops.iter().zip(outcomes).zip(wanted) {
            self.compare_outcome(op, outcome, wanted, &format!("{context}: {op:?}"));
        }
    }

    fn compare_outcome(&mut self, op: &Op, outcome: Outcome, wanted: Outcome, context: &str) {
        match (op, outcome, wanted) {
            (_, Outcome::Sent(sent), Outcome::Sent(wanted)) => {
                let server_msg_id = self.same_id(sent.server_msg_id, wanted.server_msg_id);
                let conversation = ConversationId::new(&self.renamed_conversation(sent.conversation.as_str()));
                let conversation = conversation.expect("a conversation");
                let owed = sorted(&sent.owed);
                let wanted = Sent { owed: sorted(&wanted.owed), places: Vec::new(), ..wanted };
                assert_eq!(sent.places.len(), if self.tells_places { owed.len() } else { 0 }, "{context}");
                for (user, place) in sent.owed.iter().zip(&sent.places) {
                    self.assert_stands(user, Class::Messages, *place, context);
                }
                assert_eq!(Sent { server_msg_id, conversation, owed, places: Vec::new(), ..sent }, wanted, "{context}");
            }
            (Op::Start { device, .. }, Outcome::Started(position), Outcome::Started(wanted)) => {
                self.assert_same_positions(&device.user, position, wanted, context);
            }
            (Op::Ack { device, .. }, Outcome::Acked(state), Outcome::Acked(wanted)) => {
                let ranks = |acked, number| self.ranks_of(&device.user, acked, number);
                let acked = ranks(state.acked, |rank| rank.engine);
                let at_most = ranks(wanted.acked, |rank| rank.reference);
                // What else is in the batch may have been taken into account, or not.
                assert!(acked.iter().zip(at_most).all(|(acked, most)| *acked <= most), "{context}");
                assert_eq!(state.epoch, self.epoch, "{context}");
            }
            (_, Outcome::Raised(told), Outcome::Raised(wanted)) => {
                let users = |told: &[Told]| sorted(&told.iter().map(|told| told.user.clone()).collect::<Vec<_>>());
                assert_eq!(users(&told), users(&wanted), "{context}");
                let tells = |told: &Told| told.receipt.is_some() || !self.tells_places;
                assert!(told.iter().all(tells), "{context}");
                for (told, wanted) in told.iter().flat_map(|told| wanted.iter().map(move |wanted| (told, wanted))) {
                    let same = told.user == wanted.user;
                    if let (true, Some((receipt, place)), Some((wanted, _))) = (same, &told.receipt, &wanted.receipt) {
                        let conversation = self.renamed_conversation(&receipt.conversation);
                        assert_eq!(&v1::Receipt { conversation, ..receipt.clone() }, wanted, "{context}");
                        self.assert_stands(&told.user, Class::Receipts, *place, context);
                    }
                }
            }
            (_, outcome, wanted) => assert_eq!(outcome, wanted, "{context}"),
        }
    }

    /// Nothing lies between what the place names and the entry; a receipt may have been replaced since.
    fn assert_stands(&self, user: &UserId, class: Class, place: crate::Place, context: &str) {
        let crate::Place { epoch, before, version } = place;
        assert!(epoch == self.epoch && before < version, "{context}: {place:?}");
        let ranks = self.ranks(user, class);
        assert!(!ranks.iter().any(|rank| before < rank.engine && rank.engine < version), "{context}: {place:?}");
        let is_there = ranks.iter().any(|rank| rank.engine == version);
        assert!(is_there || class == Class::Receipts, "{context}: {place:?}");
    }

    /// The reference's id, if the engine's stands for the same message; learned when both are first seen. Else [`UNLIKE`].
    fn same_id(&mut self, engine: u64, reference: u64) -> u64 {
        let [there, back] = &mut self.ids;
        let same = *there.entry(engine).or_insert(reference) == reference;
        let same = same && *back.entry(reference).or_insert(engine) == engine;
        if same { reference } else { UNLIKE }
    }

    /// The group in the one for the group in the other.
    fn learn_group(&mut self, engine: &ConversationId, reference: &ConversationId) {
        if reference.is_group() && !self.groups.contains(reference) {
            self.groups.push(reference.clone());
            self.names.insert(reference.clone(), engine.clone());
        }
    }

    /// Of the engine; a group that was never made has the same name in both.
    fn name_of_engine(&self, reference: &ConversationId) -> ConversationId {
        self.names.get(reference).unwrap_or(reference).clone()
    }

    /// Of the reference.
    fn renamed_conversation(&self, engine: &str) -> String {
        let known = self.names.iter().find(|(_, name)| name.as_str() == engine);
        known.map_or(engine, |(reference, _)| reference.as_str()).to_owned()
    }

    /// Learns the versions that a batch made.
    async fn learn_versions(&mut self, readers: &[Device], context: &str) {
        for reader in readers {
            self.compare_timelines(reader, context).await;
        }
    }

    async fn compare_timelines(&mut self, reader: &Device, context: &str) {
        let entries = timelines(&*self.engine, reader).await;
        let wanted = timelines(&self.reference, reader).await;
        let context = format!("{context}: the timelines of {reader:?}");
        for (entry, wanted) in entries.iter().zip(&wanted) {
            let class = Class::from_number(wanted.class).expect("a known class");
            let ranks = self.ranks.entry((reader.user.clone(), class)).or_default();
            if ranks.last().is_none_or(|last| last.reference < wanted.version) {
                assert!(ranks.last().is_none_or(|last| last.engine < entry.version), "{context}: versions ascend");
                ranks.push(Rank { engine: entry.version, reference: wanted.version });
            }
        }
        self.compare_entries(&reader.user, &entries, &wanted, &context);
    }

    /// The entries are those of the reference, at versions of the same rank.
    fn compare_entries(&mut self, user: &UserId, entries: &[v1::Entry], wanted: &[v1::Entry], context: &str) {
        let renamed: Vec<v1::Entry> = entries.iter().zip(wanted).map(|pair| self.renamed(user, pair)).collect();
        assert_eq!(renamed, wanted, "{context}");
        assert_eq!(entries.len(), wanted.len(), "{context}");
    }

    /// The engine's entry with the reference's numbers, where they stand for the same.
    fn renamed(&mut self, user: &UserId, (entry, wanted): (&v1::Entry, &v1::Entry)) -> v1::Entry {
        let mut entry = entry.clone();
        let class = Class::from_number(wanted.class).expect("a known class");
        if self.of_engine(user, class, wanted.version) == entry.version {
            entry.version = wanted.version;
        }
        match (&mut entry.body, &wanted.body) {
            (Some(Body::Message(a)), Some(Body::Message(b))) => self.rename_message(a, b),
            (Some(Body::Stub(a)), Some(Body::Stub(b))) => {
                a.server_msg_id = self.same_id(a.server_msg_id, b.server_msg_id);
                a.conversation = self.renamed_conversation(&a.conversation);
            }
            (Some(Body::Receipt(a)), _) => a.conversation = self.renamed_conversation(&a.conversation),
            _ => {}
        }
        entry
    }

    fn rename_message(&mut self, message: &mut v1::Message, wanted: &v1::Message) {
        message.server_msg_id = self.same_id(message.server_msg_id, wanted.server_msg_id);
        message.conversation = self.renamed_conversation(&message.conversation);
    }

    /// The list of a user and each conversation in it. Names of groups differ, and so the order; the pages of a list are checked against the whole.
    async fn compare_list(&self, user: &UserId, context: &str) {
        let context = format!("{context}: the list of {user}");
        let whole = self.engine.conversations(user, None, usize::MAX).await.expect("available");
        assert!(whole.is_sorted_by(|a, b| a.id < b.id), "{context}");
        let mut wanted = self.reference.conversations(user, None, usize::MAX).await.expect("available");
        for listed in &wanted {
            let engine = self.engine.conversation(&self.name_of_engine(&listed.id)).await;
            assert_eq!(engine, self.reference.conversation(&listed.id).await, "{context}: {}", listed.id);
        }
        wanted.iter_mut().for_each(|listed| listed.id = self.name_of_engine(&listed.id));
        wanted.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(whole, wanted, "{context}");
        let mut after = None;
        for part in whole.chunks(2) {
            let page = self.engine.conversations(user, after, 2).await.expect("available");
            assert_eq!(page, part, "{context}");
            after = part.last().map(|listed| &listed.id);
        }
    }

    async fn compare_history(&mut self, request: HistoryRequest, context: &str) {
        let context = format!("{context}: {request:?}");
        let conversation = self.name_of_engine(&request.conversation);
        let of_engine = HistoryRequest { conversation, ..request.clone() };
        let mut history = self.engine.history(of_engine).await.expect("available");
        let wanted = self.reference.history(request).await.expect("available");
        history
            .messages
            .iter_mut()
            .zip(&wanted.messages)
            .for_each(|(message, wanted)| self.rename_message(message, wanted));
        assert_eq!(history, wanted, "{context}");
    }

    async fn compare_references(&self, media: MediaId, reader: Option<&UserId>, context: &str) {
        let references = self.engine.references(media, reader, None, usize::MAX).await.expect("available");
        let wanted = self.reference.references(media, reader, None, usize::MAX).await.expect("available");
        let mut wanted: Vec<_> = wanted.into_iter().map(|(id, seq)| (self.name_of_engine(&id), seq)).collect();
        wanted.sort_unstable();
        assert_eq!(references, wanted, "{context}: {media} for {reader:?}");
        let first = self.engine.references(media, reader, None, 1).await.expect("available");
        assert_eq!(first[..], wanted[..wanted.len().min(1)], "{context}: {media} for {reader:?}");
    }

    async fn compare_device(&self, device: &Device, context: &str) {
        let context = format!("{context}: {device:?}");
        let state = self.engine.device(device).await.expect("available");
        let wanted = self.reference.device(device).await.expect("available");
        let parts = |state: &crate::DeviceState| state.known;
        assert_eq!(parts(&state), parts(&wanted), "{context}");
        let heads = |number: fn(&Rank) -> Version| {
            Class::ALL.map(|class| self.ranks(&device.user, class).last().map_or(0, number))
        };
        assert_eq!((state.heads, wanted.heads), (heads(|rank| rank.engine), heads(|rank| rank.reference)), "{context}");
        self.assert_same_positions(&device.user, state.acked, wanted.acked, &format!("{context}: acked"));
        self.assert_same_positions(
            &device.user,
            [state.derived, 0],
            [wanted.derived, 0],
            &format!("{context}: derived"),
        );
        let (after, limit) = (Some(device), 3);
        assert_eq!(
            self.engine.underived(after, limit).await,
            self.reference.underived(after, limit).await,
            "{context}"
        );
    }

    async fn compare_page(&mut self, request: PageRequest, context: &str) {
        let user = request.device.user.clone();
        let context = format!("{context}: {request:?}");
        let of_engine = PageRequest { above: self.all_of_engine(&user, request.above), ..request.clone() };
        let page = self.engine.page(of_engine.clone()).await.expect("available");
        let wanted = self.reference.page(request).await.expect("available");
        self.compare_entries(&user, &page.entries, &wanted.entries, &context);
        assert_eq!(page.more, wanted.more, "{context}");
        assert_eq!(page.after, self.all_of_engine(&user, wanted.after), "{context}");
        self.check_bytes(of_engine, &page, &context).await;
    }

    /// A page with fewer bytes is the longest beginning that fits, and at least one entry.
    async fn check_bytes(&self, request: PageRequest, whole: &Page, context: &str) {
        let max_bytes = bytes(&whole.entries) / 2;
        let page = self.engine.page(PageRequest { max_bytes, ..request }).await.expect("available");
        let fit = (1..whole.entries.len()).rev().find(|count| bytes(&whole.entries[..*count]) <= max_bytes);
        let count = fit.unwrap_or(1).min(whole.entries.len());
        assert_eq!(page.entries, whole.entries[..count], "{context}: {max_bytes} bytes");
    }
}

fn sorted(users: &[UserId]) -> Arc<[UserId]> {
    let mut users = users.to_vec();
    users.sort();
    users.into()
}
