//! Answers that need no storage, and what has to be noted for them.

use std::sync::Arc;
use std::time::Duration;

use tern_proto::key::{CLASSES, Key};
use tern_proto::v1::OutMessage;
use tern_runtime::metrics::{By, Counter, Metrics};
use tern_runtime::planted::{self, Fault};
use tern_storage::{Content, DeviceState, Op, Outcome, Sent, content_hash};
use tokio::sync::mpsc;

use super::{Confirmed, Look, Name, Recent, Stored};
use crate::Device;
use crate::keys::{is_behind, user_epoch};

/// Notes that may wait to be made; more are dropped.
const NOTES: usize = 16 * 1024;
/// Notes that are made at a time.
const AT_A_TIME: usize = 256;

/// Looks for answers in a [`Recent`].
pub(crate) struct Shortcuts {
    recent: Arc<dyn Recent>,
    /// For how long a confirmation by storage counts.
    lately: Duration,
    notes: mpsc::Sender<Note>,
    /// By who answered them.
    checks: By<Counter>,
    resends: By<Counter>,
}

enum Note {
    Confirmed(Confirmed),
    Stored(Name, Stored),
}

/// What a look for the answer to a check has found.
pub(crate) struct Looked {
    /// The store's epoch in which the key was looked at.
    pub(crate) epoch: u64,
    /// [`Look::now`].
    pub(crate) now: u64,
    /// `None` if storage has to be asked.
    pub(crate) answer: Option<Answer>,
}

/// The answer to a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Something lies above the key.
    Pending,
    /// Nothing does, and the device has acknowledged what it presents.
    Nothing,
}

impl Shortcuts {
    /// Needs a Tokio runtime, in which it makes its notes.
    pub(crate) fn new(recent: Arc<dyn Recent>, lately: Duration) -> Shortcuts {
        let (notes, waiting) = mpsc::channel(NOTES);
        tokio::spawn(note(recent.clone(), waiting));
        Shortcuts { recent, lately, notes, checks: By::default(), resends: By::default() }
    }

    pub(crate) fn report_to(&self, metrics: &mut Metrics) {
        metrics.register("tern_checks", "Checks by who could answer them: redis or storage", self.checks.clone());
        let help = "Messages said to be sent again, by who could answer them: redis or storage";
        metrics.register("tern_again", help, self.resends.clone());
    }

    /// Looks for the answer to a check of a key of this epoch of the store; `None` if that cannot be done now.
    pub(crate) async fn look(&self, device: &Device, epoch: u64, key: &Key, peek: bool) -> Option<Looked> {
        let look = self.recent.look(device, key.epoch, self.lately).await.ok();
        let answer = look.as_ref().and_then(|look| answer(look, key, peek));
        count(&self.checks, answer.is_some(), 1);
        look.map(|look| Looked { epoch, now: look.now, answer })
    }

    /// Storage has said where a device stands, after a look at it that was made then.
    pub(crate) fn confirmed(&self, device: &Device, state: &DeviceState, at: u64) {
        let epoch = user_epoch(state.epoch, &device.user);
        let device = device.clone();
        self.note(Note::Confirmed(Confirmed { device, epoch, heads: state.heads, acked: state.acked, at }));
    }

    /// What became of those messages that are said to be sent again, by their places. Others may be among them of which nothing is known.
    pub(crate) async fn recall(&self, device: &Device, epoch: u64, messages: &[OutMessage]) -> Vec<Option<Sent>> {
        let name = |message: &OutMessage| Name {
            device: device.clone(),
            epoch: user_epoch(epoch, &device.user),
            client_msg_id: message.client_msg_id,
        };
        // What a message with a clip is the same as is known only with the clip.
        let is_asked = |message: &OutMessage| message.again && message.chunk.is_none();
        let again: Vec<usize> = (0..messages.len()).filter(|place| is_asked(&messages[*place])).collect();
        if again.is_empty() {
            return Vec::new();
        }
        let names: Vec<Name> = again.iter().map(|place| name(&messages[*place])).collect();
        let found = self.recent.recall(&names).await.unwrap_or_default();
        let mut by_place = vec![None; messages.len()];
        for (place, stored) in again.iter().zip(found) {
            let message = &messages[*place];
            // Of other content under the id storage has to judge.
            let hash = content_hash(&message.to, &message.text, &message.media, message.change.as_ref());
            let is_same = |stored: &Stored| stored.hash == hash;
            by_place[*place] = stored.filter(is_same).map(|stored| stored.sent);
        }
        let known = by_place.iter().flatten().count();
        count(&self.resends, true, known);
        count(&self.resends, false, again.len() - known);
        by_place
    }

    /// These have had these outcomes: sends by id and hash, as [`named`] tells them.
    pub(crate) fn stored(&self, device: &Device, sends: &[(u64, u64)], outcomes: &[Outcome]) {
        for ((client_msg_id, hash), outcome) in sends.iter().zip(outcomes) {
            let Outcome::Sent(sent) = outcome else { continue };
            // Where it was stored before, nothing says in which epoch.
            let Some(place) = sent.places.first() else { continue };
            let (device, epoch) = (device.clone(), user_epoch(place.epoch, &device.user));
            let stored = Stored { hash: *hash, sent: sent.clone().repeated() };
            self.note(Note::Stored(Name { device, epoch, client_msg_id: *client_msg_id }, stored));
        }
    }

    /// What is dropped is a question to storage, later.
    fn note(&self, note: Note) {
        let _ = self.notes.try_send(note);
    }
}

/// What has to be kept of a send until it is stored: its id and the hash of its content.
pub(crate) fn named(op: &Op) -> (u64, u64) {
    match op {
        Op::Send { client_msg_id, content, .. } => (*client_msg_id, Content::hash(content)),
        _ => (0, 0),
    }
}

fn count(counters: &By<Counter>, by_redis: bool, number: usize) {
    let by = if by_redis { "redis" } else { "storage" };
    counters.get_or_create(&[("by", by)]).inc_by(number as u64);
}

/// A key that is ahead in any class, or has one of which nothing is known, is for storage to judge.
fn answer(look: &Look, key: &Key, peek: bool) -> Option<Answer> {
    let mut heads = [0; CLASSES];
    for (class, version) in key.versions.iter().enumerate() {
        match (version, look.heads[class]) {
            (None, _) => {}
            (Some(version), Some(head)) if *version <= head => heads[class] = head,
            (Some(_), None) if planted::active(Fault::RedisHeadTrusted) => {}
            _ => return None,
        }
    }
    if is_behind(key, heads) {
        return Some(Answer::Pending);
    }
    let is_acked =
        |acked: [u64; CLASSES]| key.versions.iter().zip(acked).all(|(version, acked)| *version <= Some(acked));
    let is_confirmed = look.acked.is_some_and(|acked| peek || is_acked(acked));
    (is_confirmed || planted::active(Fault::RedisHeadTrusted)).then_some(Answer::Nothing)
}

/// Makes notes until nobody takes any more.
async fn note(recent: Arc<dyn Recent>, mut waiting: mpsc::Receiver<Note>) {
    let mut notes = Vec::with_capacity(AT_A_TIME);
    while waiting.recv_many(&mut notes, AT_A_TIME).await > 0 {
        let (mut confirmed, mut stored) = (Vec::new(), Vec::new());
        for note in notes.drain(..) {
            match note {
                Note::Confirmed(of) => confirmed.push(of),
                Note::Stored(name, result) => stored.push((name, result)),
            }
        }
        // What is lost is a question to storage, later.
        if !confirmed.is_empty() {
            let _ = recent.confirm(&confirmed).await;
        }
        if !stored.is_empty() {
            let _ = recent.remember(&stored).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(heads: [Option<u64>; CLASSES], acked: Option<[u64; CLASSES]>) -> Look {
        Look { heads, acked, now: 0 }
    }

    #[test]
    fn a_higher_head_is_news_at_once() {
        for acked in [None, Some([5, 5])] {
            assert_eq!(answer(&look([Some(6), Some(5)], acked), &Key::at(1, [5, 5]), false), Some(Answer::Pending));
        }
    }

    #[test]
    fn nothing_new_needs_a_confirmation() {
        let key = Key::at(1, [6, 5]);
        assert_eq!(answer(&look([Some(6), Some(5)], None), &key, true), None);
        assert_eq!(answer(&look([Some(6), Some(5)], Some([0, 0])), &key, true), Some(Answer::Nothing));
        // What is presented has to be stored.
        assert_eq!(answer(&look([Some(6), Some(5)], Some([6, 4])), &key, false), None);
        assert_eq!(answer(&look([Some(6), Some(5)], Some([6, 5])), &key, false), Some(Answer::Nothing));
    }

    #[test]
    fn what_is_ahead_or_unknown_is_for_storage_to_judge() {
        let all = Some([9, 9]);
        for heads in [[Some(6), Some(4)], [Some(9), Some(4)], [None, Some(9)], [Some(9), None], [None, None]] {
            assert_eq!(answer(&look(heads, all), &Key::at(1, [6, 5]), true), None, "{heads:?}");
        }
        // A class that is not in the key does not matter.
        let key = Key { epoch: 1, versions: [Some(6), None] };
        assert_eq!(answer(&look([Some(6), None], all), &key, false), Some(Answer::Nothing));
    }
}
