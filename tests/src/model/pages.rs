//! Rules 4e and 9 for pages of history: each against the log of its group or the truths.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tern_proto::v1;

use super::case::{Case, Exchange};
use super::protocol::asked_about;
use super::rising::Rising;
use super::timeline::Truth;
use super::{Findings, Proof};
use crate::event::{Reply, Request};
use crate::history::Role;

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    let known = Known::of(case);
    let mut walks: BTreeMap<(usize, &str), Walk> = BTreeMap::new();
    for exchange in &case.exchanges {
        may_ask(case, findings, exchange);
        let (Request::History(request), Some((answer, Reply::History(reply)))) = (exchange.request, exchange.answer)
        else {
            continue;
        };
        page(case, findings, &known, exchange, request, reply);
        if case.role(exchange.device) == Role::Reader(0) {
            let walk = walks.entry((exchange.device, &request.conversation)).or_default();
            walk.seqs.extend(reply.messages.iter().map(|message| message.seq));
            walk.last_answer = answer;
        }
    }
    for ((device, conversation), walk) in &walks {
        if let Some(truth) = case.truth(*device) {
            whole(case, findings, &known, truth, *device, conversation, walk);
        }
    }
}

/// What a reader read of a conversation, page by page.
#[derive(Default)]
struct Walk {
    seqs: BTreeSet<u64>,
    last_answer: usize,
}

/// All messages that are known, and which were accepted when.
struct Known<'a> {
    messages: HashMap<(&'a str, u64), &'a v1::Message>,
    /// By conversation: the highest seq that was accepted by a time.
    accepted: HashMap<&'a str, Rising>,
}

impl<'a> Known<'a> {
    fn of(case: &Case<'a>) -> Known<'a> {
        let mut known = Known { messages: HashMap::new(), accepted: HashMap::new() };
        for (_, message) in case.truths.values().flat_map(Truth::messages) {
            known.messages.insert((&message.conversation, message.seq), message);
        }
        for accepted in &case.accepted {
            let rising = known.accepted.entry(&accepted.result.conversation).or_default();
            rising.note(case.at(accepted.answer), accepted.result.seq);
        }
        known
    }

    /// The first message of a conversation that was too young to be dropped when the server began to keep everything.
    fn first_young(&self, case: &Case, conversation: &str) -> u64 {
        let until = case.history.keeps.and_then(|keeps| Some(keeps.until?.saturating_sub(keeps.window)));
        let asked = case.accepted.iter().filter(|accepted| accepted.result.conversation == conversation);
        let young = asked.filter(|accepted| case.at(accepted.first_ask.0) >= until.unwrap_or(0));
        young.map(|accepted| accepted.result.seq).min().unwrap_or(self.last(conversation) + 1)
    }

    fn last(&self, conversation: &str) -> u64 {
        self.accepted.get(conversation).map_or(0, |accepted| accepted.by(u64::MAX))
    }
}

/// 9: who may not have been in a conversation during the request is told nothing of it.
fn may_ask(case: &Case, findings: &mut Findings, exchange: &Exchange) {
    let Some(conversation) = asked_about(exchange.request) else { return };
    if matches!(exchange.answer, None | Some((_, Reply::Error(_)))) || case.role(exchange.device) == Role::Twin {
        return;
    }
    findings.hold("9", case.may_be_in(case.user(exchange.device), conversation, exchange), || {
        let what = format!("{} is told of {conversation} without being in it", case.name(exchange.device));
        Proof::new(what, exchange.events())
    });
}

/// 4e and 9, for one page.
fn page(
    case: &Case,
    findings: &mut Findings,
    known: &Known,
    exchange: &Exchange,
    request: &v1::HistoryRequest,
    reply: &v1::HistoryReply,
) {
    let (user, conversation) = (case.user(exchange.device), request.conversation.as_str());
    let Some(truth) = case.truth(exchange.device) else { return };
    let seqs: Vec<u64> = reply.messages.iter().map(|message| message.seq).collect();
    let ascending = seqs.windows(2).all(|two| two[1] == two[0] + 1);
    let below = request.before_seq == 0 || seqs.last().is_none_or(|last| *last < request.before_seq);
    let fits = request.limit == 0 || seqs.len() <= request.limit as usize;
    let moves = !reply.more || !seqs.is_empty();
    let differs = reply.messages.iter().find(|message| match known.messages.get(&(conversation, message.seq)) {
        Some(same) => *same != *message,
        // Where not everything is kept, a message may have left every timeline unseen.
        None => truth.floor == 0 || message.conversation != conversation,
    });
    findings.hold("4e", ascending && below && fits && moves && differs.is_none(), || {
        let what = format!(
            "{} got a page of {conversation}, seqs {:?} to {:?}, that is not in order, too long or not what was sent",
            case.name(exchange.device),
            seqs.first(),
            seqs.last()
        );
        Proof::new(what, exchange.events())
    });
    let foreign = seqs.iter().find(|seq| !case.sees(user, conversation, **seq));
    findings.hold("9", foreign.is_none(), || {
        let what = format!("{user} is not to see seq {} of {conversation}", foreign.unwrap_or(&0));
        Proof::new(what, exchange.events())
    });
    if request.before_seq == 0 {
        let least = surely_there(case, known, truth, user, conversation, case.at(exchange.ask));
        findings.hold("4e", seqs.last().copied().unwrap_or(0) >= least, || {
            let what =
                format!("the history of {conversation} ends with {:?} for {user}, {least} was there", seqs.last());
            Proof::new(what, exchange.events())
        });
    }
}

/// The highest seq that a page from the newest must reach: of a message that was accepted before the ask and is kept. A member who has
/// left, or may have, is owed none.
fn surely_there(case: &Case, known: &Known, truth: &Truth, user: &str, conversation: &str, asked: u64) -> u64 {
    if truth.floor > 0 && !truth.keeps(conversation) {
        return 0;
    }
    match case.groups.get(conversation) {
        Some(group) if !group.is_whole() || group.joined(user).is_none() => 0,
        Some(group) => group.surely_reached(user, asked),
        None => known.accepted.get(conversation).map_or(0, |accepted| accepted.by(asked.saturating_sub(1))),
    }
}

/// 4e, at the end: a reader has read all that its user sees. Where not everything is kept: without gaps, and what was too young to be dropped.
fn whole(
    case: &Case,
    findings: &mut Findings,
    known: &Known,
    truth: &Truth,
    device: usize,
    conversation: &str,
    walk: &Walk,
) {
    let user = case.user(device);
    let (first, last) = match case.groups.get(conversation) {
        Some(group) if !group.is_whole() => return,
        Some(group) => (group.joined(user), group.log.len() as u64),
        None => (Some(1), known.last(conversation)),
    };
    // Who is not in it any more gets nothing, which 9 judges.
    let Some(first) = first else { return };
    let first = if truth.floor > 0 { known.first_young(case, conversation).max(first) } else { first };
    // Where the oldest are dropped, the rest has no gaps.
    let first = if truth.floor > 0 { walk.seqs.first().copied().unwrap_or(first).clamp(1, first) } else { first };
    let mut owed = first..=last;
    let missing = owed.find(|seq| !walk.seqs.contains(seq));
    findings.hold("4e", missing.is_none(), || {
        let what = format!("{} read the history of {conversation} without {}", case.name(device), missing.unwrap_or(0));
        let shown = known.messages.get(&(conversation, missing.unwrap_or(0)));
        let sent = shown.and_then(|message| Some(case.events_of_id(case.sender(message)?, message.client_msg_id)));
        Proof::new(what, sent.unwrap_or_default().into_iter().chain([walk.last_answer]).collect::<Vec<_>>())
    });
}

#[cfg(test)]
mod tests {
    use super::super::group_story::GroupStory;
    use super::super::story::{ANN, BEN, assert_breaks, assert_holds};

    /// Ann's group has five messages; ben joins with the third. He asks for a page before the end.
    fn asked(change: impl FnOnce(&mut Vec<u64>)) -> crate::history::History {
        let mut group = GroupStory::founded(ANN, &["dan"]);
        group.text(ANN);
        group.change(ANN, &["ben"], &[]);
        group.text(BEN);
        group.text(ANN);
        let mut seqs = vec![3, 4, 5];
        change(&mut seqs);
        group.history(BEN, 0, &seqs, false);
        group.end()
    }

    #[test]
    fn a_page_of_history_begins_with_the_joining_and_has_no_gaps() {
        assert_holds(&asked(|_| ()));
        assert_holds(&asked(|seqs| seqs.truncate(3)));
        assert_holds(&asked(|seqs| seqs.retain(|seq| *seq > 3)));
        assert_breaks("9", &asked(|seqs| seqs.insert(0, 2)));
        assert_breaks("4e", &asked(|seqs| seqs.retain(|seq| *seq != 4)));
        assert_breaks("4e", &asked(|seqs| seqs.reverse()));
        assert_breaks("4e", &asked(|seqs| seqs.truncate(2)));
    }

    #[test]
    fn the_whole_history_is_there_in_the_end() {
        let read = |seqs: &[u64]| {
            let mut group = GroupStory::founded(ANN, &["ben"]);
            group.text(ANN);
            group.text(BEN);
            group.history_read_at_the_end = Some(seqs.to_vec());
            group.end()
        };
        assert_holds(&read(&[1, 2, 3]));
        assert_breaks("4e", &read(&[2, 3]));
    }

    #[test]
    fn a_group_tells_nothing_to_who_is_not_in_it() {
        let asked = |by: usize| {
            let mut group = GroupStory::founded(ANN, &["dan"]);
            group.members_asked(by);
            group.end()
        };
        assert_holds(&asked(ANN));
        assert_breaks("9", &asked(BEN));
    }
}
