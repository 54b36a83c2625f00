//! Rules 6c, 15a and 15c to 15e: what receipts say against what members acknowledged and marked.

use std::collections::{BTreeMap, HashMap};

use tern_proto::key::{Class, Version};
use tern_proto::v1::{self, ReceiptKind};

use super::case::{Case, receipt};
use super::content::conversation;
use super::doings::Doings;
use super::groups::Group;
use super::{Findings, Proof};
use crate::device::is_group;
use crate::event::Request;
use crate::history::Role;

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    let members: HashMap<&str, Doings> =
        case.truths.iter().map(|(user, truth)| (*user, Doings::of(case, user, truth))).collect();
    let mut seen: BTreeMap<(&str, Version), (&v1::Receipt, usize)> = BTreeMap::new();
    for handout in &case.handouts {
        let Some(event) = handout.events.last() else { continue };
        for entry in handout.entries {
            let Some(receipt) = receipt(entry) else { continue };
            if let Some(doings) = members.get(receipt.member.as_str()) {
                says_no_more(case, findings, doings, entry.version, receipt, *event);
            }
            let first = seen.entry((case.user(handout.device), entry.version)).or_insert((receipt, *event));
            findings.hold("4b", first.0 == receipt, || {
                let what = format!("{} has two receipts at version {}", case.user(handout.device), entry.version);
                Proof::new(what, [first.1, *event]).about([entry.version])
            });
        }
    }
    never_back(findings, &seen);
    for (user, doings) in &members {
        for (conversation, other) in partners(case, user) {
            read_to_the_end(case, findings, user, doings, &conversation, other);
            delivered_to_the_end(case, findings, user, doings, &conversation, other);
        }
        for (name, group) in case.groups.iter().filter(|(_, group)| group.is_whole()) {
            read_in_group(case, findings, user, doings, name, group);
        }
    }
}

/// The user of a timeline, the conversation, the member and the kind of a receipt.
type Place<'e> = (&'e str, &'e str, &'e str, i32);

/// 6c and 15c.
fn says_no_more(
    case: &Case,
    findings: &mut Findings,
    doings: &Doings,
    version: Version,
    receipt: &v1::Receipt,
    event: usize,
) {
    let by = case.at(event);
    let marked = doings.marked(&receipt.conversation, by);
    let (rule, limit) = match receipt.kind() {
        ReceiptKind::Read => ("15c", marked),
        _ if is_group(&receipt.conversation) => ("6c", 0),
        _ => ("6c", marked.max(doings.acknowledged(&receipt.conversation, by))),
    };
    findings.hold(rule, receipt.seq <= limit, || {
        let what = format!(
            "a receipt ({:?}) says {} of {}, {} had come to {limit}",
            receipt.kind(),
            receipt.seq,
            receipt.conversation,
            receipt.member
        );
        let last = last_doing(case, receipt, event);
        Proof::new(what, last.into_iter().chain([event]).collect::<Vec<_>>()).about([version])
    });
    if receipt.kind() == ReceiptKind::Read {
        let last = doings.last(&receipt.conversation);
        findings.hold("15c", receipt.seq <= last, || {
            let what = format!(
                "a receipt says that seq {} of {} is read, the last is {last}",
                receipt.seq, receipt.conversation
            );
            Proof::new(what, [event]).about([version])
        });
    }
}

/// The last request before a receipt was seen by which its member acknowledged or marked something.
fn last_doing(case: &Case, receipt: &v1::Receipt, seen: usize) -> Vec<usize> {
    let by_member = case
        .exchanges
        .iter()
        .rev()
        .filter(|exchange| exchange.ask < seen && case.user(exchange.device) == receipt.member);
    let mut doing =
        by_member.filter(|exchange| exchange.request.acknowledges() || matches!(exchange.request, Request::Read(_)));
    doing.next().map(|exchange| exchange.events()).unwrap_or_default()
}

/// 15a.
fn never_back(findings: &mut Findings, seen: &BTreeMap<(&str, Version), (&v1::Receipt, usize)>) {
    let mut last: HashMap<Place, (u64, Version, usize)> = HashMap::new();
    for ((user, version), (receipt, event)) in seen {
        let place = (*user, receipt.conversation.as_str(), receipt.member.as_str(), receipt.kind);
        let earlier = last.insert(place, (receipt.seq, *version, *event));
        findings.hold("15a", earlier.is_none_or(|(seq, _, _)| seq <= receipt.seq), || {
            let (seq, at, shown) = earlier.unwrap_or_default();
            let what = format!(
                "a receipt of {} in {} went from {seq} back to {}",
                receipt.member, receipt.conversation, receipt.seq
            );
            Proof::new(what, [shown, *event]).about([at, *version])
        });
    }
}

/// Every other user that has a truth, with the conversation.
fn partners<'c>(case: &'c Case, user: &'c str) -> impl Iterator<Item = (String, &'c str)> {
    case.truths.keys().filter(move |other| **other != user).map(move |other| (conversation(user, other), *other))
}

/// The seq and event of a receipt in a user's truth, 0 without one.
fn final_receipt(case: &Case, user: &str, conversation: &str, member: &str, kind: ReceiptKind) -> (u64, Vec<usize>) {
    let like = v1::Receipt {
        conversation: conversation.into(),
        member: member.into(),
        kind: kind as i32,
        ..Default::default()
    };
    let Some(truth) = case.truths.get(user) else { return (0, Vec::new()) };
    let found = truth.receipt(&like);
    let event = found.and_then(|(version, _)| truth.event_of(Class::Receipts, version));
    (found.map_or(0, |(_, receipt)| receipt.seq), event.into_iter().collect())
}

/// The readers' pages of a user, to show that something is not in them.
fn reading(case: &Case, user: &str) -> Vec<usize> {
    let of_reader = case
        .handouts
        .iter()
        .filter(|handout| case.user(handout.device) == user && case.role(handout.device) == Role::Reader(0));
    of_reader.filter_map(|handout| handout.events.last().copied()).take(1).collect()
}

/// 15d.
fn read_to_the_end(case: &Case, findings: &mut Findings, user: &str, doings: &Doings, conversation: &str, other: &str) {
    let Some((done, answer)) = doings.done.get(conversation).copied().filter(|(done, _)| *done > 0) else { return };
    let asked = doings.marked(conversation, u64::MAX);
    let theirs = doings.messages.get(conversation).into_iter().flat_map(BTreeMap::values);
    let covered = theirs.filter(|(seq, from)| *seq <= done && *from == other).map(|(seq, _)| *seq).max().unwrap_or(0);
    for (reader, least) in [(user, done), (other, covered)] {
        let (told, shown) = final_receipt(case, reader, conversation, user, ReceiptKind::Read);
        findings.hold("15d", least <= told && told <= asked, || {
            let what =
                format!("{reader} ends with read {told} of {user} in {conversation}, it must be {least} to {asked}");
            let evidence: Vec<usize> = shown.into_iter().chain(reading(case, reader)).chain([answer]).collect();
            Proof::new(what, evidence)
        });
    }
}

/// 15d, in a group: the reader is told of the mark, and everybody whose newest message it covers.
fn read_in_group(case: &Case, findings: &mut Findings, user: &str, doings: &Doings, name: &str, group: &Group) {
    let Some((done, answer)) = doings.done.get(name).copied() else { return };
    // A mark from before the last joining does nothing any more.
    if group.last_joined(user).is_none_or(|joined| done < joined) {
        return;
    }
    let asked = doings.marked(name, u64::MAX);
    let others = group.members.iter().filter(|other| **other != user && case.truths.contains_key(**other));
    let covered = others.filter(|_| group.joined(user).is_some()).filter_map(|other| {
        let newest = group.newest_of(other).filter(|newest| *newest <= done)?;
        Some((*other, newest))
    });
    for (reader, least) in std::iter::once((user, done)).chain(covered) {
        let (told, shown) = final_receipt(case, reader, name, user, ReceiptKind::Read);
        findings.hold("15d", least <= told && told <= asked, || {
            let what = format!("{reader} ends with read {told} of {user} in {name}, it must be {least} to {asked}");
            let evidence: Vec<usize> = shown.into_iter().chain(reading(case, reader)).chain([answer]).collect();
            Proof::new(what, evidence)
        });
    }
}

/// 15e.
fn delivered_to_the_end(
    case: &Case,
    findings: &mut Findings,
    user: &str,
    doings: &Doings,
    conversation: &str,
    other: &str,
) {
    let least = doings.delivered_for_certain(conversation, 1, |from| from == other);
    let (least, Some(answer)) = least else { return };
    let (delivered, shown) = final_receipt(case, other, conversation, user, ReceiptKind::Delivered);
    let (read, _) = final_receipt(case, other, conversation, user, ReceiptKind::Read);
    findings.hold("15e", delivered.max(read) >= least, || {
        let what = format!("{other} ends with delivered {delivered} and read {read} of {user} in {conversation}, acknowledged is {least}");
        let evidence: Vec<usize> = shown.into_iter().chain(reading(case, other)).chain([answer]).collect();
        Proof::new(what, evidence)
    });
}

#[cfg(test)]
mod tests {
    use super::super::story::{ANN, BEN, DESK, Story, assert_breaks, assert_holds, receipt_entry};
    use super::*;
    use crate::event::Reply;

    const DELIVERED: ReceiptKind = ReceiptKind::Delivered;
    const READ: ReceiptKind = ReceiptKind::Read;

    fn two_messages() -> Story {
        let mut story = Story::with_a_message();
        story.send(ANN, 2, BEN, 2);
        story.store(ANN, 2, 2, BEN, 2);
        story
    }

    /// Ben acknowledged `acked`; ann's truth says that `delivered` was delivered.
    fn delivered(acked: u64, delivered: u64) -> crate::history::History {
        let mut story = two_messages();
        story.ack(BEN, (acked, 0));
        if delivered > 0 {
            story.truth_of(ANN).push(receipt_entry(1, "ben", DELIVERED, delivered));
        }
        story.end()
    }

    #[test]
    fn delivered_says_what_was_acknowledged() {
        assert_holds(&delivered(1, 1));
        assert_breaks("6c", &delivered(1, 2));
        assert_breaks("15e", &delivered(2, 1));
        assert_breaks("15e", &delivered(1, 0));
    }

    /// Ben marked `done`; ann's truth says `told`, his own says `own`.
    fn read(done: u64, told: u64, own: u64) -> crate::history::History {
        let mut story = two_messages();
        story.read(BEN, done);
        for (user, seq) in [(ANN, told), (BEN, own)].into_iter().filter(|(_, seq)| *seq > 0) {
            story.truth_of(user).push(receipt_entry(1, "ben", READ, seq));
        }
        story.end()
    }

    #[test]
    fn read_says_what_was_marked() {
        assert_holds(&read(2, 2, 2));
        assert_breaks("15d", &read(2, 1, 2));
        assert_breaks("15d", &read(2, 2, 1));
        assert_breaks("15d", &read(2, 0, 2));
        assert_breaks("15c", &read(1, 2, 1));
    }

    #[test]
    fn a_mark_that_goes_back() {
        let seen = |first: u64, last: u64| {
            let mut story = two_messages();
            story.read(BEN, first.max(last));
            let early = receipt_entry(1, "ben", READ, first);
            for user in [ANN, BEN] {
                story.truth_of(user).push(receipt_entry(2, "ben", READ, last));
            }
            story.page(DESK, (2, 0), vec![early], (2, 1), &[2]);
            story.end()
        };
        assert_holds(&seen(1, 2));
        assert_breaks("15a", &seen(2, 1));
    }

    #[test]
    fn a_start_at_the_heads_delivers_nothing() {
        let started = |at: u64| {
            let mut story = two_messages();
            let start = if at > 0 { v1::Start::Heads } else { v1::Start::Oldest };
            let n = story.ask(BEN, Request::Hello(v1::HelloRequest { start: start as i32, ..Default::default() }));
            let (key_order, key) = (v1::KeyOrder::Start as i32, Some(super::super::story::key((at, 0))));
            let pending = at == 0;
            story.answer(BEN, n, Reply::Hello(v1::HelloReply { key_order, key, pending, ..Default::default() }));
            story.ack(BEN, (2, 0));
            story.truth_of(ANN).push(receipt_entry(1, "ben", DELIVERED, 2));
            story.end()
        };
        assert_holds(&started(0));
        assert_breaks("6c", &started(2));
    }

    #[test]
    fn a_version_with_two_receipts() {
        let mut story = two_messages();
        story.read(BEN, 1);
        let early = receipt_entry(2, "ben", READ, 1);
        for user in [ANN, BEN] {
            story.truth_of(user).push(receipt_entry(3, "ben", READ, 1));
        }
        story.page(DESK, (2, 0), vec![early.clone()], (2, 2), &[2]);
        assert_holds(&story.clone().end());
        let mut other = early;
        if let Some(v1::entry::Body::Receipt(receipt)) = &mut other.body {
            receipt.time_ms += 1;
        }
        story.page(DESK, (2, 1), vec![other], (2, 2), &[2]);
        assert_breaks("4b", &story.end());
    }
}
