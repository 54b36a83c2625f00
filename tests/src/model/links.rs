//! Rules 10a and 10b: the links give equal results. Rules 8c and 10c: a device's last link stays, and hears.

use std::collections::BTreeMap;

use tern_proto::key::Class;
use tern_proto::v1;

use super::case::{Case, receipt};
use super::timeline::Truth;
use super::{Findings, Proof};
use crate::event::{Request, Via, What};
use crate::history::Role;

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    for device in 0..case.history.roster.len() {
        let (Role::Reader(rank), Some(truth)) = (case.role(device), case.truth(device)) else { continue };
        if rank > 0 {
            readers_agree(case, findings, device, truth);
        }
    }
    twins_agree(case, findings);
    the_younger_stays(case, findings);
}

/// 10c. A client that was displaced does not come back by itself: were the younger link the one that is told, nobody would be there.
fn the_younger_stays(case: &Case, findings: &mut Findings) {
    let mut youngest: BTreeMap<usize, u64> = BTreeMap::new();
    for (at, event) in case.history.events.iter().enumerate() {
        match &event.what {
            What::Ask { n, via: Via::Long(link), request: Request::Hello(_) } if n == link => {
                youngest.insert(event.device, *link);
            }
            What::Displaced { link } => {
                let has_younger = youngest.get(&event.device).is_some_and(|youngest| youngest > link);
                findings.hold("10c", has_younger, || {
                    let what = format!("{} is told that its youngest link is displaced", case.name(event.device));
                    Proof::new(what, vec![at])
                });
            }
            What::Waited { link, hinted } => findings.hold("8c", *hinted, || {
                let what = format!("{} is not told on link {link} that it is owed something", case.name(event.device));
                Proof::new(what, vec![at])
            }),
            _ => {}
        }
    }
}

/// 10a. A receipt may have become newer between two readers; a message may not.
fn readers_agree(case: &Case, findings: &mut Findings, device: usize, truth: &Truth) {
    let of_reader = || case.handouts.iter().filter(|handout| handout.device == device);
    let read: Vec<&v1::Entry> = of_reader().flat_map(|handout| handout.entries).collect();
    let messages = read.iter().copied().filter(|entry| entry.class == Class::Messages.number());
    let kept = truth.kept().map(|(_, entry)| entry);
    let receipts = truth.entries[Class::Receipts as usize].values().filter_map(|entry| receipt(entry));
    let mut missing = receipts.filter(|first| {
        let own = read.iter().filter_map(|entry| receipt(entry));
        !own.into_iter().any(|own| super::case::same_receipt(own, first) && own.seq >= first.seq)
    });
    let same = messages.eq(kept) && missing.next().is_none();
    findings.hold("10a", same, || {
        let what = format!("{} did not read the same as the first reader of its user", case.name(device));
        let evidence = of_reader().filter_map(|handout| handout.events.last().copied()).take(4);
        let first = truth.first_event();
        Proof::new(what, evidence.chain(first).collect::<Vec<_>>())
    });
}

/// 10b.
fn twins_agree(case: &Case, findings: &mut Findings) {
    let mut scripts: BTreeMap<usize, Vec<(usize, &str, &str)>> = BTreeMap::new();
    for (at, event) in case.history.events.iter().enumerate() {
        if let What::Twin { step, outcome } = &event.what {
            scripts.entry(event.device).or_default().push((at, step, outcome));
        }
    }
    let mut scripts = scripts.into_iter();
    let Some((first_device, first)) = scripts.next() else { return };
    for (device, script) in scripts {
        for index in 0..first.len().max(script.len()) {
            let (a, b) = (first.get(index), script.get(index));
            let same = a.map(|(_, step, outcome)| (step, outcome)) == b.map(|(_, step, outcome)| (step, outcome));
            findings.hold("10b", same, || {
                let step = a.or(b).map_or("", |(_, step, _)| step);
                let what = format!("{} and {} differ in the step {step}", case.name(first_device), case.name(device));
                Proof::new(what, a.into_iter().chain(b).map(|(at, _, _)| *at).collect::<Vec<_>>())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{ANN, BEN, Story, assert_breaks, assert_holds};
    use super::*;
    use crate::event::Reply;

    #[test]
    fn a_reader_that_reads_something_else() {
        let good = Story::with_a_message().end();
        assert_holds(&good);
        let mut bad = good;
        let last = bad.events.iter_mut().rev().find_map(|event| match &mut event.what {
            What::Answer { reply: Reply::Sync(reply), .. } => Some(reply),
            _ => None,
        });
        last.unwrap().entries.clear();
        assert_breaks("10a", &bad);
    }

    #[test]
    fn a_link_that_is_displaced_by_an_older_one() {
        let told = |displaced: u64| {
            let mut story = Story::new();
            for link in [1, 2] {
                let hello = Request::Hello(v1::HelloRequest::default());
                story.record(ANN, What::Ask { n: link, via: Via::Long(link), request: hello });
            }
            story.record(ANN, What::Displaced { link: displaced });
            story.end()
        };
        assert_holds(&told(1));
        assert_breaks("10c", &told(2));
    }

    #[test]
    fn a_link_that_is_told_nothing() {
        let waited = |hinted: bool| {
            let mut story = Story::new();
            story.record(ANN, What::Waited { link: 1, hinted });
            story.end()
        };
        assert_holds(&waited(true));
        assert_breaks("8c", &waited(false));
    }

    #[test]
    fn a_step_with_another_outcome() {
        let twins = |outcomes: [&str; 2]| {
            let mut story = Story::new();
            for (device, outcome) in [ANN, BEN].into_iter().zip(outcomes) {
                story.record(device, What::Twin { step: "send".into(), outcome: outcome.into() });
            }
            story.end()
        };
        assert_holds(&twins(["a", "a"]));
        assert_breaks("10b", &twins(["a", "b"]));
    }
}
