//! Sends go in order, one batch at a time, and what waits meanwhile is the next batch; other requests do not wait.

use tern_proto::{Command, v1};

use crate::bench::Bench;
use crate::peer::{key, packet, send};

#[tokio::test]
async fn sends_that_wait_are_one_batch_in_order() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    bench.service.hold("send");
    peer.ask(Command::Send, 2, &send(1..=1)).await;
    bench.service.reached("send", 1).await;
    for sequence in 3..=10 {
        let id = u64::from(sequence);
        peer.ask(Command::Send, sequence, &send(id * 2..=id * 2 + 1)).await;
    }
    peer.quiet().await;
    assert_eq!(bench.service.calls("send").len(), 1, "one batch in flight");
    bench.service.release("send");
    for sequence in 2..=10 {
        let reply: v1::SendReply = peer.reply(Command::Send, sequence).await;
        let ids: Vec<u64> = reply.results.iter().map(|result| result.client_msg_id).collect();
        let id = u64::from(sequence);
        assert_eq!(ids, if sequence == 2 { vec![1] } else { vec![id * 2, id * 2 + 1] });
    }
    let batches: Vec<Vec<u64>> = bench.service.calls("send").into_iter().map(|call| call.ids).collect();
    assert_eq!(batches, [vec![1], (6..=21).collect()]);
}

#[tokio::test]
async fn sends_of_one_segment_are_one_batch() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    let segment: Vec<u8> = (2..=20).flat_map(|n| packet(Command::Send, n, &send(n.into()..=n.into()))).collect();
    peer.write(&segment).await;
    for sequence in 2..=20 {
        let _: v1::SendReply = peer.reply(Command::Send, sequence).await;
    }
    assert_eq!(bench.service.calls("send").len(), 1);
}

#[tokio::test]
async fn an_ack_that_waits_for_its_commit_delays_no_send() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    bench.service.hold("ack");
    peer.ask(Command::Ack, 2, &v1::AckRequest { key: Some(key(0)) }).await;
    peer.ask(Command::Send, 3, &send(1..=1)).await;
    let _: v1::SendReply = peer.reply(Command::Send, 3).await;
    bench.service.release("ack");
    let _: v1::AckReply = peer.reply(Command::Ack, 2).await;
}

#[tokio::test]
async fn a_send_in_flight_delays_no_other_request() {
    let bench = Bench::start();
    let mut peer = bench.enter("alice", "d1").await;
    bench.service.hold("send");
    peer.ask(Command::Send, 2, &send(1..=1)).await;
    assert_eq!(peer.sync(3, 0).await, 0);
    bench.service.release("send");
    let _: v1::SendReply = peer.reply(Command::Send, 2).await;
}
