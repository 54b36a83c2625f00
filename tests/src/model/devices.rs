//! Rules 4c and 7d: what each device has in the end, as its own history tells it.

use std::collections::{BTreeSet, HashMap};

use tern_proto::key::{CLASSES, Class, Key, Version};
use tern_proto::v1;

use super::case::{Case, Handout, HandoutKind, receipt, same_receipt};
use super::retention::covered_by_hole;
use super::timeline::Truth;
use super::{Findings, Proof};
use crate::event::What;
use crate::history::Role;

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    let sources = sources(case);
    for device in 0..case.history.roster.len() {
        let Some(truth) = case.truth(device) else { continue };
        if case.role(device) == Role::Actor {
            let holding = Holding::of(case, device, &sources);
            holding.is_complete(case, findings, device, truth);
            nothing_above_the_head(case, findings, device, truth);
        }
    }
}

/// Handouts by device and number.
fn sources<'c, 'a>(case: &'c Case<'a>) -> HashMap<(usize, u64), &'c Handout<'a>> {
    let numbered = case.handouts.iter().filter_map(|handout| {
        let n = match case.history.events[*handout.events.last()?].what {
            What::Answer { n, .. } | What::Push { n, .. } => n,
            _ => return None,
        };
        Some(((handout.device, n), handout))
    });
    numbered.collect()
}

/// What a device has applied.
#[derive(Default)]
struct Holding<'a> {
    /// Where it started, by class.
    start: Option<Key>,
    key: Option<Key>,
    /// Versions, by class.
    applied: [BTreeSet<Version>; CLASSES],
    /// Up to here what is gone was passed over: by holes, or by a start at 0.
    passed: Version,
    /// The latest of each (conversation, member, kind), by version.
    receipts: Vec<(Version, &'a v1::Receipt)>,
    /// The last event that changed it.
    last: Option<usize>,
}

impl<'a> Holding<'a> {
    fn of(case: &Case<'a>, device: usize, sources: &HashMap<(usize, u64), &Handout<'a>>) -> Holding<'a> {
        let mut holding = Holding::default();
        let own = case.history.events.iter().enumerate().filter(|(_, event)| event.device == device);
        for (at, event) in own {
            match &event.what {
                What::Applied { from, key } => {
                    if let Some(source) = sources.get(&(device, *from)) {
                        holding.start.get_or_insert(source.before);
                        holding.passed = holding.passed.max(covered_by_hole(source));
                        source.entries.iter().for_each(|entry| holding.apply(entry));
                    }
                    holding.key = Some(Key::from(key));
                    holding.last = Some(at);
                }
                What::Replaced { key } => {
                    holding.start.get_or_insert(Key::from(key));
                    holding.key = Some(Key::from(key));
                    holding.last = Some(at);
                }
                _ => {}
            }
        }
        holding
    }

    fn apply(&mut self, entry: &'a v1::Entry) {
        if let Some(class) = Class::from_number(entry.class) {
            self.applied[class as usize].insert(entry.version);
        }
        let Some(receipt) = receipt(entry) else { return };
        match self.receipts.iter_mut().find(|(_, known)| same_receipt(known, receipt)) {
            Some(known) if known.0 < entry.version => *known = (entry.version, receipt),
            Some(_) => {}
            None => self.receipts.push((entry.version, receipt)),
        }
    }

    /// 4c.
    fn is_complete(&self, case: &Case, findings: &mut Findings, device: usize, truth: &Truth) {
        let name = case.name(device);
        findings.hold("4c", self.key == Some(truth.head), || {
            let what = format!("{name} ends with the key {:?}, the head is {:?}", self.key, truth.head);
            Proof::new(what, self.last.into_iter().collect::<Vec<_>>())
        });
        for class in Class::ALL {
            let start = self.start.and_then(|start| start.version(class)).unwrap_or(0);
            let excused = if class == Class::Messages { start.max(self.passed.min(truth.floor)) } else { start };
            let mut owed = truth.entries[class as usize].range(excused + 1..).map(|(version, _)| *version);
            let missing = owed.find(|version| !self.applied[class as usize].contains(version));
            findings.hold("4c", missing.is_none(), || {
                let version = missing.unwrap_or(0);
                let what = format!("{name} has never applied version {version} of {class:?}");
                let around = around(case, device, class, version);
                Proof::new(what, around.into_iter().chain(truth.event_of(class, version)).collect::<Vec<_>>())
                    .about([version])
            });
        }
        for (version, receipt) in &self.receipts {
            let last = truth.receipt(receipt);
            findings.hold("4c", last.is_some_and(|(at, same)| at == *version && same == *receipt), || {
                let what = format!("{name} ends with a receipt of version {version} that is not the last one");
                let event = last.and_then(|(at, _)| truth.event_of(Class::Receipts, at));
                Proof::new(what, self.last.into_iter().chain(event).collect::<Vec<_>>()).about([*version])
            });
        }
    }
}

/// The first handouts of the device whose keys pass over a version.
fn around(case: &Case, device: usize, class: Class, version: Version) -> Vec<usize> {
    let passes = |handout: &&Handout| {
        let reach = handout.before.version(class).zip(handout.after.version(class));
        handout.device == device && reach.is_some_and(|(low, high)| low < version && version <= high)
    };
    case.handouts.iter().filter(passes).take(2).flat_map(|handout| handout.events.clone()).collect()
}

/// 7d.
fn nothing_above_the_head(case: &Case, findings: &mut Findings, device: usize, truth: &Truth) {
    let pages = case.handouts.iter().filter(|handout| handout.device == device);
    let last = pages.rev().find_map(|handout| match handout.kind {
        HandoutKind::Page(_, more) => Some((handout, more)),
        HandoutKind::Delta => None,
    });
    let Some((page, more)) = last else { return };
    let empty = page.entries.is_empty() && more.is_empty() && page.after == truth.head;
    findings.hold("7d", empty, || {
        Proof::new(
            format!("the last page of {} is not an empty one at the head", case.name(device)),
            page.events.clone(),
        )
    });
}

#[cfg(test)]
mod tests {
    use super::super::story::{BEN, Story, assert_breaks, assert_holds, key, receipt_entry};
    use super::*;

    /// Ben applies `applied` of his two messages and ends with the key `at`; then asks once more and gets `last`.
    fn finished(applied: usize, at: u64, last: usize) -> crate::history::History {
        let mut story = Story::with_a_message();
        story.send(0, 2, BEN, 2);
        story.store(0, 2, 2, BEN, 2);
        story.unfinished.push(BEN);
        let all = story.entries_for(BEN);
        let from =
            story.page(BEN, (0, 0), all[..applied].to_vec(), (applied as u64, 0), if applied < 2 { &[1] } else { &[] });
        story.record(BEN, What::Applied { from, key: key((at, 0)) });
        let rest = all[2 - last..].to_vec();
        story.page(BEN, (2 - last as u64, 0), rest, (2, 0), &[]);
        story.end()
    }

    #[test]
    fn a_device_that_lacks_an_entry_or_stops_short() {
        assert_holds(&finished(2, 2, 0));
        assert_breaks("4c", &finished(1, 2, 0));
        assert_breaks("4c", &finished(2, 1, 0));
    }

    #[test]
    fn the_page_above_the_head_has_something() {
        assert_breaks("7d", &finished(2, 2, 1));
    }

    #[test]
    fn a_device_that_keeps_an_old_receipt() {
        let mut story = Story::with_a_message();
        story.read(BEN, 1);
        story.unfinished.push(2);
        let early = receipt_entry(3, "ben", v1::ReceiptKind::Read, 1);
        for user in [0, BEN] {
            story.truth_of(user).push(receipt_entry(4, "ben", v1::ReceiptKind::Read, 1));
        }
        let mut all = story.entries_for(2);
        all.insert(1, early);
        let mut good = story.clone();
        for (story, entries, holds) in [(&mut good, all.clone(), true), (&mut story, all[..2].to_vec(), false)] {
            let from = story.page(2, (0, 0), entries, (1, 4), &[]);
            story.record(2, What::Applied { from, key: key((1, 4)) });
            story.page(2, (1, 4), vec![], (1, 4), &[]);
            if holds { assert_holds(&story.clone().end()) } else { assert_breaks("4c", &story.clone().end()) }
        }
    }
}
