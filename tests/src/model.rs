//! The model: holds a history to the invariants. `docs/checker.md` has the rules in words; their names (`2a`) stand in both.
//!
//! [`judge`] indexes the history once ([`case`]) and then lets each file check its rules. A rule never stops at the first
//! violation: the smallest of them is what a person wants to see.

mod asking;
pub(crate) mod case;
pub(crate) mod content;
mod devices;
mod doings;
#[cfg(test)]
mod group_story;
mod groups;
mod handouts;
mod keys;
mod links;
mod lists;
mod membership;
mod order;
mod outage;
mod pages;
mod protocol;
mod reads;
mod receipts;
mod retention;
mod rising;
mod sends;
#[cfg(test)]
mod story;
mod timeline;
mod truth;

use std::collections::BTreeMap;

use crate::history::History;
use case::Case;

/// The invariants that a complete run has to exercise.
pub(crate) const INVARIANTS: [u8; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15];

/// How many violations of one rule are kept; more add nothing to a report.
const KEPT: usize = 16;

/// A broken rule and what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// As `docs/checker.md` names it: the number is the invariant's.
    pub(crate) rule: &'static str,
    /// What is wrong, for a person.
    pub(crate) what: String,
    /// Indices of the events that prove it.
    pub(crate) evidence: Vec<usize>,
    /// The versions that it is about; of long pages only these entries are shown.
    pub(crate) versions: Vec<u64>,
}

/// What the model found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// How many comparisons were made, by rule.
    pub(crate) checks: BTreeMap<&'static str, u64>,
    /// The violations that were kept.
    pub(crate) violations: Vec<Violation>,
    /// How many there were, by rule.
    pub(crate) broken: BTreeMap<&'static str, u64>,
}

impl Findings {
    /// Checks of one invariant.
    pub(crate) fn checks_of(&self, number: u8) -> u64 {
        self.checks.iter().filter(|(rule, _)| invariant(rule) == number).map(|(_, count)| count).sum()
    }

    /// The invariants, and the rules of the scene, that the history gave no occasion to check.
    pub(crate) fn unchecked(&self, history: &History) -> Vec<String> {
        let invariants = INVARIANTS.into_iter().filter(|number| self.checks_of(*number) == 0);
        let retention: &[&str] = if history.keeps.is_some() { &["4g", "6d", "6e"] } else { &[] };
        let rules = retention.iter().filter(|rule| !self.checks.contains_key(**rule));
        invariants.map(|number| format!("invariant {number}")).chain(rules.map(|rule| format!("rule {rule}"))).collect()
    }

    /// Of each broken rule the violation that the fewest events prove, the smallest of all first.
    pub(crate) fn smallest(&self) -> Vec<&Violation> {
        let of =
            |rule: &&str| self.violations.iter().filter(|one| one.rule == *rule).min_by_key(|one| one.evidence.len());
        let mut smallest: Vec<&Violation> = self.broken.keys().filter_map(of).collect();
        smallest.sort_by_key(|violation| violation.evidence.len());
        smallest
    }

    /// One comparison: unless `ok`, the rule is broken and `proof` says how.
    fn hold(&mut self, rule: &'static str, ok: bool, proof: impl FnOnce() -> Proof) {
        *self.checks.entry(rule).or_default() += 1;
        if ok {
            return;
        }
        let broken = self.broken.entry(rule).or_default();
        *broken += 1;
        if *broken <= KEPT as u64 {
            let Proof { what, mut evidence, versions } = proof();
            evidence.sort_unstable();
            evidence.dedup();
            self.violations.push(Violation { rule, what, evidence, versions });
        }
    }
}

/// What shows a violation.
struct Proof {
    what: String,
    evidence: Vec<usize>,
    versions: Vec<u64>,
}

impl Proof {
    fn new(what: impl Into<String>, evidence: impl Into<Vec<usize>>) -> Proof {
        Proof { what: what.into(), evidence: evidence.into(), versions: Vec::new() }
    }

    fn about(mut self, versions: impl IntoIterator<Item = u64>) -> Proof {
        self.versions.extend(versions);
        self
    }
}

/// Holds the history to every rule.
pub(crate) fn judge(history: &History) -> Findings {
    let case = Case::new(history);
    let mut findings = Findings::default();
    protocol::judge(&case, &mut findings);
    truth::judge(&case, &mut findings);
    sends::judge(&case, &mut findings);
    order::judge(&case, &mut findings);
    keys::judge(&case, &mut findings);
    handouts::judge(&case, &mut findings);
    devices::judge(&case, &mut findings);
    asking::judge(&case, &mut findings);
    reads::judge(&case, &mut findings);
    receipts::judge(&case, &mut findings);
    links::judge(&case, &mut findings);
    membership::judge(&case, &mut findings);
    pages::judge(&case, &mut findings);
    lists::judge(&case, &mut findings);
    retention::judge(&case, &mut findings);
    outage::judge(&case, &mut findings);
    findings
}

/// The number at the start of a rule's name.
fn invariant(rule: &str) -> u8 {
    rule.trim_end_matches(|letter: char| letter.is_ascii_alphabetic()).parse().unwrap_or(0)
}
