//! What was committed lately: by user and epoch a hash of heads, by device a string of what storage has said of it, by message a string of its result.
//!
//! Versions are written with all their digits, so that scripts, whose numbers are not exact, can compare them as strings.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::Cmd;
use tern_proto::key::{CLASSES, Version};
use tern_proto::{ConversationId, UserId};
use tern_storage::Sent;

use super::Redis;
use crate::recent::{CONFIRM, Confirmed, HEADS, Look, Name, RESULTS, Recent, Risen, Stored};
use crate::{Away, Device};

/// Takes the hash, how long it is kept, and classes and versions.
pub(super) const RAISE: &str = "
for at = 2, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1], ARGV[at])
  if not known or known < ARGV[at + 1] then redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
";

/// Takes the hash, the string of the device, and how long a confirmation counts. One that is yet to be was made before the clock was set back.
pub(super) const LOOK: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local confirmed = false
local known = redis.call('GET', KEYS[2])
if known then
  local at, positions = string.match(known, '^(%d+) (.+)$')
  at = tonumber(at)
  if at and at <= now and now < at + ARGV[1] then confirmed = positions end
end
local heads = redis.call('HMGET', KEYS[1], '1', '2')
return {heads[1], heads[2], confirmed, string.format('%.0f', now)}
";

/// What is answered to [`LOOK`].
type Looked = (Option<String>, Option<String>, Option<String>, u64);

#[async_trait]
impl Recent for Redis {
    async fn raise(&self, risen: &[Risen]) -> Result<(), Away> {
        // What rises together for a user comes together.
        let of_one = risen.chunk_by(|one, next| one.user == next.user && one.epoch == next.epoch);
        let call = |risen: &[Risen]| {
            let mut call = self.scripts.raise.prepare_invoke();
            call.key(heads_key(&risen[0].user, risen[0].epoch)).arg(millis(HEADS));
            for Risen { class, version, .. } in risen {
                call.arg(class.number()).arg(written(*version));
            }
            call
        };
        self.each::<()>(&of_one.map(call).collect::<Vec<_>>()).await.map(drop)
    }

    async fn confirm(&self, confirmed: &[Confirmed]) -> Result<(), Away> {
        let command = |Confirmed { device, epoch, heads, acked, at }: &Confirmed| {
            let positions: Vec<String> = heads.iter().chain(acked).copied().map(written).collect();
            Cmd::pset_ex(device_key(device, *epoch), format!("{at} {}", positions.join(" ")), millis(CONFIRM))
        };
        self.commands::<()>(confirmed.iter().map(command)).await.map(drop)
    }

    async fn look(&self, device: &Device, epoch: u64, lately: Duration) -> Result<Look, Away> {
        let mut call = self.scripts.look.prepare_invoke();
        call.key(heads_key(&device.user, epoch)).key(device_key(device, epoch)).arg(millis(lately));
        let mut found: Vec<Looked> = self.each(&[call]).await?;
        let (messages, receipts, confirmed, now) = found.pop().ok_or_else(|| Away("no answer".into()))?;
        let mut heads = [messages, receipts].map(|head| read(&head?));
        let confirmed = confirmed.and_then(|text| {
            let all: Option<Vec<Version>> = text.split(' ').map(read).collect();
            <[Version; 2 * CLASSES]>::try_from(all?).ok()
        });
        let acked = confirmed.map(|[messages, receipts, acked @ ..]| {
            heads = [heads[0].max(Some(messages)), heads[1].max(Some(receipts))];
            acked
        });
        Ok(Look { heads, acked, now })
    }

    async fn remember(&self, stored: &[(Name, Stored)]) -> Result<(), Away> {
        let command = |(name, stored): &(Name, Stored)| Cmd::pset_ex(result_key(name), text(stored), millis(RESULTS));
        self.commands::<()>(stored.iter().map(command)).await.map(drop)
    }

    async fn recall(&self, names: &[Name]) -> Result<Vec<Option<Stored>>, Away> {
        let texts: Vec<Option<String>> = self.commands(names.iter().map(|name| Cmd::get(result_key(name)))).await?;
        Ok(texts.into_iter().map(|text| stored(&text?)).collect())
    }
}

fn heads_key(user: &UserId, epoch: u64) -> String {
    format!("tern:{{{user}}}:heads:{epoch:x}")
}

fn device_key(device: &Device, epoch: u64) -> String {
    format!("tern:{{{}}}:device:{epoch:x}:{}", device.user, device.id)
}

fn result_key(Name { device, epoch, client_msg_id }: &Name) -> String {
    format!("tern:{{{}}}:sent:{epoch:x}:{}:{client_msg_id}", device.user, device.id)
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

fn written(version: Version) -> String {
    format!("{version:016x}")
}

fn read(text: &str) -> Option<Version> {
    Version::from_str_radix(text, 16).ok()
}

fn text(Stored { hash, sent }: &Stored) -> String {
    let Sent { server_msg_id, conversation, seq, time_ms, .. } = sent;
    format!("{hash:x} {server_msg_id} {seq} {time_ms} {conversation}")
}

fn stored(text: &str) -> Option<Stored> {
    let words: Vec<&str> = text.split(' ').collect();
    let [hash, server_msg_id, seq, time_ms, conversation] = words[..] else { return None };
    let sent = Sent {
        server_msg_id: server_msg_id.parse().ok()?,
        conversation: ConversationId::new(conversation).ok()?,
        seq: seq.parse().ok()?,
        time_ms: time_ms.parse().ok()?,
        owed: Arc::default(),
        places: Vec::new(),
    };
    Some(Stored { hash: u64::from_str_radix(hash, 16).ok()?, sent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read_as_it_was_written() {
        let conversation = ConversationId::new("alice:bob").expect("a conversation");
        let (owed, places) = (Arc::default(), Vec::new());
        let sent = Sent { server_msg_id: 7, conversation, seq: 3, time_ms: -1, owed, places };
        let result = Stored { hash: u64::MAX, sent };
        assert_eq!(stored(&text(&result)), Some(result));
        assert_eq!(stored("f 7 3"), None);
    }

    #[test]
    fn a_higher_version_is_the_later_string() {
        let versions = [0, 9, 10, 1 << 53, (1 << 53) + 1, u64::MAX];
        assert!(versions.map(written).is_sorted());
        assert_eq!(versions.map(|version| read(&written(version))), versions.map(Some));
    }
}
