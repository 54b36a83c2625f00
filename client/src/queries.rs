//! Queries: requests that change nothing and whose reply goes to the caller. They wait here until a link carries them.
//!
//! They are carried one at a time, in their order, by whichever link is up. What gets no answer, or a retryable one, is asked
//! again, [`ATTEMPTS`] times at most. A caller that stops waiting takes its query back.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tern_proto::{Command, v1};
use tokio::sync::oneshot;

use crate::backoff::ATTEMPTS;
use crate::status::Stop;

/// Queries that may wait.
const WAITING: usize = 64;

/// A query without its reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The server will not answer it: above all [`v1::Code::NotAMember`].
    #[error("refused: {} {message}", code.as_str_name())]
    Refused {
        /// Why.
        code: v1::Code,
        /// For developers.
        message: String,
    },
    /// All attempts failed; the last one because of this.
    #[error("no answer after {ATTEMPTS} attempts: {0}")]
    NoAnswer(String),
    /// 64 queries are waiting already.
    #[error("{WAITING} queries are waiting already")]
    TooMany,
    /// The client does nothing more.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The reply is not the one that belongs to the request.
    #[error("the reply to {0:?} cannot be understood")]
    BadReply(Command),
}

/// What a query came to: the body of the reply.
pub(crate) type Answer = Result<Bytes, QueryError>;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Queries(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// At most [`WAITING`].
    queries: VecDeque<Query>,
    last_number: u64,
    stop: Option<Stop>,
}

#[derive(Debug)]
struct Query {
    number: u64,
    command: Command,
    body: Bytes,
    attempts: u32,
    /// A link carries it.
    under_way: bool,
    caller: oneshot::Sender<Answer>,
}

impl Queries {
    /// Takes a query in; the answer comes to the receiver.
    ///
    /// # Errors
    /// [`QueryError::TooMany`] or [`QueryError::Stopped`].
    pub(crate) fn ask(&self, command: Command, body: Bytes) -> Result<oneshot::Receiver<Answer>, QueryError> {
        let mut waiting = self.lock();
        if let Some(stop) = &waiting.stop {
            return Err(stop.clone().into());
        }
        waiting.queries.retain(Query::is_wanted);
        if waiting.queries.len() == WAITING {
            return Err(QueryError::TooMany);
        }
        waiting.last_number += 1;
        let (caller, answer) = oneshot::channel();
        let number = waiting.last_number;
        waiting.queries.push_back(Query { number, command, body, attempts: 0, under_way: false, caller });
        Ok(answer)
    }

    /// The first query that no link carries: its number, command and body. From now on one does.
    pub(crate) fn next(&self) -> Option<(u64, Command, Bytes)> {
        let mut waiting = self.lock();
        waiting.queries.retain(Query::is_wanted);
        let next = waiting.queries.iter_mut().find(|query| !query.under_way)?;
        next.under_way = true;
        Some((next.number, next.command, next.body.clone()))
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        !self.lock().queries.iter().any(Query::is_wanted)
    }

    /// A query is answered.
    pub(crate) fn answered(&self, number: u64, answer: Answer) {
        let mut waiting = self.lock();
        if let Some(at) = waiting.queries.iter().position(|query| query.number == number)
            && let Some(query) = waiting.queries.remove(at)
        {
            query.answer(answer);
        }
    }

    /// The server could not answer a query now.
    pub(crate) fn not_answered(&self, number: u64, reason: &str) {
        self.attempt_failed(|query| query.number == number, reason);
    }

    /// The link is gone, and with it the answers to what it carried.
    pub(crate) fn link_lost(&self, reason: &str) {
        self.attempt_failed(|query| query.under_way, reason);
    }

    /// No link could be had.
    pub(crate) fn unreachable(&self, reason: &str) {
        self.attempt_failed(|_| true, reason);
    }

    /// The client stops: nothing is answered any more.
    pub(crate) fn close(&self, stop: &Stop) {
        let mut waiting = self.lock();
        waiting.stop = Some(stop.clone());
        waiting.queries.drain(..).for_each(|query| query.answer(Err(stop.clone().into())));
    }

    fn attempt_failed(&self, which: impl Fn(&Query) -> bool, reason: &str) {
        let mut waiting = self.lock();
        for mut query in std::mem::take(&mut waiting.queries) {
            if which(&query) {
                (query.attempts, query.under_way) = (query.attempts + 1, false);
            }
            if query.attempts < ATTEMPTS {
                waiting.queries.push_back(query);
            } else {
                query.answer(Err(QueryError::NoAnswer(reason.to_owned())));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Query {
    fn is_wanted(&self) -> bool {
        !self.caller.is_closed()
    }

    fn answer(self, answer: Answer) {
        // The caller may have stopped waiting just now.
        let _ = self.caller.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(queries: &Queries) -> oneshot::Receiver<Answer> {
        queries.ask(Command::Members, Bytes::new()).unwrap()
    }

    fn next(queries: &Queries) -> Option<u64> {
        queries.next().map(|(number, ..)| number)
    }

    #[test]
    fn each_query_is_carried_once_at_a_time_until_it_is_answered_or_taken_back() {
        let queries = Queries::default();
        let (mut one, two, three) = (ask(&queries), ask(&queries), ask(&queries));
        assert_eq!([next(&queries), next(&queries)], [Some(1), Some(2)]);
        queries.link_lost("cut");
        assert_eq!(next(&queries), Some(1), "again, and before what never was under way");
        queries.answered(1, Ok(Bytes::from_static(b"x")));
        assert_eq!(one.try_recv().unwrap(), Ok(Bytes::from_static(b"x")));
        drop(two);
        assert_eq!([next(&queries), next(&queries)], [Some(3), None]);
        queries.answered(2, Ok(Bytes::new()));
        queries.not_answered(3, "busy");
        assert_eq!(next(&queries), Some(3));
        assert!(!queries.is_empty());
        drop(three);
        assert!(queries.is_empty());
    }

    #[test]
    fn attempts_are_bounded() {
        let queries = Queries::default();
        let (mut one, mut two) = (ask(&queries), ask(&queries));
        queries.not_answered(2, "busy");
        for _ in 1..ATTEMPTS {
            queries.unreachable("down");
        }
        assert_eq!(two.try_recv().unwrap(), Err(QueryError::NoAnswer("down".into())));
        assert!(one.try_recv().is_err());
        queries.unreachable("down");
        assert_eq!(one.try_recv().unwrap(), Err(QueryError::NoAnswer("down".into())));
        assert!(queries.is_empty());
    }

    #[test]
    fn what_waits_is_bounded_and_ends_with_the_client() {
        let queries = Queries::default();
        let mut kept: Vec<_> = (0..WAITING).map(|_| ask(&queries)).collect();
        assert_eq!(queries.ask(Command::Members, Bytes::new()).unwrap_err(), QueryError::TooMany);
        kept.pop();
        kept.push(ask(&queries));
        queries.close(&Stop::Closed);
        for mut answer in kept {
            assert_eq!(answer.try_recv().unwrap(), Err(QueryError::Stopped(Stop::Closed)));
        }
        assert_eq!(queries.ask(Command::Members, Bytes::new()).unwrap_err(), QueryError::Stopped(Stop::Closed));
    }
}
