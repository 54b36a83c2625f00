//! Rules 6c, 15a and 15c to 15e: what receipts say against what members acknowledged and marked.

use std::collections::{BTreeMap, HashMap};

use tern_proto::key::{Class, Key, Version};
use tern_proto::v1::{self, KeyOrder, ReceiptKind};

use super::case::{Case, Truth, conversation, receipt};
use super::keys::{is_within, starts_at_heads};
use super::{Findings, Proof};
use crate::event::{Reply, Request};
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
    }
}

/// What a member acknowledged and marked as read, over time.
struct Doings<'a> {
    /// By device: where it started, and when it presented which version.
    presented: HashMap<usize, (Version, Rising)>,
    /// By device: the highest version of class 1 whose ack was answered, and the event.
    proven: HashMap<usize, (Version, usize)>,
    /// By conversation: the messages, version and seq and sender.
    messages: HashMap<&'a str, BTreeMap<Version, (u64, &'a str)>>,
    /// By conversation: when which seq was asked to be marked.
    asked: HashMap<&'a str, Rising>,
    /// By conversation: the highest seq that was answered as done, and the event.
    done: HashMap<&'a str, (u64, usize)>,
}

impl<'a> Doings<'a> {
    fn of(case: &Case<'a>, user: &str, truth: &Truth<'a>) -> Doings<'a> {
        let mut doings = Doings {
            presented: HashMap::new(),
            proven: HashMap::new(),
            messages: HashMap::new(),
            asked: HashMap::new(),
            done: HashMap::new(),
        };
        for (version, message) in truth.messages() {
            let messages = doings.messages.entry(&message.conversation).or_default();
            messages.insert(version, (message.seq, &message.from));
        }
        for exchange in case.exchanges.iter().filter(|exchange| case.user(exchange.device) == user) {
            doings.note_key(case, truth, exchange);
            if let Request::Read(read) = exchange.request {
                let asked = doings.asked.entry(&read.conversation).or_default();
                asked.note(case.at(exchange.ask), read.seq);
                if let Some((answer, Reply::Read(_))) = exchange.answer {
                    let done = doings.done.entry(&read.conversation).or_default();
                    *done = (read.seq, answer).max(*done);
                }
            }
        }
        doings
    }

    fn note_key(&mut self, case: &Case, truth: &Truth, exchange: &super::case::Exchange) {
        let (start, presented) = self.presented.entry(exchange.device).or_default();
        if let (true, Some((_, reply))) = (starts_at_heads(exchange.request), exchange.answer) {
            let at = reply.order().and_then(|(_, key)| Key::from(key?).version(Class::Messages)).unwrap_or(0);
            // A start that was repeated because its reply was lost: the lowest allows the most.
            *start = if *start == 0 { at } else { at.min(*start) };
        }
        let Some(key) = exchange.request.key().map(Key::from) else { return };
        let Some(version) = key.version(Class::Messages).filter(|_| is_within(&key, truth)) else { return };
        if exchange.request.acknowledges() {
            presented.note(case.at(exchange.ask), version);
        }
        if let (Request::Ack(_), Some((answer, Reply::Ack(reply)))) = (exchange.request, exchange.answer)
            && reply.key_order() == KeyOrder::None
        {
            let proven = self.proven.entry(exchange.device).or_default();
            *proven = (version, answer).max(*proven);
        }
    }

    /// The highest seq of a conversation that a device had acknowledged by a time.
    fn acknowledged(&self, conversation: &str, by: u64) -> u64 {
        let Some(messages) = self.messages.get(conversation) else { return 0 };
        let of_device = self.presented.values().filter_map(|(start, presented)| {
            let reached = presented.by(by);
            let (_, (seq, _)) = messages.range(..=reached).next_back().filter(|(version, _)| *version > start)?;
            Some(*seq)
        });
        of_device.max().unwrap_or(0)
    }

    /// The highest seq of a conversation that was asked to be marked as read by a time.
    fn marked(&self, conversation: &str, by: u64) -> u64 {
        self.asked.get(conversation).map_or(0, |asked| asked.by(by))
    }
}

/// A number that only rises, over time.
#[derive(Default)]
struct Rising {
    /// When, and the highest number by then; in order of time.
    steps: Vec<(u64, u64)>,
}

impl Rising {
    fn note(&mut self, at: u64, number: u64) {
        let place = self.steps.partition_point(|(time, _)| *time <= at);
        let before = place.checked_sub(1).map_or(0, |last| self.steps[last].1);
        self.steps.insert(place, (at, number.max(before)));
        for (_, later) in &mut self.steps[place..] {
            *later = number.max(*later);
        }
    }

    fn by(&self, at: u64) -> u64 {
        let place = self.steps.partition_point(|(time, _)| *time <= at);
        place.checked_sub(1).map_or(0, |last| self.steps[last].1)
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
        let messages = doings.messages.get(receipt.conversation.as_str());
        let last = messages.and_then(|messages| messages.values().next_back()).map_or(0, |(seq, _)| *seq);
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

/// 15e.
fn delivered_to_the_end(
    case: &Case,
    findings: &mut Findings,
    user: &str,
    doings: &Doings,
    conversation: &str,
    other: &str,
) {
    let Some(messages) = doings.messages.get(conversation) else { return };
    let mut least = (0, None);
    for (device, (reached, answer)) in &doings.proven {
        let start = doings.presented.get(device).map_or(0, |(start, _)| *start);
        let theirs = messages.range(..=reached).rev().take_while(|(version, _)| **version > start);
        let last = theirs.map(|(_, message)| message).find(|(_, from)| *from == other);
        least = least.max((last.map_or(0, |(seq, _)| *seq), Some(*answer)));
    }
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
            let (key_order, key) = (KeyOrder::Start as i32, Some(super::super::story::key((at, 0))));
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
