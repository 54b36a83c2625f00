//! Read marks on their way to every device that is to know of them, wherever its link is.

use anyhow::Result;
use tern_proto::v1::{self, entry::Body};
use tern_proto::{Command, Packet};

use super::person::{Person, Via, message};
use super::report::Report;
use super::{Args, People};

/// The ids of alice's messages here.
const FIRST: u64 = 30;

/// Alice is at the first gateway and bob at the second, if there are two; his tablet is at the first.
pub(super) async fn run(args: &Args, people: &mut People, report: &mut Report) -> Result<()> {
    report.about("Read marks on every device");
    let second = args.second_long_link.as_ref().unwrap_or(&args.long_link);
    let (alice, bob) = (&mut people.alice, &mut people.bob);
    let mut tablet = bob.on("smoke-tablet", &args.long_link, &args.http).await?;
    bob.address.clone_from(second);
    bob.reconnect(None).await?;
    let mut head = 0;
    for id in FIRST..FIRST + 4 {
        head = alice.send(Via::Long, message(id, &bob.name, "read me")).await?.seq;
    }
    // From the end of a sync on a link on, it is told what comes.
    let (_, alices) = alice.peek_all(None, 0).await?;
    let (_, tablets) = tablet.peek_all(None, 0).await?;

    let read = |seq: u64| v1::ReadRequest { conversation: people.conversation.clone(), seq };
    let _: v1::ReadReply = bob.request(Via::Long, Command::Read, &read(head - 3)).await?;
    let shown = told(alice, &alices, head - 3).await?;
    report.same("bob reads, and alice's link is told without her asking", &shown, &Some((bob.name.clone(), head - 3)));
    let shown = told(&mut tablet, &tablets, head - 3).await?;
    report.same("and so is bob's other device", &shown, &Some((bob.name.clone(), head - 3)));

    let _: v1::ReadReply = bob.request(Via::Long, Command::Read, &read(head - 4)).await?;
    let marks = marks(alice, &people.conversation).await?;
    report.same("a mark never goes back", &marks, &vec![(bob.name.clone(), head - 3)]);

    // Without waiting for the replies, each of which waits for the pace.
    let all = head - 2..=head;
    for (sequence, seq) in (900..).zip(all.clone()) {
        bob.long.send(&Packet::new(Command::Read.number(), sequence, &read(seq))).await?;
    }
    let mut answered = 0;
    while answered < all.clone().count() {
        let packet = bob.long.receive().await?;
        answered += usize::from(packet.sequence >= 900);
    }
    let marks = self::marks(alice, &people.conversation).await?;
    report.same("several marks become the last one", &marks, &vec![(bob.name.clone(), head)]);

    let next = alice.send(Via::Long, message(FIRST + 4, &bob.name, "and this")).await?.seq;
    let (_, before) = alice.peek_all(None, 0).await?;
    alice.leave().await?;
    let _: v1::ReadReply = bob.request(Via::Long, Command::Read, &read(next)).await?;
    let welcome = alice.hello(Some(before.clone())).await?;
    report.check("what bob has read while alice was away is pending when she is back", welcome.pending, &welcome);
    let (entries, _) = alice.peek_all(Some(before), 0).await?;
    let found: Vec<_> = entries.iter().filter_map(read_mark).map(|mark| (mark.member.clone(), mark.seq)).collect();
    report.same("and comes with her next sync", &found, &vec![(bob.name.clone(), next)]);
    Ok(())
}

/// The read mark that a link is told of without asking: by a delta, or by a notify and the sync that follows it. `None` if none comes in time that goes so far.
async fn told(person: &mut Person, above: &v1::SyncKey, seq: u64) -> Result<Option<(String, u64)>> {
    loop {
        let entries = match Person::next_push(&mut person.long).await {
            Some((Command::Delta, packet)) => <v1::Delta as prost::Message>::decode(packet.body)?.entries,
            Some((Command::Notify, _)) => person.peek_all(Some(above.clone()), 0).await?.0,
            Some(_) => continue,
            None => return Ok(None),
        };
        if let Some(mark) = entries.iter().filter_map(read_mark).find(|mark| mark.seq >= seq) {
            return Ok(Some((mark.member.clone(), mark.seq)));
        }
    }
}

/// The read marks of others in a conversation that stand in a timeline.
pub(super) async fn marks(person: &mut Person, conversation: &str) -> Result<Vec<(String, u64)>> {
    let (entries, _) = person.peek_all(None, 0).await?;
    let own = person.name.clone();
    let marks = entries.iter().filter_map(read_mark);
    let of_others = marks.filter(|mark| mark.conversation == conversation && mark.member != own);
    Ok(of_others.map(|mark| (mark.member.clone(), mark.seq)).collect())
}

fn read_mark(entry: &v1::Entry) -> Option<&v1::Receipt> {
    match &entry.body {
        Some(Body::Receipt(receipt)) if receipt.kind() == v1::ReceiptKind::Read => Some(receipt),
        _ => None,
    }
}
