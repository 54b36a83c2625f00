//! The script that is carried out once on each kind of link, by two new users each. Its outcomes must be equal.

mod group;

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use tern_proto::v1::{self, entry::Body};
use tokio::time::sleep;

use crate::device::is_group;
use crate::event::{Reply, Request, What};
use crate::settle::{PAUSE, TRIES, surely};
use crate::wire::{Path, Wire};

/// How many times the sender waits for the receipt of what was acknowledged.
const WAITS: u32 = 8;

/// Carries out the script; the outcomes are recorded as events of `left`.
///
/// # Errors
/// A request is not answered.
pub(crate) async fn carry_out(path: Path, left: Wire, right: Wire) -> anyhow::Result<()> {
    let (a, b) = (left.identity.user.clone(), right.identity.user.clone());
    let names = [a.clone(), b.clone()];
    let mut script = Script { path, wires: [left, right], names, groups: Vec::new(), ranks: BTreeMap::new() };
    let conversation = crate::model::content::conversation(&a, &b);
    for side in [0, 1] {
        let hello = Request::Hello(v1::HelloRequest { protocol: 1, ..Default::default() });
        script.open(side, hello).await?;
    }
    let message = |id: u64, to: &str, text: &str| v1::OutMessage {
        client_msg_id: id,
        to: to.into(),
        text: text.into(),
        ..Default::default()
    };
    let send = |messages: Vec<v1::OutMessage>| Request::Send(v1::SendRequest { messages, ..Default::default() });
    let sent = [
        message(1, &b, "one"),
        message(3, &b, ""),
        message(4, &a, "self"),
        message(5, &b, "two"),
        message(0, &b, "no id"),
    ];
    script.step("send", 0, send(sent.to_vec())).await?;
    script.step("resend", 0, send(sent.to_vec())).await?;
    script.step("conflict", 0, send(vec![message(1, &b, "uno"), message(3, &b, "now with text")])).await?;
    script.step("late id", 0, send(vec![message(2, &b, "three")])).await?;
    script.step("answer", 1, send(vec![message(1, &a, "four")])).await?;
    let sync = |key: Option<v1::SyncKey>, limit: u32, peek: bool| Request::Sync(v1::SyncRequest { key, peek, limit });
    // Before the other side acknowledges anything: from then on a receipt may be among them.
    let own = script.step("own stubs", 0, sync(None, 0, false)).await?;
    let mut own = key_of(&own).context("no key")?;
    own.classes.retain(|position| position.class == 1);
    own.classes.push(v1::Position { class: 2, version: 0 });
    script.step("peek", 1, sync(None, 1, true)).await?;
    let first = script.step("first page", 1, sync(None, 1, false)).await?;
    let first = key_of(&first).context("no key")?;
    let rest = script.step("the rest", 1, sync(Some(first.clone()), 0, false)).await?;
    let rest = key_of(&rest).context("no key")?;
    script.step("again", 1, sync(Some(first), 0, true)).await?;
    let check = |key: &v1::SyncKey, wait_ms: u32| {
        Request::Check(v1::CheckRequest { key: Some(key.clone()), peek: true, wait_ms })
    };
    script.step("check", 1, check(&rest, 0)).await?;
    script.step("ack", 1, Request::Ack(v1::AckRequest { key: Some(rest.clone()) })).await?;
    // All of the other side's messages: three. A sync on the way may have been told before as delivered up to one.
    script.await_receipt(&own, v1::ReceiptKind::Delivered, 3).await?;
    let read = |conversation: &str, seq: u64| Request::Read(v1::ReadRequest { conversation: conversation.into(), seq });
    script.step("read", 1, read(&conversation, 2)).await?;
    script.step("read back", 1, read(&conversation, 1)).await?;
    script.step("read ahead", 1, read(&conversation, 9)).await?;
    script.step("read elsewhere", 1, read("nobody:noone", 1)).await?;
    script.await_receipt(&own, v1::ReceiptKind::Read, 2).await?;
    let mut ahead = rest.clone();
    ahead.classes.iter_mut().for_each(|position| position.version += 1 << 40);
    script.step("ahead", 1, sync(Some(ahead.clone()), 0, false)).await?;
    script.step("ack ahead", 1, Request::Ack(v1::AckRequest { key: Some(ahead) })).await?;
    let foreign = v1::SyncKey { epoch: rest.epoch ^ 1, ..rest.clone() };
    script.step("another epoch", 1, check(&foreign, 0)).await?;
    script.step("no key to ack", 1, Request::Ack(v1::AckRequest { key: None })).await?;
    group::carry_out(&mut script, 5, 1, &rest).await
}

struct Script {
    path: Path,
    wires: [Wire; 2],
    names: [String; 2],
    /// The groups that were made.
    groups: Vec<String>,
    /// By what a number is and the number: which one it is of its kind.
    ranks: BTreeMap<(&'static str, u64), u64>,
}

impl Script {
    async fn open(&mut self, side: usize, hello: Request) -> anyhow::Result<()> {
        if self.path != Path::Long {
            return self.step("hello", side, hello).await.map(drop);
        }
        for _ in 0..TRIES {
            if let Some((_, reply)) = self.wires[side].open(vec![hello.clone()]).await.pop().flatten() {
                self.tell("hello", reply);
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        bail!("no answer to hello")
    }

    /// Every step may be made twice, so it is made until it has an outcome.
    async fn step(&mut self, name: &str, side: usize, request: Request) -> anyhow::Result<Reply> {
        let reply = surely(&mut self.wires[side], self.path, request).await.context(name.to_owned())?;
        self.tell(name, reply.clone());
        Ok(reply)
    }

    /// Waits with checks until the sender is owed a receipt of this kind that goes as far as `seq`, and tells which it then gets.
    async fn await_receipt(&mut self, above: &v1::SyncKey, kind: v1::ReceiptKind, seq: u64) -> anyhow::Result<()> {
        let mut key = above.clone();
        let mut told = "none came".to_owned();
        for _ in 0..WAITS {
            let check = v1::CheckRequest { key: Some(key.clone()), peek: true, wait_ms: 1000 };
            surely(&mut self.wires[0], self.path, Request::Check(check)).await?;
            let sync = v1::SyncRequest { key: Some(above.clone()), peek: true, limit: 0 };
            let Reply::Sync(reply) = surely(&mut self.wires[0], self.path, Request::Sync(sync)).await? else { break };
            let receipts = reply.entries.iter().filter_map(crate::model::case::receipt);
            if let Some(receipt) = receipts.into_iter().find(|receipt| receipt.kind() == kind && receipt.seq >= seq) {
                told = format!("{:?} up to {}", receipt.kind(), receipt.seq);
                break;
            }
            key = reply.key.unwrap_or(key);
        }
        self.wires[0].record(What::Twin { step: format!("await {kind:?}"), outcome: told });
        Ok(())
    }

    fn tell(&mut self, step: &str, reply: Reply) {
        let plain = self.plain(reply);
        let mut outcome = format!("{plain:?}").replace(&self.names[0], "<left>").replace(&self.names[1], "<right>");
        for group in &self.groups {
            outcome = outcome.replace(group, "<group>");
        }
        self.wires[0].record(What::Twin { step: step.into(), outcome });
    }

    /// The reply without what differs from run to run: times are left out and numbers become ranks.
    fn plain(&mut self, mut reply: Reply) -> Reply {
        match &mut reply {
            Reply::Hello(hello) => {
                (hello.session, hello.time_ms) = (0, 0);
                self.plain_key(&mut hello.key);
            }
            Reply::Sync(sync) => {
                sync.entries.iter_mut().for_each(|entry| self.plain_entry(entry));
                self.plain_key(&mut sync.key);
            }
            Reply::Send(send) => {
                for result in &mut send.results {
                    if is_group(&result.conversation) && !self.groups.contains(&result.conversation) {
                        self.groups.push(result.conversation.clone());
                    }
                    result.time_ms = 0;
                    result.server_msg_id = self.rank("message", result.server_msg_id);
                }
            }
            Reply::Check(check) => self.plain_key(&mut check.key),
            Reply::Ack(ack) => self.plain_key(&mut ack.key),
            Reply::Error(error) => {
                error.message.clear();
                error.command = 0;
            }
            Reply::Conversations(list) => list.conversations.iter_mut().for_each(|one| one.time_ms = 0),
            Reply::History(page) => page.messages.iter_mut().for_each(|message| self.plain_message(message)),
            // How far each has been delivered depends on when it is asked.
            Reply::Members(reply) => reply.members.iter_mut().for_each(|member| member.delivered_seq = 0),
            Reply::Read(_) => {}
        }
        reply
    }

    fn plain_key(&mut self, key: &mut Option<v1::SyncKey>) {
        let Some(key) = key else { return };
        key.epoch = self.rank("epoch", key.epoch);
        key.classes.iter_mut().for_each(|position| position.version = self.rank("version", position.version));
    }

    fn plain_entry(&mut self, entry: &mut v1::Entry) {
        entry.version = self.rank("version", entry.version);
        match &mut entry.body {
            Some(Body::Message(message)) => self.plain_message(message),
            Some(Body::Stub(stub)) => {
                stub.time_ms = 0;
                stub.server_msg_id = self.rank("message", stub.server_msg_id);
            }
            Some(Body::Receipt(receipt)) => receipt.time_ms = 0,
            _ => {}
        }
    }

    fn plain_message(&mut self, message: &mut v1::Message) {
        message.time_ms = 0;
        message.server_msg_id = self.rank("message", message.server_msg_id);
    }

    /// Which number of its kind this is, in the order of their coming; 0 stays 0.
    fn rank(&mut self, kind: &'static str, number: u64) -> u64 {
        if number == 0 {
            return 0;
        }
        let next = self.ranks.keys().filter(|(other, _)| *other == kind).count() as u64 + 1;
        *self.ranks.entry((kind, number)).or_insert(next)
    }
}

fn key_of(reply: &Reply) -> Option<v1::SyncKey> {
    reply.order().and_then(|(_, key)| key.cloned())
}
