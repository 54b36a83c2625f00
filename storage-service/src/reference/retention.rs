//! What leaves the timelines, and when.

use tern_proto::key::{Class, Version};
use tern_proto::{UserId, v1};

use super::state::State;
use crate::Retained;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Where a user who had too much is left, in percent of the cap.
const KEPT_PERCENT: u64 = 95;

/// What is kept for how long.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Acknowledged entries are kept for so long, in milliseconds; and at least as long as results.
    pub history_ms: i64,
    /// A device silent for longer holds nothing back, in milliseconds.
    pub device_silence_ms: i64,
    /// Entries of one user.
    pub max_entries: u64,
    /// Bytes of the entries of one user.
    pub max_bytes: u64,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { history_ms: 30 * DAY_MS, device_silence_ms: 60 * DAY_MS, max_entries: 1_000_000, max_bytes: 1 << 30 }
    }
}

impl State {
    /// Users with too much lose their oldest entries; then everybody those that are old and that every live device has acknowledged.
    pub(super) fn retain(&mut self, now_ms: i64) -> Retained {
        let users: Vec<UserId> = self.timelines.keys().cloned().collect();
        let mut dropped = 0;
        for user in users {
            let over = self.over(&user);
            dropped += self.drop_oldest(&user, over, v1::HoleReason::Cap);
            let settled = self.settled(&user, now_ms);
            dropped += self.drop_oldest(&user, settled, v1::HoleReason::Window);
        }
        Retained { dropped, freed: 0 }
    }

    /// How many of the oldest are too many.
    fn over(&self, user: &UserId) -> usize {
        let Rules { max_entries, max_bytes, .. } = self.rules;
        let bytes: Vec<u64> = self.timelines[user].messages().map(|(_, message)| size(message)).collect();
        let (mut entries, mut sum) = (bytes.len() as u64, bytes.iter().sum::<u64>());
        let (too_many, too_long) = (entries > max_entries, sum > max_bytes);
        let mut count = 0;
        let left = |max: u64| max * KEPT_PERCENT / 100;
        while too_many && entries > left(max_entries) || too_long && sum > left(max_bytes) {
            (entries, sum, count) = (entries - 1, sum - bytes[count], count + 1);
        }
        count
    }

    /// How many of the oldest are old and owed to nobody. What is acknowledged but not yet derived counts as owed.
    fn settled(&self, user: &UserId, now_ms: i64) -> usize {
        let old = now_ms - self.rules.history_ms.max(self.keep_ms);
        let live = |heard_ms: i64| heard_ms >= now_ms - self.rules.device_silence_ms;
        let cursors = self.cursors.iter().filter(|(device, cursor)| device.user == *user && live(cursor.heard_ms));
        let positions = cursors.map(|(_, cursor)| cursor.acked[Class::Messages as usize].min(cursor.derived));
        let up_to = positions.min().unwrap_or(Version::MAX);
        let messages = self.timelines[user].messages();
        messages.take_while(|(version, message)| *version <= up_to && message.time_ms <= old).count()
    }

    fn drop_oldest(&mut self, user: &UserId, count: usize, reason: v1::HoleReason) -> u64 {
        if count > 0
            && let Some(timelines) = self.timelines.get_mut(user)
        {
            let up_to = timelines.drop_oldest(count, reason);
            for (_, cursor) in self.cursors.iter_mut().filter(|(device, _)| device.user == *user) {
                cursor.derived = cursor.derived.max(up_to);
            }
        }
        count as u64
    }
}

fn size(message: &v1::Message) -> u64 {
    prost::Message::encoded_len(message) as u64
}
