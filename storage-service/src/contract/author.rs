//! Who writes the random histories.

use tern_proto::key::{Class, Version};
use tern_proto::{ConversationId, UserId, v1};

use super::history::{NOW, device};
use super::media::media;
use super::random::Twins;
use crate::{Change, Content, Device, HistoryRequest, Op, PageRequest, Recipient, Storage};

/// Writes a history: four users with three devices each, and every kind of op, some of them wrong.
pub(super) struct Author {
    random: fastrand::Rng,
    pub(super) devices: Vec<Device>,
    pub(super) users: Vec<UserId>,
    /// The numbers of what messages may be about.
    pub(super) media: [u128; 3],
}

impl Author {
    pub(super) fn new(seed: u64) -> Author {
        let names = ["ann", "ben", "cat", "dan"].map(|name| format!("{name}{seed}"));
        let devices: Vec<Device> =
            names.iter().flat_map(|name| (1..=3).map(move |n| device(&format!("{name}/d{n}")))).collect();
        let users = names.iter().map(|name| name.parse().expect("a user name")).collect();
        let media = [1, 2, 3].map(|number| u128::from(seed) * 10 + number);
        Author { random: fastrand::Rng::with_seed(seed), devices, users, media }
    }

    pub(super) async fn batch(&mut self, twins: &Twins) -> Vec<Op> {
        let mut ops = Vec::new();
        for _ in 0..self.random.usize(1..=4) {
            ops.push(self.op(twins).await);
        }
        ops
    }

    async fn op(&mut self, twins: &Twins) -> Op {
        let device = self.devices[self.random.usize(..self.devices.len())].clone();
        let time_ms = NOW + self.random.i64(-3_600_000..3_600_000);
        match self.random.u32(..100) {
            0..45 => {
                let content = self.content(&device, twins);
                Op::Send { from: device, client_msg_id: self.random.u64(1..=20), content, time_ms }
            }
            45..53 => {
                let start = if self.random.bool() { v1::Start::Oldest } else { v1::Start::Heads };
                Op::Start { device, start, time_ms }
            }
            53..70 => {
                let versions = Class::ALL.map(|class| self.version(twins, &device.user, class));
                Op::Ack { device, epoch: twins.reference.epoch(), versions, time_ms }
            }
            70..88 => {
                let conversation = self.conversation(twins);
                Op::Read { by: device, conversation, seq: self.random.u64(..12), time_ms }
            }
            _ => {
                let acked = twins.reference.device(&device).await.expect("available").acked[0];
                let derived = self.version(twins, &device.user, Class::Messages).unwrap_or(0).min(acked);
                let positions =
                    (0..self.random.usize(..5)).map(|_| (self.conversation(twins), self.random.u64(..12))).collect();
                Op::Delivered { by: device, derived, positions, time_ms }
            }
        }
    }

    /// Few ids and few texts, so that resends and conflicts are frequent.
    fn content(&mut self, from: &Device, twins: &Twins) -> Content {
        if self.random.u32(..5) == 0 {
            return Content::Refused { code: v1::Code::TextTooLong, hash: self.random.u64(..3) };
        }
        if self.random.u32(..4) == 0 {
            let group = (self.random.u32(..4) > 0).then(|| self.group(twins));
            return Content::Change { group, change: self.change() };
        }
        let others: Vec<&UserId> = self.users.iter().filter(|user| **user != from.user).collect();
        let to = Recipient::User(others[self.random.usize(..others.len())].clone());
        let to = if self.random.bool() { to } else { Recipient::Group(self.group(twins)) };
        let length = if self.random.u32(..8) == 0 { 9_000 } else { 3 };
        let text = self.random.choice(["a", "b", "é"]).unwrap_or("a").repeat(length);
        let media = (self.random.u32(..4) == 0).then(|| media(self.media[self.random.usize(..self.media.len())]));
        Content::Text { to, text, media }
    }

    /// Most often something small, so that the same is asked for again.
    fn change(&mut self) -> Change {
        let title = (self.random.u32(..3) == 0).then(|| self.random.choice(["", "T"]).unwrap_or_default().to_owned());
        let mut some = |most: usize| {
            let count = self.random.usize(..=most);
            (0..count).map(|_| self.users[self.random.usize(..self.users.len())].clone()).collect()
        };
        Change { title, add: some(2), remove: some(1) }
    }

    /// One that was made in this history; now and then, or if there is none, one that was never made.
    fn group(&mut self, twins: &Twins) -> ConversationId {
        let at = self.random.usize(..=twins.groups.len());
        twins.groups.get(at).cloned().unwrap_or_else(|| ConversationId::of_group(u64::MAX))
    }

    fn conversation(&mut self, twins: &Twins) -> ConversationId {
        if self.random.bool() {
            return self.group(twins);
        }
        let first = self.random.usize(..4);
        let second = (first + self.random.usize(1..4)) % 4;
        ConversationId::of_two(&self.users[first], &self.users[second])
    }

    /// A version that the timeline had, as the reference numbers it; 0; or none.
    fn version(&mut self, twins: &Twins, user: &UserId, class: Class) -> Option<Version> {
        let known = twins.ranks(user, class);
        match self.random.usize(..known.len() + 2) {
            0 => None,
            1 => Some(0),
            n => Some(known[n - 2].reference),
        }
    }

    pub(super) fn page(&mut self, twins: &Twins) -> PageRequest {
        let device = self.devices[self.random.usize(..self.devices.len())].clone();
        let above = Class::ALL.map(|class| self.version(twins, &device.user, class));
        PageRequest { device, above, max_entries: self.random.usize(1..12), max_bytes: usize::MAX, texts: true }
    }

    pub(super) fn history(&mut self, twins: &Twins) -> HistoryRequest {
        let before = if self.random.bool() { u64::MAX } else { self.random.u64(..12) };
        HistoryRequest {
            conversation: self.conversation(twins),
            before,
            from: self.random.u64(..6),
            max_entries: self.random.usize(1..12),
            max_bytes: usize::MAX,
        }
    }
}
