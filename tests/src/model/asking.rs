//! Rules 7c, 8a and 8b: whoever asks learns what is there, without any hint.

use std::collections::HashMap;

use tern_proto::key::{Class, Key, Version};
use tern_proto::v1::KeyOrder;

use super::case::{Accepted, Case, Handout, HandoutKind};
use super::keys::is_within;
use super::timeline::Truth;
use super::{Findings, Proof};
use crate::event::Reply;

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    let mut known: HashMap<usize, [Arrivals; 2]> = HashMap::new();
    for device in 0..case.history.roster.len() {
        known.insert(device, [Arrivals::of(case, device, true), Arrivals::of(case, device, false)]);
    }
    for handout in &case.handouts {
        if let (HandoutKind::Page(_, more), Some([all, _])) = (&handout.kind, known.get(&handout.device)) {
            ended_page(case, findings, handout, more, all);
        }
    }
    for exchange in &case.exchanges {
        let Some((_, reply)) = exchange.answer else { continue };
        let (pending, by_reply) = match reply {
            Reply::Check(reply) => (reply.pending, reply.key.as_ref()),
            Reply::Hello(reply) => (reply.pending, reply.key.as_ref()),
            _ => continue,
        };
        let late = if matches!(reply, Reply::Check(_)) { case.history.late } else { 0 };
        // After an order to replace, the client has to sync in any case.
        let Some((KeyOrder::None | KeyOrder::Start, _)) = reply.order() else { continue };
        let (Some(truth), Some([_, others])) = (case.truth(exchange.device), known.get(&exchange.device)) else {
            continue;
        };
        let Some(key) = by_reply.or(exchange.request.key()).map(Key::from).filter(|key| is_within(key, truth)) else {
            continue;
        };
        if pending {
            findings.hold("7c", lies_above(&key, truth), || {
                let what = format!("{} is told that something is pending above the head", case.name(exchange.device));
                Proof::new(what, exchange.events())
            });
        } else if let Some(at) = key.version(Class::Messages) {
            let latest = others.before(case.at(exchange.ask).saturating_sub(late));
            let latest = latest.filter(|(version, _)| !is_passed_over(case, exchange.device, at, *version));
            findings.hold("8b", latest.is_none_or(|(version, _)| version <= at), || {
                let what = format!("{} is told that nothing is pending above {at}", case.name(exchange.device));
                missed(what, exchange.events(), latest)
            });
        }
    }
}

/// 8a.
fn ended_page(case: &Case, findings: &mut Findings, handout: &Handout, more: &[u32], all: &Arrivals) {
    let ended = handout.before.version(Class::Messages).is_some() && !more.contains(&Class::Messages.number());
    let (Some(ask), true) = (handout.events.first(), ended) else { return };
    let reached = handout.after.version(Class::Messages).unwrap_or(0);
    let latest =
        all.before(case.at(*ask)).filter(|(version, _)| !is_passed_over(case, handout.device, reached, *version));
    findings.hold("8a", latest.is_none_or(|(version, _)| version <= reached), || {
        let what = format!("{} is told that nothing is above {reached}", case.name(handout.device));
        missed(what, handout.events.clone(), latest)
    });
}

/// Whether a version need not be told of: it is gone, and from 0 nothing says so.
fn is_passed_over(case: &Case, device: usize, from: Version, version: Version) -> bool {
    from == 0 && case.truth(device).is_some_and(|truth| version <= truth.floor)
}

fn missed(what: String, events: Vec<usize>, latest: Option<(Version, &Accepted)>) -> Proof {
    let version = latest.map_or(0, |(version, _)| version);
    let accepted = latest.map(|(_, accepted)| accepted.events.clone()).unwrap_or_default();
    let what = format!("{what}, but a message at {version} was accepted before");
    Proof::new(what, accepted.into_iter().chain(events).collect::<Vec<_>>()).about([version])
}

fn lies_above(key: &Key, truth: &Truth) -> bool {
    Class::ALL.into_iter().any(|class| {
        let Some(above) = key.version(class) else { return false };
        let unseen = class == Class::Messages && above < truth.floor;
        unseen || truth.entries[class as usize].range(above + 1..).next().is_some()
    })
}

/// The messages of a timeline in the order in which they were accepted.
struct Arrivals<'c, 'a> {
    /// When it was accepted, and the message of the highest version by then.
    highest: Vec<(u64, Version, &'c Accepted<'a>)>,
}

impl<'c, 'a> Arrivals<'c, 'a> {
    /// Of the device's user; without its own messages unless `own`.
    fn of(case: &'c Case<'a>, device: usize, own: bool) -> Arrivals<'c, 'a> {
        let (user, truth) = (case.user(device), case.truth(device));
        let concerning = case.accepted.iter().filter(|accepted| {
            let mine = accepted.device == device;
            accepted.may_concern(case.user(accepted.device), user) && (own || !mine)
        });
        let placed = concerning.filter_map(|accepted| {
            let (version, _) = truth?.find(case.user(accepted.device), accepted.content, accepted.result)?;
            Some((case.at(accepted.answer), version, accepted))
        });
        let mut highest: Vec<_> = placed.collect();
        highest.sort_by_key(|(at, _, _)| *at);
        for index in 1..highest.len() {
            let (_, before, earlier) = highest[index - 1];
            if before > highest[index].1 {
                (highest[index].1, highest[index].2) = (before, earlier);
            }
        }
        Arrivals { highest }
    }

    /// The message of the highest version among those accepted before a time.
    fn before(&self, at: u64) -> Option<(Version, &'c Accepted<'a>)> {
        let count = self.highest.partition_point(|(accepted, _, _)| *accepted < at);
        let (_, version, accepted) = self.highest.get(count.checked_sub(1)?)?;
        Some((*version, accepted))
    }
}

#[cfg(test)]
mod tests {
    use tern_proto::v1;

    use super::super::story::{ANN, BEN, Story, assert_breaks, assert_holds, key};
    use crate::event::{Reply, Request, What};

    #[test]
    fn a_sync_that_does_not_see_what_was_accepted() {
        let synced = |late: bool, more: &[u32]| {
            let mut story = Story::with_a_message();
            if !late {
                story.go_to(5);
            }
            story.page(BEN, (0, 0), vec![], (0, 0), more);
            story.go_to(1000);
            story.end()
        };
        assert_breaks("8a", &synced(true, &[]));
        assert_holds(&synced(false, &[]));
    }

    /// A check may be late where that was said, by no more than that, and a hello never.
    #[test]
    fn a_check_is_no_later_than_it_may_be() {
        let late = |late: u64| crate::history::History { late, ..checked(BEN, 0, false) };
        let age = {
            let history = late(0);
            let at = |index: usize| history.events[index].at;
            let check = history
                .events
                .iter()
                .rposition(|event| matches!(event.what, What::Ask { request: Request::Check(_), .. }));
            let sent = history
                .events
                .iter()
                .position(|event| matches!(event.what, What::Answer { reply: Reply::Send(_), .. }));
            at(check.unwrap()) - at(sent.unwrap())
        };
        assert_breaks("8b", &late(age - 1));
        assert_holds(&late(age));
        let hello = crate::history::History { late: age, ..greeted(BEN, false) };
        assert_breaks("8b", &hello);
    }

    fn greeted(by: usize, pending: bool) -> crate::history::History {
        let mut story = Story::with_a_message();
        let request = v1::HelloRequest { key: Some(key((0, 0))), peek: true, ..Default::default() };
        let n = story.ask(by, Request::Hello(request));
        story.answer(by, n, Reply::Hello(v1::HelloReply { pending, ..Default::default() }));
        story.end()
    }

    fn checked(by: usize, at: u64, pending: bool) -> crate::history::History {
        let mut story = Story::with_a_message();
        let request = v1::CheckRequest { key: Some(key((at, 0))), peek: true, wait_ms: 0 };
        let n = story.ask(by, Request::Check(request));
        story.answer(by, n, Reply::Check(v1::CheckReply { pending, ..Default::default() }));
        story.end()
    }

    #[test]
    fn pending_is_the_truth() {
        assert_holds(&checked(BEN, 0, true));
        assert_breaks("8b", &checked(BEN, 0, false));
        assert_holds(&checked(ANN, 0, false));
        assert_holds(&checked(BEN, 1, false));
        assert_breaks("7c", &checked(BEN, 1, true));
    }
}
