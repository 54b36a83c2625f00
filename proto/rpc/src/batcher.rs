//! Requests that come together travel together: while a few calls are under way, what arrives meanwhile is the next one. No timers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use prost::Message;
use tern_runtime::queue::{Meter, Queue};
use tern_runtime::traces::{Trace, Traces};
use tokio::sync::oneshot;

/// Requests of one call.
const REQUESTS: usize = 256;
/// Bytes of one call, unless a single request has more.
const BYTES: usize = 4 * 1024 * 1024;

/// Batches requests `Q` into calls that give an answer `A` for each.
pub struct Batcher<Q, A> {
    queue: Arc<Queue<Waiting<Q, A>>>,
}

/// A request without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Too many wait already: nothing was begun.
    #[error("too many requests wait already")]
    Full,
    /// The call that carried it has given it no answer: what became of it is unknown.
    #[error("a call has given no answer")]
    Lost,
}

struct Waiting<Q, A> {
    request: Q,
    answer: oneshot::Sender<A>,
    trace: Option<Trace>,
}

impl<Q, A> Batcher<Q, A>
where
    Q: Message + 'static,
    A: Send + 'static,
{
    /// At most `lanes` calls are under way. A call is told which of its requests are traced, and gives as many answers as it gets requests, in their order, whatever happens. Needs a Tokio runtime.
    pub fn new(
        lanes: usize,
        meter: Meter,
        call: impl Fn(Vec<Q>, Traces) -> BoxFuture<'static, Vec<A>> + Clone + Send + Sync + 'static,
    ) -> Batcher<Q, A> {
        let queue = Arc::new(Queue::new(REQUESTS, Duration::ZERO, meter));
        for _ in 0..lanes {
            tokio::spawn(run(queue.clone(), call.clone()));
        }
        Batcher { queue }
    }

    /// Asks with the next call.
    ///
    /// # Errors
    /// [`Unanswered`] says whether anything may have come of it.
    pub async fn ask(&self, request: Q) -> Result<A, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.queue.submit(Waiting { request, answer, trace: Trace::current() }, false).map_err(|_| Unanswered::Full)?;
        answered.await.map_err(|_| Unanswered::Lost)
    }
}

impl<Q, A> Drop for Batcher<Q, A> {
    fn drop(&mut self) {
        self.queue.close_now();
    }
}

async fn run<Q: Message, A>(
    queue: Arc<Queue<Waiting<Q, A>>>,
    call: impl Fn(Vec<Q>, Traces) -> BoxFuture<'static, Vec<A>>,
) {
    while let Some(all) = queue.next().await {
        for batch in split(all) {
            let traces = Traces::of(batch.iter().map(|waiting| waiting.trace.clone()));
            let (requests, askers): (Vec<Q>, Vec<_>) =
                batch.into_iter().map(|waiting| (waiting.request, waiting.answer)).unzip();
            for (asker, answer) in askers.into_iter().zip(call(requests, traces).await) {
                // Who has gone away needs no answer.
                let _ = asker.send(answer);
            }
        }
    }
}

/// Batches of bounded length.
fn split<Q: Message, A>(all: Vec<Waiting<Q, A>>) -> Vec<Vec<Waiting<Q, A>>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for waiting in all {
        let length = waiting.request.encoded_len();
        if bytes + length > BYTES && bytes > 0 {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(batch) = batches.last_mut() {
            batch.push(waiting);
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tern_runtime::queue::Meters;

    use super::*;

    fn meter() -> Meter {
        Meters::default().of("test")
    }

    #[tokio::test]
    async fn what_arrives_during_a_call_is_the_next_one() {
        let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
        let noted = sizes.clone();
        let batcher = Batcher::new(1, meter(), move |requests: Vec<String>, _| {
            noted.lock().unwrap().push(requests.len());
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                requests
            })
        });
        let batcher = Arc::new(batcher);
        let ask = |number: usize| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.ask(number.to_string()).await })
        };
        let first = ask(0);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let rest: Vec<_> = (1..100).map(ask).collect();
        assert_eq!(first.await.unwrap(), Ok("0".into()));
        for (number, answer) in (1..).zip(rest) {
            assert_eq!(answer.await.unwrap(), Ok(number.to_string()), "each gets its own");
        }
        assert_eq!(*sizes.lock().unwrap(), [1, 99]);
    }

    #[tokio::test]
    async fn a_call_is_bounded_in_bytes() {
        let batcher = Arc::new(Batcher::new(1, meter(), |requests: Vec<Vec<u8>>, _| {
            let bytes: usize = requests.iter().map(Vec::len).sum();
            Box::pin(async move { vec![bytes; requests.len()] })
        }));
        let asks = (0..10).map(|_| batcher.ask(vec![0; BYTES / 3]));
        let sizes = futures_util::future::join_all(asks).await;
        assert!(sizes.into_iter().all(|bytes| bytes.unwrap() <= BYTES));
        assert_eq!(batcher.ask(vec![0; 2 * BYTES]).await, Ok(2 * BYTES), "one that is too long goes alone");
    }

    #[tokio::test]
    async fn an_answer_that_is_missing_is_not_taken_for_a_refusal() {
        let batcher: Batcher<String, String> = Batcher::new(1, meter(), |_, _| Box::pin(async { Vec::new() }));
        assert_eq!(batcher.ask("a".into()).await, Err(Unanswered::Lost));
    }
}
