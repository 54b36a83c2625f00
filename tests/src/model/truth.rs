//! Rules 1a, 1b, 2d, 5a and 9: the truth itself, and the acknowledged messages in it.

use std::collections::{BTreeMap, HashMap};

use tern_proto::key::{Class, Version};
use tern_proto::v1::{self, entry::Body};

use super::case::{Accepted, Case};
use super::content::{is_of_two, is_what_became_of};
use super::timeline::Truth;
use super::{Findings, Proof};
use crate::history::Role;

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    for accepted in &case.accepted {
        survives(case, findings, accepted);
    }
    for (user, truth) in &case.truths {
        each_once(case, findings, user, truth);
        sequences(case, findings, user, truth);
    }
    members_agree(case, findings);
    for handout in &case.handouts {
        let (user, device) = (case.user(handout.device), handout.device);
        for entry in handout.entries {
            let proof = |what: &str| {
                let what = format!("{} was handed {what} at version {}", case.name(device), entry.version);
                Proof::new(what, handout.events.clone()).about([entry.version])
            };
            findings.hold("1b", !matches!(entry.body, Some(Body::Damaged(_))), || proof("a damaged entry"));
            findings.hold("9", is_own(case, device, user, entry), || proof("an entry that is not for this user"));
        }
        if let Some(truth) = case.truth(device) {
            let same = handout.after.epoch == truth.head.epoch;
            findings.hold("1b", same, || {
                let what = format!("{}'s epoch is {}, in the end {}", user, handout.after.epoch, truth.head.epoch);
                Proof::new(what, handout.events.clone())
            });
        }
    }
}

/// 1a.
fn survives(case: &Case, findings: &mut Findings, accepted: &Accepted) {
    let (from, result) = (case.user(accepted.device), accepted.result);
    let group = case.groups.get(result.conversation.as_str());
    let sees = |user: &str| group.is_some_and(|group| group.sees(user, result.seq));
    let owed = |user: &str| user == from || user == accepted.content.to || sees(user);
    for (user, truth) in case.truths.iter().filter(|(user, _)| owed(user)) {
        let same = |message: &v1::Message| {
            message.server_msg_id == result.server_msg_id
                && message.conversation == result.conversation
                && is_what_became_of(accepted.content, message)
                && (message.seq, message.time_ms) == (result.seq, result.time_ms)
        };
        let mut found = truth.under_id(from, accepted.content.client_msg_id);
        let held = found.any(|(_, message)| same(message)) || truth.may_have_dropped(&result.conversation, result.seq);
        findings.hold("1a", held, || {
            let id = accepted.content.client_msg_id;
            let what = format!(
                "message {id} of {} was accepted and is not in the timeline of {user}",
                case.name(accepted.device)
            );
            let under = truth.under_id(from, id).filter_map(|(version, _)| truth.event_of(Class::Messages, version));
            let evidence: Vec<usize> = accepted.events.iter().copied().chain(under).collect();
            Proof::new(what, evidence).about(truth.under_id(from, id).map(|(version, _)| version))
        });
    }
}

/// 2d: no doubles, nothing invented or altered.
fn each_once(case: &Case, findings: &mut Findings, user: &str, truth: &Truth) {
    let mut ids: HashMap<(usize, u64), Version> = HashMap::new();
    let mut server_ids: HashMap<u64, Version> = HashMap::new();
    for (version, message) in truth.messages() {
        let events = |other: Option<Version>| -> Vec<usize> {
            let of = |version| truth.event_of(Class::Messages, version);
            of(version).into_iter().chain(other.and_then(of)).collect()
        };
        let sender = case.sender(message);
        findings.hold("2d", sender.is_some(), || {
            let what = format!("{user} has message {} of {} as nobody sent it", message.client_msg_id, message.from);
            Proof::new(what, events(None)).about([version])
        });
        let double = sender.and_then(|device| ids.insert((device, message.client_msg_id), version));
        findings.hold("2d", double.is_none(), || {
            let what = format!("{user} has message {} of {} twice", message.client_msg_id, message.from);
            let asked = sender.map(|device| case.events_of_id(device, message.client_msg_id)).unwrap_or_default();
            let evidence: Vec<usize> = asked.into_iter().chain(events(double)).collect();
            Proof::new(what, evidence).about([version]).about(double)
        });
        let reused = server_ids.insert(message.server_msg_id, version);
        findings.hold("2d", reused.is_none(), || {
            let what = format!("{user} has server_msg_id {} for two messages", message.server_msg_id);
            Proof::new(what, events(reused)).about([version]).about(reused)
        });
    }
}

/// 5a, within one timeline.
fn sequences(case: &Case, findings: &mut Findings, user: &str, truth: &Truth) {
    let mut heads: HashMap<&str, (u64, Version)> = HashMap::new();
    for (version, message) in truth.messages() {
        let (head, last) = heads.insert(&message.conversation, (message.seq, version)).unwrap_or_default();
        let next = message.seq == head + 1 || joins(case, user, message);
        let after_a_gap = last < truth.floor || (last == 0 && truth.floor > 0);
        findings.hold("5a", message.seq > head && (next || after_a_gap), || {
            let what =
                format!("in {user}'s timeline seq {} of {} follows seq {head}", message.seq, message.conversation);
            let events = [last, version].into_iter().filter_map(|version| truth.event_of(Class::Messages, version));
            Proof::new(what, events.collect::<Vec<_>>()).about([last, version])
        });
    }
    for handout in case.handouts.iter().filter(|handout| is_truth(case, handout.device, user)) {
        let positions: Vec<(u32, Version)> = handout.entries.iter().map(|entry| (entry.class, entry.version)).collect();
        findings.hold("5a", positions.is_sorted_by(|a, b| a < b), || {
            Proof::new(format!("a page of {user} is not in the order of versions"), handout.events.clone())
        });
    }
}

/// Whether a message of a group is one from which on the user sees it. Of a log that is not whole this is not known.
fn joins(case: &Case, user: &str, message: &v1::Message) -> bool {
    let group = case.groups.get(message.conversation.as_str());
    group
        .is_some_and(|group| !group.is_whole() || (group.sees(user, message.seq) && !group.sees(user, message.seq - 1)))
}

fn is_truth(case: &Case, device: usize, user: &str) -> bool {
    case.role(device) == Role::Reader(0) && case.user(device) == user
}

/// 5a, between the members.
fn members_agree(case: &Case, findings: &mut Findings) {
    let mut by_seq: BTreeMap<(&str, u64), (&str, Version, &v1::Message)> = BTreeMap::new();
    for (user, truth) in &case.truths {
        for (version, message) in truth.messages() {
            let place = (message.conversation.as_str(), message.seq);
            let Some((other, theirs, same)) = by_seq.insert(place, (user, version, message)) else { continue };
            findings.hold("5a", other == *user || same == message, || {
                let what = format!(
                    "{other} and {user} have different messages as seq {} of {}",
                    message.seq, message.conversation
                );
                let find = |user: &str, version| case.truths.get(user)?.event_of(Class::Messages, version);
                let events = find(user, version).into_iter().chain(find(other, theirs));
                Proof::new(what, events.collect::<Vec<_>>()).about([version, theirs])
            });
        }
    }
}

/// 9.
fn is_own(case: &Case, device: usize, user: &str, entry: &v1::Entry) -> bool {
    match &entry.body {
        Some(Body::Message(message)) => {
            let conversation = message.conversation.as_str();
            case.sees(user, conversation, message.seq) && was_ever_in(case, &message.from, conversation)
        }
        Some(Body::Receipt(receipt)) => {
            let conversation = receipt.conversation.as_str();
            was_ever_in(case, user, conversation) && was_ever_in(case, &receipt.member, conversation)
        }
        Some(Body::Stub(stub)) => {
            case.sees(user, &stub.conversation, stub.seq) && case.tries.contains_key(&(device, stub.client_msg_id))
        }
        Some(Body::Hole(_)) => true,
        Some(Body::Damaged(_)) | None => true,
    }
}

fn was_ever_in(case: &Case, user: &str, conversation: &str) -> bool {
    match case.groups.get(conversation) {
        Some(group) => !group.is_whole() || group.everybody().any(|one| one == user),
        None if case.is_unknown(user, conversation) => true,
        None => is_of_two(user, conversation),
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{
        ANN, BEN, DESK, Story, assert_breaks, assert_holds, key_of, message_entry, receipt_entry, stub_of,
    };
    use super::*;
    use crate::event::Via;

    #[test]
    fn an_acknowledged_message_that_is_gone() {
        let mut story = Story::with_a_message();
        assert_holds(&story.clone().end());
        story.forget(BEN, 1);
        assert_breaks("1a", &story.clone().end());
        let mut story = Story::with_a_message();
        story.truth_of(BEN)[0].body = Some(Body::Damaged(v1::Damaged::default()));
        assert_breaks("1b", &story.end());
        let mut story = Story::with_a_message();
        let reply = v1::SyncReply { key: Some(key_of(8, (0, 0))), more: vec![1], ..Default::default() };
        story.sync(BEN, Via::Packets, v1::SyncRequest::default(), reply);
        assert_breaks("1b", &story.end());
    }

    #[test]
    fn a_message_that_is_there_twice_or_that_nobody_sent() {
        let mut twice = Story::with_a_message();
        twice.store(ANN, 2, 1, BEN, 1);
        assert_breaks("2d", &twice.end());
        let mut altered = Story::with_a_message();
        if let Some(Body::Message(message)) = &mut altered.truth_of(BEN)[0].body {
            message.text.push('!');
        }
        assert_breaks("2d", &altered.end());
    }

    #[test]
    fn sequences_that_start_again_have_a_gap_or_differ_between_members() {
        let two = |first: u64, second: u64| {
            let mut story = Story::new();
            story.send(ANN, 1, BEN, first);
            story.store(ANN, 1, 1, BEN, first);
            story.send(ANN, 2, BEN, second);
            story.store(ANN, 2, 2, BEN, second);
            story
        };
        assert_holds(&two(1, 2).end());
        assert_breaks("5a", &two(1, 1).end());
        assert_breaks("5a", &two(1, 3).end());
        let mut differ = two(1, 2);
        if let Some(Body::Message(message)) = &mut differ.truth_of(BEN)[0].body {
            message.time_ms += 1;
        }
        assert_breaks("5a", &differ.end());
    }

    #[test]
    fn an_entry_of_another_conversation() {
        let mut stub = Story::with_a_message();
        let foreign = stub_of(&stub.truth_of(ANN)[0].clone());
        stub.page(DESK, (0, 0), vec![foreign], (1, 0), &[]);
        assert_breaks("9", &stub.end());
        let mut receipt = Story::with_a_message();
        let foreign = receipt_entry(1, "cat", v1::ReceiptKind::Delivered, 1);
        receipt.page(ANN, (1, 0), vec![foreign], (1, 1), &[]);
        assert_breaks("9", &receipt.end());
        let mut story = Story::with_a_message();
        let entry = message_entry(1, "ben", "cat", "ben:cat", 1, 1, "x");
        story.page(ANN, (0, 0), vec![entry], (1, 0), &[]);
        assert_breaks("9", &story.end());
    }
}
