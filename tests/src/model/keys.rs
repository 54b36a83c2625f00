//! Rules 3a to 3d and 6b: keys and the orders about them.

use std::collections::HashMap;

use tern_proto::key::{CLASSES, Class, Key, Version};
use tern_proto::v1::{self, KeyOrder, Start};

use super::case::{Case, Exchange};
use super::timeline::Truth;
use super::{Findings, Proof};
use crate::event::{Request, Via};

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    for handout in &case.handouts {
        let back = Class::ALL.into_iter().any(|class| handout.after.version(class) < handout.before.version(class));
        findings.hold("3a", !back, || {
            Proof::new(format!("a key of {} goes back", case.name(handout.device)), handout.events.clone())
        });
    }
    let mut books: HashMap<usize, Book> = HashMap::new();
    for (at, exchange, is_answer) in asks_and_answers(case) {
        let Some(truth) = case.truth(exchange.device) else { continue };
        let book = books.entry(exchange.device).or_default();
        if is_answer {
            answered(case, findings, truth, book, exchange);
        } else {
            book.asked(truth, at, exchange);
        }
    }
}

/// What one device has acknowledged, as far as its history goes.
#[derive(Default)]
struct Book {
    /// Acknowledged for certain: an ack was answered. With the event that did.
    proven: [(Version, Option<usize>); CLASSES],
    /// Acknowledged at most: presented without peek, or a start.
    possible: [Version; CLASSES],
    /// Asked with a key and not answered yet: what was proven at that time.
    proven_at: HashMap<usize, [(Version, Option<usize>); CLASSES]>,
}

impl Book {
    fn asked(&mut self, truth: &Truth, at: usize, exchange: &Exchange) {
        self.proven_at.insert(at, self.proven);
        match exchange.request.key().map(Key::from) {
            Some(key) if exchange.request.acknowledges() && is_within(&key, truth) => self.raise(&key),
            // The reply that says where the start is may be lost.
            None if starts_at_heads(exchange.request) => self.raise(&truth.head),
            _ => {}
        }
    }

    fn raise(&mut self, key: &Key) {
        for class in Class::ALL {
            let slot = &mut self.possible[class as usize];
            *slot = key.version(class).unwrap_or(0).max(*slot);
        }
    }

    fn prove(&mut self, key: &Key, event: usize) {
        for class in Class::ALL {
            let slot = &mut self.proven[class as usize];
            *slot = (key.version(class).unwrap_or(0), Some(event)).max(*slot);
        }
    }
}

fn answered(case: &Case, findings: &mut Findings, truth: &Truth, book: &mut Book, exchange: &Exchange) {
    let Some((answer, reply)) = exchange.answer else { return };
    let Some((order, replaced_by)) = reply.order() else { return };
    let presented = exchange.request.key().map(Key::from);
    let proven = book.proven_at.remove(&exchange.ask).unwrap_or_default();
    let expected = expected_order(exchange.request, presented.as_ref(), truth);
    let rule = if presented.is_none() || order == KeyOrder::Start { "3c" } else { "3b" };
    findings.hold(rule, expected.contains(&order), || {
        let what = format!(
            "{} presented {presented:?} with head {:?} and was told {order:?}",
            case.name(exchange.device),
            truth.head
        );
        Proof::new(what, exchange.events())
    });
    match (order, replaced_by.map(Key::from)) {
        (KeyOrder::None, _) => {
            if let (Request::Ack(_), Some(key)) = (exchange.request, presented) {
                book.prove(&key, answer);
            }
        }
        (KeyOrder::Start, Some(start)) => {
            start_is_right(case, findings, truth, exchange, &start);
        }
        (_, Some(key)) => {
            let name = case.name(exchange.device);
            for class in Class::ALL {
                let (told, (low, by)) = (key.version(class).unwrap_or(0), proven[class as usize]);
                findings.hold("3d", told >= low, || {
                    let what =
                        format!("{name} acknowledged {low} of {class:?} and is told that it has acknowledged {told}");
                    Proof::new(what, exchange.events().into_iter().chain(acknowledging(case, by)).collect::<Vec<_>>())
                });
                let high = book.possible[class as usize];
                findings.hold("6b", told <= high, || {
                    let what = format!(
                        "{name} presented at most {high} of {class:?} and is told that it has acknowledged {told}"
                    );
                    Proof::new(what, exchange.events().into_iter().chain(last_peek(case, exchange)).collect::<Vec<_>>())
                });
            }
        }
        (_, None) => findings.hold("3b", false, || Proof::new("an order without a key", exchange.events())),
    }
}

/// 3b and the first half of 3c.
fn expected_order(request: &Request, presented: Option<&Key>, truth: &Truth) -> Vec<KeyOrder> {
    let Some(key) = presented else {
        return vec![if matches!(request, Request::Hello(_)) { KeyOrder::Start } else { KeyOrder::None }];
    };
    let foreign = key.epoch != truth.head.epoch;
    match (foreign, is_at_most(key, &truth.head)) {
        (false, true) => vec![KeyOrder::None],
        (false, false) => vec![KeyOrder::ReplaceAhead],
        (true, true) => vec![KeyOrder::ReplaceEpoch],
        (true, false) => vec![KeyOrder::ReplaceEpoch, KeyOrder::ReplaceAhead],
    }
}

/// The second half of 3c.
fn start_is_right(case: &Case, findings: &mut Findings, truth: &Truth, exchange: &Exchange, start: &Key) {
    for class in Class::ALL {
        let version = start.version(class).unwrap_or(0);
        let events = exchange.events();
        if !starts_at_heads(exchange.request) {
            let floor = if class == Class::Messages { truth.floor } else { 0 };
            let skipped =
                truth.entries[class as usize].range(floor + 1..).next().filter(|(first, _)| **first <= version);
            findings.hold("3c", skipped.is_none(), || {
                let what = format!("{} starts at the oldest, {version}, above an entry", case.name(exchange.device));
                Proof::new(what, events).about(skipped.map(|(version, _)| *version))
            });
        } else if class == Class::Messages {
            let missed =
                case.accepted.iter().filter(|accepted| case.before(accepted.answer, exchange.ask)).find(|accepted| {
                    let found = truth.find(case.user(accepted.device), accepted.content, accepted.result);
                    found.is_some_and(|(at, _)| at > version)
                });
            findings.hold("3c", missed.is_none(), || {
                let what = format!(
                    "{} starts at the heads, {version}, below what was accepted before",
                    case.name(exchange.device)
                );
                let accepted = missed.map(|accepted| accepted.events.clone()).unwrap_or_default();
                Proof::new(what, accepted.into_iter().chain(events).collect::<Vec<_>>())
            });
        }
    }
}

/// Whether a key can acknowledge: of the user's epoch and not ahead.
pub(crate) fn is_within(key: &Key, truth: &Truth) -> bool {
    key.epoch == truth.head.epoch && is_at_most(key, &truth.head)
}

fn is_at_most(key: &Key, head: &Key) -> bool {
    Class::ALL.into_iter().all(|class| key.version(class).unwrap_or(0) <= head.version(class).unwrap_or(0))
}

/// Whether a hello asks for a start at the heads.
pub(crate) fn starts_at_heads(request: &Request) -> bool {
    matches!(request, Request::Hello(v1::HelloRequest { key: None, start, .. }) if *start == Start::Heads as i32)
}

/// Asks and answers that have to do with keys, in the order of the events.
fn asks_and_answers<'c, 'a>(case: &'c Case<'a>) -> Vec<(usize, &'c Exchange<'a>, bool)> {
    let with_keys = || case.exchanges.iter().filter(|exchange| exchange.request.speaks_of_keys());
    let asks = with_keys().map(|exchange| (exchange.ask, exchange, false));
    let answers = with_keys().filter_map(|exchange| Some((exchange.answer?.0, exchange, true)));
    let mut all: Vec<_> = asks.chain(answers).collect();
    all.sort_by_key(|(at, _, _)| *at);
    all
}

/// The ack that an answer belongs to, with the answer.
fn acknowledging(case: &Case, answer: Option<usize>) -> Vec<usize> {
    let found = case.exchanges.iter().find(|exchange| exchange.answer.map(|(at, _)| at) == answer);
    found.filter(|_| answer.is_some()).map(Exchange::events).unwrap_or_default()
}

/// The last time before that a device of the user presented a key without acknowledging it for this device.
fn last_peek(case: &Case, of: &Exchange) -> Vec<usize> {
    let user = case.user(of.device);
    let earlier =
        case.exchanges.iter().rev().filter(|exchange| exchange.ask < of.ask && case.user(exchange.device) == user);
    let other = |exchange: &&Exchange| {
        let peeked = matches!(exchange.request, Request::Sync(request) if request.peek);
        let elsewhere = exchange.device != of.device && exchange.request.acknowledges();
        exchange.request.key().is_some() && (peeked || elsewhere)
    };
    earlier.into_iter().find(other).map(Exchange::events).unwrap_or_default()
}

/// Whether a delta of the link can be expected.
pub(crate) fn is_on(via: Via, link: u64) -> bool {
    via == Via::Long(link)
}

#[cfg(test)]
mod tests {
    use super::super::story::{ANN, BEN, DESK, Story, assert_breaks, assert_holds, key, key_of, receipt_entry};
    use super::*;
    use crate::event::Reply;

    const AHEAD: (u64, u64) = (1 << 40, 0);

    fn replaced(presented: v1::SyncKey, order: KeyOrder) -> crate::history::History {
        let mut story = Story::with_a_message();
        story.replaced(BEN, presented, order, (0, 0));
        story.end()
    }

    #[test]
    fn a_key_that_goes_back() {
        let mut story = Story::with_a_message();
        story.page(BEN, (1, 0), vec![], (0, 0), &[1]);
        assert_breaks("3a", &story.end());
    }

    #[test]
    fn orders_are_given_where_they_are_due() {
        assert_holds(&replaced(key(AHEAD), KeyOrder::ReplaceAhead));
        assert_breaks("3b", &replaced(key(AHEAD), KeyOrder::ReplaceEpoch));
        assert_breaks("3b", &replaced(key((1, 0)), KeyOrder::ReplaceAhead));
        assert_holds(&replaced(key_of(8, (1, 0)), KeyOrder::ReplaceEpoch));
        assert_breaks("3b", &replaced(key_of(8, (1, 0)), KeyOrder::None));
        assert_breaks("3c", &replaced(key((1, 0)), KeyOrder::Start));
    }

    fn hello(start: Start, order: KeyOrder, at: (u64, u64)) -> crate::history::History {
        let mut story = Story::with_a_message();
        let n = story.ask(BEN, Request::Hello(v1::HelloRequest { start: start as i32, ..Default::default() }));
        let pending = at.0 == 0;
        let reply = v1::HelloReply { key_order: order as i32, key: Some(key(at)), pending, ..Default::default() };
        story.answer(BEN, n, Reply::Hello(reply));
        story.end()
    }

    #[test]
    fn starts_are_where_they_were_asked() {
        assert_holds(&hello(Start::Oldest, KeyOrder::Start, (0, 0)));
        assert_breaks("3c", &hello(Start::Oldest, KeyOrder::None, (0, 0)));
        assert_breaks("3c", &hello(Start::Oldest, KeyOrder::Start, (1, 0)));
        assert_breaks("3c", &hello(Start::Heads, KeyOrder::Start, (0, 0)));
    }

    #[test]
    fn acknowledged_does_not_move_back() {
        let told = |version: u64| {
            let mut story = Story::with_a_message();
            story.ack(BEN, (1, 0));
            story.truth_of(ANN).push(receipt_entry(1, "ben", v1::ReceiptKind::Delivered, 1));
            story.replaced(BEN, key(AHEAD), KeyOrder::ReplaceAhead, (version, 0));
            story.end()
        };
        assert_holds(&told(1));
        assert_breaks("3d", &told(0));
    }

    #[test]
    fn peeks_and_other_devices_acknowledge_nothing() {
        let told = |version: u64| {
            let mut story = Story::with_a_message();
            story.ack(ANN, (1, 0));
            story.page(DESK, (1, 0), vec![], (1, 0), &[]);
            story.replaced(DESK, key(AHEAD), KeyOrder::ReplaceAhead, (version, 0));
            story.end()
        };
        assert_holds(&told(0));
        assert_breaks("6b", &told(1));
    }
}
