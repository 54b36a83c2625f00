//! Random histories: the engine and the reference are told the same, and tell the same.
//!
//! Versions and message ids are the engine's own, so they are compared by rank: the n-th version of a timeline in the one is
//! the n-th in the other. Everything else is equal to the letter. A failure names the seed and the step.

use std::collections::BTreeMap;
use std::sync::Arc;

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::v1::entry::Body;
use tern_proto::{UserId, v1};

use super::Place;
use super::author::Author;
use super::history::timelines;
use super::pages::bytes;
use crate::reference::Reference;
use crate::{Content, Device, Op, Outcome, Page, PageRequest, Sent, Storage};

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
    let mut twins = Twins {
        engine: place.open().await,
        reference: Reference::default(),
        ranks: BTreeMap::new(),
        ids: Default::default(),
    };
    for seed in 0..SEEDS {
        let mut author = Author::new(seed);
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
            twins.commit(ops, &context).await;
            for device in author.devices.clone() {
                twins.compare_device(&device, &context).await;
            }
            let request = author.page(&twins);
            twins.compare_page(request, &context).await;
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
    pub(super) reference: Reference,
    /// By timeline, ascending in both.
    ranks: BTreeMap<(UserId, Class), Vec<Rank>>,
    /// The reference's message id for each of the engine's, and the other way round: one for one.
    ids: [BTreeMap<u64, u64>; 2],
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
            Op::Ack { device, versions, .. } => *versions = self.all_of_engine(&device.user, *versions),
            Op::Delivered { by, derived, .. } => *derived = self.of_engine(&by.user, Class::Messages, *derived),
            _ => {}
        }
        op
    }

    async fn commit(&mut self, ops: Vec<Op>, context: &str) {
        let outcomes = self.engine.commit(ops.iter().map(|op| self.op_of_engine(op)).collect()).await;
        let wanted = self.reference.commit(ops.clone()).await;
        assert_eq!(outcomes.len(), wanted.len(), "{context}");
        self.learn_versions(&ops, context).await;
        for ((op, outcome), wanted) in ops.iter().zip(outcomes).zip(wanted) {
            self.compare_outcome(op, outcome, wanted, &format!("{context}: {op:?}"));
        }
    }

    fn compare_outcome(&mut self, op: &Op, outcome: Outcome, wanted: Outcome, context: &str) {
        match (op, outcome, wanted) {
            (_, Outcome::Sent(sent), Outcome::Sent(wanted)) => {
                let server_msg_id = self.same_id(sent.server_msg_id, wanted.server_msg_id);
                assert_eq!(Sent { server_msg_id, ..sent }, wanted, "{context}");
            }
            (Op::Start { device, .. }, Outcome::Started(position), Outcome::Started(wanted)) => {
                self.assert_same_positions(&device.user, position, wanted, context);
            }
            (_, Outcome::Raised(mut users), Outcome::Raised(mut wanted)) => {
                users.sort();
                wanted.sort();
                assert_eq!(users, wanted, "{context}");
            }
            (_, outcome, wanted) => assert_eq!(outcome, wanted, "{context}"),
        }
    }

    /// The reference's id, if the engine's stands for the same message; learned when both are first seen. Else [`UNLIKE`].
    fn same_id(&mut self, engine: u64, reference: u64) -> u64 {
        let [there, back] = &mut self.ids;
        let same = *there.entry(engine).or_insert(reference) == reference;
        let same = same && *back.entry(reference).or_insert(engine) == engine;
        if same { reference } else { UNLIKE }
    }

    /// Learns the versions that a batch made, from the timelines of whom it touched.
    async fn learn_versions(&mut self, ops: &[Op], context: &str) {
        for op in ops {
            let (device, other) = match op {
                Op::Send { from, content: Content::Text { to, .. }, .. } => (from, Some(to.clone())),
                Op::Read { by, conversation, .. } => (by, conversation.other(&by.user)),
                Op::Delivered { by, positions, .. } => {
                    for (conversation, _) in positions {
                        if let Some(user) = conversation.other(&by.user) {
                            self.compare_timelines(&Device { user, id: by.id.clone() }, context).await;
                        }
                    }
                    continue;
                }
                _ => continue,
            };
            self.compare_timelines(device, context).await;
            if let Some(user) = other {
                self.compare_timelines(&Device { user, id: device.id.clone() }, context).await;
            }
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
            (Some(Body::Message(a)), Some(Body::Message(b))) => {
                a.server_msg_id = self.same_id(a.server_msg_id, b.server_msg_id)
            }
            (Some(Body::Stub(a)), Some(Body::Stub(b))) => {
                a.server_msg_id = self.same_id(a.server_msg_id, b.server_msg_id)
            }
            _ => {}
        }
        entry
    }

    async fn compare_device(&self, device: &Device, context: &str) {
        let context = format!("{context}: {device:?}");
        let state = self.engine.device(device).await.expect("available");
        let wanted = self.reference.device(device).await.expect("available");
        let parts = |state: &crate::DeviceState| (state.known, state.highest_client_msg_id);
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
