//! Rule 16a: a disk that refuses, and is healed.

use super::case::Case;
use super::{Findings, Proof};

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    for outage in &case.history.outages {
        let answered = |since: u64, until: u64| {
            let tries = case.tries.values().flatten().filter_map(|attempt| {
                let exchange = &case.exchanges[attempt.exchange];
                Some((exchange, exchange.answer?.0, attempt.result?.code()))
            });
            tries.filter(move |(exchange, answer, _)| case.at(exchange.ask) >= since && case.at(*answer) <= until)
        };
        let refused = answered(outage.since, outage.healed).find(|(_, _, code)| code.is_retryable());
        findings.hold("16a", refused.is_some(), || {
            Proof::new(format!("while {}, no message was refused", outage.what), first_ask(case, outage.since))
        });
        let mut healed = answered(outage.healed, outage.until);
        findings.hold("16a", healed.any(|(_, _, code)| code as i32 == 0), || {
            let what = format!("after {} was healed, no message was accepted until the restart", outage.what);
            let shown = refused.map(|(exchange, _, _)| exchange.events()).unwrap_or_default();
            Proof::new(what, shown.into_iter().chain(first_ask(case, outage.healed)).collect::<Vec<_>>())
        });
    }
}

/// The first request after a time.
fn first_ask(case: &Case, since: u64) -> Vec<usize> {
    let mut later = case.exchanges.iter().filter(|exchange| case.at(exchange.ask) >= since);
    later.next().map(|exchange| exchange.events()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tern_proto::v1::{self, Code};

    use super::super::story::{ANN, BEN, Story, assert_breaks, assert_holds};
    use crate::event::Via;
    use crate::history::Outage;

    /// The disk refuses from 100 on, and is healed at 200: what is answered to a send in between and after.
    fn told(during: Code, after: Code) -> crate::history::History {
        let mut story = Story::with_a_message();
        let refused = |code: Code| v1::SendResult { client_msg_id: 2, code: code as i32, ..Default::default() };
        let content = story.content(ANN, 2, BEN);
        for (at, code) in [(110, during), (210, after)] {
            story.go_to(at);
            let result = if code == Code::Ok { story.accept(ANN, 2, BEN, 2) } else { refused(code) };
            story.sent(ANN, Via::Packets, content.clone(), result);
        }
        if [during, after].contains(&Code::Ok) {
            story.store(ANN, 2, 2, BEN, 2);
        }
        story.outage(Outage { what: "the disk is full".into(), since: 100, healed: 200, until: 300 });
        story.end()
    }

    #[test]
    fn a_disk_that_refuses_and_is_healed() {
        assert_holds(&told(Code::Unavailable, Code::Ok));
        assert_holds(&told(Code::OutcomeUnknown, Code::Ok));
        assert_breaks("16a", &told(Code::Ok, Code::Ok));
        assert_breaks("16a", &told(Code::Unavailable, Code::Unavailable));
        assert_breaks("2c", &told(Code::TextTooLong, Code::TextTooLong));
    }
}
