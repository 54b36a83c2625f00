//! When a link is told that something is owed, and how: by a delta once it has caught up, else by a notify.
//!
//! - A sync that ended with nothing more **arms** the link at the key of its reply; a new sync disarms it.
//! - A hint on an armed link asks for what lies above the key and sends it as a delta, which moves the key.
//! - A hint on a link that is not armed is one notify; the client's next sync allows another.
//! - A hint during a sync or a push is remembered and looked at when that is over.
//!
//! Acknowledgements play no part in it.

use prost::Message;
use tern_proto::key::Key;
use tern_proto::packet::HEADER_BYTES;
use tern_proto::{limits, v1};
use tern_runtime::planted::{self, Fault};
use tern_sync::{Pushed, Refusal};

/// With more than this many bytes to write, no delta is prepared; the hint is kept.
const BACKLOG_BYTES: usize = 256 * 1024;

/// What a link has told its client about what is owed.
#[derive(Debug, Default)]
pub(crate) struct Pushes {
    /// Where the client is, as far as it was told; `None` before a sync has ended and during one.
    armed: Option<Key>,
    /// A hint came that nothing was done about.
    hinted: bool,
    /// A notify was sent since the last sync request.
    notified: bool,
    /// A push is in flight.
    pushing: bool,
    /// Sync requests without a reply.
    syncs: u16,
}

/// What to do about a hint.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
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

    /// The client asked for a page.
    pub(crate) fn sync_began(&mut self) {
        self.armed = None;
        self.notified = false;
        self.syncs += 1;
    }

    /// The page goes out, or the refusal.
    pub(crate) fn sync_ended(&mut self, reply: Option<&v1::SyncReply>) {
        self.syncs -= 1;
        let caught_up = reply.filter(|reply| reply.more.is_empty() && reply.key_order() == v1::KeyOrder::None);
        if self.syncs == 0 {
            self.armed = caught_up.and_then(|reply| reply.key.as_ref()).map(Key::from);
        }
    }

    /// What to do now, if anything; `backlog` bytes wait to be written.
    pub(crate) fn next(&mut self, backlog: usize) -> Option<Step> {
        if !self.hinted || self.syncs > 0 || self.pushing {
            return None;
        }
        if let Some(above) = self.armed {
            if backlog > BACKLOG_BYTES {
                return None;
            }
            self.hinted = false;
            self.pushing = true;
            return Some(Step::Push(above));
        }
        self.hinted = false;
        self.notify().then_some(Step::Notify)
    }

    /// The answer to [`Step::Push`]; returns the delta to send.
    pub(crate) fn pushed(&mut self, above: Key, pushed: Result<Pushed, Refusal>) -> Option<v1::Delta> {
        self.pushing = false;
        if self.armed != Some(above) {
            return None; // A sync came in between; its page has what this push was about.
        }
        let (mut entries, after) = match pushed {
            Ok(Pushed::Nothing) => return None,
            Ok(Pushed::Delta(entries, after)) => (entries, after),
            // The client's sync will carry it, or meet the refusal and wait as that tells it.
            Ok(Pushed::TooMuch) | Err(_) => return self.give_up(),
        };
        if planted::active(Fault::DeltaWithoutBeforeCheck) {
            entries.drain(..entries.len().min(1));
        }
        let delta = v1::Delta { before: Some((&above).into()), entries, after: Some((&after).into()) };
        if HEADER_BYTES + delta.encoded_len() > limits::PACKET_BYTES {
            return self.give_up();
        }
        self.armed = Some(after);
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(pushes.armed, Some(key));
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
        assert_eq!(pushes.armed, Some(K2));
    }

    #[test]
    fn of_several_syncs_the_last_one_arms() {
        let mut pushes = Pushes::default();
        pushes.sync_began();
        pushes.sync_began();
        pushes.sync_ended(Some(&reply(K1, &[])));
        assert_eq!(pushes.armed, None);
        pushes.sync_ended(Some(&reply(K2, &[])));
        assert_eq!(pushes.armed, Some(K2));
    }

    #[test]
    fn orders_and_refusals_do_not_arm() {
        let mut ordered = reply(K1, &[]);
        ordered.key_order = v1::KeyOrder::ReplaceAhead.into();
        for ended in [Some(&ordered), None] {
            let mut pushes = Pushes::default();
            pushes.sync_began();
            pushes.sync_ended(ended);
            assert_eq!(pushes.armed, None);
        }
    }

    #[test]
    fn nothing_stays_armed_and_too_much_falls_back_to_a_notify() {
        let mut pushes = armed(K1);
        pushes.hint();
        pushes.next(0);
        assert_eq!(pushes.pushed(K1, Ok(Pushed::Nothing)), None);
        assert_eq!((pushes.armed, pushes.next(0)), (Some(K1), None));
        let huge = v1::Entry {
            body: Some(v1::entry::Body::Message(v1::Message { text: "x".repeat(70_000), ..Default::default() })),
            ..Default::default()
        };
        for too_much in [Ok(Pushed::TooMuch), Ok(Pushed::Delta(vec![huge], K2))] {
            let mut pushes = armed(K1);
            pushes.hint();
            pushes.next(0);
            assert_eq!(pushes.pushed(K1, too_much), None);
            assert_eq!((pushes.armed, pushes.next(0)), (None, Some(Step::Notify)));
        }
    }

    #[test]
    fn a_backlog_keeps_the_hint() {
        let mut pushes = armed(K1);
        pushes.hint();
        assert_eq!(pushes.next(BACKLOG_BYTES + 1), None);
        assert_eq!(pushes.next(0), Some(Step::Push(K1)));
    }
}
