//! Ops, outcomes, looks and answers as messages, and back. What makes no sense is refused as a whole: both sides are of the same release or one apart.

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::v1::Position;
use tern_proto::{ConversationId, DeviceId, UserId};
use tern_rpc::v1::{self as rpc, look::Look, op::Op as RpcOp, outcome::Outcome as RpcOutcome, send};

use crate::{
    Change, Content, Conversation, Device, DeviceState, Durability, History, HistoryRequest, Listed, Member, Op,
    Outcome, Page, PageRequest, Place, Recipient, Sent, Told,
};

/// The message is not one of ours.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a message of another service is not understood: {0}")]
pub(super) struct NotUnderstood(pub &'static str);

type Understood<T> = Result<T, NotUnderstood>;

pub(super) fn positions(versions: [Option<Version>; CLASSES]) -> Vec<Position> {
    let position = |class: Class| Some(Position { class: class.number(), version: versions[class as usize]? });
    Class::ALL.into_iter().filter_map(position).collect()
}

pub(super) fn versions(positions: &[Position]) -> [Option<Version>; CLASSES] {
    let mut versions = [None; CLASSES];
    for position in positions {
        // A class that this release does not know is none of its business.
        if let Some(class) = Class::from_number(position.class) {
            versions[class as usize] = Some(position.version);
        }
    }
    versions
}

fn all(versions: [Version; CLASSES]) -> Vec<Position> {
    positions(versions.map(Some))
}

fn or_0(positions: &[Position]) -> [Version; CLASSES] {
    versions(positions).map(Option::unwrap_or_default)
}

pub(super) fn device(device: &Device) -> rpc::Device {
    rpc::Device { user: device.user.to_string(), id: device.id.to_string() }
}

pub(super) fn to_device(device: Option<rpc::Device>) -> Understood<Device> {
    let device = device.ok_or(NotUnderstood("no device"))?;
    let id = DeviceId::new(&device.id).map_err(|_| NotUnderstood("a device"))?;
    Ok(Device { user: user(&device.user)?, id })
}

pub(super) fn user(name: &str) -> Understood<UserId> {
    UserId::new(name).map_err(|_| NotUnderstood("a user"))
}

fn users(names: &[String]) -> Understood<Vec<UserId>> {
    names.iter().map(|name| user(name)).collect()
}

fn names(users: &[UserId]) -> Vec<String> {
    users.iter().map(UserId::to_string).collect()
}

pub(super) fn conversation(name: &str) -> Understood<ConversationId> {
    ConversationId::new(name).map_err(|_| NotUnderstood("a conversation"))
}

pub(super) fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Conversations with a position in each.
pub(super) fn references(references: Vec<(ConversationId, u64)>) -> rpc::References {
    let reached =
        |(conversation, seq): (ConversationId, u64)| rpc::Reached { conversation: conversation.to_string(), seq };
    rpc::References { references: references.into_iter().map(reached).collect() }
}

pub(super) fn to_references(references: rpc::References) -> Understood<Vec<(ConversationId, u64)>> {
    let reached = |rpc::Reached { conversation: name, seq }| Ok((conversation(&name)?, seq));
    references.references.into_iter().map(reached).collect()
}

pub(super) fn op(op: Op) -> rpc::Op {
    let op = match op {
        Op::Send { from, client_msg_id, content, time_ms } => {
            let mut media = None;
            let (to, content) = match content {
                Content::Text { to, text, media: about } => {
                    media = about;
                    (to.as_str().to_owned(), send::Content::Text(text))
                }
                Content::Change { group, change } => {
                    let to = group.map(|group| group.to_string()).unwrap_or_default();
                    (to, send::Content::Change((&change).into()))
                }
                Content::Refused { code, hash } => {
                    (String::new(), send::Content::Refused(rpc::Refused { code: code.into(), hash }))
                }
            };
            let from = Some(device(&from));
            RpcOp::Send(rpc::Send { from, client_msg_id, time_ms, to, content: Some(content), media })
        }
        Op::Start { device: of, start, time_ms } => {
            RpcOp::Start(rpc::Start { device: Some(device(&of)), start: start.into(), time_ms })
        }
        Op::Ack { device: of, epoch, versions, time_ms } => {
            RpcOp::Ack(rpc::Ack { device: Some(device(&of)), positions: positions(versions), time_ms, epoch })
        }
        Op::Read { by, conversation, seq, time_ms } => {
            RpcOp::Read(rpc::Read { by: Some(device(&by)), conversation: conversation.to_string(), seq, time_ms })
        }
        Op::Delivered { by, derived, positions, time_ms } => {
            let reached = |(conversation, seq): (ConversationId, u64)| rpc::Reached {
                conversation: conversation.to_string(),
                seq,
            };
            let positions = positions.into_iter().map(reached).collect();
            RpcOp::Delivered(rpc::Delivered { by: Some(device(&by)), derived, positions, time_ms })
        }
    };
    rpc::Op { op: Some(op) }
}

pub(super) fn to_op(op: rpc::Op) -> Understood<Op> {
    Ok(match op.op.ok_or(NotUnderstood("an op"))? {
        RpcOp::Send(rpc::Send { from, client_msg_id, time_ms, to, content, media }) => {
            let content = match content.ok_or(NotUnderstood("no content"))? {
                send::Content::Text(text) => Content::Text { to: recipient(&to)?, text, media },
                send::Content::Change(change) => {
                    let group = if to.is_empty() { None } else { Some(conversation(&to)?) };
                    let (add, remove) = (users(&change.add)?, users(&change.remove)?);
                    Content::Change { group, change: Change { title: change.title, add, remove } }
                }
                send::Content::Refused(refused) => Content::Refused { code: refused.code(), hash: refused.hash },
            };
            Op::Send { from: to_device(from)?, client_msg_id, content, time_ms }
        }
        RpcOp::Start(start) => {
            Op::Start { start: start.start(), device: to_device(start.device)?, time_ms: start.time_ms }
        }
        RpcOp::Ack(rpc::Ack { device, positions, time_ms, epoch }) => {
            Op::Ack { device: to_device(device)?, epoch, versions: versions(&positions), time_ms }
        }
        RpcOp::Read(read) => Op::Read {
            by: to_device(read.by)?,
            conversation: conversation(&read.conversation)?,
            seq: read.seq,
            time_ms: read.time_ms,
        },
        RpcOp::Delivered(rpc::Delivered { by, derived, positions, time_ms }) => {
            let reached = |reached: rpc::Reached| Ok((conversation(&reached.conversation)?, reached.seq));
            let positions = positions.into_iter().map(reached).collect::<Understood<_>>()?;
            Op::Delivered { by: to_device(by)?, derived, positions, time_ms }
        }
    })
}

fn recipient(name: &str) -> Understood<Recipient> {
    match UserId::new(name) {
        Ok(user) => Ok(Recipient::User(user)),
        Err(_) => conversation(name).map(Recipient::Group),
    }
}

pub(super) fn outcome(outcome: Outcome) -> rpc::Outcome {
    let plain = |plain: rpc::Plain| RpcOutcome::Plain(plain.into());
    let outcome = match outcome {
        Outcome::Sent(Sent { server_msg_id, conversation, seq, time_ms, owed, places }) => {
            let conversation = conversation.to_string();
            let places = places.into_iter().map(place).collect();
            RpcOutcome::Sent(rpc::Sent { server_msg_id, conversation, seq, time_ms, owed: names(&owed), places })
        }
        Outcome::Refused(code) => RpcOutcome::Refused(code.into()),
        Outcome::Started(versions) => RpcOutcome::Started(rpc::Started { positions: all(versions) }),
        Outcome::Acked(state) => RpcOutcome::Acked(device_state(&state)),
        Outcome::Raised(told) => RpcOutcome::Raised(rpc::Raised { told: told.into_iter().map(of_told).collect() }),
        Outcome::Conflict => plain(rpc::Plain::Conflict),
        Outcome::TooOld => plain(rpc::Plain::TooOld),
        Outcome::Done => plain(rpc::Plain::Done),
        Outcome::NotAMember => plain(rpc::Plain::NotAMember),
        Outcome::BeyondHead => plain(rpc::Plain::BeyondHead),
        Outcome::Unavailable => plain(rpc::Plain::Unavailable),
        Outcome::Unknown => plain(rpc::Plain::Unknown),
    };
    rpc::Outcome { outcome: Some(outcome) }
}

/// An outcome that is not understood says nothing about what was stored.
pub(super) fn to_outcome(outcome: rpc::Outcome) -> Outcome {
    understood_outcome(outcome).unwrap_or(Outcome::Unknown)
}

fn understood_outcome(outcome: rpc::Outcome) -> Understood<Outcome> {
    Ok(match outcome.outcome.ok_or(NotUnderstood("an outcome"))? {
        RpcOutcome::Sent(rpc::Sent { server_msg_id, conversation: name, seq, time_ms, owed, places }) => {
            let (conversation, owed) = (conversation(&name)?, users(&owed)?.into());
            let places = places.into_iter().map(to_place).collect();
            Outcome::Sent(Sent { server_msg_id, conversation, seq, time_ms, owed, places })
        }
        RpcOutcome::Refused(code) => Outcome::Refused(code.try_into().map_err(|_| NotUnderstood("a code"))?),
        RpcOutcome::Started(started) => Outcome::Started(or_0(&started.positions)),
        RpcOutcome::Acked(state) => Outcome::Acked(to_state(&state)),
        RpcOutcome::Raised(raised) => Outcome::Raised(raised.told.into_iter().map(to_told).collect::<Understood<_>>()?),
        RpcOutcome::Plain(plain) => match rpc::Plain::try_from(plain).map_err(|_| NotUnderstood("an outcome"))? {
            rpc::Plain::Unknown => Outcome::Unknown,
            rpc::Plain::Unavailable => Outcome::Unavailable,
            rpc::Plain::Done => Outcome::Done,
            rpc::Plain::Conflict => Outcome::Conflict,
            rpc::Plain::TooOld => Outcome::TooOld,
            rpc::Plain::NotAMember => Outcome::NotAMember,
            rpc::Plain::BeyondHead => Outcome::BeyondHead,
        },
    })
}

fn place(Place { epoch, before, version }: Place) -> rpc::Place {
    rpc::Place { epoch, before, version }
}

fn to_place(rpc::Place { epoch, before, version }: rpc::Place) -> Place {
    Place { epoch, before, version }
}

fn of_told(Told { user, receipt }: Told) -> rpc::Told {
    let (receipt, stands) = receipt.unzip();
    rpc::Told { user: user.to_string(), receipt, place: stands.map(place) }
}

fn to_told(told: rpc::Told) -> Understood<Told> {
    Ok(Told { user: user(&told.user)?, receipt: told.receipt.zip(told.place.map(to_place)) })
}

pub(super) fn page_look(request: &PageRequest) -> Look {
    Look::Page(rpc::PageLook {
        device: Some(device(&request.device)),
        above: positions(request.above),
        max_entries: u32::try_from(request.max_entries).unwrap_or(u32::MAX),
        max_bytes: u32::try_from(request.max_bytes).unwrap_or(u32::MAX),
        texts: request.texts,
    })
}

pub(super) fn to_page_request(look: rpc::PageLook) -> Understood<PageRequest> {
    Ok(PageRequest {
        device: to_device(look.device)?,
        above: versions(&look.above),
        max_entries: look.max_entries as usize,
        max_bytes: look.max_bytes as usize,
        texts: look.texts,
    })
}

pub(super) fn page(page: Page) -> rpc::Page {
    let has_more = |class: &Class| page.more[*class as usize];
    rpc::Page {
        epoch: page.epoch,
        heads: all(page.heads),
        after: positions(page.after),
        more: Class::ALL.into_iter().filter(has_more).map(Class::number).collect(),
        entries: page.entries,
    }
}

pub(super) fn to_page(page: rpc::Page) -> Page {
    Page {
        epoch: page.epoch,
        heads: or_0(&page.heads),
        after: versions(&page.after),
        more: Class::ALL.map(|class| page.more.contains(&class.number())),
        entries: page.entries,
    }
}

pub(super) fn state(state: &DeviceState, durability: Durability) -> rpc::DeviceState {
    let durability = match durability {
        Durability::Disk => tern_proto::v1::Durability::Disk,
        Durability::Os => tern_proto::v1::Durability::Os,
    };
    rpc::DeviceState { durability: durability.into(), ..device_state(state) }
}

fn device_state(state: &DeviceState) -> rpc::DeviceState {
    rpc::DeviceState {
        durability: tern_proto::v1::Durability::Unspecified.into(),
        epoch: state.epoch,
        heads: all(state.heads),
        known: state.known,
        acked: all(state.acked),
        derived: state.derived,
        foreign: state.foreign,
        heard_ms: state.heard_ms,
    }
}

pub(super) fn to_state(state: &rpc::DeviceState) -> DeviceState {
    DeviceState {
        epoch: state.epoch,
        heads: or_0(&state.heads),
        known: state.known,
        acked: or_0(&state.acked),
        derived: state.derived,
        foreign: state.foreign,
        heard_ms: state.heard_ms,
    }
}

pub(super) fn to_devices(devices: rpc::Devices) -> Understood<Vec<Device>> {
    devices.devices.into_iter().map(|device| to_device(Some(device))).collect()
}

fn member(member: Member) -> rpc::Member {
    let Member { user, joined, last_sent, delivered, read } = member;
    rpc::Member { user: user.to_string(), joined, last_sent, delivered, read }
}

fn to_member(member: rpc::Member) -> Understood<Member> {
    let rpc::Member { user: name, joined, last_sent, delivered, read } = member;
    Ok(Member { user: user(&name)?, joined, last_sent, delivered, read })
}

pub(super) fn listed(listed: Listed) -> rpc::Listed {
    rpc::Listed {
        id: listed.id.to_string(),
        title: listed.title,
        seq: listed.seq,
        time_ms: listed.time_ms,
        members: listed.members as u32,
        member: Some(member(listed.member)),
    }
}

pub(super) fn to_listed(listed: rpc::Listed) -> Understood<Listed> {
    Ok(Listed {
        id: conversation(&listed.id)?,
        title: listed.title,
        seq: listed.seq,
        time_ms: listed.time_ms,
        members: listed.members as usize,
        member: to_member(listed.member.ok_or(NotUnderstood("no member"))?)?,
    })
}

pub(super) fn of_conversation(conversation: Conversation) -> rpc::Conversation {
    rpc::Conversation {
        title: conversation.title,
        owner: conversation.owner.map(|owner| owner.to_string()).unwrap_or_default(),
        seq: conversation.seq,
        time_ms: conversation.time_ms,
        members: conversation.members.into_iter().map(member).collect(),
    }
}

pub(super) fn to_conversation(conversation: rpc::Conversation) -> Understood<Conversation> {
    let rpc::Conversation { title, owner, seq, time_ms, members } = conversation;
    let owner = if owner.is_empty() { None } else { Some(user(&owner)?) };
    let members = members.into_iter().map(to_member).collect::<Understood<_>>()?;
    Ok(Conversation { title, owner, seq, time_ms, members })
}

pub(super) fn history_look(request: &HistoryRequest) -> Look {
    Look::History(rpc::HistoryLook {
        conversation: request.conversation.to_string(),
        before: request.before,
        from: request.from,
        max_entries: u32::try_from(request.max_entries).unwrap_or(u32::MAX),
        max_bytes: u32::try_from(request.max_bytes).unwrap_or(u32::MAX),
    })
}

pub(super) fn to_history_request(look: &rpc::HistoryLook) -> Understood<HistoryRequest> {
    Ok(HistoryRequest {
        conversation: conversation(&look.conversation)?,
        before: look.before,
        from: look.from,
        max_entries: look.max_entries as usize,
        max_bytes: look.max_bytes as usize,
    })
}

pub(super) fn history(history: History) -> rpc::History {
    rpc::History { messages: history.messages, more: history.more }
}

pub(super) fn to_history(history: rpc::History) -> History {
    History { messages: history.messages, more: history.more }
}
