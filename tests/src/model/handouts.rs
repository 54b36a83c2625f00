//! Rules 4a, 4b, 4d, 6a, 7a and 7b: each page and delta against the truth.

use std::collections::{HashMap, HashSet};

use tern_proto::key::{Class, Key, Version};
use tern_proto::v1::{self, entry::Body};

use super::case::{Case, Handout, HandoutKind, message};
use super::keys::is_on;
use super::retention::{covered_by_hole, hole};
use super::timeline::Truth;
use super::{Findings, Proof};
use crate::event::{Reply, Request, What};

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    for handout in &case.handouts {
        let Some(truth) = case.truth(handout.device) else { continue };
        complete(case, findings, truth, handout);
        for entry in handout.entries {
            matches_truth(case, findings, truth, handout, entry);
        }
        within(case, findings, handout);
        match handout.kind {
            HandoutKind::Page(request, more) => paging(case, findings, truth, handout, request, more),
            HandoutKind::Delta => {}
        }
    }
    asked_twice(case, findings);
    first_delta(case, findings);
}

/// The classes that a handout covers.
fn covered(handout: &Handout) -> impl Iterator<Item = (Class, Version, Version)> {
    let (before, after) = (handout.before, handout.after);
    Class::ALL.into_iter().filter_map(move |class| {
        let low = before.version(class)?;
        Some((class, low, after.version(class).unwrap_or(low)))
    })
}

/// 4a.
fn complete(case: &Case, findings: &mut Findings, truth: &Truth, handout: &Handout) {
    let given: HashSet<(u32, Version)> = handout.entries.iter().map(|entry| (entry.class, entry.version)).collect();
    for (class, low, high) in covered(handout).filter(|(_, low, high)| low < high) {
        let passed = if class == Class::Messages { covered_by_hole(handout).min(truth.floor) } else { 0 };
        let above = truth.entries[class as usize].range(low.max(passed) + 1..).map(|(version, _)| *version);
        let mut owed = above.take_while(|version| *version <= high);
        let missing = owed.find(|version| !given.contains(&(class.number(), *version)));
        findings.hold("4a", missing.is_none(), || {
            let version = missing.unwrap_or(0);
            let what =
                format!("{} was handed {low} to {high} of {class:?} without {version}", case.name(handout.device));
            let found = truth.event_of(class, version);
            let entry = truth.entries[class as usize].get(&version);
            let sent = entry.and_then(|entry| message(entry)).and_then(|message| {
                let device = case.sender(message)?;
                Some(case.events_of_id(device, message.client_msg_id))
            });
            let evidence = handout.events.iter().copied().chain(found).chain(sent.unwrap_or_default());
            Proof::new(what, evidence.collect::<Vec<_>>()).about([version])
        });
    }
}

/// 4b.
fn matches_truth(case: &Case, findings: &mut Findings, truth: &Truth, handout: &Handout, entry: &v1::Entry) {
    let Some(class) = Class::from_number(entry.class) else { return };
    let same = truth.entries[class as usize].get(&entry.version);
    let matches = match (&entry.body, same) {
        // Whether a hole is right is judged by 4g.
        (Some(Body::Hole(_)), _) => true,
        (Some(Body::Stub(stub)), Some(same)) => *same == entry || is_stub_of(case, handout.device, stub, same),
        (Some(Body::Message(message)), Some(same)) => {
            *same == entry && (case.sender(message) != Some(handout.device) || !is_actor(case, handout.device))
        }
        (Some(Body::Receipt(_)), Some(same)) => *same == entry,
        (Some(Body::Receipt(receipt)), None) => {
            truth.receipt(receipt).is_some_and(|(version, later)| version > entry.version && later.seq >= receipt.seq)
        }
        _ => false,
    };
    findings.hold("4b", matches, || {
        let version = entry.version;
        let what = format!(
            "{} was handed an entry at version {version} that its timeline does not hold so",
            case.name(handout.device)
        );
        let evidence = handout.events.iter().copied().chain(truth.event_of(class, version));
        Proof::new(what, evidence.collect::<Vec<_>>()).about([version])
    });
}

fn is_actor(case: &Case, device: usize) -> bool {
    case.role(device) == crate::history::Role::Actor
}

fn is_stub_of(case: &Case, device: usize, stub: &v1::Stub, entry: &v1::Entry) -> bool {
    message(entry).is_some_and(|message| {
        let own = case.sender(message) == Some(device);
        let ids = (stub.client_msg_id, stub.server_msg_id) == (message.client_msg_id, message.server_msg_id);
        own && ids
            && stub.conversation == message.conversation
            && (stub.seq, stub.time_ms) == (message.seq, message.time_ms)
    })
}

/// 6a, and that what is handed out is in order.
fn within(case: &Case, findings: &mut Findings, handout: &Handout) {
    let ordered = handout.entries.is_sorted_by(|a, b| (a.class, a.version) < (b.class, b.version));
    let stray = handout.entries.iter().find(|entry| {
        let mut ranges = covered(handout).filter(|(class, _, _)| class.number() == entry.class);
        !ranges.any(|(_, low, high)| low < entry.version && entry.version <= high)
    });
    findings.hold("6a", ordered && stray.is_none(), || {
        let name = case.name(handout.device);
        let what = match stray {
            Some(entry) => {
                format!("{name} was handed {} of class {}, which is not between the keys", entry.version, entry.class)
            }
            None => format!("{name} was handed entries that are not in order"),
        };
        Proof::new(what, handout.events.clone()).about(stray.map(|entry| entry.version))
    });
}

/// 7b.
fn paging(
    case: &Case,
    findings: &mut Findings,
    truth: &Truth,
    handout: &Handout,
    request: &v1::SyncRequest,
    more: &[u32],
) {
    let mut claimed = more.iter().filter_map(|class| Class::from_number(*class));
    let beyond = |class: Class| {
        let above = handout.after.version(class).unwrap_or(0);
        let unseen = class == Class::Messages && above < truth.floor;
        unseen || truth.entries[class as usize].range(above + 1..).next().is_some()
    };
    let count = handout.entries.len() - usize::from(hole(handout).is_some());
    let fits = request.limit == 0 || count <= request.limit as usize;
    let moves = more.is_empty() || !handout.entries.is_empty();
    let honest = claimed.all(beyond);
    findings.hold("7b", fits && moves && honest, || {
        let count = handout.entries.len();
        let what = format!(
            "{} asked for {} entries and got {count}, more of {more:?}, which is too many, none, or not so",
            case.name(handout.device),
            request.limit
        );
        Proof::new(what, handout.events.clone())
    });
}

/// 7a.
fn asked_twice(case: &Case, findings: &mut Findings) {
    let mut pages: HashMap<(usize, Key, u32), (usize, &Handout)> = HashMap::new();
    for handout in &case.handouts {
        let HandoutKind::Page(request, _) = handout.kind else { continue };
        let (Some(ask), Some(answer)) = (handout.events.first(), handout.events.last()) else { continue };
        let earlier = pages.insert((handout.device, handout.before, request.limit), (*answer, handout));
        let Some((_, first)) = earlier.filter(|(answer, _)| answer < ask) else { continue };
        // What has been dropped in between is not there any more.
        let dropped = case.truth(handout.device).map_or(0, |truth| covered_by_hole(handout).min(truth.floor));
        let messages = |of: &Handout| -> Vec<v1::Entry> {
            let messages = of.entries.iter().filter(|entry| entry.class == Class::Messages.number());
            messages.filter(|entry| entry.version > dropped).cloned().collect()
        };
        findings.hold("7a", messages(handout).starts_with(&messages(first)), || {
            let what = format!(
                "{} asked the same key twice and the second page does not begin as the first",
                case.name(handout.device)
            );
            Proof::new(what, first.events.iter().chain(&handout.events).copied().collect::<Vec<_>>())
        });
    }
}

/// 4d.
fn first_delta(case: &Case, findings: &mut Findings) {
    let mut ended: HashMap<usize, HashSet<u64>> = HashMap::new();
    let mut asks: HashMap<(usize, u64), &super::case::Exchange> = HashMap::new();
    for exchange in &case.exchanges {
        if let What::Ask { n, .. } = &case.history.events[exchange.ask].what {
            asks.insert((exchange.device, *n), exchange);
        }
    }
    for (at, event) in case.history.events.iter().enumerate() {
        match &event.what {
            What::Answer { n, reply: Reply::Sync(reply) } if reply.more.is_empty() => {
                if let Some(crate::event::Via::Long(link)) = asks.get(&(event.device, *n)).map(|ask| ask.via) {
                    ended.entry(event.device).or_default().insert(link);
                }
            }
            What::Push { link, .. } => {
                let due = ended.get(&event.device).is_some_and(|links| links.contains(link));
                findings.hold("4d", due, || {
                    let what = format!("{} got a delta on a link on which no sync had ended", case.name(event.device));
                    let on_link = case.exchanges.iter().filter(|exchange| {
                        exchange.device == event.device && is_on(exchange.via, *link) && exchange.ask < at
                    });
                    let shown =
                        on_link.filter(|exchange| matches!(exchange.request, Request::Hello(_) | Request::Sync(_)));
                    let evidence = shown.flat_map(|exchange| exchange.events()).take(8).chain([at]);
                    Proof::new(what, evidence.collect::<Vec<_>>())
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{ANN, BEN, DESK, Story, assert_breaks, assert_holds, key, receipt_entry};
    use super::*;
    use crate::event::Via;

    fn two_messages() -> Story {
        let mut story = Story::with_a_message();
        story.send(ANN, 2, BEN, 2);
        story.store(ANN, 2, 2, BEN, 2);
        story
    }

    fn delta(story: &mut Story, before: (u64, u64), entries: Vec<v1::Entry>, after: (u64, u64)) {
        let delta = v1::Delta { before: Some(key(before)), entries, after: Some(key(after)) };
        story.record(BEN, What::Push { n: 900, link: 77, delta });
    }

    fn ended_sync(story: &mut Story, at: (u64, u64)) {
        let request = v1::SyncRequest { key: Some(key(at)), peek: true, limit: 0 };
        story.sync(BEN, Via::Long(77), request, v1::SyncReply { key: Some(key(at)), ..Default::default() });
    }

    #[test]
    fn a_page_or_delta_that_skips_an_entry() {
        let mut story = two_messages();
        let all = story.entries_for(BEN);
        let mut good = story.clone();
        good.page(BEN, (0, 0), all.clone(), (2, 0), &[]);
        assert_holds(&good.end());
        story.page(BEN, (0, 0), all[1..].to_vec(), (2, 0), &[]);
        assert_breaks("4a", &story.end());

        for (given, holds) in [(&all[..], true), (&all[1..], false)] {
            let mut story = two_messages();
            ended_sync(&mut story, (2, 0));
            delta(&mut story, (0, 0), given.to_vec(), (2, 0));
            if holds { assert_holds(&story.end()) } else { assert_breaks("4a", &story.end()) }
        }
    }

    #[test]
    fn a_delta_before_any_sync_has_ended() {
        let mut story = two_messages();
        let all = story.entries_for(BEN);
        delta(&mut story, (0, 0), all, (2, 0));
        assert_breaks("4d", &story.end());
    }

    #[test]
    fn own_messages_come_as_stubs_and_only_to_their_device() {
        for (device, mine) in [(ANN, true), (DESK, false), (BEN, false)] {
            let mut story = two_messages();
            let (mut as_messages, for_device) = (story.truth_of(ANN).clone(), story.entries_for(device));
            assert_eq!(as_messages != for_device, mine);
            if !mine {
                as_messages = for_device.iter().map(super::super::story::stub_of).collect();
            }
            story.page(device, (0, 0), as_messages, (2, 0), &[]);
            assert_breaks("4b", &story.end());
        }
    }

    #[test]
    fn a_missing_stub() {
        let mut story = two_messages();
        let one = story.entries_for(ANN)[1..].to_vec();
        story.page(ANN, (0, 0), one, (2, 0), &[]);
        assert_breaks("4a", &story.end());
    }

    #[test]
    fn a_receipt_may_have_been_replaced_by_a_later_one_only() {
        let seen = |version: u64, seq: u64| {
            let mut story = two_messages();
            story.read(BEN, 2);
            for user in [ANN, BEN] {
                story.truth_of(user).push(receipt_entry(9, "ben", v1::ReceiptKind::Read, 2));
            }
            let receipt = receipt_entry(version, "ben", v1::ReceiptKind::Read, seq);
            story.page(DESK, (2, 0), vec![receipt], (2, version), &[2]);
            story.end()
        };
        assert_holds(&seen(8, 1));
        assert_breaks("4b", &seen(8, 3));
    }

    #[test]
    fn entries_that_the_key_covers_or_out_of_order() {
        let mut story = two_messages();
        let all = story.entries_for(BEN);
        let mut good = story.clone();
        good.page(BEN, (1, 0), all[1..].to_vec(), (2, 0), &[]);
        assert_holds(&good.end());
        let mut stray = story.clone();
        stray.page(BEN, (1, 0), all.clone(), (2, 0), &[]);
        assert_breaks("6a", &stray.end());
        story.page(BEN, (0, 0), all.into_iter().rev().collect(), (2, 0), &[]);
        assert_breaks("6a", &story.end());
    }

    #[test]
    fn pages_that_are_too_long_empty_or_promise_too_much() {
        let paged = |limit: u32, count: usize, more: &[u32]| {
            let mut story = two_messages();
            story.go_to(5);
            let entries = story.entries_for(BEN)[..count].to_vec();
            let request = v1::SyncRequest { key: Some(key((0, 0))), peek: true, limit };
            let reply = v1::SyncReply { entries, key: Some(key((count as u64, 0))), more: more.into(), key_order: 0 };
            story.sync(BEN, Via::Json, request, reply);
            story.end()
        };
        assert_holds(&paged(1, 1, &[1]));
        assert_breaks("7b", &paged(1, 2, &[]));
        assert_breaks("7b", &paged(1, 0, &[1]));
        assert_breaks("7b", &paged(2, 2, &[1]));
    }

    #[test]
    fn the_same_key_asked_twice() {
        let asked = |counts: [usize; 2]| {
            let mut story = two_messages();
            let all = story.entries_for(BEN);
            for count in counts {
                let more: &[u32] = if count < 2 { &[1] } else { &[] };
                story.page(BEN, (0, 0), all[..count].to_vec(), (count as u64, 0), more);
            }
            story.end()
        };
        assert_holds(&asked([1, 2]));
        assert_breaks("7a", &asked([2, 1]));
    }
}
