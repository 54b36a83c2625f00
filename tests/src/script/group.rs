//! The part of the script that is about a group.

use anyhow::Context;
use tern_proto::limits;
use tern_proto::v1;

use super::Script;
use crate::event::{Reply, Request};

/// Users who are added and never come.
const GUESTS: usize = limits::MEMBERS - 3;

/// Makes a group, fills it, asks about it and leaves it. `left` and `right` are the last ids that the two have used; `seen` is a key of the second.
pub(super) async fn carry_out(script: &mut Script, left: u64, right: u64, seen: &v1::SyncKey) -> anyhow::Result<()> {
    let [a, b] = script.names.clone();
    let guests: Vec<String> = (0..GUESTS).map(|guest| format!("guest-{guest}")).collect();
    let found = v1::GroupChange { title: Some("team".into()), ..naming(&[&b, "helper"], &[]) };
    let reply = script.step("found", 0, changing(left + 1, "", found.clone())).await?;
    let group = conversation_of(&reply).context("no group was made")?;
    script.step("found again", 0, changing(left + 1, "", found)).await?;
    script.step("text into it", 1, texting(right + 1, &group, "five")).await?;
    script.step("no owner", 1, changing(right + 2, &group, naming(&[], &["helper"]))).await?;
    script.step("nothing new", 1, changing(right + 3, &group, naming(&[&a], &["nobody"]))).await?;
    script.step("named twice", 0, changing(left + 2, &group, naming(&["x", "x"], &[]))).await?;
    script.step("no group", 0, texting(left + 3, "g/1", "six")).await?;
    let read = v1::ReadRequest { conversation: group.clone(), seq: 2 };
    script.step("read in it", 0, Request::Read(read)).await?;
    let members = || Request::Members(v1::MembersRequest { conversation: group.clone() });
    script.step("members", 1, members()).await?;
    for side in [0, 1] {
        let list = v1::ConversationsRequest { after: String::new(), limit: 1 };
        script.step("list", side, Request::Conversations(list)).await?;
        let rest = v1::ConversationsRequest { after: group.clone(), limit: 0 };
        script.step("rest of the list", side, Request::Conversations(rest)).await?;
    }
    let page = |before_seq: u64, limit: u32| {
        Request::History(v1::HistoryRequest { conversation: group.clone(), before_seq, limit })
    };
    script.step("newest", 1, page(0, 2)).await?;
    script.step("older", 1, page(2, 0)).await?;
    let everybody: Vec<&str> = guests.iter().map(String::as_str).collect();
    let more: Vec<&str> = everybody.iter().copied().chain(["helper", &b, "one-more"]).collect();
    script.step("too many at once", 0, changing(left + 4, "", naming(&more, &[]))).await?;
    script.step("fill", 0, changing(left + 5, &group, naming(&everybody, &[]))).await?;
    script.step("one too many", 1, changing(right + 4, &group, naming(&["one-more"], &[]))).await?;
    script.step("leave", 1, changing(right + 5, &group, naming(&[], &[&b]))).await?;
    script.step("text from outside", 1, texting(right + 6, &group, "seven")).await?;
    script.step("members from outside", 1, members()).await?;
    script.step("history from outside", 1, page(0, 0)).await?;
    script.step("text inside", 0, texting(left + 6, &group, "eight")).await?;
    let mut key = seen.clone();
    key.classes.retain(|position| position.class == 1);
    script.step("what came of it", 1, Request::Sync(v1::SyncRequest { key: Some(key), peek: true, limit: 0 })).await?;
    Ok(())
}

fn naming(add: &[&str], remove: &[&str]) -> v1::GroupChange {
    let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
    v1::GroupChange { title: None, add: names(add), remove: names(remove) }
}

fn changing(client_msg_id: u64, to: &str, change: v1::GroupChange) -> Request {
    let message = v1::OutMessage {
        client_msg_id,
        to: to.into(),
        text: String::new(),
        change: Some(change),
        ..Default::default()
    };
    Request::Send(v1::SendRequest { messages: vec![message], ..Default::default() })
}

fn texting(client_msg_id: u64, to: &str, text: &str) -> Request {
    let message = v1::OutMessage { client_msg_id, to: to.into(), text: text.into(), ..Default::default() };
    Request::Send(v1::SendRequest { messages: vec![message], ..Default::default() })
}

fn conversation_of(reply: &Reply) -> Option<String> {
    let Reply::Send(reply) = reply else { return None };
    reply.results.first().map(|result| result.conversation.clone()).filter(|name| !name.is_empty())
}
