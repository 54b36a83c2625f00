//! What readers see: users, their timelines and their devices. Holds only what is as durable as promised.
//!
//! In memory stands what the last checkpoint does not have yet, and the last values of the users that are active; the rest is
//! in the index. The writer thread applies each committed fact here after it is durable; readers lock one shard for a moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tern_proto::key::{CLASSES, Class, Version};
use tern_proto::limits::DEVICES;
use tern_proto::{ConversationId, DeviceId, UserId, v1};
use tern_runtime::planted::{self, Fault};

use super::index::{Changes, DeviceRow, Index, IndexError, ReceiptKey, ReceiptRow, UserRow};
use super::record::{Ack, Delivered, Fact, Message, Meta, Read, Start};
use crate::Device;

const SHARDS: usize = 64;
/// Users kept in a shard before those that the index has whole are dropped.
const SHARD_USERS: usize = 4096;

/// One user.
#[derive(Debug, Default)]
pub(super) struct User {
    /// The last version by class.
    pub heads: [Version; CLASSES],
    /// The last version by class that the index has; below it the index is asked.
    pub indexed: [Version; CLASSES],
    /// Class 1 above `indexed`, ascending.
    pub recent: Vec<Version>,
    /// Class 2 above `indexed`.
    pub receipts: BTreeMap<ReceiptKey, ReceiptRow>,
    /// At most [`DEVICES`].
    pub devices: Vec<Known>,
    /// The number of the checkpoint that will hold the last change.
    dirty: u64,
}

/// A device that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub id: DeviceId,
    pub acked: [Version; CLASSES],
    pub derived: Version,
    pub heard_ms: i64,
}

/// Every user, in shards.
pub(super) struct Users {
    shards: Vec<Mutex<HashMap<UserId, User>>>,
    hasher: RandomState,
    /// Devices that have acknowledged more than is derived.
    underived: Mutex<BTreeSet<Device>>,
}

impl Users {
    pub(super) fn new(underived: Vec<Device>) -> Users {
        Users {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            underived: Mutex::new(underived.into_iter().collect()),
        }
    }

    /// Looks at one user, fetched from the index if it is not in memory.
    pub(super) fn with<R>(
        &self,
        index: &Index,
        user: &UserId,
        look: impl FnOnce(&mut User) -> R,
    ) -> Result<R, IndexError> {
        let mut shard = self.shard(user);
        if let Some(known) = shard.get_mut(user) {
            return Ok(look(known));
        }
        let loaded = index.user(user)?.map(User::from_row).unwrap_or_default();
        if shard.len() >= SHARD_USERS {
            shard.retain(|_, user| user.dirty != 0);
        }
        Ok(look(shard.entry(user.clone()).or_insert(loaded)))
    }

    /// Looks at one user if it is in memory.
    pub(super) fn peek<R>(&self, user: &UserId, look: impl FnOnce(&User) -> R) -> Option<R> {
        self.shard(user).get(user).map(look)
    }

    fn shard(&self, user: &UserId) -> MutexGuard<'_, HashMap<UserId, User>> {
        let shard = self.hasher.hash_one(user) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Devices behind with derivation, in order, after `after`.
    pub(super) fn underived(&self, after: Option<&Device>, limit: usize) -> Vec<Device> {
        use std::ops::Bound::{Excluded, Unbounded};
        let devices = self.underived.lock().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(Unbounded, Excluded);
        devices.range::<Device, _>((from, Unbounded)).take(limit).cloned().collect()
    }

    /// Applies a durable fact that stands at `position` and tells which users it changed. `checkpoint` is the number of the one that will hold it.
    /// Applying a fact again changes nothing.
    pub(super) fn apply(
        &self,
        index: &Index,
        position: u64,
        meta: &Meta,
        checkpoint: u64,
    ) -> Result<Vec<UserId>, IndexError> {
        let change = Change { users: self, index, position, checkpoint, touched: Vec::new() };
        match &meta.fact {
            Some(Fact::Message(message)) => change.message(message),
            Some(Fact::Ack(ack)) => change.ack(ack),
            Some(Fact::Start(start)) => change.start(start),
            Some(Fact::Read(read)) => change.read(read),
            Some(Fact::Delivered(delivered)) => change.delivered(delivered),
            Some(Fact::Refusal(_) | Fact::Epoch(_)) | None => Ok(change.touched),
        }
    }

    /// Adds what the index does not have of this user to a checkpoint.
    pub(super) fn collect(&self, id: &UserId, changes: &mut Changes) {
        if let Some(user) = self.shard(id).get(id) {
            changes.users.push((id.clone(), user.to_row()));
            changes.versions.push((id.clone(), user.recent.clone()));
            changes.receipts.extend(user.receipts.iter().map(|(key, row)| (id.clone(), key.clone(), *row)));
        }
    }

    /// The checkpoint with this number is written; it covers the log up to `applied`.
    pub(super) fn checkpointed(&self, users: &[UserId], checkpoint: u64, applied: u64) {
        for id in users {
            let mut shard = self.shard(id);
            let Some(user) = shard.get_mut(id) else { continue };
            let have = user.recent.partition_point(|&version| version < applied);
            if let Some(&last) = user.recent[..have].last() {
                user.indexed[Class::Messages as usize] = last;
            }
            user.recent.drain(..have);
            let last = user.receipts.values().map(|row| row.version).filter(|&version| version < applied).max();
            user.indexed[Class::Receipts as usize] = user.indexed[Class::Receipts as usize].max(last.unwrap_or(0));
            user.receipts.retain(|_, row| row.version >= applied);
            if user.dirty <= checkpoint {
                user.dirty = 0;
                user.recent.shrink_to_fit();
            }
        }
    }

    fn mark_underived(&self, device: Device, underived: bool) {
        let mut devices = self.underived.lock().unwrap_or_else(PoisonError::into_inner);
        if underived {
            devices.insert(device);
        } else {
            devices.remove(&device);
        }
    }

    fn any_but(&self, not: [&UserId; 2]) -> Option<UserId> {
        self.shards.iter().find_map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.keys().find(|user| !not.contains(user)).cloned()
        })
    }
}

struct Change<'a> {
    users: &'a Users,
    index: &'a Index,
    position: u64,
    checkpoint: u64,
    touched: Vec<UserId>,
}

impl Change<'_> {
    fn message(mut self, message: &Message) -> Result<Vec<UserId>, IndexError> {
        let (Ok(from), Ok(to)) = (UserId::new(&message.from), UserId::new(&message.to)) else {
            return Ok(self.touched);
        };
        let drop = planted::active(Fault::RecipientDropped) && message.seq.is_multiple_of(8);
        if !drop {
            self.edit(&to, |user, position| user.append(position))?;
        }
        self.edit(&from, |user, position| user.append(position))?;
        if planted::active(Fault::ForeignEntry)
            && message.seq.is_multiple_of(8)
            && let Some(third) = self.users.any_but([&from, &to])
        {
            self.edit(&third, |user, position| user.append(position))?;
        }
        Ok(self.touched)
    }

    fn ack(mut self, ack: &Ack) -> Result<Vec<UserId>, IndexError> {
        let Some(device) = super::record::device(&ack.user, &ack.device) else { return Ok(self.touched) };
        let acked = by_class(&ack.versions);
        let (behind, yielded) = self.edit(&device.user, |user, _| {
            if planted::active(Fault::AckMovesOtherDevices) {
                user.devices.iter_mut().for_each(|other| raise(&mut other.acked, &acked));
            }
            let (known, yielded) = user.device(&device.id, ack.time_ms);
            raise(&mut known.acked, &acked);
            (known.is_behind(), yielded)
        })?;
        self.moved(device, behind, yielded);
        Ok(self.touched)
    }

    fn start(mut self, start: &Start) -> Result<Vec<UserId>, IndexError> {
        let Some(device) = super::record::device(&start.user, &start.device) else { return Ok(self.touched) };
        let position = by_class(&start.position);
        let (behind, yielded) = self.edit(&device.user, |user, _| {
            let (known, yielded) = user.device(&device.id, start.time_ms);
            raise(&mut known.acked, &position);
            known.derived = known.derived.max(position[Class::Messages as usize]);
            (known.is_behind(), yielded)
        })?;
        self.moved(device, behind, yielded);
        Ok(self.touched)
    }

    fn read(mut self, read: &Read) -> Result<Vec<UserId>, IndexError> {
        let (Ok(reader), Ok(conversation)) = (UserId::new(&read.user), ConversationId::new(&read.conversation)) else {
            return Ok(self.touched);
        };
        let kind = v1::ReceiptKind::Read as u32;
        let key = ReceiptKey { conversation, member: reader.clone(), kind };
        let other = key.conversation.other(&reader).filter(|_| read.tell_other);
        for user in [Some(reader), other].into_iter().flatten() {
            self.receipt(user, key.clone(), read.seq, read.time_ms)?;
        }
        Ok(self.touched)
    }

    fn delivered(mut self, delivered: &Delivered) -> Result<Vec<UserId>, IndexError> {
        let Some(device) = super::record::device(&delivered.user, &delivered.device) else { return Ok(self.touched) };
        for raised in &delivered.raised {
            let Ok(conversation) = ConversationId::new(&raised.conversation) else { continue };
            let Some(other) = conversation.other(&device.user) else { continue };
            let kind = v1::ReceiptKind::Delivered as u32;
            let key = ReceiptKey { conversation, member: device.user.clone(), kind };
            self.receipt(other, key, raised.seq, delivered.time_ms)?;
        }
        let behind = self.edit(&device.user, |user, _| {
            let Some(known) = user.devices.iter_mut().find(|known| known.id == device.id) else { return false };
            known.derived = known.derived.max(delivered.derived);
            known.is_behind()
        })?;
        self.users.mark_underived(device, behind);
        Ok(self.touched)
    }

    /// A device acknowledged or started; perhaps another one yielded to it.
    fn moved(&self, device: Device, behind: bool, yielded: Option<DeviceId>) {
        if let Some(id) = yielded {
            self.users.mark_underived(Device { user: device.user.clone(), id }, false);
        }
        self.users.mark_underived(device, behind);
    }

    fn receipt(&mut self, user: UserId, key: ReceiptKey, seq: u64, time_ms: i64) -> Result<(), IndexError> {
        self.edit(&user, |user, version| {
            let head = &mut user.heads[Class::Receipts as usize];
            if version > *head {
                *head = version;
                user.receipts.insert(key, ReceiptRow { version, seq, time_ms });
            }
        })?;
        Ok(())
    }

    fn edit<R>(&mut self, user: &UserId, edit: impl FnOnce(&mut User, u64) -> R) -> Result<R, IndexError> {
        self.touched.push(user.clone());
        self.users.with(self.index, user, |user| {
            user.dirty = self.checkpoint;
            edit(user, self.position)
        })
    }
}

impl User {
    fn from_row(row: UserRow) -> User {
        let heads = by_class(&row.heads);
        let known = |row: DeviceRow| {
            let id = DeviceId::new(&row.id).ok()?;
            Some(Known { id, acked: by_class(&row.acked), derived: row.derived, heard_ms: row.heard_ms })
        };
        let devices = row.devices.into_iter().filter_map(known).collect();
        let mut user = User { heads, indexed: heads, devices, ..User::default() };
        if planted::active(Fault::KeyBackAtRestart) {
            user.devices.iter_mut().for_each(|device| device.acked = [0; CLASSES]);
        }
        user
    }

    fn to_row(&self) -> UserRow {
        let row = |device: &Known| DeviceRow {
            id: device.id.to_string(),
            acked: device.acked.to_vec(),
            derived: device.derived,
            heard_ms: device.heard_ms,
        };
        UserRow { heads: self.heads.to_vec(), devices: self.devices.iter().map(row).collect() }
    }

    /// Puts a version at the end of class 1.
    fn append(&mut self, version: Version) {
        let head = &mut self.heads[Class::Messages as usize];
        if version > *head {
            *head = version;
            self.recent.push(version);
        }
    }

    /// The device, remembered from now on; the longest silent one yields to it if there are too many.
    fn device(&mut self, id: &DeviceId, heard_ms: i64) -> (&mut Known, Option<DeviceId>) {
        let mut yielded = None;
        let at = self.devices.iter().position(|known| known.id == *id).unwrap_or_else(|| {
            if self.devices.len() >= DEVICES {
                let silent = (0..self.devices.len()).min_by_key(|&at| self.devices[at].heard_ms);
                yielded = Some(self.devices.remove(silent.unwrap_or(0)).id);
            }
            self.devices.push(Known { id: id.clone(), acked: [0; CLASSES], derived: 0, heard_ms });
            self.devices.len() - 1
        });
        let known = &mut self.devices[at];
        known.heard_ms = known.heard_ms.max(heard_ms);
        (known, yielded)
    }
}

impl Known {
    fn is_behind(&self) -> bool {
        self.acked[Class::Messages as usize] > self.derived
    }
}

fn raise(acked: &mut [Version; CLASSES], to: &[Version; CLASSES]) {
    for (mine, theirs) in acked.iter_mut().zip(to) {
        *mine = (*mine).max(*theirs);
    }
}

fn by_class(versions: &[Version]) -> [Version; CLASSES] {
    std::array::from_fn(|class| versions.get(class).copied().unwrap_or(0))
}
