//! Rules 1c and 2g, and 5a for groups: what the log of a group holds, and who has it.

use std::collections::{BTreeSet, HashMap, HashSet};

use tern_proto::limits;
use tern_proto::v1;

use super::case::Case;
use super::groups::{Group, Logged};
use super::{Findings, Proof};

pub(crate) fn judge(case: &Case, findings: &mut Findings) {
    for (name, group) in &case.groups {
        let lossy = case.truths.values().any(|truth| truth.floor > 0);
        findings.hold("5a", group.is_whole() || lossy, || {
            let shown = group.log.values().map(|logged| logged.event).take(4);
            Proof::new(format!("the messages of {name} have gaps"), shown.collect::<Vec<_>>())
        });
        if group.is_whole() {
            for logged in group.log.values() {
                was_allowed(case, findings, name, group, logged);
            }
        }
    }
    reaches_everybody(case, findings);
}

/// 1c.
fn reaches_everybody(case: &Case, findings: &mut Findings) {
    for (user, truth) in &case.truths {
        let mut there: HashMap<&str, HashSet<u64>> = HashMap::new();
        for (_, message) in truth.messages() {
            there.entry(&message.conversation).or_default().insert(message.seq);
        }
        for (name, group) in case.groups.iter().filter(|(_, group)| group.is_whole()) {
            for (seq, logged) in group.log.iter().filter(|(seq, _)| group.sees(user, **seq)) {
                let has = there.get(name).is_some_and(|seqs| seqs.contains(seq));
                findings.hold("1c", has || truth.may_have_dropped(name, *seq), || {
                    let what = format!("{user} is in {name} and has not got seq {seq}");
                    let joined = group.joining_of(user, *seq).and_then(|joined| group.event_at(joined));
                    let sent = case.sender(logged.message);
                    let sent = sent.map(|device| case.events_of_id(device, logged.message.client_msg_id));
                    let evidence = joined.into_iter().chain([logged.event]).chain(sent.unwrap_or_default());
                    Proof::new(what, evidence.collect::<Vec<_>>())
                });
            }
        }
    }
}

/// 2g.
fn was_allowed(case: &Case, findings: &mut Findings, name: &str, group: &Group, logged: &Logged) {
    let message = logged.message;
    let (from, seq) = (message.from.as_str(), message.seq);
    let proof = |what: String| {
        let sent = case.sender(message).map(|device| case.events_of_id(device, message.client_msg_id));
        Proof::new(what, [logged.event].into_iter().chain(sent.unwrap_or_default()).collect::<Vec<_>>())
    };
    findings.hold("2g", group.may_send(from, seq), || {
        proof(format!("seq {seq} of {name} is from {from}, who is not in it"))
    });
    let Some(done) = &message.change else { return };
    let removes_others = done.remove.iter().any(|user| user != from);
    findings.hold("2g", !removes_others || group.owner_at(seq) == Some(from), || {
        proof(format!("{from} removes others from {name} and does not own it"))
    });
    let asked = case.sender(message).and_then(|device| asked(case, device, message));
    let right = asked.is_none_or(|asked| {
        let is_in = |user: &&String| group.may_send(user, seq);
        let set = |users: &[String]| users.iter().cloned().collect::<BTreeSet<_>>();
        let joins: BTreeSet<String> = asked.add.iter().filter(|user| !is_in(user)).cloned().collect();
        let leaves: BTreeSet<String> = asked.remove.iter().filter(is_in).cloned().collect();
        set(&done.add) == joins && set(&done.remove) == leaves
    });
    findings.hold("2g", right, || proof(format!("seq {seq} of {name} does not say what has changed: {done:?}")));
    findings.hold("2g", group.size_after(seq) <= limits::MEMBERS, || proof(format!("{name} has too many members")));
}

/// The change that became a message.
fn asked<'a>(case: &Case<'a>, device: usize, message: &v1::Message) -> Option<&'a v1::GroupChange> {
    let tries = case.tries.get(&(device, message.client_msg_id))?;
    let mut told = tries
        .iter()
        .filter(|attempt| attempt.result.is_some_and(|result| result.server_msg_id == message.server_msg_id));
    told.next()?.content.change.as_ref()
}

#[cfg(test)]
mod tests {
    use super::super::group_story::GroupStory;
    use super::super::story::{ANN, BEN, DESK, assert_breaks, assert_holds};
    use crate::history::History;

    /// Ann makes a group with ben, writes into it, ben leaves, ann writes again; then `spoil`.
    fn played(spoil: impl FnOnce(&mut GroupStory)) -> History {
        let mut group = GroupStory::founded(ANN, &["ben"]);
        group.text(ANN);
        group.text(BEN);
        group.change(BEN, &[], &["ben"]);
        group.text(ANN);
        spoil(&mut group);
        group.end()
    }

    #[test]
    fn a_group_reaches_its_members_and_nobody_else() {
        assert_holds(&played(|_| ()));
        assert_breaks("1c", &played(|group| group.forget(BEN, 2)));
        assert_breaks("1a", &played(|group| group.forget(BEN, 2)));
        assert_breaks("9", &played(|group| group.leak(BEN, 5)));
    }

    #[test]
    fn who_joins_sees_nothing_from_before() {
        let joined = |leak: bool| {
            let mut group = GroupStory::founded(ANN, &["dan"]);
            group.text(ANN);
            group.change(ANN, &["ben"], &[]);
            group.text(BEN);
            if leak {
                group.leak(BEN, 2);
            }
            group.end()
        };
        assert_holds(&joined(false));
        assert_breaks("9", &joined(true));
    }

    #[test]
    fn who_is_not_in_it_or_does_not_own_it_changes_nothing() {
        assert_breaks("2g", &played(|group| group.text(BEN)));
        let removed_by = |device: usize| {
            let mut group = GroupStory::founded(ANN, &["ben", "dan"]);
            group.change(device, &[], &["dan"]);
            group.end()
        };
        assert_holds(&removed_by(ANN));
        assert_holds(&removed_by(DESK));
        assert_breaks("2g", &removed_by(BEN));
    }

    #[test]
    fn a_change_says_what_has_really_changed() {
        let added = |really: &[&str]| {
            let mut group = GroupStory::founded(ANN, &["ben"]);
            group.change_into(ANN, &["ben", "dan"], &[], really, &[]);
            group.end()
        };
        assert_holds(&added(&["dan"]));
        assert_breaks("2g", &added(&["ben", "dan"]));
        assert_breaks("2g", &added(&[]));
    }

    #[test]
    fn the_owner_who_leaves_is_followed_by_who_joined_first() {
        let followed = |remover: usize| {
            let mut group = GroupStory::founded(ANN, &["ben", "dan", "eve"]);
            group.change(ANN, &[], &["ann"]);
            group.change(BEN, &["ann"], &[]);
            group.change(remover, &[], &["dan"]);
            group.end()
        };
        assert_holds(&followed(BEN));
        assert_breaks("2g", &followed(ANN));
    }

    #[test]
    fn members_have_the_same_message_at_the_same_place() {
        assert_breaks("5a", &played(|group| group.alter(BEN, 2)));
    }
}
