//! A group is made, written into and left; lists, history and members tell so on both links.

use anyhow::{Context, Result};
use tern_proto::{Command, v1};

use super::person::{Person, Via, message};
use super::report::Report;
use super::{People, is_refused};

/// Ids above all that the other checks use.
const MADE: u64 = 100;
const WRITTEN: u64 = 101;
const LEFT: u64 = 102;

pub(super) async fn run(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("A group");
    let (alice, bob) = (&mut people.alice, &mut people.bob);
    let change = v1::GroupChange { title: Some("Trip".into()), add: vec![bob.name.clone()], remove: vec![] };
    let made = changed(alice, MADE, "", change.clone()).await?;
    report.same("alice makes one with bob", &(made.code(), made.seq), &(v1::Code::Ok, 1));
    let group = made.conversation.clone();
    let again = changed(alice, MADE, "", change).await?;
    report.same("made again under the same id it is the same group", &again, &made);
    let written = bob.send(Via::Short, message(WRITTEN, &group, "hello all")).await?;
    report.same("bob writes into it", &(written.code(), written.seq), &(v1::Code::Ok, 2));

    for (via, link) in Via::BOTH {
        let list: v1::ConversationsReply =
            alice.request(via, Command::Conversations, &v1::ConversationsRequest::default()).await?;
        let listed =
            list.conversations.iter().find(|listed| listed.name == group).context("the group is not listed")?;
        let seen = (listed.title.as_str(), listed.members, listed.unread);
        report.same(&format!("alice's list has it with one message unread, over {link}"), &seen, &("Trip", 2, 1));
        let asked = v1::HistoryRequest { conversation: group.clone(), ..Default::default() };
        let page: v1::HistoryReply = alice.request(via, Command::History, &asked).await?;
        let texts: Vec<_> = page.messages.iter().map(|message| (message.seq, message.text.as_str())).collect();
        report.same(&format!("its history has both messages, over {link}"), &texts, &vec![(1, ""), (2, "hello all")]);
    }
    let read = v1::ReadRequest { conversation: group.clone(), seq: 2 };
    let _: v1::ReadReply = alice.request(Via::Long, Command::Read, &read).await?;
    let marks = super::receipts::marks(bob, &group).await?;
    report.same("bob learns that alice has read his", &marks, &vec![(alice.name.clone(), 2)]);
    let asked = v1::MembersRequest { conversation: group.clone() };
    let about: v1::MembersReply = bob.request(Via::Short, Command::Members, &asked).await?;
    let read: Vec<_> = about.members.iter().map(|member| (member.user.as_str(), member.read_seq)).collect();
    report.same(
        "its members tell who has read how far",
        &read,
        &vec![(alice.name.as_str(), 2), (bob.name.as_str(), 0)],
    );

    let leave = v1::GroupChange { remove: vec![bob.name.clone()], ..Default::default() };
    let left = changed(bob, LEFT, &group, leave).await?;
    report.same("bob leaves", &(left.code(), left.seq), &(v1::Code::Ok, 3));
    let refused = bob.long.request::<v1::MembersReply>(Command::Members, &asked).await;
    report.check("and it is none of his any more", is_refused(&refused, v1::Code::NotAMember), &refused);
    Ok(())
}

async fn changed(by: &mut Person, client_msg_id: u64, to: &str, change: v1::GroupChange) -> Result<v1::SendResult> {
    let message = v1::OutMessage {
        client_msg_id,
        to: to.into(),
        text: String::new(),
        change: Some(change),
        ..Default::default()
    };
    by.send(Via::Long, message).await
}
