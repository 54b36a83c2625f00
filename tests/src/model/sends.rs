//! Rules 2a, 2b, 2c, 2e and 2f: the results of sends.

use std::collections::{BTreeMap, HashMap};

use tern_proto::limits;
use tern_proto::v1::Code;

use super::case::{Case, Try};
use super::content::deserves;
use super::rising::Rising;
use super::{Findings, Proof};
use crate::device::is_group;
use crate::event::{Reply, Request};

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    let ages = Ages::of(case);
    for ((device, id), tries) in &case.tries {
        ages.nothing_is_too_old(case, findings, *device, *id, tries);
        if *id != 0 {
            one_result(case, findings, *device, tries);
        }
        deserved(case, findings, *device, tries);
        refused_is_nowhere(case, findings, *device, *id, tries);
    }
    for exchange in &case.exchanges {
        let (Request::Send(request), Some((_, Reply::Send(reply)))) = (exchange.request, exchange.answer) else {
            continue;
        };
        let asked = request.messages.iter().map(|message| message.client_msg_id);
        let answered = reply.results.iter().map(|result| result.client_msg_id);
        findings.hold("2f", asked.eq(answered), || {
            Proof::new("the results are not one for each message, in order", exchange.events())
        });
    }
    highest_ids(case, findings);
}

/// 2a and 2b.
fn one_result(case: &Case, findings: &mut Findings, device: usize, tries: &[Try]) {
    let events = |some: &[&Try]| -> Vec<usize> {
        some.iter().flat_map(|attempt| case.exchanges[attempt.exchange].events()).collect()
    };
    let name = |attempt: &Try| format!("message {} of {}", attempt.content.client_msg_id, case.name(device));
    let settled = tries.iter().filter(|attempt| attempt.settled().is_some());
    let winner = settled.min_by_key(|attempt| case.exchanges[attempt.exchange].answer.map(|(at, _)| at));
    for attempt in tries {
        let (Some(result), Some((answer, _))) = (attempt.result, case.exchanges[attempt.exchange].answer) else {
            continue;
        };
        if result.code() == Code::Conflict {
            let other = tries
                .iter()
                .any(|other| other.content != attempt.content && case.exchanges[other.exchange].ask < answer);
            let own = winner.is_some_and(|winner| winner.content == attempt.content);
            findings.hold("2b", other && !own, || {
                let what = format!("{} is a conflict with nothing", name(attempt));
                Proof::new(
                    what,
                    events(&[attempt])
                        .into_iter()
                        .chain(winner.map(|one| events(&[one])).unwrap_or_default())
                        .collect::<Vec<_>>(),
                )
            });
        }
        let (Some(winner), Some(settled)) = (winner, attempt.settled()) else { continue };
        if winner.content == attempt.content {
            findings.hold("2a", winner.settled() == Some(settled), || {
                Proof::new(format!("{} has two results", name(attempt)), events(&[winner, attempt]))
            });
        } else {
            findings.hold("2b", false, || {
                let what = format!("{} has a result for other content", name(attempt));
                Proof::new(what, events(&[winner, attempt]))
            });
        }
    }
}

/// 2c.
fn deserved(case: &Case, findings: &mut Findings, device: usize, tries: &[Try]) {
    for attempt in tries {
        let Some(result) = attempt.settled() else { continue };
        let deserved = deserves(case.user(device), attempt.content);
        let right = result.code == deserved as i32
            || (deserved == Code::Ok && group_may_refuse(case, device, tries, attempt, result.code()));
        findings.hold("2c", right, || {
            let id = attempt.content.client_msg_id;
            let what = format!("message {id} of {} got {:?}, deserved {deserved:?}", case.name(device), result.code());
            Proof::new(what, case.exchanges[attempt.exchange].events())
        });
    }
}

/// By device: from when on which ids were asked.
struct Ages {
    asked: HashMap<usize, Rising>,
}

impl Ages {
    fn of(case: &Case) -> Ages {
        let mut asked: HashMap<usize, Rising> = HashMap::new();
        for ((device, id), tries) in &case.tries {
            let first = tries.iter().map(|attempt| case.at(case.exchanges[attempt.exchange].ask)).min();
            asked.entry(*device).or_default().note(first.unwrap_or(0), *id);
        }
        Ages { asked }
    }

    /// 2c, where results are forgotten: an id is too old if this one, or a higher one, was asked so long ago.
    fn nothing_is_too_old(&self, case: &Case, findings: &mut Findings, device: usize, id: u64, tries: &[Try]) {
        for attempt in tries.iter().filter(|attempt| attempt.result.is_some_and(|one| one.code() == Code::TooOld)) {
            let answered = case.exchanges[attempt.exchange].answer.map_or(0, |(answer, _)| case.at(answer));
            let old = case.history.keeps.and_then(|keeps| answered.checked_sub(keeps.results));
            let forgotten = old.zip(self.asked.get(&device)).map_or(0, |(by, asked)| asked.by(by));
            findings.hold("2c", forgotten >= id, || {
                let what = format!("message {id} of {} is called too old", case.name(device));
                Proof::new(what, case.exchanges[attempt.exchange].events())
            });
        }
    }
}

/// Whether the group of a message may have been so that the refusal was right: it was at some moment between the first ask and the answer.
fn group_may_refuse(case: &Case, device: usize, tries: &[Try], attempt: &Try, code: Code) -> bool {
    let (user, content) = (case.user(device), attempt.content);
    if !is_group(&content.to) && content.change.is_none() {
        return false;
    }
    let same = tries.iter().filter(|one| one.content == content);
    let since = same.map(|one| case.at(case.exchanges[one.exchange].ask)).min().unwrap_or(0);
    let until = case.exchanges[attempt.exchange].answer.map_or(u64::MAX, |(answer, _)| case.at(answer));
    let group = case.group(&content.to);
    let (added, removed) =
        content.change.as_ref().map_or((0, &[][..]), |change| (change.add.len(), change.remove.as_slice()));
    match code {
        Code::NotAMember => is_group(&content.to) && !group.is_some_and(|group| group.is_surely_in(user, since, until)),
        Code::NotAllowed => {
            let removes_others = removed.iter().any(|one| one != user);
            removes_others && !group.is_some_and(|group| group.surely_owns(user, since, until))
        }
        Code::GroupFull => match group {
            Some(group) => group.everybody().count() + added > limits::MEMBERS,
            // The founder is one as well; of a group without a truth nothing is known.
            None => !content.to.is_empty() || added >= limits::MEMBERS,
        },
        _ => false,
    }
}

/// 2e.
fn refused_is_nowhere(case: &Case, findings: &mut Findings, device: usize, id: u64, tries: &[Try]) {
    let refused = tries.iter().find(|attempt| attempt.settled().is_some_and(|result| result.code != 0));
    let Some(refused) = refused.filter(|_| id != 0) else { return };
    let from = case.user(device);
    for (user, truth) in &case.truths {
        let mut under = truth.under_id(from, id).filter(|(_, message)| case.sender(message) == Some(device));
        let stored = under.next();
        findings.hold("2e", stored.is_none(), || {
            let version = stored.map(|(version, _)| version);
            let what = format!("message {id} of {} was refused and is in the timeline of {user}", case.name(device));
            let brought = version.and_then(|version| truth.event_of(tern_proto::Class::Messages, version));
            let evidence: Vec<usize> = case.exchanges[refused.exchange].events().into_iter().chain(brought).collect();
            Proof::new(what, evidence).about(version)
        });
    }
}

/// 2f, what hello says about ids.
fn highest_ids(case: &Case, findings: &mut Findings) {
    let mut asked: BTreeMap<usize, u64> = BTreeMap::new();
    let mut settled: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
    let mut floors: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
    for (at, exchange, is_answer) in in_order(case) {
        let device = exchange.device;
        match (exchange.request, exchange.answer) {
            (Request::Send(request), _) if !is_answer => {
                let highest = request.messages.iter().map(|message| message.client_msg_id).max().unwrap_or(0);
                let slot = asked.entry(device).or_default();
                *slot = highest.max(*slot);
            }
            (Request::Send(_), Some((_, Reply::Send(reply)))) => {
                let stored = reply.results.iter().filter(|result| !result.code().is_retryable());
                let highest = stored.map(|result| result.client_msg_id).max().unwrap_or(0);
                let slot = settled.entry(device).or_default();
                *slot = (highest, at).max(*slot);
            }
            (Request::Hello(_), _) if !is_answer => {
                floors.insert(exchange.ask, settled.get(&device).copied().unwrap_or_default());
            }
            (Request::Hello(_), Some((_, Reply::Hello(reply)))) => {
                let (floor, told) = floors.get(&exchange.ask).copied().unwrap_or_default();
                let ceiling = asked.get(&device).copied().unwrap_or(0);
                let highest = reply.highest_client_msg_id;
                findings.hold("2f", (floor..=ceiling).contains(&highest), || {
                    let what = format!(
                        "hello says that the highest id of {} is {highest}, it is {floor} to {ceiling}",
                        case.name(device)
                    );
                    let told = Some(told).filter(|_| floor > 0);
                    Proof::new(what, exchange.events().into_iter().chain(told).collect::<Vec<_>>())
                });
            }
            _ => {}
        }
    }
}

/// Asks and answers in the order of the events.
fn in_order<'c, 'a>(case: &'c Case<'a>) -> Vec<(usize, &'c super::case::Exchange<'a>, bool)> {
    let asks = case.exchanges.iter().map(|exchange| (exchange.ask, exchange, false));
    let answers = case.exchanges.iter().filter_map(|exchange| Some((exchange.answer?.0, exchange, true)));
    let mut all: Vec<_> = asks.chain(answers).collect();
    all.sort_by_key(|(at, _, _)| *at);
    all
}

#[cfg(test)]
mod tests {
    use tern_proto::v1;

    use super::super::story::{ANN, BEN, Story, assert_breaks, assert_holds};
    use crate::event::{Reply, Request, Via};
    use crate::history::Keeps;

    use super::*;

    fn resent(change: impl FnOnce(&mut v1::OutMessage, &mut v1::SendResult)) -> crate::history::History {
        let mut story = Story::with_a_message();
        let (mut content, mut result) = (story.content(ANN, 1, BEN), story.accept(ANN, 1, BEN, 1));
        change(&mut content, &mut result);
        story.sent(ANN, Via::Json, content, result);
        story.end()
    }

    fn refused(code: Code) -> v1::SendResult {
        v1::SendResult { client_msg_id: 1, code: code as i32, ..Default::default() }
    }

    #[test]
    fn a_resend_with_another_result() {
        assert_holds(&resent(|_, _| ()));
        assert_breaks("2a", &resent(|_, result| result.seq = 2));
        assert_breaks("2a", &resent(|_, result| result.time_ms += 1));
        assert_holds(&resent(|_, result| *result = refused(Code::Busy)));
    }

    #[test]
    fn other_content_under_the_id() {
        let other = |content: &mut v1::OutMessage| content.text = "other".into();
        assert_breaks("2b", &resent(|content, _| other(content)));
        assert_breaks("2b", &resent(|_, result| *result = refused(Code::Conflict)));
        assert_holds(&resent(|content, result| {
            other(content);
            *result = refused(Code::Conflict);
        }));
    }

    #[test]
    fn a_refusal_that_is_not_deserved_or_not_kept() {
        let empty = |results: [Code; 2], stored: bool| {
            let mut story = Story::new();
            let content = v1::OutMessage { text: String::new(), ..story.content(ANN, 1, BEN) };
            for code in results {
                story.sent(ANN, Via::Packets, content.clone(), refused(code));
            }
            if stored {
                story.store(ANN, 1, 1, BEN, 1);
                for user in [ANN, BEN] {
                    if let Some(v1::entry::Body::Message(message)) = &mut story.truth_of(user)[0].body {
                        message.text.clear();
                    }
                }
            }
            story.end()
        };
        assert_holds(&empty([Code::EmptyText; 2], false));
        assert_breaks("2c", &empty([Code::BadRecipient; 2], false));
        assert_breaks("2a", &empty([Code::EmptyText, Code::TextTooLong], false));
        assert_breaks("2e", &empty([Code::EmptyText; 2], true));
        let mut story = Story::new();
        let content = story.content(ANN, 1, BEN);
        story.sent(ANN, Via::Packets, content, refused(Code::TooOld));
        assert_breaks("2c", &story.end());
    }

    #[test]
    fn an_id_is_too_old_only_where_results_are_forgotten() {
        let told = |results: Option<u64>| {
            let mut story = Story::with_a_message();
            if let Some(results) = results {
                story.keeps(Keeps { window: 0, cap: 100, results, until: None });
            }
            story.go_to(1000);
            let content = story.content(ANN, 1, BEN);
            story.sent(ANN, Via::Json, content, refused(Code::TooOld));
            story.end()
        };
        assert_breaks("2c", &told(None));
        assert_holds(&told(Some(1010)));
        assert_breaks("2c", &told(Some(1011)));
    }

    #[test]
    fn results_out_of_order_and_wrong_highest_ids() {
        let mut story = Story::with_a_message();
        let content = story.content(ANN, 1, BEN);
        let n = story.ask(ANN, Request::Send(v1::SendRequest { messages: vec![content], ..Default::default() }));
        story.answer(ANN, n, Reply::Send(v1::SendReply::default()));
        assert_breaks("2f", &story.end());
        let hello = |highest: u64| {
            let mut story = Story::with_a_message();
            let key = Some(super::super::story::key((0, 0)));
            let n = story.ask(ANN, Request::Hello(v1::HelloRequest { key, peek: true, ..Default::default() }));
            story.answer(ANN, n, Reply::Hello(v1::HelloReply { highest_client_msg_id: highest, ..Default::default() }));
            story.end()
        };
        assert_holds(&hello(1));
        assert_breaks("2f", &hello(0));
        assert_breaks("2f", &hello(2));
    }
}
