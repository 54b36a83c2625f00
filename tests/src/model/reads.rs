//! Rule 15b: what a read is answered.

use std::collections::HashMap;

use tern_proto::v1::{self, Code};

use super::case::{Accepted, Case, Exchange};
use super::{Findings, Proof};
use crate::event::{Reply, Request};

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    let accepted = case.accepted.iter();
    let accepted: HashMap<(&str, u64), &Accepted> =
        accepted.map(|accepted| ((accepted.result.conversation.as_str(), accepted.result.seq), accepted)).collect();
    for exchange in &case.exchanges {
        let (Request::Read(read), Some((answer, reply))) = (exchange.request, exchange.answer) else { continue };
        match reply {
            Reply::Read(_) => {
                let known = accepted.get(&(read.conversation.as_str(), read.seq));
                done(case, findings, exchange, read, answer, known.copied());
            }
            Reply::Error(error) if error.code() == Code::BeyondHead => {
                let known = accepted.get(&(read.conversation.as_str(), read.seq));
                let known = known.filter(|accepted| case.before(accepted.answer, exchange.ask));
                findings.hold("15b", known.is_none() && read.seq > 0, || {
                    let what = format!("seq {} of {} is called beyond the head", read.seq, read.conversation);
                    let accepted = known.map(|accepted| accepted.events.clone()).unwrap_or_default();
                    Proof::new(what, accepted.into_iter().chain(exchange.events()).collect::<Vec<_>>())
                });
            }
            _ => {}
        }
    }
}

/// A read that was done names a message that was asked before the answer.
fn done(
    case: &Case,
    findings: &mut Findings,
    exchange: &Exchange,
    read: &v1::ReadRequest,
    answer: usize,
    known: Option<&Accepted>,
) {
    let user = case.user(exchange.device);
    let Some(truth) = case.truth(exchange.device) else { return };
    let there =
        truth.messages().find(|(_, message)| message.conversation == read.conversation && message.seq == read.seq);
    // A mark may name what the user did not see: a message from between leaving and joining again.
    let in_group = case.groups.get(read.conversation.as_str()).and_then(|group| group.log.get(&read.seq));
    let there = there.map(|(_, message)| message).or(in_group.map(|logged| logged.message));
    let id = there.and_then(|message| Some((case.sender(message)?, message.client_msg_id)));
    // What retention has dropped unseen is known by its result.
    let id = id.or(known.filter(|_| truth.floor > 0).map(|known| (known.device, known.content.client_msg_id)));
    let asked = id.and_then(|id| {
        let tries = case.tries.get(&id)?;
        tries.iter().map(|attempt| case.exchanges[attempt.exchange].ask).min_by_key(|ask| case.at(*ask))
    });
    let member = case.may_be_in(user, &read.conversation, exchange);
    let in_time = read.seq == 0 || asked.is_some_and(|ask| case.at(ask) <= case.at(answer));
    findings.hold("15b", member && in_time, || {
        let what = format!(
            "{} marked seq {} of {} as read before it was sent",
            case.name(exchange.device),
            read.seq,
            read.conversation
        );
        Proof::new(what, exchange.events().into_iter().chain(asked).collect::<Vec<_>>())
    });
}

#[cfg(test)]
mod tests {
    use super::super::story::{ANN, BEN, Story, assert_breaks, assert_holds, receipt_entry};
    use super::*;

    fn marked(seq: u64) -> crate::history::History {
        let mut story = Story::with_a_message();
        story.read(BEN, seq);
        for user in [ANN, BEN] {
            story.truth_of(user).push(receipt_entry(2, "ben", v1::ReceiptKind::Read, seq));
        }
        story.end()
    }

    #[test]
    fn a_read_beyond_the_head() {
        assert_holds(&marked(1));
        assert_breaks("15b", &marked(2));
        // Of a conversation that ben is not in.
        let mut story = Story::with_a_message();
        let n = story.ask(BEN, Request::Read(v1::ReadRequest { conversation: "ann:cat".into(), seq: 0 }));
        story.answer(BEN, n, Reply::Read(v1::ReadReply {}));
        assert_breaks("15b", &story.end());
        // Done before the message was asked.
        let mut story = Story::new();
        story.read(BEN, 1);
        story.send(ANN, 1, BEN, 1);
        story.store(ANN, 1, 1, BEN, 1);
        assert_breaks("15b", &story.end());
    }

    #[test]
    fn beyond_the_head_is_said_of_an_accepted_message() {
        let refused = |seq: u64| {
            let mut story = Story::with_a_message();
            let n = story.ask(BEN, Request::Read(v1::ReadRequest { conversation: "ann:ben".into(), seq }));
            story.answer(BEN, n, Reply::Error(v1::Error { code: Code::BeyondHead as i32, ..Default::default() }));
            story.end()
        };
        assert_holds(&refused(2));
        assert_breaks("15b", &refused(1));
    }
}
