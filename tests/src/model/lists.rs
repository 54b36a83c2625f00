//! Rules 4f and 15f: what `conversations` and `members` say in the end.

use std::collections::{BTreeMap, HashMap};

use tern_proto::v1;

use super::case::{Case, Exchange};
use super::content::is_of_two;
use super::doings::Doings;
use super::{Findings, Proof};
use crate::device::is_group;
use crate::event::{Reply, Request};
use crate::history::Role;

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    let doings: HashMap<&str, Doings> =
        case.truths.iter().map(|(user, truth)| (*user, Doings::of(case, user, truth))).collect();
    let expected: BTreeMap<&str, BTreeMap<String, Expected>> =
        case.truths.keys().map(|user| (*user, Expected::all_of(case, user))).collect();
    let mut lists: BTreeMap<usize, List> = BTreeMap::new();
    for exchange in case.exchanges.iter().filter(|exchange| matches!(case.role(exchange.device), Role::Reader(_))) {
        let Some(expected) = expected.get(case.user(exchange.device)) else { continue };
        match (exchange.request, exchange.answer) {
            (Request::Conversations(_), Some((_, Reply::Conversations(reply)))) => {
                let list = lists.entry(exchange.device).or_default();
                list.conversations.extend(reply.conversations.iter().map(|conversation| (conversation, exchange)));
                list.events.extend(exchange.events());
            }
            (Request::Members(request), Some((_, Reply::Members(reply)))) => {
                if let Some(expected) = expected.get(&request.conversation) {
                    members(case, findings, &doings, exchange, &request.conversation, reply, expected);
                }
            }
            _ => {}
        }
    }
    for (device, listed) in &lists {
        let user = case.user(*device);
        if let Some(expected) = expected.get(user) {
            list(case, findings, doings.get(user), *device, listed, expected);
        }
    }
}

/// What a device was told of its conversations, page by page.
#[derive(Default)]
struct List<'c> {
    conversations: Vec<(&'c v1::Conversation, &'c Exchange<'c>)>,
    events: Vec<usize>,
}

/// What is known of a conversation in the end.
struct Expected {
    title: String,
    owner: String,
    seq: u64,
    time_ms: Option<i64>,
    /// In the order of joining, with the first seq that each sees.
    members: Vec<(String, u64)>,
    /// By member: the newest message since joining.
    newest: HashMap<String, u64>,
}

impl Expected {
    /// The conversations of a user; groups whose logs are not whole are left out.
    fn all_of(case: &Case, user: &str) -> BTreeMap<String, Expected> {
        let mut all = BTreeMap::new();
        for (name, group) in case.groups.iter().filter(|(_, group)| group.is_whole() && group.joined(user).is_some()) {
            let members = group.members.iter().map(|member| ((*member).to_owned(), group.joined(member).unwrap_or(0)));
            let newest =
                group.members.iter().filter_map(|member| Some(((*member).to_owned(), group.newest_of(member)?)));
            let last = group.log.values().next_back();
            let expected = Expected {
                title: group.title.to_owned(),
                owner: group.owner().unwrap_or_default().to_owned(),
                seq: group.log.len() as u64,
                time_ms: last.map(|last| last.message.time_ms),
                members: members.collect(),
                newest: newest.collect(),
            };
            all.insert((*name).to_owned(), expected);
        }
        for accepted in case.accepted.iter().filter(|accepted| is_of_two(user, &accepted.result.conversation)) {
            let pair = all.entry(accepted.result.conversation.clone()).or_insert_with(|| Expected::of_two(accepted));
            pair.reached(case.user(accepted.device), accepted.result.seq, accepted.result.time_ms);
        }
        let messages = case.truths.get(user).into_iter().flat_map(|truth| truth.messages());
        for (_, message) in messages.filter(|(_, message)| is_of_two(user, &message.conversation)) {
            if let Some(pair) = all.get_mut(&message.conversation) {
                pair.reached(&message.from, message.seq, message.time_ms);
            }
        }
        all
    }

    fn of_two(accepted: &super::case::Accepted) -> Expected {
        let pair = accepted.result.conversation.split(':').map(|user| (user.to_owned(), 1)).collect();
        let (title, owner) = (String::new(), String::new());
        Expected { title, owner, seq: 0, time_ms: None, members: pair, newest: HashMap::new() }
    }

    fn reached(&mut self, from: &str, seq: u64, time_ms: i64) {
        if seq >= self.seq {
            (self.seq, self.time_ms) = (seq, Some(time_ms));
        }
        let newest = self.newest.entry(from.to_owned()).or_default();
        *newest = seq.max(*newest);
    }

    fn joined(&self, user: &str) -> u64 {
        self.members.iter().find(|(member, _)| member == user).map_or(1, |(_, joined)| *joined)
    }
}

/// 4f and 15f, for a list.
fn list(
    case: &Case,
    findings: &mut Findings,
    doings: Option<&Doings>,
    device: usize,
    listed: &List,
    expected: &BTreeMap<String, Expected>,
) {
    let user = case.user(device);
    let judged = |name: &str| !is_group(name) || case.group(name).is_some();
    let told = listed.conversations.iter().map(|(one, _)| one.name.as_str());
    let names: Vec<&str> = told.filter(|name| judged(name)).collect();
    findings.hold("4f", names.iter().copied().eq(expected.keys().map(String::as_str)), || {
        let what = format!("{} lists {names:?}, it must be {:?}", case.name(device), expected.keys());
        Proof::new(what, listed.events.clone())
    });
    for (one, exchange) in &listed.conversations {
        let Some(expected) = expected.get(&one.name) else { continue };
        let joined = expected.joined(user);
        let same = one.title == expected.title
            && (one.seq, one.joined_seq) == (expected.seq, joined)
            && expected.time_ms.is_none_or(|time| time == one.time_ms)
            && one.members as usize == expected.members.len();
        findings.hold("4f", same, || {
            let what = format!(
                "{} is told of {} that its title is {:?}, its head {} and its members {}, joined at {}; it must be {:?}, {}, {}, {joined}",
                case.name(device),
                one.name,
                one.title,
                one.seq,
                one.members,
                one.joined_seq,
                expected.title,
                expected.seq,
                expected.members.len()
            );
            Proof::new(what, exchange.events())
        });
        let newest = expected.newest.get(user).copied().unwrap_or(0);
        let unread = one.seq.saturating_sub(newest.max(one.read_seq));
        findings.hold("15f", one.unread == unread, || {
            let what = format!("{user} has {} unread in {}, it must be {unread}", one.unread, one.name);
            Proof::new(what, exchange.events())
        });
        if let Some(doings) = doings {
            read_position(findings, doings, user, &one.name, joined, one.read_seq, exchange);
        }
    }
}

/// 4f and 15f, for the members of a conversation.
fn members(
    case: &Case,
    findings: &mut Findings,
    doings: &HashMap<&str, Doings>,
    exchange: &Exchange,
    name: &str,
    reply: &v1::MembersReply,
    expected: &Expected,
) {
    let told = reply.members.iter().map(|member| (member.user.as_str(), member.joined_seq));
    let same = told.eq(expected.members.iter().map(|(user, joined)| (user.as_str(), *joined)))
        && (reply.title.as_str(), reply.owner.as_str(), reply.seq)
            == (expected.title.as_str(), expected.owner.as_str(), expected.seq);
    findings.hold("4f", same, || {
        let what = format!(
            "{} is told of {name} that {:?} owns {:?} with the head {}, it must be {:?}, {:?}, {}; or the members are others",
            case.name(exchange.device),
            reply.owner,
            reply.title,
            reply.seq,
            expected.owner,
            expected.title,
            expected.seq
        );
        Proof::new(what, exchange.events())
    });
    for member in &reply.members {
        let Some(doings) = doings.get(member.user.as_str()) else { continue };
        read_position(findings, doings, &member.user, name, member.joined_seq, member.read_seq, exchange);
        let user = member.user.as_str();
        let (certain, by) = doings.delivered_for_certain(name, member.joined_seq, |from| from != user);
        let least = certain.max(member.read_seq);
        let most = doings.acknowledged(name, u64::MAX).max(doings.marked(name, u64::MAX)).max(member.joined_seq - 1);
        findings.hold("15f", (least..=most.max(least)).contains(&member.delivered_seq), || {
            let told = member.delivered_seq;
            let what =
                format!("{user} is said to have been delivered {name} up to {told}, it must be {least} to {most}");
            Proof::new(what, exchange.events().into_iter().chain(by).collect::<Vec<_>>())
        });
    }
}

/// 15f: what a member has read.
fn read_position(
    findings: &mut Findings,
    doings: &Doings,
    user: &str,
    name: &str,
    joined: u64,
    told: u64,
    exchange: &Exchange,
) {
    let before = joined.saturating_sub(1);
    let (done, by) = doings.done.get(name).copied().unwrap_or_default();
    // A mark from before the joining does nothing any more.
    let least = done.max(before);
    let most = doings.marked(name, u64::MAX).max(before);
    findings.hold("15f", (least..=most.min(doings.last(name).max(before))).contains(&told), || {
        let what = format!("{user} is said to have read {name} up to {told}, it must be {least} to {most}");
        let by = Some(by).filter(|_| done > 0);
        Proof::new(what, exchange.events().into_iter().chain(by).collect::<Vec<_>>())
    });
}

#[cfg(test)]
mod tests {
    use super::super::group_story::GroupStory;
    use super::super::story::{ANN, BEN, assert_breaks, assert_holds};
    use super::*;
    use crate::history::History;

    /// A group of ann and ben with three messages, of which ben has read two; ben's reader asks for the list and the members.
    fn told(spoil_list: impl Fn(&mut v1::Conversation), spoil_members: impl Fn(&mut v1::MembersReply)) -> History {
        let mut group = GroupStory::founded(ANN, &["ben"]);
        group.text(ANN);
        group.text(ANN);
        group.read(BEN, 2);
        let name = group.name();
        let mut one = v1::Conversation {
            name: name.clone(),
            title: "title".into(),
            seq: 3,
            time_ms: 5,
            joined_seq: 1,
            read_seq: 2,
            unread: 1,
            members: 2,
        };
        spoil_list(&mut one);
        let member = |user: &str, read: u64| v1::Member {
            user: user.into(),
            joined_seq: 1,
            delivered_seq: read,
            read_seq: read,
        };
        let mut reply = v1::MembersReply {
            title: "title".into(),
            owner: "ann".into(),
            seq: 3,
            members: vec![member("ann", 0), member("ben", 2)],
        };
        spoil_members(&mut reply);
        group.told_at_the_end(BEN, vec![one], reply);
        group.end()
    }

    #[test]
    fn the_list_is_what_the_log_says() {
        assert_holds(&told(|_| (), |_| ()));
        assert_breaks("4f", &told(|one| one.seq = 2, |_| ()));
        assert_breaks("4f", &told(|one| one.title = "other".into(), |_| ()));
        assert_breaks("4f", &told(|one| one.name = "g/77".into(), |_| ()));
        assert_breaks("15f", &told(|one| one.unread = 2, |_| ()));
        assert_breaks("15f", &told(|one| (one.read_seq, one.unread) = (1, 2), |_| ()));
        assert_breaks("15f", &told(|one| (one.read_seq, one.unread) = (3, 0), |_| ()));
    }

    #[test]
    fn the_members_are_those_of_the_log() {
        assert_breaks("4f", &told(|_| (), |reply| reply.members.reverse()));
        assert_breaks("4f", &told(|_| (), |reply| reply.owner = "ben".into()));
        assert_breaks("4f", &told(|_| (), |reply| reply.members[1].joined_seq = 2));
        assert_breaks("15f", &told(|_| (), |reply| reply.members[1].read_seq = 1));
        assert_breaks("15f", &told(|_| (), |reply| reply.members[1].delivered_seq = 1));
        assert_breaks("15f", &told(|_| (), |reply| reply.members[0].delivered_seq = 3));
    }

    #[test]
    fn a_conversation_of_two_is_listed_once_it_has_a_message() {
        let listed = |list: Vec<v1::Conversation>| {
            let mut group = GroupStory::founded(ANN, &["dan"]);
            group.story.send(ANN, 77, BEN, 1);
            group.story.store(ANN, 90, 77, BEN, 1);
            group.listed_at_the_end(BEN, list);
            group.end()
        };
        let pair = v1::Conversation {
            name: "ann:ben".into(),
            seq: 1,
            time_ms: 5,
            joined_seq: 1,
            unread: 1,
            members: 2,
            ..Default::default()
        };
        assert_holds(&listed(vec![pair.clone()]));
        assert_breaks("4f", &listed(Vec::new()));
        assert_breaks("4f", &listed(vec![v1::Conversation { members: 3, ..pair }]));
    }
}
