//! Routes: those of a user are one hash.

use async_trait::async_trait;
use redis::Cmd;
use tern_proto::UserId;
use tern_runtime::planted::{self, Fault};

use super::Redis;
use crate::routes::{Came, distinct, name_of};
use crate::{Away, Device, GatewayId, Held, Kept, Route, Routes, Standing};

/// A route is written as the run of the gateway, the link, when that came, and when the route ends, in microseconds of Redis's own clock. Whatever has ended goes away, and so does what
/// ends later than anything can: the clock was set back. Answers what has become of the route, the link whose place it took, and when its link came.
const KEEP: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = ARGV[4] * 1000
local came, told = math.max(1, now - ARGV[3]), tonumber(ARGV[5])
if told > 0 then came = math.min(came, told)
elseif string.sub(ARGV[1], 1, 1) ~= '?' then return {3, false, came}
end
local standing, former = 1, false
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local route, from, ends = string.match(all[at + 1], '^(%S+ %S+) (%d+) (%d+)$')
  ends = tonumber(ends)
  if not route or ends <= now or ends > now + kept then
    redis.call('HDEL', KEYS[1], all[at])
  elseif all[at] == ARGV[1] then
    if route == ARGV[2] then standing = 0
    elseif tonumber(from) > came then standing = 2
    else former = route end
  end
end
if standing < 2 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. string.format(' %.0f %.0f', came, now + kept))
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return {standing, former, came}
";

pub(super) const LEAVE: &str = "
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and string.match(known, '^%S+ %S+') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
";

/// What can be broken by name in it.
const THE_YOUNGER_STAYS: &str = "tonumber(from) > came";
const DATE: &str = "tonumber(ARGV[5])";

/// The script that keeps a route.
pub(super) fn keep() -> String {
    if planted::active(Fault::OlderLinkStays) {
        return KEEP.replace(THE_YOUNGER_STAYS, "tonumber(from) < came");
    }
    if planted::active(Fault::LinksDatedLate) {
        return KEEP.replace(DATE, "math.huge");
    }
    KEEP.into()
}

/// Microseconds for which a word has been under way where each dates its link anew: none but in a fault.
fn late() -> i64 {
    if planted::active(Fault::LinksDatedLate) { fastrand::i64(0..2_000_000) } else { 0 }
}

#[async_trait]
impl Routes for Redis {
    async fn keep(&self, routes: &[Kept]) -> Result<Vec<(Held, Option<Route>)>, Away> {
        let call = |Kept { device, route, age, came }: &Kept| {
            let mut call = self.scripts.keep.prepare_invoke();
            call.key(key(&device.user)).arg(name_of(device, *route)).arg(written(*route));
            call.arg(age.as_micros() as i64 - late()).arg(self.kept.as_millis() as u64);
            call.arg(came.map_or(0, Came::micros));
            call
        };
        let answers: Vec<(u8, Option<String>, u64)> = self.each(&routes.iter().map(call).collect::<Vec<_>>()).await?;
        let told = |((standing, former, came), kept): ((u8, Option<String>, u64), &Kept)| {
            let standing = match standing {
                0 => Standing::Stands,
                1 => Standing::New,
                2 => Standing::Displaced,
                _ => Standing::Undated,
            };
            let former = former.and_then(|text| read(&text));
            let held = Held { standing, came: Came::of(came) };
            (held, former.map(|(gateway, link)| Route { gateway, link, ..kept.route }))
        };
        Ok(answers.into_iter().zip(routes).map(told).collect())
    }

    async fn leave(&self, routes: &[(Device, Route)]) -> Result<(), Away> {
        if planted::active(Fault::RouteLeaveUnfenced) {
            let command = |(device, route): &(Device, Route)| Cmd::hdel(key(&device.user), name_of(device, *route));
            return self.commands::<()>(routes.iter().map(command)).await.map(drop);
        }
        let call = |(device, route): &(Device, Route)| {
            let mut call = self.scripts.leave.prepare_invoke();
            call.key(key(&device.user)).arg(name_of(device, *route)).arg(written(*route));
            call
        };
        self.each::<()>(&routes.iter().map(call).collect::<Vec<_>>()).await.map(drop)
    }

    async fn gateways(&self, users: &[UserId]) -> Result<Vec<Vec<GatewayId>>, Away> {
        let written: Vec<Vec<String>> = self.commands(users.iter().map(|user| Cmd::hvals(key(user)))).await?;
        let gateway = |text: &String| Some(read(text)?.0);
        Ok(written.iter().map(|values| distinct(values.iter().filter_map(gateway))).collect())
    }
}

/// The hash with the routes of a user, whose name is its hash tag.
fn key(user: &UserId) -> String {
    format!("tern:{{{user}}}:routes")
}

fn written(route: Route) -> String {
    format!("{} {:x}", route.gateway, route.link)
}

fn read(text: &str) -> Option<(GatewayId, u64)> {
    let mut words = text.split(' ');
    let mut number = || u64::from_str_radix(words.next()?, 16).ok();
    Some((GatewayId::of(number()?), number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_broken_in_the_script_is_there() {
        assert_eq!([THE_YOUNGER_STAYS, DATE].map(|part| KEEP.matches(part).count()), [1, 1]);
    }

    #[test]
    fn a_route_is_read_as_it_was_written() {
        let route = Route { gateway: GatewayId::of(0xfeed), link: 0x1f, is_wait: false };
        assert_eq!(written(route), "000000000000feed 1f");
        assert_eq!(read("000000000000feed 1f 1700000000000 1700000000001"), Some((route.gateway, route.link)));
        assert_eq!(read("what"), None);
    }
}
