//! One transaction: lock and load, decide, write.
//!
//! ```text
//! flight 1  BEGIN, senders (locked), cursors (locked), heads, epoch
//! flight 2  the results of ids that were seen before, if there are any
//! flight 3  conversations (locked), members
//!           decide
//! flight 4  heads raised (locked): versions
//! flight 5  everything that is new, COMMIT
//! ```
//!
//! A flight is sent as a whole. Locks are held to the end, those of the heads too: so versions become visible in their order.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use tern_postgres::Failure;
use tern_proto::key::{Class, Version};
use tern_proto::{ConversationId, DeviceId, UserId, v1};
use tern_runtime::planted::{self, Fault};
use tokio_postgres::Row;

use super::connection::Connection;
use super::counted::Counted;
use super::decide::{Decider, remembered};
use super::effects::{Effects, Raise};
use super::ids::Ids;
use super::known::{Cursor, Heads, Known, Loaded, Remembered};
use super::numbers::{from_ordered, ordered};
use super::options::Isolation;
use super::write;
use crate::conversation::Conversation;
use crate::{Content, Device, Member, Op, Outcome, Recipient};

/// The ops of one transaction, and what is known about earlier attempts.
pub(super) struct Transaction<'a> {
    pub connection: &'a Connection,
    pub isolation: Isolation,
    pub ops: &'a [Op],
    /// An earlier attempt may have been committed without an answer: what is found stored may be its, and nobody was told of it.
    pub again: bool,
    /// From when on it may be committed.
    pub committing: &'a AtomicBool,
    pub counted: &'a Counted,
}

/// The conversations that ops touch.
#[derive(Default)]
struct Touched {
    /// Those of two, with how many new messages they get, and when the last of them was sent.
    pairs: BTreeMap<ConversationId, (i64, i64)>,
    groups: BTreeSet<ConversationId>,
    /// Those whose members' positions are needed.
    positions: BTreeSet<ConversationId>,
}

/// The base of each timeline that grew: versions count from it.
pub(super) type Bases = HashMap<(UserId, Class), Version>;

impl Transaction<'_> {
    /// Runs it. After a failure that leaves the connection, it is rolled back.
    pub(super) async fn run(&self, ids: &mut Ids) -> Result<Vec<Outcome>, Failure> {
        let outcomes = self.attempt(ids).await;
        if outcomes.as_ref().is_err_and(Failure::leaves_the_connection) {
            self.connection.client.batch_execute("ROLLBACK").await.map_err(Failure::Lost)?;
        }
        outcomes
    }

    async fn attempt(&self, ids: &mut Ids) -> Result<Vec<Outcome>, Failure> {
        let mut known = Known { ids: ids.take(self.connection, self.sends().count()).await?, ..Known::default() };
        let seen = self.lock_devices(&mut known).await?;
        self.load_results(&mut known, seen).await?;
        let resends = known.results.values().map(|results| results.len() as u64).sum();
        self.lock_conversations(&mut known).await?;
        let mut decider = Decider::new(known);
        let mut outcomes: Vec<Outcome> = self.ops.iter().map(|op| decider.decide(op)).collect();
        let Decider { known, effects } = decider;
        ids.give_back(known.ids.clone());
        let bases = self.raise_heads(&effects.raises).await?;
        Effects::settle(&mut outcomes, known.epoch, &bases)?;
        self.committing.store(true, Ordering::Relaxed);
        write::everything(self.connection, &known, effects, &bases).await?;
        if !self.again {
            self.counted.resends.inc_by(resends);
        }
        Ok(outcomes)
    }

    fn sends(&self) -> impl Iterator<Item = (&Device, u64, &Content, i64)> {
        self.ops.iter().filter_map(|op| match op {
            Op::Send { from, client_msg_id, content, time_ms } => Some((from, *client_msg_id, content, *time_ms)),
            _ => None,
        })
    }

    /// Flight 1. Gives the sends whose id is not above all that were seen before.
    async fn lock_devices(&self, known: &mut Known) -> Result<Vec<(Device, u64)>, Failure> {
        let Connection { client, statements, .. } = self.connection;
        let mut senders: BTreeMap<&Device, u64> = BTreeMap::new();
        for (from, id, ..) in self.sends() {
            let highest = senders.entry(from).or_default();
            *highest = id.max(*highest);
        }
        let (users, devices) = names(senders.keys().copied());
        let highest: Vec<i64> = senders.values().map(|id| ordered(*id)).collect();
        let none = ordered(0);
        let moving = self.ops.iter().filter_map(|op| match op {
            Op::Start { device, .. } | Op::Ack { device, .. } | Op::Delivered { by: device, .. } => Some(&device.user),
            Op::Send { .. } | Op::Read { .. } => None,
        });
        let moving: BTreeSet<&UserId> = moving.collect();
        let moving: Vec<&str> = moving.into_iter().map(UserId::as_str).collect();

        let begin = match self.isolation {
            Isolation::ReadCommitted => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Isolation::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        };
        let lock_senders = async {
            match senders.is_empty() {
                true => Ok(Vec::new()),
                false => client.query(&statements.lock_senders, &[&users, &devices, &highest, &none]).await,
            }
        };
        let lock_cursors = query_for(client, &statements.lock_cursors, &moving);
        let heads = query_for(client, &statements.heads, &moving);
        let (begun, senders, cursors, heads, epoch) = tokio::join!(
            biased;
            client.batch_execute(begin),
            lock_senders,
            lock_cursors,
            heads,
            client.query_one(&statements.epoch, &[]),
        );
        begun?;

        let mut before: HashMap<Device, u64> = HashMap::new();
        for row in senders? {
            let device = device(row.get(0), row.get(1))?;
            known.floors.insert(device.clone(), from_ordered(row.get(2)));
            before.insert(device, from_ordered(row.get(3)));
        }
        for row in cursors? {
            let Device { user, id } = device(row.get(0), row.get(1))?;
            let cursor =
                Cursor { acked: [version(&row, 2), version(&row, 3)], derived: version(&row, 4), heard_ms: row.get(5) };
            known.cursors.entry(user).or_default().insert(id, cursor);
        }
        for row in heads? {
            let heads: &mut Heads = known.heads.entry(user(row.get(0))?).or_default();
            let class = class(row.get(1))?;
            heads.heads[class as usize] = version(&row, 2);
            if class == Class::Messages {
                heads.foreign = version(&row, 3);
            }
        }
        known.epoch = epoch?.get::<_, i64>(0).cast_unsigned();
        let is_seen = |from: &Device, id: u64| before.get(from).is_some_and(|&before| id <= before);
        Ok(self.sends().filter(|(from, id, ..)| is_seen(from, *id)).map(|(from, id, ..)| (from.clone(), id)).collect())
    }

    /// Flight 2.
    async fn load_results(&self, known: &mut Known, seen: Vec<(Device, u64)>) -> Result<(), Failure> {
        if seen.is_empty() {
            return Ok(());
        }
        let Connection { client, statements, .. } = self.connection;
        let (users, devices) = names(seen.iter().map(|(from, _)| from));
        let ids: Vec<i64> = seen.iter().map(|(_, id)| ordered(*id)).collect();
        for row in client.query(&statements.results, &[&users, &devices, &ids]).await? {
            let place: i64 = row.get(0);
            let Some((from, id)) = usize::try_from(place - 1).ok().and_then(|place| seen.get(place)) else { continue };
            let hash = row.get::<_, i64>(1).cast_unsigned();
            let outcome = match row.get::<_, Option<i32>>(6) {
                Some(code) => Outcome::Refused(v1::Code::try_from(code).map_err(|_| Failure::Damaged("a refusal"))?),
                None => {
                    let conversation = conversation_id(row.get(3))?;
                    // Whoever was owed it may not have been told.
                    let told = conversation.pair().filter(|_| self.again);
                    let mut sent = remembered(version(&row, 2), conversation, version(&row, 4), row.get(5));
                    sent.owed = told.into_iter().flatten().collect();
                    Outcome::Sent(sent)
                }
            };
            known.results.entry(from.clone()).or_default().insert(*id, Remembered { hash, outcome });
        }
        Ok(())
    }

    /// Flight 3. A conversation of two gets its next positions at once: its messages cannot be refused any more.
    async fn lock_conversations(&self, known: &mut Known) -> Result<(), Failure> {
        let Touched { pairs, groups, positions } = self.conversations(known);
        if pairs.is_empty() && groups.is_empty() {
            return Ok(());
        }
        let Connection { client, statements, .. } = self.connection;
        let names: Vec<&str> = pairs.keys().map(ConversationId::as_str).collect();
        let counts: Vec<i64> = pairs.values().map(|(count, _)| *count).collect();
        let times: Vec<i64> = pairs.values().map(|(_, time_ms)| *time_ms).collect();
        let groups: Vec<&str> = groups.iter().map(ConversationId::as_str).collect();
        let positions: Vec<&str> = positions.iter().map(ConversationId::as_str).collect();
        let lock_pairs = async {
            match names.is_empty() {
                true => Ok(Vec::new()),
                false => client.query(&statements.lock_pairs, &[&names, &counts, &times]).await,
            }
        };
        let lock_groups = query_for(client, &statements.lock_groups, &groups);
        let members = query_for(client, &statements.members, &positions);
        let (locked_pairs, locked_groups, members) = tokio::join!(biased; lock_pairs, lock_groups, members);
        // In the order in which they were sent: what follows a failure fails for no reason of its own.
        let (locked_pairs, locked_groups, members) = (locked_pairs?, locked_groups?, members?);

        let mut rosters: HashMap<ConversationId, Vec<Member>> = HashMap::new();
        for row in members {
            rosters.entry(conversation_id(row.get(0))?).or_default().push(member(&row, 1)?);
        }
        for id in pairs.keys() {
            let users = id.pair().ok_or(Failure::Damaged("a conversation of two"))?;
            known.conversations.insert(id.clone(), Loaded::new(Conversation::of_two(users)));
        }
        for row in locked_pairs {
            let id = conversation_id(row.get(0))?;
            let count = pairs.get(&id).map_or(0, |(count, _)| count.cast_unsigned());
            let Some(loaded) = known.conversations.get_mut(&id) else { continue };
            if let Some(members) = rosters.remove(&id) {
                *loaded = Loaded::new(Conversation::of(crate::Conversation { members, ..Default::default() }));
            }
            let seq = version(&row, 1).checked_sub(count).ok_or(Failure::Damaged("a position"))?;
            (loaded.conversation.state.seq, loaded.is_new) = (seq, seq == 0);
        }
        for row in locked_groups {
            let id = conversation_id(row.get(0))?;
            let members = rosters.remove(&id).unwrap_or_default();
            let state = crate::Conversation {
                title: title(row.get(3))?,
                owner: row.get::<_, Option<&str>>(4).map(user).transpose()?,
                seq: version(&row, 1),
                time_ms: row.get(2),
                members,
            };
            known.conversations.insert(id, Loaded::new(Conversation::of(state)));
        }
        Ok(())
    }

    /// Which conversations the ops touch.
    fn conversations(&self, known: &Known) -> Touched {
        let Touched { mut pairs, mut groups, mut positions } = Touched::default();
        let mut named: HashSet<(&Device, u64)> = HashSet::new();
        for (from, id, content, time_ms) in self.sends() {
            match content {
                Content::Text { to: Recipient::User(to), .. } => {
                    let is_new = known.used(from, id).is_none() && named.insert((from, id));
                    if is_new {
                        let (count, newest) = pairs.entry(ConversationId::of_two(&from.user, to)).or_default();
                        (*count, *newest) = (*count + 1, time_ms);
                    }
                }
                Content::Text { to: Recipient::Group(group), .. } | Content::Change { group: Some(group), .. } => {
                    named.insert((from, id));
                    groups.insert(group.clone());
                }
                Content::Change { group: None, .. } | Content::Refused { .. } => {
                    named.insert((from, id));
                }
            }
        }
        for op in self.ops {
            match op {
                Op::Read { conversation, .. } => {
                    positions.insert(conversation.clone());
                }
                Op::Delivered { positions: delivered, .. } => {
                    positions.extend(delivered.iter().map(|(conversation, _)| conversation.clone()));
                }
                Op::Send { .. } | Op::Start { .. } | Op::Ack { .. } => {}
            }
        }
        for id in &positions {
            if id.is_group() {
                groups.insert(id.clone());
            } else {
                pairs.entry(id.clone()).or_default();
            }
        }
        positions.extend(groups.iter().cloned());
        Touched { pairs, groups, positions }
    }

    /// Flight 4.
    async fn raise_heads(&self, raises: &BTreeMap<(UserId, Class), Raise>) -> Result<Bases, Failure> {
        if raises.is_empty() {
            return Ok(Bases::new());
        }
        let Connection { client, statements, .. } = self.connection;
        let users: Vec<&str> = raises.keys().map(|(user, _)| user.as_str()).collect();
        let classes: Vec<i16> = raises.keys().map(|(_, class)| class.number() as i16).collect();
        let counts: Vec<i64> = raises.values().map(|raise| raise.count.cast_signed()).collect();
        let bytes: Vec<i64> = raises.values().map(|raise| raise.bytes.cast_signed()).collect();
        let foreign: Vec<i64> = raises.values().map(|raise| raise.foreign.cast_signed()).collect();
        if planted::active(Fault::VersionsReserved) {
            return self.reserve_versions(raises, (&users, &classes, &counts)).await;
        }
        let rows = client.query(&statements.raise_heads, &[&users, &classes, &counts, &bytes, &foreign]).await?;
        let mut bases = Bases::new();
        for row in rows {
            let key = (user(row.get(0))?, class(row.get(1))?);
            let count = raises.get(&key).map_or(0, |raise| raise.count);
            bases.insert(key, version(&row, 2).checked_sub(count).ok_or(Failure::Damaged("a head"))?);
        }
        Ok(bases)
    }

    /// A planted fault: versions from a sequence, so that who asks first may commit last.
    async fn reserve_versions(
        &self,
        raises: &BTreeMap<(UserId, Class), Raise>,
        (users, classes, counts): (&Vec<&str>, &Vec<i16>, &Vec<i64>),
    ) -> Result<Bases, Failure> {
        let client = &self.connection.client;
        let base: i64 = client.query_one(&self.connection.statements.next_ids, &[]).await?.get(0);
        tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(0..40))).await;
        let raise = "INSERT INTO heads AS h (user_id, class, head, entries, foreign_head)
            SELECT user_id, class, $4 + n, n, $4 + n FROM unnest($1::text[], $2::int2[], $3::int8[]) AS a (user_id, class, n)
            ORDER BY user_id COLLATE \"C\", class ON CONFLICT (user_id, class) DO UPDATE
            SET head = GREATEST(h.head, excluded.head), foreign_head = GREATEST(h.foreign_head, excluded.foreign_head)";
        client.execute(raise, &[users, classes, counts, &base]).await?;
        Ok(raises.keys().map(|key| (key.clone(), base.cast_unsigned())).collect())
    }
}

/// A query about some names; none if there are none.
async fn query_for(
    client: &tokio_postgres::Client,
    statement: &tokio_postgres::Statement,
    names: &[&str],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    if names.is_empty() { Ok(Vec::new()) } else { client.query(statement, &[&names]).await }
}

/// Devices as two columns: users, and their own names.
pub(super) fn names<'a>(devices: impl Iterator<Item = &'a Device>) -> (Vec<&'a str>, Vec<&'a str>) {
    devices.map(|device| (device.user.as_str(), device.id.as_str())).unzip()
}

pub(super) fn version(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column).cast_unsigned()
}

pub(super) fn user(name: &str) -> Result<UserId, Failure> {
    UserId::new(name).map_err(|_| Failure::Damaged("a user's name"))
}

pub(super) fn device(user_name: &str, id: &str) -> Result<Device, Failure> {
    let id = DeviceId::new(id).map_err(|_| Failure::Damaged("a device's name"))?;
    Ok(Device { user: user(user_name)?, id })
}

pub(super) fn conversation_id(name: &str) -> Result<ConversationId, Failure> {
    ConversationId::new(name).map_err(|_| Failure::Damaged("a conversation's name"))
}

pub(super) fn class(number: i16) -> Result<Class, Failure> {
    let class = u32::try_from(number).ok().and_then(Class::from_number);
    class.ok_or(Failure::Damaged("a class"))
}

pub(super) fn title(bytes: &[u8]) -> Result<String, Failure> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Failure::Damaged("a title"))
}

/// From the columns user, joined, last_sent, delivered, read.
pub(super) fn member(row: &Row, first: usize) -> Result<Member, Failure> {
    Ok(Member {
        user: user(row.get(first))?,
        joined: version(row, first + 1),
        last_sent: version(row, first + 2),
        delivered: version(row, first + 3),
        read: version(row, first + 4),
    })
}
