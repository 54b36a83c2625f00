//! Rules 5b and 5c: the order of messages in the truth against the order in which they were asked.

use std::collections::BTreeMap;

use tern_proto::key::{Class, Version};

use super::case::{Accepted, Case, Try};
use super::timeline::Truth;
use super::{Findings, Proof};
use crate::event::Via;

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    for (user, truth) in &case.truths {
        let placed = placed(case, user, truth);
        accepted_before_asked(case, findings, user, truth, &placed);
        asked_before_asked(case, findings, user, truth, &placed);
    }
}

type Placed<'c, 'a> = Vec<(Version, &'c Accepted<'a>)>;

/// The accepted messages of a timeline, by version.
fn placed<'c, 'a>(case: &'c Case<'a>, user: &str, truth: &Truth<'a>) -> Placed<'c, 'a> {
    let of_user = case.accepted.iter().filter_map(|accepted| {
        let from = case.user(accepted.device);
        let concerns = accepted.may_concern(from, user);
        let found = truth.find(from, accepted.content, accepted.result).filter(|_| concerns)?;
        Some((found.0, accepted))
    });
    let mut placed: Placed = of_user.collect();
    placed.sort_by_key(|(version, _)| *version);
    placed
}

/// 5b, from the last message to the first: `earliest` is the one above that was accepted first.
fn accepted_before_asked(case: &Case, findings: &mut Findings, user: &str, truth: &Truth, placed: &Placed) {
    let mut earliest: Option<(Version, &Accepted)> = None;
    for (version, accepted) in placed.iter().rev() {
        if let Some((above, first)) = earliest {
            let late = case.before(first.answer, accepted.first_ask.0);
            findings.hold("5b", !late, || out_of_order(case, user, truth, (above, first), (*version, accepted)));
        }
        if earliest.is_none_or(|(_, first)| case.at(accepted.answer) < case.at(first.answer)) {
            earliest = Some((*version, accepted));
        }
    }
}

/// 5c: every pair of one device that stands in another order than it was asked must have an excuse.
fn asked_before_asked(case: &Case, findings: &mut Findings, user: &str, truth: &Truth, placed: &Placed) {
    let mut by_device: BTreeMap<usize, Placed> = BTreeMap::new();
    for (version, accepted) in placed {
        by_device.entry(accepted.device).or_default().push((*version, accepted));
    }
    for of_device in by_device.values() {
        let mut latest = (0, 0);
        for (index, (version, a)) in of_device.iter().enumerate() {
            let below = of_device[..index].iter().filter(|(_, b)| b.first_ask > a.first_ask);
            if a.first_ask > latest {
                latest = a.first_ask;
                findings.hold("5c", true, || Proof::new("", []));
                continue;
            }
            for (wrong, b) in below {
                let kept = !must_follow(case, a, b);
                findings.hold("5c", kept, || out_of_order(case, user, truth, (*version, a), (*wrong, b)));
            }
        }
    }
}

/// Whether b, of the same device, had to be stored after a.
fn must_follow(case: &Case, a: &Accepted, b: &Accepted) -> bool {
    let tries = |of: &Accepted| case.tries.get(&(of.device, of.content.client_msg_id)).cloned().unwrap_or_default();
    let (of_a, of_b) = (tries(a), tries(b));
    let retryable = |attempt: &Try| attempt.result.is_some_and(|result| result.code().is_retryable());
    let place = |attempt: &Try| (case.exchanges[attempt.exchange].ask, attempt.place);
    let via = |attempt: &Try| case.exchanges[attempt.exchange].via;
    let behind = |attempt: &Try| {
        let on_same_link = |earlier: &Try| {
            matches!(via(attempt), Via::Long(_)) && via(earlier) == via(attempt) && place(earlier) < place(attempt)
        };
        case.before(a.answer, place(attempt).0) || of_a.iter().any(on_same_link)
    };
    !of_a.iter().any(retryable) && of_b.iter().all(behind)
}

fn out_of_order(case: &Case, user: &str, truth: &Truth, a: (Version, &Accepted), b: (Version, &Accepted)) -> Proof {
    let name = |one: &Accepted| format!("message {} of {}", one.content.client_msg_id, case.name(one.device));
    let what = format!("in {user}'s timeline {} stands behind {}, which came later", name(a.1), name(b.1));
    let asks = [a.1.first_ask.0, b.1.first_ask.0].into_iter();
    let brought = [a.0, b.0].into_iter().filter_map(|version| truth.event_of(Class::Messages, version));
    let evidence = asks.chain(a.1.events.iter().copied()).chain(b.1.events.iter().copied()).chain(brought);
    Proof::new(what, evidence.collect::<Vec<_>>()).about([a.0, b.0])
}

#[cfg(test)]
mod tests {
    use tern_proto::v1;

    use super::super::story::{ANN, BEN, DESK, Story, assert_breaks, assert_holds};
    use super::*;
    use crate::event::{Reply, Request};

    #[test]
    fn a_message_stands_before_one_that_was_accepted_earlier() {
        let sent = |gap: u64, versions: [u64; 2]| {
            let mut story = Story::new();
            story.send(ANN, 1, BEN, versions[0]);
            story.go_to(story.now() + gap - 10);
            story.send(DESK, 1, BEN, versions[1]);
            let mut stored = [(versions[0], ANN), (versions[1], DESK)];
            stored.sort_unstable();
            stored.into_iter().for_each(|(version, device)| story.store(device, version, 1, BEN, version));
            story.end()
        };
        assert_holds(&sent(10, [1, 2]));
        assert_breaks("5b", &sent(10, [2, 1]));
        assert_holds(&sent(0, [2, 1]));
    }

    /// Two messages of one device: `links` says on which long links each is asked, before any answer.
    fn two(first: &[u64], second: &[u64], seqs: [u64; 2], retryable: bool) -> crate::history::History {
        let mut story = Story::new();
        let mut asks = Vec::new();
        for (id, links, seq) in [(1, first, seqs[0]), (2, second, seqs[1])] {
            for link in links {
                let request = v1::SendRequest { messages: vec![story.content(ANN, id, BEN)], ..Default::default() };
                asks.push((story.ask_via(ANN, Via::Long(*link), Request::Send(request)), id, seq));
            }
        }
        if retryable {
            let (n, id, _) = asks.remove(0);
            let result = v1::SendResult { client_msg_id: id, code: v1::Code::Busy as i32, ..Default::default() };
            story.answer(ANN, n, Reply::Send(v1::SendReply { results: vec![result] }));
        }
        for (n, id, seq) in asks {
            let results = vec![story.accept(ANN, id, BEN, seq)];
            story.answer(ANN, n, Reply::Send(v1::SendReply { results }));
        }
        let mut stored = [(seqs[0], 1), (seqs[1], 2)];
        stored.sort_unstable();
        stored.into_iter().for_each(|(seq, id)| story.store(ANN, seq, id, BEN, seq));
        story.end()
    }

    #[test]
    fn one_link_keeps_the_order_of_a_device() {
        assert_holds(&two(&[1], &[1], [1, 2], false));
        assert_breaks("5c", &two(&[1], &[1], [2, 1], false));
        assert_breaks("5c", &two(&[1, 2], &[1, 2], [2, 1], false));
        // The second was also sent on a link that never saw the first, or the first was told to come again.
        assert_holds(&two(&[1], &[1, 2], [2, 1], false));
        assert_holds(&two(&[1, 1], &[1], [2, 1], true));
    }
}
