//! Rules 4g, 6d and 6e: what retention dropped, and the holes that say so.

use std::collections::{BTreeMap, HashMap};

use tern_proto::key::{Class, Key, Version};
use tern_proto::v1::{self, HoleReason, KeyOrder, entry::Body};

use super::case::{Case, Handout};
use super::keys::starts_at_heads;
use super::rising::Rising;
use super::timeline::Truth;
use super::{Findings, Proof};
use crate::event::{Reply, Request};
use crate::history::Keeps;

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    let mut users: BTreeMap<&str, Owed> = BTreeMap::new();
    for (user, truth) in case.truths.iter().filter(|_| case.history.keeps.is_some()) {
        users.insert(user, Owed::of(case, user, truth));
    }
    for handout in &case.handouts {
        for entry in handout.entries {
            let Some(Body::Hole(hole)) = &entry.body else { continue };
            let owed = users.get(case.user(handout.device));
            is_in_place(case, findings, handout, entry, hole, owed);
            if let (Some(keeps), Some(owed)) = (case.history.keeps, owed) {
                is_due(case, findings, handout, entry.version, hole, keeps, owed);
            }
        }
    }
    if let Some(keeps) = case.history.keeps {
        users.values().for_each(|owed| everything_gone_is_due(case, findings, keeps, owed));
    }
}

/// The hole that a handout begins with.
pub(super) fn hole<'a>(handout: &Handout<'a>) -> Option<(Version, &'a v1::Hole)> {
    let first = handout.entries.iter().find(|entry| entry.class == Class::Messages.number())?;
    match &first.body {
        Some(Body::Hole(hole)) => Some((first.version, hole)),
        _ => None,
    }
}

/// Up to which version a handout may pass over what is gone: where its hole is, or, from 0, everything below its first entry.
pub(super) fn covered_by_hole(handout: &Handout) -> Version {
    if let Some((version, _)) = hole(handout) {
        return version;
    }
    if handout.before.version(Class::Messages) != Some(0) {
        return 0;
    }
    let first = handout.entries.iter().find(|entry| entry.class == Class::Messages.number());
    first.map_or(handout.after.version(Class::Messages).unwrap_or(0), |first| first.version - 1)
}

/// What stands against dropping entries of a user.
struct Owed<'c, 'a> {
    truth: &'c Truth<'a>,
    /// By device that the server knows: since when for certain, and what it presented when.
    devices: HashMap<usize, Progress>,
    /// By version of a message: when it was asked first.
    asked: BTreeMap<Version, u64>,
    /// Messages that may lie anywhere in the timeline: accepted, and never seen.
    unplaced: usize,
}

#[derive(Default)]
struct Progress {
    known_since: Option<u64>,
    presented: Rising,
}

impl<'c, 'a> Owed<'c, 'a> {
    fn of(case: &'c Case<'a>, user: &str, truth: &'c Truth<'a>) -> Owed<'c, 'a> {
        let mut owed = Owed { truth, devices: HashMap::new(), asked: BTreeMap::new(), unplaced: 0 };
        for exchange in case.exchanges.iter().filter(|exchange| case.user(exchange.device) == user) {
            owed.devices.entry(exchange.device).or_default().note(case, truth, exchange);
        }
        for (version, message) in truth.messages() {
            let sender = case.sender(message);
            let tries = sender.and_then(|device| case.tries.get(&(device, message.client_msg_id)));
            let asks = tries.into_iter().flatten().map(|attempt| case.at(case.exchanges[attempt.exchange].ask));
            asks.min().and_then(|at| owed.asked.insert(version, at));
        }
        let unplaced = case.accepted.iter().filter(|accepted| {
            let from = case.user(accepted.device);
            accepted.may_concern(from, user)
                && case.sees(user, &accepted.result.conversation, accepted.result.seq)
                && truth.find(from, accepted.content, accepted.result).is_none()
        });
        owed.unplaced = unplaced.count();
        owed
    }

    /// How many entries may lie above a version.
    fn above(&self, version: Version) -> usize {
        self.truth.entries[Class::Messages as usize].range(version + 1..).count() + self.unplaced
    }

    /// A device that stands against dropping a version before a time: it was known before that was asked, and had not presented it.
    fn holds_back(&self, version: Version, by: u64) -> Option<usize> {
        let asked = self.asked.get(&version)?;
        let mut behind = self.devices.iter().filter(|(_, device)| {
            device.known_since.is_some_and(|since| since < *asked) && device.presented.by(by) < version
        });
        behind.next().map(|(device, _)| *device)
    }

    /// Whether an entry, asked at this time, may have gone for its age before a time; if not, why.
    fn is_aged(&self, case: &Case, keeps: Keeps, (version, asked): (Version, u64), by: u64) -> Result<(), String> {
        match self.holds_back(version, by) {
            Some(device) => Err(format!("{} had not acknowledged it", case.name(device))),
            None if asked + keeps.window > by => Err("it is too young".into()),
            None => Ok(()),
        }
    }

    /// The last version at or below one of which it is known when it was asked.
    fn last_known(&self, version: Version) -> Option<(Version, u64)> {
        self.asked.range(..=version).next_back().map(|(version, at)| (*version, *at))
    }
}

impl Progress {
    fn note(&mut self, case: &Case, truth: &Truth, exchange: &super::case::Exchange) {
        let key = exchange.request.key().map(Key::from);
        let told = |key: &Key| key.version(Class::Messages).unwrap_or(0);
        match &key {
            Some(key) if exchange.request.acknowledges() && key.epoch == truth.head.epoch => {
                self.presented.note(case.at(exchange.ask), told(key));
            }
            None if starts_at_heads(exchange.request) => self.presented.note(case.at(exchange.ask), told(&truth.head)),
            _ => {}
        }
        let Some((answer, reply)) = exchange.answer else { return };
        let remembered = match (exchange.request, reply) {
            // Of one that peeks nothing is remembered.
            (Request::Hello(hello), Reply::Hello(reply)) => reply.key_order() == KeyOrder::Start && !hello.peek,
            (Request::Ack(_), Reply::Ack(reply)) => reply.key_order() == KeyOrder::None,
            _ => false,
        };
        if remembered {
            self.known_since = self.known_since.or(Some(case.at(answer)));
        }
    }
}

/// 4g.
fn is_in_place(
    case: &Case,
    findings: &mut Findings,
    handout: &Handout,
    entry: &v1::Entry,
    hole: &v1::Hole,
    owed: Option<&Owed>,
) {
    let before = handout.before.version(Class::Messages).unwrap_or(0);
    let is_first = self::hole(handout).is_some_and(|(version, _)| version == entry.version);
    let known = owed.map_or(0, |owed| {
        let range = (before + 1).min(entry.version)..=entry.version;
        owed.truth.entries[Class::Messages as usize].range(range).count()
    });
    let right = owed.is_some() && entry.class == Class::Messages.number() && is_first && before > 0;
    findings.hold("4g", right && hole.count >= known as u64, || {
        let what = format!(
            "{} was handed a hole at {} of {} entries above {before}, known are {known}",
            case.name(handout.device),
            entry.version,
            hole.count
        );
        Proof::new(what, handout.events.clone()).about([entry.version])
    });
}

/// 6d and 6e.
fn is_due(
    case: &Case,
    findings: &mut Findings,
    handout: &Handout,
    version: Version,
    hole: &v1::Hole,
    keeps: Keeps,
    owed: &Owed,
) {
    let by = handout.events.last().map_or(u64::MAX, |event| case.at(*event));
    let of_cap = hole.reason() == HoleReason::Cap;
    let above = owed.above(version);
    let last = owed.last_known(version);
    let (rule, due) = if of_cap {
        // Of the cap is a hole with anything in it that went for that. Where less is left, its end went for its age.
        let has_reached = owed.above(0) >= least_kept(keeps);
        let is_aged = last.is_some_and(|last| owed.is_aged(case, keeps, last, by).is_ok());
        let too_few = Err(format!("above it are {above} entries of {} that may be kept", keeps.cap));
        ("6e", if above >= least_kept(keeps) || has_reached && is_aged { Ok(()) } else { too_few })
    } else if hole.reason() == HoleReason::Window {
        let Some(last) = last else { return };
        ("6d", owed.is_aged(case, keeps, last, by))
    } else {
        ("6d", Err("that is no reason".into()))
    };
    findings.hold(rule, due.is_ok(), || {
        let (name, reason, why) = (case.name(handout.device), hole.reason(), due.err().unwrap_or_default());
        let what = format!("{name} was handed a hole up to {version} of the reason {reason:?}, but {why}");
        let last = last.map(|(last, _)| last);
        let shown = last.and_then(|last| owed.truth.event_of(Class::Messages, last));
        let evidence: Vec<_> = handout.events.iter().copied().chain(shown).collect();
        Proof::new(what, evidence).about([version].into_iter().chain(last))
    });
}

/// How many entries a user who reaches the cap keeps at least: who has too many loses a few more at a time.
fn least_kept(keeps: Keeps) -> usize {
    keeps.cap - keeps.cap / 10
}

/// 6d and 6e, for what is gone in the end.
fn everything_gone_is_due(case: &Case, findings: &mut Findings, keeps: Keeps, owed: &Owed) {
    let until = keeps.until.unwrap_or(u64::MAX);
    for (version, _) in owed.truth.gone() {
        if owed.above(version) >= least_kept(keeps) {
            continue;
        }
        let behind = owed.holds_back(version, until);
        findings.hold("6d", behind.is_none(), || {
            let name = behind.map(|device| case.name(device)).unwrap_or_default();
            let what =
                format!("version {version} is gone, and {name} had not acknowledged it while things were dropped");
            Proof::new(what, owed.truth.event_of(Class::Messages, version).into_iter().collect::<Vec<_>>())
                .about([version])
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{ANN, BEN, Story, assert_breaks, assert_holds, hole_entry, key};
    use super::*;

    const CAP: usize = 3;

    /// Six messages of ann to ben, known to both; the server keeps little.
    fn six() -> Story {
        let mut story = Story::new();
        story.keeps(Keeps { window: 20, cap: CAP, results: 20, until: None });
        story.start(BEN);
        for id in 1..=6 {
            story.send(ANN, id, BEN, id);
            story.store(ANN, id, id, BEN, id);
        }
        story
    }

    /// Ben has acknowledged up to `acked`; then what lies at or below `floor` is dropped, and ben asks above 1 and is given a hole.
    fn holed(acked: u64, floor: u64, reason: HoleReason, count: u64) -> Story {
        let mut story = six();
        let all = story.entries_for(BEN);
        story.page(BEN, (0, 0), all.clone(), (6, 0), &[]);
        story.apply_last(BEN, (6, 0));
        story.acked_and_told(BEN, acked);
        let mut page = vec![hole_entry(floor, reason, count)];
        page.extend(all.into_iter().filter(|entry| entry.version > floor));
        story.page(BEN, (1, 0), page, (6, 0), &[]);
        for user in [ANN, BEN] {
            story.drop_up_to(user, floor);
        }
        story
    }

    #[test]
    fn a_hole_of_the_window_is_of_what_was_acknowledged() {
        assert_holds(&holed(4, 4, HoleReason::Window, 3).end());
        assert_holds(&holed(4, 4, HoleReason::Window, 9).end());
        assert_breaks("6d", &holed(3, 4, HoleReason::Window, 3).end());
        assert_breaks("4g", &holed(4, 4, HoleReason::Window, 2).end());
        let mut young = holed(4, 4, HoleReason::Window, 3);
        young.keeps(Keeps { window: 100_000, cap: CAP, results: 20, until: None });
        assert_breaks("6d", &young.end());
    }

    #[test]
    fn a_hole_of_the_cap_leaves_the_cap() {
        assert_holds(&holed(0, 3, HoleReason::Cap, 2).end());
        assert_breaks("6e", &holed(0, 4, HoleReason::Cap, 3).end());
    }

    #[test]
    fn a_hole_of_the_cap_may_go_on_with_what_is_old_and_acknowledged() {
        assert_holds(&holed(4, 4, HoleReason::Cap, 3).end());
        assert_breaks("6e", &holed(3, 4, HoleReason::Cap, 3).end());
        let mut few = holed(4, 4, HoleReason::Cap, 3);
        few.keeps(Keeps { window: 20, cap: 8, results: 20, until: None });
        assert_breaks("6e", &few.end());
        let mut young = holed(4, 4, HoleReason::Cap, 3);
        young.keeps(Keeps { window: 100_000, cap: CAP, results: 20, until: None });
        assert_breaks("6e", &young.end());
    }

    #[test]
    fn nothing_is_passed_over_without_a_hole() {
        let mut story = holed(4, 4, HoleReason::Window, 3);
        let rest = story.entries_for(BEN);
        story.page(BEN, (1, 0), rest.clone(), (6, 0), &[]);
        assert_breaks("4a", &story.clone().end());
        let mut from_zero = holed(4, 4, HoleReason::Window, 3);
        from_zero.page(BEN, (0, 0), rest, (6, 0), &[]);
        assert_holds(&from_zero.end());
    }

    #[test]
    fn a_hole_where_everything_is_kept_or_in_the_wrong_place() {
        let mut story = Story::with_a_message();
        let page = vec![hole_entry(1, HoleReason::Window, 1)];
        story.page(BEN, (0, 0), page, (1, 0), &[]);
        assert_breaks("4g", &story.end());
        let mut story = holed(4, 4, HoleReason::Window, 3);
        let mut page = vec![hole_entry(4, HoleReason::Window, 4)];
        page.extend(story.entries_for(BEN));
        story.page(BEN, (0, 0), page, (6, 0), &[]);
        assert_breaks("4g", &story.end());
    }

    #[test]
    fn what_is_gone_was_acknowledged_by_every_device() {
        let gone = |acked: u64| {
            let mut story = six();
            let all = story.entries_for(BEN);
            story.page(BEN, (0, 0), all, (6, 0), &[]);
            story.apply_last(BEN, (6, 0));
            story.acked_and_told(BEN, acked);
            for user in [ANN, BEN] {
                story.drop_up_to(user, 5);
            }
            story.end()
        };
        assert_holds(&gone(5));
        assert_breaks("6d", &gone(4));
    }

    #[test]
    fn what_is_acknowledged_later_was_not_when_it_was_dropped() {
        let gone = |until: u64| {
            let mut story = six();
            let all = story.entries_for(BEN);
            story.page(BEN, (0, 0), all, (6, 0), &[]);
            story.apply_last(BEN, (6, 0));
            let now = story.now();
            story.keeps(Keeps { window: 20, cap: CAP, results: 20, until: Some(now + until - 5) });
            story.acked_and_told(BEN, 6);
            for user in [ANN, BEN] {
                story.drop_up_to(user, 5);
            }
            story.end()
        };
        assert_holds(&gone(10));
        assert_breaks("6d", &gone(0));
    }

    #[test]
    fn what_is_above_the_floor_is_still_missed() {
        let mut story = holed(4, 4, HoleReason::Window, 3);
        story.forget(BEN, 6);
        assert_breaks("1a", &story.end());
        // A seq in the middle is gone although what is below it is there.
        let mut story = six();
        story.forget(BEN, 4);
        let at = key((6, 0));
        assert_eq!(at.classes[0].version, 6);
        assert_breaks("5a", &story.end());
    }
}
