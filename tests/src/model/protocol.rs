//! Rule 0: one answer for each request, and errors that the protocol allows.

use tern_proto::v1::{self, Code};

use super::case::{Case, Exchange};
use super::{Findings, Proof};
use crate::event::{Reply, Request};

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    for stray in &case.strays {
        findings.hold("0", false, || {
            let device = case.history.events[*stray].device;
            Proof::new(format!("{} got an answer to nothing, or a second one", case.name(device)), [*stray])
        });
    }
    for exchange in &case.exchanges {
        let Some((_, Reply::Error(error))) = exchange.answer else { continue };
        findings.hold("0", is_allowed(case, exchange, error), || {
            let what = format!("{} was refused as {:?}: {}", case.name(exchange.device), error.code(), error.message);
            Proof::new(what, exchange.events())
        });
    }
}

fn is_allowed(case: &Case, exchange: &Exchange, error: &v1::Error) -> bool {
    let code = error.code();
    if code.is_retryable() || code == Code::TooManyRequests {
        return true;
    }
    if let Request::Ack(ack) = exchange.request {
        return ack.key.is_none() && code == Code::BadBody;
    }
    let user = case.user(exchange.device);
    match (exchange.request, code) {
        // Whether a seq is beyond the head is judged by 15b.
        (Request::Read(read), Code::BeyondHead) => case.may_be_in(user, &read.conversation, exchange),
        (request, Code::NotAMember) => {
            asked_about(request).is_some_and(|conversation| !case.is_surely_in(user, conversation, exchange))
        }
        // Sent behind a hello without waiting for its reply, and that one could not be served then.
        (request, Code::HelloRequired) => !matches!(request, Request::Hello(_)) && case.has_no_hello(exchange),
        _ => false,
    }
}

impl Case<'_> {
    /// Whether the hello of the link was answered that it cannot be served now.
    fn has_no_hello(&self, exchange: &Exchange) -> bool {
        self.exchanges.iter().any(|other| {
            let is_hello = matches!(other.request, Request::Hello(_));
            let is_of_link = (other.device, other.via) == (exchange.device, exchange.via);
            let refused = |reply: &Reply| matches!(reply, Reply::Error(error) if error.code().is_retryable());
            is_hello && is_of_link && other.answer.is_some_and(|(_, reply)| refused(reply))
        })
    }
}

/// The conversation that only its members may ask about.
pub(super) fn asked_about(request: &Request) -> Option<&str> {
    match request {
        Request::Read(read) => Some(&read.conversation),
        Request::History(history) => Some(&history.conversation),
        Request::Members(members) => Some(&members.conversation),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, assert_breaks, assert_holds, key};
    use super::*;
    use crate::event::Via;

    #[test]
    fn an_error_that_the_request_does_not_deserve() {
        let refused = |conversation: &str, code: Code| {
            let mut story = Story::new();
            let n = story.ask(0, Request::Read(v1::ReadRequest { conversation: conversation.into(), seq: 9 }));
            story.answer(0, n, Reply::Error(v1::Error { code: code as i32, ..Default::default() }));
            story.end()
        };
        assert_breaks("0", &refused("ann:ben", Code::BadBody));
        assert_breaks("0", &refused("ann:ben", Code::NotAMember));
        assert_holds(&refused("ann:ben", Code::BeyondHead));
        assert_holds(&refused("ben:cat", Code::NotAMember));
        assert_holds(&refused("ann:ben", Code::Busy));
    }

    #[test]
    fn a_request_behind_a_hello_that_could_not_be_served() {
        let refused = |code: Code| {
            let mut story = Story::new();
            let error = |code: Code| Reply::Error(v1::Error { code: code as i32, ..Default::default() });
            let hello = story.ask_via(0, Via::Long(77), Request::Hello(v1::HelloRequest::default()));
            let sync = story.ask_via(0, Via::Long(77), Request::Sync(v1::SyncRequest::default()));
            story.answer(0, hello, error(code));
            story.answer(0, sync, error(Code::HelloRequired));
            story.end()
        };
        assert_holds(&refused(Code::Unavailable));
        assert_breaks("0", &refused(Code::BadBody));
    }

    #[test]
    fn a_second_answer() {
        let answered = |times: u32| {
            let mut story = Story::new();
            let n = story.ask(0, Request::Check(v1::CheckRequest { key: Some(key((0, 0))), ..Default::default() }));
            (0..times).for_each(|_| story.answer(0, n, Reply::Check(v1::CheckReply::default())));
            story.end()
        };
        assert_holds(&answered(1));
        assert_breaks("0", &answered(2));
    }

    #[test]
    fn an_ack_needs_a_key() {
        for (key, holds) in [(None, true), (Some(key((0, 0))), false)] {
            let mut story = Story::new();
            let n = story.ask(0, Request::Ack(v1::AckRequest { key }));
            story.answer(0, n, Reply::Error(v1::Error { code: Code::BadBody as i32, ..Default::default() }));
            if holds { assert_holds(&story.end()) } else { assert_breaks("0", &story.end()) }
        }
    }
}
