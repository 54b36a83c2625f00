//! The long poll on either link.

use std::time::{Duration, Instant};

use tern_proto::{Command, v1};

use crate::bench::Bench;
use crate::http::ask_json;
use crate::peer::key;

fn check(wait_ms: u32) -> v1::CheckRequest {
    v1::CheckRequest { key: Some(key(0)), wait_ms, ..Default::default() }
}

#[tokio::test]
async fn a_check_answers_at_once_when_there_is_something_or_no_wait() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    bob.ask(Command::Check, 2, &check(0)).await;
    assert!(!bob.reply::<v1::CheckReply>(Command::Check, 2).await.pending);
    bench.service.commit_quietly("bob", "1");
    bob.ask(Command::Check, 3, &check(60_000)).await;
    assert!(bob.reply::<v1::CheckReply>(Command::Check, 3).await.pending);
}

#[tokio::test]
async fn a_check_wakes_on_a_hint_and_holds_up_nothing() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    bob.ask(Command::Check, 2, &check(60_000)).await;
    bench.service.reached("check", 1).await;
    bob.quiet().await;
    bench.service.hint("bob");
    bob.expect(Command::Notify.number(), 0).await;
    bench.service.reached("check", 2).await;
    bob.quiet().await;
    bench.service.commit("bob", "1");
    assert!(bob.reply::<v1::CheckReply>(Command::Check, 2).await.pending, "the empty hint did not end it");
}

#[tokio::test]
async fn a_hint_between_the_question_and_the_wait_is_not_missed() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    bench.service.hold("check");
    bob.ask(Command::Check, 2, &check(60_000)).await;
    // The service has looked and found nothing; its answer is held back.
    bench.service.reached("check", 1).await;
    bench.service.commit("bob", "1");
    bob.expect(Command::Notify.number(), 0).await;
    bench.service.release("check");
    assert!(bob.reply::<v1::CheckReply>(Command::Check, 2).await.pending);
}

#[tokio::test]
async fn a_check_ends_when_its_wait_is_over() {
    let bench = Bench::start();
    let mut bob = bench.enter("bob", "d1").await;
    let start = Instant::now();
    bob.ask(Command::Check, 2, &check(100)).await;
    assert!(!bob.reply::<v1::CheckReply>(Command::Check, 2).await.pending);
    assert!(start.elapsed() >= Duration::from_millis(100), "it waited");
}

#[tokio::test]
async fn a_check_over_http_wakes_on_a_hint_too() {
    let bench = Bench::start();
    let request = ask_json(bench.http, "bob", "d1", "/v1/check", r#"{"waitMs": 60000}"#);
    let waiting = tokio::spawn(request);
    bench.service.reached("check", 1).await;
    bench.service.commit("bob", "1");
    let response = waiting.await.unwrap();
    assert_eq!((response.status, response.text()), (200, r#"{"pending":true}"#));
}
