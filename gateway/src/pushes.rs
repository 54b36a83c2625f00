//! When a link is told that something is owed, and how: by a delta once it has caught up, else by a notify.
//!
//! - A sync that ended with nothing more **arms** the link at the key of its reply; a new sync disarms it.
//! - Entries that come with a hint and stand right above the key of an armed link are a delta, which moves the key.
//! - Any other hint on an armed link asks for what lies above the key and sends that as a delta.
//! - A hint on a link that is not armed is one notify; the client's next sync allows another.
//! - Entries that the device caused itself wait for others.
//! - A hint during a sync or a push is remembered and looked at when that is over.
//!
//! Acknowledgements play no part in it.

use prost::Message;
use tern_proto::key::Key;
use tern_proto::packet::HEADER_BYTES;
use tern_proto::{limits, v1};
use tern_runtime::planted::{self, Fault};
use tern_sync::{Pushed, Refusal};

use crate::signal::Fresh;

/// With more than this many bytes to write, no delta is prepared; the hint is kept.
const BACKLOG_BYTES: usize = 256 * 1024;
/// Entries that are held to be told; with more a look is cheaper.
const FRESH: usize = 64;

/// What a link has told its client about what is owed.
#[derive(Debug, Default)]
pub(crate) struct Pushes {
    /// `None` before a sync has ended and during one. Boxed: most links are idle.
    armed: Option<Box<Armed>>,
    /// A hint came that nothing was done about.
    hinted: bool,
    /// A notify was sent since the last sync request.
    notified: bool,
    /// A push is in flight.
    pushing: bool,
    /// Sync requests without a reply.
    syncs: u16,
}

/// A link that takes deltas.
#[derive(Debug)]
struct Armed {
    /// Where the client is, as far as it was told.
    key: Key,
    /// Entries that have come with hints, not told yet.
    fresh: Vec<Fresh>,
}

/// What to do about a hint.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Send it.
    Delta(v1::Delta),
    /// Ask what lies above the key, then call [`Pushes::pushed`].
    Push(Key),
    /// Send a notify.
    Notify,
}

impl Pushes {
    /// Something is owed.
    pub(crate) fn hint(&mut self) {
        self.hinted = true;
    }

    /// Entries came with hints.
    pub(crate) fn news(&mut self, mut fresh: Vec<Fresh>) {
        match &mut self.armed {
            Some(armed) if armed.fresh.len() + fresh.len() <= FRESH => armed.fresh.append(&mut fresh),
            _ => {
                self.look_instead();
                self.hinted |= is_owed(&fresh);
            }
        }
    }

    /// What has come is left to a look.
    fn look_instead(&mut self) {
        if let Some(armed) = &mut self.armed {
            self.hinted |= is_owed(&std::mem::take(&mut armed.fresh));
        }
    }

    /// The client asked for a page.
    pub(crate) fn sync_began(&mut self) {
        self.look_instead();
        self.armed = None;
        self.notified = false;
        self.syncs += 1;
    }

    /// The page goes out, or the refusal.
    pub(crate) fn sync_ended(&mut self, reply: Option<&v1::SyncReply>) {
        self.syncs -= 1;
        let caught_up = reply.filter(|reply| reply.more.is_empty() && reply.key_order() == v1::KeyOrder::None);
        if self.syncs == 0 {
            let key = caught_up.and_then(|reply| reply.key.as_ref()).map(Key::from);
            self.armed = key.map(|key| Box::new(Armed { key, fresh: Vec::new() }));
        }
    }

    /// What to do now, if anything; `backlog` bytes wait to be written.
    pub(crate) fn next(&mut self, backlog: usize) -> Option<Step> {
        if self.syncs > 0 || self.pushing {
            return None;
        }
        if self.armed.is_some() && backlog > BACKLOG_BYTES {
            return None;
        }
        if let Some(delta) = self.direct() {
            return Some(Step::Delta(delta));
        }
        if !std::mem::take(&mut self.hinted) {
            return None;
        }
        match &self.armed {
            Some(armed) => {
                self.pushing = true;
                Some(Step::Push(armed.key))
            }
            None => self.notify().then_some(Step::Notify),
        }
    }

    /// The answer to [`Step::Push`]; returns the delta to send.
    pub(crate) fn pushed(&mut self, above: Key, pushed: Result<Pushed, Refusal>) -> Option<v1::Delta> {
        self.pushing = false;
        if self.key() != Some(above) {
            return None; // A sync came in between; its page has what this push was about.
        }
        match pushed {
            Ok(Pushed::Nothing) => None,
            Ok(Pushed::Delta(entries, after)) => self.delta(above, entries, after),
            // The client's sync will carry it, or meet the refusal and wait as that tells it.
            Ok(Pushed::TooMuch) | Err(_) => self.give_up(),
        }
    }

    /// The delta out of the entries that have come, if they stand right above the key, one behind the other. Where something is missing between them, all is left
    /// to a look. Own ones alone wait for others.
    fn direct(&mut self) -> Option<v1::Delta> {
        let armed = self.armed.as_mut().filter(|armed| !self.hinted && !armed.fresh.is_empty())?;
        // Of several replicas that tell, the one with the later entry may come first.
        armed.fresh.sort_by_key(|fresh| (fresh.class, fresh.entry.version));
        let (above, mut after, mut is_whole) = (armed.key, armed.key, true);
        armed.fresh.retain(|fresh| {
            let stands = stands(fresh, &after);
            match stands {
                Stands::Next => after.versions[fresh.class as usize] = Some(fresh.entry.version),
                Stands::Beyond => is_whole = false,
                Stands::Known => {}
            }
            stands != Stands::Known
        });
        if !is_whole {
            self.look_instead();
            return None;
        }
        if !is_owed(&armed.fresh) {
            return None;
        }
        let entries = std::mem::take(&mut armed.fresh).into_iter().map(|fresh| fresh.entry).collect();
        self.delta(above, entries, after)
    }

    fn key(&self) -> Option<Key> {
        self.armed.as_ref().map(|armed| armed.key)
    }

    fn delta(&mut self, above: Key, mut entries: Vec<v1::Entry>, after: Key) -> Option<v1::Delta> {
        if planted::active(Fault::DeltaWithoutBeforeCheck) {
            entries.drain(..entries.len().min(1));
        }
        let delta = v1::Delta { before: Some((&above).into()), entries, after: Some((&after).into()) };
        if HEADER_BYTES + delta.encoded_len() > limits::PACKET_BYTES {
            return self.give_up();
        }
        if let Some(armed) = &mut self.armed {
            armed.key = after;
        }
        Some(delta)
    }

    /// Back to a notify, which the hint put back makes [`Pushes::next`] send.
    fn give_up(&mut self) -> Option<v1::Delta> {
        self.armed = None;
        self.hinted = true;
        None
    }

    fn notify(&mut self) -> bool {
        !std::mem::replace(&mut self.notified, true)
    }
}

/// Whether the client has to be told one of them; its own are not worth that.
fn is_owed(fresh: &[Fresh]) -> bool {
    fresh.iter().any(|fresh| !fresh.is_own)
}

/// How an entry stands to a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// Not above it, or of a class that it does not have.
    Known,
    /// Right above it.
    Next,
    /// Something lies between, or may.
    Beyond,
}

fn stands(fresh: &Fresh, key: &Key) -> Stands {
    match key.versions[fresh.class as usize] {
        None => Stands::Known,
        Some(_) if fresh.epoch != key.epoch => Stands::Beyond,
        Some(at) if at >= fresh.entry.version => Stands::Known,
        Some(at) if at >= fresh.before || planted::active(Fault::NewsWithoutBeforeCheck) => Stands::Next,
        Some(_) => Stands::Beyond,
    }
}

#[cfg(test)]
mod tests {
    use tern_proto::key::Class;

    use super::*;
    use crate::signal::Delivery;

    const K1: Key = Key { epoch: 7, versions: [Some(1), Some(0)] };
    const K2: Key = Key { epoch: 7, versions: [Some(2), Some(0)] };
    const K3: Key = Key { epoch: 7, versions: [Some(3), Some(0)] };

    fn reply(key: Key, more: &[u32]) -> v1::SyncReply {
        v1::SyncReply { key: Some((&key).into()), more: more.to_vec(), ..Default::default() }
    }

    fn armed(key: Key) -> Pushes {
        let mut pushes = Pushes::default();
        pushes.sync_began();
        pushes.sync_ended(Some(&reply(key, &[])));
        assert_eq!(pushes.key(), Some(key));
        pushes
    }

    fn delta(after: Key) -> Result<Pushed, Refusal> {
        Ok(Pushed::Delta(vec![v1::Entry::default()], after))
    }

    #[test]
    fn before_a_sync_one_notify_until_the_next_sync_request() {
        let mut pushes = Pushes::default();
        assert_eq!(pushes.next(0), None);
        pushes.hint();
        assert_eq!(pushes.next(0), Some(Step::Notify));
        pushes.hint();
        assert_eq!(pushes.next(0), None, "one is enough");
        pushes.sync_began();
        pushes.sync_ended(Some(&reply(K1, &[1])));
        pushes.hint();
        assert_eq!(pushes.next(0), Some(Step::Notify), "the page was not the last one");
    }

    #[test]
    fn deltas_form_a_chain_with_one_push_at_a_time() {
        let mut pushes = armed(K1);
        pushes.hint();
        assert_eq!(pushes.next(0), Some(Step::Push(K1)));
        pushes.hint();
        assert_eq!(pushes.next(0), None);
        let first = pushes.pushed(K1, delta(K2)).unwrap();
        assert_eq!((&first.before, &first.after), (&Some((&K1).into()), &Some((&K2).into())));
        assert_eq!(pushes.next(0), Some(Step::Push(K2)), "the hint meanwhile means another round");
        let second = pushes.pushed(K2, delta(K3)).unwrap();
        assert_eq!(second.before, first.after);
        assert_eq!(pushes.next(0), None);
    }

    // first-sync-race: a push during a sync must not move the client past what the sync hands out.
    #[test]
    fn a_hint_during_a_sync_waits_for_its_end() {
        let mut pushes = armed(K1);
        pushes.sync_began();
        pushes.hint();
        assert_eq!(pushes.next(0), None);
        pushes.sync_ended(Some(&reply(K2, &[])));
        assert_eq!(pushes.next(0), Some(Step::Push(K2)));
    }

    #[test]
    fn a_push_that_a_sync_overtook_is_dropped() {
        let mut pushes = armed(K1);
        pushes.hint();
        assert_eq!(pushes.next(0), Some(Step::Push(K1)));
        pushes.sync_began();
        assert_eq!(pushes.pushed(K1, delta(K2)), None);
        pushes.sync_ended(Some(&reply(K2, &[])));
        assert_eq!(pushes.key(), Some(K2));
    }

    #[test]
    fn of_several_syncs_the_last_one_arms() {
        let mut pushes = Pushes::default();
        pushes.sync_began();
        pushes.sync_began();
        pushes.sync_ended(Some(&reply(K1, &[])));
        assert_eq!(pushes.key(), None);
        pushes.sync_ended(Some(&reply(K2, &[])));
        assert_eq!(pushes.key(), Some(K2));
    }

    #[test]
    fn orders_and_refusals_do_not_arm() {
        let mut ordered = reply(K1, &[]);
        ordered.key_order = v1::KeyOrder::ReplaceAhead.into();
        for ended in [Some(&ordered), None] {
            let mut pushes = Pushes::default();
            pushes.sync_began();
            pushes.sync_ended(ended);
            assert_eq!(pushes.key(), None);
        }
    }

    #[test]
    fn nothing_stays_armed_and_too_much_falls_back_to_a_notify() {
        let mut pushes = armed(K1);
        pushes.hint();
        pushes.next(0);
        assert_eq!(pushes.pushed(K1, Ok(Pushed::Nothing)), None);
        assert_eq!((pushes.key(), pushes.next(0)), (Some(K1), None));
        let huge = v1::Entry {
            body: Some(v1::entry::Body::Message(v1::Message { text: "x".repeat(70_000), ..Default::default() })),
            ..Default::default()
        };
        for too_much in [Ok(Pushed::TooMuch), Ok(Pushed::Delta(vec![huge], K2))] {
            let mut pushes = armed(K1);
            pushes.hint();
            pushes.next(0);
            assert_eq!(pushes.pushed(K1, too_much), None);
            assert_eq!((pushes.key(), pushes.next(0)), (None, Some(Step::Notify)));
        }
    }

    /// A message at a version, right behind another one.
    fn fresh(before: u64, version: u64) -> Fresh {
        let entry = v1::Entry { class: 1, version, body: None };
        Fresh { epoch: 7, class: Class::Messages, before, entry, is_own: false, delivery: Delivery::of(None) }
    }

    fn receipt(before: u64, version: u64) -> Fresh {
        let entry = v1::Entry { class: 2, version, body: None };
        Fresh { class: Class::Receipts, entry, ..fresh(before, version) }
    }

    fn own(before: u64, version: u64) -> Fresh {
        Fresh { is_own: true, ..fresh(before, version) }
    }

    /// The versions of a delta's entries, and the key after them.
    fn told(step: Option<Step>) -> (Vec<u64>, [Option<u64>; 2]) {
        let Some(Step::Delta(delta)) = step else { panic!("{step:?}") };
        let after = delta.after.as_ref().map(|key| Key::from(key).versions);
        (delta.entries.iter().map(|entry| entry.version).collect(), after.unwrap())
    }

    #[test]
    fn entries_right_above_the_key_need_no_look() {
        let mut pushes = armed(K1);
        pushes.news(vec![fresh(1, 2), receipt(0, 4)]);
        let step = pushes.next(0);
        let Some(Step::Delta(delta)) = &step else { panic!("{step:?}") };
        assert_eq!(delta.before, Some((&K1).into()));
        assert_eq!(told(step), (vec![2, 4], [Some(2), Some(4)]));
        assert_eq!(pushes.next(0), None);
        pushes.news(vec![fresh(2, 5)]);
        assert_eq!(told(pushes.next(0)), (vec![5], [Some(5), Some(4)]));
        assert_eq!(pushes.key(), Some(Key::at(7, [5, 4])));
    }

    #[test]
    fn entries_in_any_order_are_told_in_theirs_and_once() {
        let mut pushes = armed(K1);
        pushes.news(vec![fresh(2, 3), fresh(1, 2), fresh(0, 1), fresh(2, 3)]);
        assert_eq!(told(pushes.next(0)), (vec![2, 3], [Some(3), Some(0)]));
        pushes.news(vec![fresh(1, 2)]);
        assert_eq!(pushes.next(0), None, "the link has it");
    }

    #[test]
    fn a_gap_and_another_epoch_are_left_to_a_look() {
        let other = Fresh { epoch: 8, ..fresh(1, 2) };
        for news in [vec![fresh(2, 3)], vec![fresh(1, 2), fresh(3, 4)], vec![other], vec![receipt(1, 2)]] {
            let mut pushes = armed(K1);
            pushes.news(news);
            assert_eq!(pushes.next(0), Some(Step::Push(K1)));
            pushes.news(vec![fresh(1, 2)]);
            assert_eq!(pushes.next(0), None, "one push at a time");
            pushes.pushed(K1, delta(K3)).unwrap();
            assert_eq!(pushes.next(0), None, "the look has covered it");
        }
    }

    #[test]
    fn an_own_entry_waits_for_company() {
        let mut pushes = armed(K1);
        pushes.news(vec![own(1, 2)]);
        assert_eq!(pushes.next(0), None);
        pushes.news(vec![fresh(2, 3)]);
        assert_eq!(told(pushes.next(0)), (vec![2, 3], [Some(3), Some(0)]));
        pushes.news(vec![own(4, 5)]);
        assert_eq!(pushes.next(0), None, "what lies before it has a hint of its own");
        pushes.news(vec![fresh(5, 6)]);
        assert_eq!(pushes.next(0), Some(Step::Push(K3)));
    }

    #[test]
    fn a_link_that_is_not_armed_and_one_with_too_much_news_are_hinted() {
        let mut pushes = Pushes::default();
        pushes.news(vec![own(1, 2)]);
        assert_eq!(pushes.next(0), None);
        pushes.news(vec![fresh(2, 3)]);
        assert_eq!(pushes.next(0), Some(Step::Notify));
        let mut pushes = armed(K1);
        pushes.news((0..=FRESH as u64).map(|at| fresh(at + 1, at + 2)).collect());
        assert_eq!(pushes.next(0), Some(Step::Push(K1)));
    }

    // first-sync-race: what comes during a sync is not told before its end.
    #[test]
    fn news_during_a_sync_means_a_look_after_it() {
        let mut pushes = armed(K1);
        pushes.sync_began();
        pushes.news(vec![fresh(1, 2)]);
        assert_eq!(pushes.next(0), None);
        pushes.sync_ended(Some(&reply(K1, &[])));
        assert_eq!(pushes.next(0), Some(Step::Push(K1)));
        let mut pushes = armed(K1);
        pushes.news(vec![fresh(1, 2)]);
        pushes.sync_began();
        pushes.sync_ended(Some(&reply(K1, &[])));
        assert_eq!(pushes.next(0), Some(Step::Push(K1)), "also what came just before it");
    }

    #[test]
    fn a_backlog_keeps_the_hint() {
        let mut pushes = armed(K1);
        pushes.hint();
        assert_eq!(pushes.next(BACKLOG_BYTES + 1), None);
        assert_eq!(pushes.next(0), Some(Step::Push(K1)));
    }
}
