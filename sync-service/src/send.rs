//! Messages on their way in: what each request means to storage, and what storage's answer means to the client.

use std::time::Duration;

use tern_proto::v1::{Code, OutMessage, SendResult};
use tern_proto::{UserId, limits};
use tern_storage::{Content, Device, Op, Outcome};
use xxhash_rust::xxh3::Xxh3Default;

use crate::RETRY_AFTER;

/// What to store for a message. A message that breaks a rule is stored too, as its final refusal, so that a delayed copy gets the
/// same. `None` for id 0, under which nothing can be remembered.
pub(crate) fn op(device: &Device, message: OutMessage, time_ms: i64) -> Option<Op> {
    if message.client_msg_id == 0 {
        return None;
    }
    let client_msg_id = message.client_msg_id;
    Some(Op::Send { from: device.clone(), client_msg_id, content: content(&device.user, message), time_ms })
}

fn content(sender: &UserId, message: OutMessage) -> Content {
    let refused = |code| Content::Refused { code, hash: hash(&message.to, &message.text) };
    match UserId::new(&message.to) {
        Ok(to) if to == *sender => refused(Code::BadRecipient),
        Err(_) => refused(Code::BadRecipient),
        Ok(_) if message.text.is_empty() => refused(Code::EmptyText),
        Ok(_) if message.text.len() > limits::TEXT_BYTES => refused(Code::TextTooLong),
        Ok(to) => Content::Text { to, text: message.text },
    }
}

/// Kept in storage, so it may not change with a release. The length keeps recipient and text apart.
fn hash(to: &str, text: &str) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&(to.len() as u64).to_be_bytes());
    hasher.update(to.as_bytes());
    hasher.update(text.as_bytes());
    hasher.digest()
}

/// The answer to the client.
pub(crate) fn result(client_msg_id: u64, outcome: Outcome) -> SendResult {
    match outcome {
        Outcome::Sent(sent) => SendResult {
            client_msg_id,
            code: Code::Ok.into(),
            server_msg_id: sent.server_msg_id,
            conversation: sent.conversation.to_string(),
            seq: sent.seq,
            time_ms: sent.time_ms,
            retry_after_ms: 0,
        },
        Outcome::Refused(code) => refusal(client_msg_id, code),
        Outcome::Conflict => refusal(client_msg_id, Code::Conflict),
        Outcome::TooOld => refusal(client_msg_id, Code::TooOld),
        Outcome::Unavailable => refusal(client_msg_id, Code::Unavailable),
        // Any other outcome says nothing about a message, so what became of it is as unknown.
        _ => refusal(client_msg_id, Code::OutcomeUnknown),
    }
}

/// The answer to a message that is not stored, or not known to be.
pub(crate) fn refusal(client_msg_id: u64, code: Code) -> SendResult {
    let retry_after = if code.is_retryable() { RETRY_AFTER } else { Duration::ZERO };
    let retry_after_ms = retry_after.as_millis() as u32;
    SendResult { client_msg_id, code: code.into(), retry_after_ms, ..SendResult::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_of(to: &str, text: &str) -> Content {
        let alice = Device { user: "alice".parse().unwrap(), id: "d1".parse().unwrap() };
        let message = OutMessage { client_msg_id: 1, to: to.into(), text: text.into() };
        match op(&alice, message, 0) {
            Some(Op::Send { content, .. }) => content,
            other => panic!("{other:?}"),
        }
    }

    fn code_of(to: &str, text: &str) -> Option<Code> {
        match content_of(to, text) {
            Content::Text { .. } => None,
            Content::Refused { code, .. } => Some(code),
        }
    }

    #[test]
    fn a_message_that_breaks_a_rule_becomes_its_refusal() {
        assert_eq!(code_of("bob", "hi"), None);
        assert_eq!(code_of("bob", &"x".repeat(limits::TEXT_BYTES)), None);
        assert_eq!(code_of("bob", &"x".repeat(limits::TEXT_BYTES + 1)), Some(Code::TextTooLong));
        assert_eq!(code_of("bob", ""), Some(Code::EmptyText));
        for to in ["alice", "", "a b", "alice:bob"] {
            assert_eq!(code_of(to, "hi"), Some(Code::BadRecipient), "{to}");
        }
    }

    #[test]
    fn refused_content_is_told_apart() {
        let hashes = [("a:", "b"), ("a", ":b"), ("", "a:b"), ("a:b", "")].map(|(to, text)| hash(to, text));
        for (i, hash) in hashes.iter().enumerate() {
            assert!(!hashes[i + 1..].contains(hash));
        }
        assert_eq!(content_of("a b", "x"), content_of("a b", "x"));
    }

    #[test]
    fn only_retryable_results_carry_a_wait() {
        assert_eq!(result(1, Outcome::Unavailable).code(), Code::Unavailable);
        assert_eq!(result(1, Outcome::Unknown).code(), Code::OutcomeUnknown);
        assert_eq!(result(1, Outcome::Done).code(), Code::OutcomeUnknown);
        assert!(result(1, Outcome::Unknown).retry_after_ms > 0);
        assert_eq!(result(1, Outcome::Conflict).retry_after_ms, 0);
    }
}
