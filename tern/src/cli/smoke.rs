//! `tern smoke`: the main flows of the protocol against a running server, over both links, a line for each check.
//!
//! It speaks the protocol itself, packet by packet, so that it sees what the client library would smooth over. Its users are new in every run.

mod groups;
mod media;
mod person;
mod receipts;
mod report;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tern_client::link::RequestError;
use tern_proto::{Command, v1};

use person::{Person, Via, message, messages};
use report::Report;
use tern_gateway::setup::secret;

/// Which server.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Address of the long link
    #[arg(long, value_name = "ADDR", env = "TERN_LONG_LINK", default_value = "127.0.0.1:7180")]
    long_link: String,
    /// Address of the long link of another gateway of the same cluster: one of the two users is there then
    #[arg(long, value_name = "ADDR")]
    second_long_link: Option<String>,
    /// Address of the short link
    #[arg(long, value_name = "ADDR", env = "TERN_HTTP", default_value = "127.0.0.1:7181")]
    http: String,
    /// The file with the secret that the server checks tokens with
    #[arg(long, value_name = "FILE", env = "TERN_SECRET_FILE", default_value = "tern-data/token-secret")]
    secret_file: PathBuf,
}

/// Runs all checks; whether every one holds.
///
/// # Errors
/// The run could not go on: no server, a link that broke, a request refused that must not be.
pub(crate) async fn run(args: &Args) -> Result<bool> {
    let mut report = Report::default();
    let mut people = arrive(args, &mut report).await?;
    both_ways(&mut people, &mut report).await?;
    lost_acknowledgement(&mut people, &mut report).await?;
    refusals(&mut people, &mut report).await?;
    pages_and_keys(&mut people, &mut report).await?;
    acknowledging(&mut people, &mut report).await?;
    receipts(&mut people, &mut report).await?;
    orders_to_replace(&mut people, &mut report).await?;
    the_link_itself(args, &mut people, &mut report).await?;
    receipts::run(args, &mut people, &mut report).await?;
    groups::run(&mut people, &mut report).await?;
    media::run(&mut people, &mut report).await?;
    Ok(report.end())
}

/// A run takes seconds.
const TOKEN_TTL: Duration = Duration::from_secs(600);

/// The two users of this run.
struct People {
    alice: Person,
    bob: Person,
    conversation: String,
}

/// The text whose first acknowledgement is lost, and its id.
const LOST: (u64, &str) = (3, "the acknowledgement of this one is lost");
/// The highest sequence of the conversation after the sends of this run.
const HEAD: u64 = 5;

async fn arrive(args: &Args, report: &mut Report) -> Result<People> {
    report.about("Two users say hello");
    let secret = secret::read(&args.secret_file)?;
    let run = format!("{:08x}", fastrand::u32(..));
    let (alice, bob) = (format!("smoke-{run}-alice"), format!("smoke-{run}-bob"));
    let mut people = Vec::new();
    let second = args.second_long_link.as_ref().unwrap_or(&args.long_link);
    for (name, long_link) in [(&alice, &args.long_link), (&bob, second)] {
        let token = tern_gateway::mint(&secret, &name.parse()?, TOKEN_TTL);
        let (person, welcome) = Person::arrive(name, &token, long_link, &args.http).await?;
        report.same("the token names the user", &welcome.user, name);
        let order = (welcome.key_order(), welcome.key.is_some(), welcome.pending);
        report.same("a device without a key gets a start", &order, &(v1::KeyOrder::Start, true, false));
        people.push(person);
    }
    let (Some(bob), Some(alice)) = (people.pop(), people.pop()) else { bail!("two users arrived, but are not there") };
    let conversation = format!("{}:{}", alice.name, bob.name);
    Ok(People { alice, bob, conversation })
}

async fn both_ways(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("Text both ways, on both links");
    let (alice, bob) = (&mut people.alice, &mut people.bob);
    let mut seq = 0;
    for ((via, link), id) in Via::BOTH.into_iter().zip(1..) {
        let sent = alice.send(via, message(id, &bob.name, "hello")).await?;
        let answered = bob.send(via, message(id, &alice.name, "hello yourself")).await?;
        for (result, who) in [(&sent, "alice"), (&answered, "bob")] {
            seq += 1;
            let stored = result.code() == v1::Code::Ok && result.server_msg_id != 0 && result.seq == seq;
            let named = result.conversation == people.conversation;
            report.check(
                &format!("{who} sends over {link}, as number {seq} of the conversation"),
                stored && named,
                result,
            );
        }
    }
    Ok(())
}

/// The reply to a send is never read, and the message is sent again over the other link.
async fn lost_acknowledgement(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("A resend after a lost acknowledgement");
    let (alice, bob) = (&mut people.alice, &mut people.bob);
    let lost = message(LOST.0, &bob.name, LOST.1);
    let request = v1::SendRequest { messages: vec![lost.clone()], ..Default::default() };
    alice.long.send(&tern_proto::Packet::new(Command::Send.number(), 77, &request)).await?;
    let (unread, _) = alice.reconnect(None).await?;
    drop(unread);
    let first = alice.send(Via::Short, lost.clone()).await?;
    report.same("over the short link: accepted", &(first.code(), first.seq), &(v1::Code::Ok, HEAD));
    let again = alice.send(Via::Long, lost.clone()).await?;
    report.same("over the long link: the same result", &again, &first);
    let body = serde_json::to_string(&request)?;
    let (status, json) = alice.short.json("/v1/send", body, Duration::ZERO).await?;
    let reply: v1::SendReply = serde_json::from_str(&json).with_context(|| format!("status {status}: {json}"))?;
    report.same("as JSON: the same result", &reply.results, &vec![first]);
    let (entries, _) = bob.peek_all(None, 0).await?;
    let copies = messages(&entries).into_iter().filter(|message| message.text == LOST.1).count();
    report.same("the other user gets it once", &copies, &1);
    Ok(())
}

async fn refusals(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("Conflicts and refusals");
    let (alice, bob) = (&mut people.alice, &people.bob.name);
    let mut expect = async |what: &str, message: v1::OutMessage, code: v1::Code| -> Result<()> {
        for (via, link) in Via::BOTH {
            let result = alice.send(via, message.clone()).await?;
            report.same(&format!("{what}, over {link}"), &result.code(), &code);
        }
        Ok(())
    };
    expect("the same id with another text is a conflict", message(LOST.0, bob, "another"), v1::Code::Conflict).await?;
    expect("no text is refused, again and again", message(10, bob, ""), v1::Code::EmptyText).await?;
    expect("what was refused cannot become a message", message(10, bob, "now with text"), v1::Code::Conflict).await?;
    expect("nobody writes to a name that cannot exist", message(11, "no name", "x"), v1::Code::BadRecipient).await
}

async fn pages_and_keys(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("Pages and keys");
    let bob = &mut people.bob;
    let (entries, head) = bob.peek_all(None, 0).await?;
    let texts = messages(&entries).iter().map(|message| message.seq).collect::<Vec<_>>();
    report.same("bob is owed alice's messages, in order", &texts, &vec![1, 3, HEAD]);
    let stubs = entries.iter().filter(|entry| matches!(entry.body, Some(v1::entry::Body::Stub(_)))).count();
    report.same("his own come as stubs", &stubs, &2);
    let ascending = entries.is_sorted_by(|a, b| (a.class, a.version) < (b.class, b.version));
    report.check("versions ascend", ascending, &entries);

    let again = bob.peek_all(None, 0).await?;
    report.same("a peek acknowledges nothing: the same again", &again, &(entries.clone(), head.clone()));
    let by_one = bob.peek_all(None, 1).await?;
    report.same("pages of one entry give the same entries", &by_one, &(entries.clone(), head.clone()));
    let first = bob.peek(None, 1).await?;
    let rest = bob.peek_all(first.key, 0).await?;
    report.same("an older key gives the older entries again", &rest.0.as_slice(), &&entries[1..]);
    let over_http: v1::SyncReply =
        bob.request(Via::Short, Command::Sync, &v1::SyncRequest { peek: true, ..Default::default() }).await?;
    report.same("the short link gives the same page", &over_http.entries, &entries);
    let beyond = bob.peek(Some(&head), 0).await?;
    report.check("above the last key there is nothing", beyond.entries.is_empty() && beyond.more.is_empty(), &beyond);
    Ok(())
}

async fn acknowledging(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("Acknowledging");
    let bob = &mut people.bob;
    let (entries, head) = bob.peek_all(None, 0).await?;
    let ack = v1::AckRequest { key: Some(head.clone()) };
    let reply: v1::AckReply = bob.request(Via::Short, Command::Ack, &ack).await?;
    report.same("bob acknowledges over the short link", &reply.key_order(), &v1::KeyOrder::None);
    let (_, welcome) = bob.reconnect(Some(head.clone())).await?;
    let order = (welcome.key_order(), welcome.pending);
    report.same("a hello with that key: nothing is pending", &order, &(v1::KeyOrder::None, false));
    report.same("a hello tells the highest id seen", &welcome.highest_client_msg_id, &2);
    let older = bob.peek_all(None, 0).await?;
    report.same("the presented key decides: without one everything comes again", &older.0, &entries);
    Ok(())
}

async fn receipts(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("Receipts");
    let (alice, bob) = (&mut people.alice, &mut people.bob);
    let (entries, _) = alice.peek_all(None, 0).await?;
    let stubs: BTreeSet<_> = entries.iter().filter_map(stub_id).collect();
    report.same("alice has a stub of each of her messages", &stubs, &BTreeSet::from([1, 2, LOST.0]));

    let epoch = entries_key(alice).await?;
    let delivered = alice.await_receipt(&epoch, v1::ReceiptKind::Delivered, HEAD).await?;
    report.check("she learns that bob has her messages", delivered.is_some(), &delivered);
    let read = v1::ReadRequest { conversation: people.conversation.clone(), seq: HEAD };
    let _: v1::ReadReply = bob.request(Via::Long, Command::Read, &read).await?;
    let seen = alice.await_receipt(&epoch, v1::ReceiptKind::Read, HEAD).await?;
    let by_bob = seen.as_ref().is_some_and(|receipt| receipt.member == bob.name && receipt.seq == HEAD);
    report.check("she learns that bob has read them", by_bob, &seen);

    let beyond = v1::ReadRequest { seq: HEAD + 1, ..read.clone() };
    let refused = bob.long.request::<v1::ReadReply>(Command::Read, &beyond).await;
    report.check("nobody reads beyond the head", is_refused(&refused, v1::Code::BeyondHead), &refused);
    let foreign = v1::ReadRequest { conversation: "nobody:somebody".into(), seq: 1 };
    let refused = bob.long.request::<v1::ReadReply>(Command::Read, &foreign).await;
    report.check("nor in the conversation of others", is_refused(&refused, v1::Code::NotAMember), &refused);
    Ok(())
}

/// The key before everything, in every class.
async fn entries_key(person: &mut Person) -> Result<v1::SyncKey> {
    let page = person.peek(None, 1).await?;
    let epoch = page.key.context("a page without a key")?.epoch;
    let classes = tern_proto::Class::ALL.map(|class| v1::Position { class: class.number(), version: 0 }).into();
    Ok(v1::SyncKey { epoch, classes })
}

async fn orders_to_replace(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("Keys that must be replaced");
    let (alice, bob) = (&mut people.alice, &mut people.bob);
    let (_, head) = bob.peek_all(None, 0).await?;
    let reply: v1::AckReply = bob.request(Via::Long, Command::Ack, &v1::AckRequest { key: Some(head.clone()) }).await?;
    report.same("bob acknowledges everything", &reply.key_order(), &v1::KeyOrder::None);
    let mut ahead = head.clone();
    ahead.classes.iter_mut().for_each(|position| position.version += 1_000_000_000);
    let foreign = entries_key(alice).await?;
    for (key, what, order) in [
        (ahead, "a key ahead of the head", v1::KeyOrder::ReplaceAhead),
        (foreign, "the key of another user", v1::KeyOrder::ReplaceEpoch),
    ] {
        for (via, link) in Via::BOTH {
            let request = v1::SyncRequest { key: Some(key.clone()), ..Default::default() };
            let reply: v1::SyncReply = bob.request(via, Command::Sync, &request).await?;
            let seen = (reply.key_order(), reply.entries.len());
            report.same(&format!("{what} is to be replaced, over {link}"), &seen, &(order, 0));
            report.same("by what the device has acknowledged", &reply.key.as_ref(), &Some(&head));
        }
    }
    Ok(())
}

async fn the_link_itself(args: &Args, people: &mut People, report: &mut Report) -> Result<()> {
    report.about("The long link itself");
    let (alice, bob) = (&mut people.alice, &mut people.bob);
    let beat = bob.long.request::<()>(Command::Heartbeat, &()).await;
    report.check("a heartbeat is answered", beat.is_ok(), &beat);
    bob.long.send(&tern_proto::Packet::empty(99_999, 78)).await?;
    let answer = loop {
        // Hints may come first.
        match bob.long.receive().await? {
            packet if packet.sequence == 78 => break packet,
            _ => continue,
        }
    };
    report.same("an unknown command gets an error", &answer.known_command(), &Some(Command::Error));
    let beat = bob.long.request::<()>(Command::Heartbeat, &()).await;
    report.check("and the link stays", beat.is_ok(), &beat);

    let (_, head) = bob.peek_all(None, 0).await?;
    // At the first gateway, whichever the old link is at.
    bob.address.clone_from(&args.long_link);
    let (mut old, _) = bob.reconnect(Some(head)).await?;
    let farewell = loop {
        match Person::next_push(&mut old).await {
            Some((Command::Notify | Command::Delta, _)) => continue,
            other => break other.map(|(command, _)| command),
        }
    };
    report.same("a new link of the device displaces the old one, which is told", &farewell, &Some(Command::GoAway));
    alice.send(Via::Short, message(20, &bob.name, "are you there?")).await?;
    let hint = Person::next_push(&mut bob.long).await.map(|(command, _)| command);
    report.check("the new one gets a hint", matches!(hint, Some(Command::Notify | Command::Delta)), &hint);
    Ok(())
}

fn stub_id(entry: &v1::Entry) -> Option<u64> {
    match &entry.body {
        Some(v1::entry::Body::Stub(stub)) => Some(stub.client_msg_id),
        _ => None,
    }
}

fn is_refused<T>(answer: &Result<T, RequestError>, wanted: v1::Code) -> bool {
    matches!(answer, Err(RequestError::Refused { code, .. }) if *code == wanted)
}
