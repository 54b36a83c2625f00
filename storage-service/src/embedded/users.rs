//! What readers see: users, their timelines and their devices. Holds only what is as durable as promised.
//!
//! In memory stands what the last checkpoint does not have yet, and the last values of the users that are active; the rest is
//! in the index. The writer thread applies each committed fact here after it is durable; readers lock one shard for a moment.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tern_proto::key::Class;
use tern_proto::{ConversationId, DeviceId, UserId, v1};
use tern_runtime::planted::{self, Fault};

use super::index::{Changes, Index};
use super::record::{Ack, Delivered, Dropped, Fact, Message, Meta, Read, Start};
use super::retain::Rules;
use super::rows::{ReceiptKey, ReceiptRow};
use super::tables::IndexError;
use super::user::{User, by_class, raise};
use crate::Device;

const SHARDS: usize = 64;
/// Users kept in a shard before those that the index has whole are dropped.
const SHARD_USERS: usize = 4096;

/// Every user, in shards.
pub(super) struct Users {
    /// Boxed, since half of a table's places are empty.
    shards: Vec<Mutex<HashMap<UserId, Box<User>>>>,
    hasher: RandomState,
    /// Devices that have acknowledged more than is derived.
    underived: Mutex<BTreeSet<Device>>,
    rules: Rules,
    /// Who has more than the rules let a user keep. Few, and only until the next pass of retention.
    over: Mutex<BTreeSet<UserId>>,
}

impl Users {
    pub(super) fn new(underived: Vec<Device>, rules: Rules) -> Users {
        Users {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            underived: Mutex::new(underived.into_iter().collect()),
            rules,
            over: Mutex::default(),
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
        let loaded = Box::new(index.user(user)?.map(User::from_row).unwrap_or_default());
        if shard.len() >= SHARD_USERS {
            shard.retain(|_, user| user.dirty != 0);
        }
        Ok(look(shard.entry(user.clone()).or_insert(loaded)))
    }

    /// Looks at one user without keeping it in memory.
    pub(super) fn look<R>(&self, index: &Index, user: &UserId, look: impl FnOnce(&User) -> R) -> Result<R, IndexError> {
        let shard = self.shard(user);
        match shard.get(user) {
            Some(known) => Ok(look(known)),
            None => Ok(look(&index.user(user)?.map(User::from_row).unwrap_or_default())),
        }
    }

    /// Looks at one user if it is in memory.
    pub(super) fn peek<R>(&self, user: &UserId, look: impl FnOnce(&User) -> R) -> Option<R> {
        self.shard(user).get(user).map(|user| look(user))
    }

    /// The name as it is in memory already, where it is: what is going to be kept for long need not be there twice.
    fn kept(&self, user: &UserId) -> UserId {
        self.shard(user).get_key_value(user).map_or(user, |(kept, _)| kept).clone()
    }

    fn shard(&self, user: &UserId) -> MutexGuard<'_, HashMap<UserId, Box<User>>> {
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

    /// Who has too much.
    pub(super) fn over(&self) -> Vec<UserId> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(super) fn add_over(&self, users: Vec<UserId>) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).extend(users);
    }

    pub(super) fn no_more_over(&self, user: &UserId) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).remove(user);
    }

    /// Applies a durable fact that stands at `position`, with the bytes of its record, and enters the timelines of `owed`. Tells which users it changed that were not known to
    /// be changed since the last checkpoint; `checkpoint` is the number of the one that will hold it. Applying a fact again changes nothing.
    pub(super) fn apply(
        &self,
        index: &Index,
        (position, bytes): (u64, u64),
        meta: &Meta,
        owed: &[UserId],
        checkpoint: u64,
    ) -> Result<Vec<UserId>, IndexError> {
        let change = Change { users: self, index, position, bytes, checkpoint, touched: Vec::new() };
        match &meta.fact {
            Some(Fact::Message(message)) => change.message(message, owed),
            Some(Fact::Ack(ack)) => change.ack(ack),
            Some(Fact::Start(start)) => change.start(start),
            Some(Fact::Read(read)) => change.read(read, owed),
            Some(Fact::Delivered(delivered)) => change.delivered(delivered),
            Some(Fact::Dropped(dropped)) => change.dropped(dropped),
            Some(Fact::Refusal(_) | Fact::Epoch(_) | Fact::Moved(_)) | None => Ok(change.touched),
        }
    }

    /// Adds what the index does not have of this user to a checkpoint.
    pub(super) fn collect(&self, id: &UserId, changes: &mut Changes) {
        if let Some(user) = self.shard(id).get(id) {
            changes.users.push((id.clone(), user.to_row()));
            changes.versions.push((id.clone(), user.recent.clone()));
            changes.dropped.extend(user.gap.fresh().map(|up_to| (id.clone(), up_to)));
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
                user.gap.checkpointed();
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

    fn any_but(&self, not: &[UserId]) -> Option<UserId> {
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
    bytes: u64,
    checkpoint: u64,
    touched: Vec<UserId>,
}

impl Change<'_> {
    fn message(mut self, message: &Message, owed: &[UserId]) -> Result<Vec<UserId>, IndexError> {
        if planted::active(Fault::GroupSeesBeforeJoin) {
            self.show_before_join(message)?;
        }
        for user in owed.iter().filter(|user| !is_skipped(user, message, owed)) {
            self.append(user, user.as_str() != message.from)?;
        }
        if planted::active(Fault::ForeignEntry)
            && message.seq.is_multiple_of(8)
            && let Some(third) = self.users.any_but(owed)
        {
            self.append(&third, true)?;
        }
        Ok(self.touched)
    }

    fn append(&mut self, id: &UserId, is_foreign: bool) -> Result<(), IndexError> {
        let (bytes, rules) = (self.bytes, self.users.rules);
        let is_over = self.edit(id, |user, position| {
            user.append(position, bytes);
            if is_foreign {
                user.foreign = user.foreign.max(position);
            }
            rules.is_over(user.entries, user.bytes)
        })?;
        if is_over {
            self.users.add_over(vec![id.clone()]);
        }
        Ok(())
    }

    fn dropped(mut self, dropped: &Dropped) -> Result<Vec<UserId>, IndexError> {
        let Ok(id) = UserId::new(&dropped.user) else { return Ok(self.touched) };
        let rules = self.users.rules;
        let (is_over, derived) = self.edit(&id, |user, _| {
            let derived = user.drop_oldest(dropped);
            (rules.is_over(user.entries, user.bytes), derived)
        })?;
        if !is_over {
            self.users.no_more_over(&id);
        }
        for device in derived {
            self.users.mark_underived(Device { user: id.clone(), id: device }, false);
        }
        Ok(self.touched)
    }

    /// A planted fault: whoever joins gets what the adding member got last, which is most often the message before.
    fn show_before_join(&mut self, message: &Message) -> Result<(), IndexError> {
        let joining = message.change.iter().flat_map(|change| &change.add);
        let Some(from) = UserId::new(&message.from).ok().filter(|_| message.seq > 1) else { return Ok(()) };
        let newest = self.users.with(self.index, &from, |user| user.heads[Class::Messages as usize])?;
        for user in joining.filter_map(|name| UserId::new(name).ok()) {
            self.edit(&user, |user, _| user.append(newest, 0))?;
        }
        Ok(())
    }

    fn ack(mut self, ack: &Ack) -> Result<Vec<UserId>, IndexError> {
        let Some(device) = super::record::device(&ack.user, &ack.device) else { return Ok(self.touched) };
        let acked = by_class(&ack.versions);
        let (behind, yielded) = self.edit(&device.user, |user, _| {
            if planted::active(Fault::AckMovesOtherDevices) {
                user.devices.iter_mut().for_each(|other| raise(&mut other.acked, &acked));
            }
            let foreign = user.foreign;
            let (known, yielded) = user.device(&device.id, ack.time_ms);
            let was_behind = known.is_behind();
            raise(&mut known.acked, &acked);
            if known.derived >= foreign {
                known.derived = known.derived.max(known.acked[Class::Messages as usize]);
            }
            (Some(known.is_behind()).filter(|&behind| behind != was_behind), yielded)
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
            (Some(known.is_behind()), yielded)
        })?;
        self.moved(device, behind, yielded);
        Ok(self.touched)
    }

    fn read(mut self, read: &Read, owed: &[UserId]) -> Result<Vec<UserId>, IndexError> {
        let (Ok(reader), Ok(conversation)) = (UserId::new(&read.user), ConversationId::new(&read.conversation)) else {
            return Ok(self.touched);
        };
        let kind = v1::ReceiptKind::Read as u32;
        let key = ReceiptKey { conversation, member: reader, kind };
        for user in owed {
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
            self.receipt(&other, key, raised.seq, delivered.time_ms)?;
        }
        let behind = self.edit(&device.user, |user, _| {
            let Some(known) = user.devices.iter_mut().find(|known| known.id == device.id) else { return false };
            known.derived = known.derived.max(delivered.derived);
            known.is_behind()
        })?;
        self.users.mark_underived(device, behind);
        Ok(self.touched)
    }

    /// A device acknowledged or started; perhaps another one yielded to it. `behind` is `None` where nothing has changed about it.
    fn moved(&self, device: Device, behind: Option<bool>, yielded: Option<DeviceId>) {
        if let Some(id) = yielded {
            self.users.mark_underived(Device { user: device.user.clone(), id }, false);
        }
        if let Some(behind) = behind {
            self.users.mark_underived(device, behind);
        }
    }

    fn receipt(&mut self, user: &UserId, key: ReceiptKey, seq: u64, time_ms: i64) -> Result<(), IndexError> {
        self.edit(user, |user, version| {
            let head = &mut user.heads[Class::Receipts as usize];
            if version > *head {
                *head = version;
                user.receipts.insert(key, ReceiptRow { version, seq, time_ms });
            }
        })?;
        Ok(())
    }

    fn edit<R>(&mut self, user: &UserId, edit: impl FnOnce(&mut User, u64) -> R) -> Result<R, IndexError> {
        let (before, edited) = self.users.with(self.index, user, |user| {
            let before = std::mem::replace(&mut user.dirty, self.checkpoint);
            (before, edit(user, self.position))
        })?;
        if before != self.checkpoint {
            self.touched.push(self.users.kept(user));
        }
        Ok(edited)
    }
}

/// A planted fault: now and then the message does not enter somebody's timeline.
fn is_skipped(user: &UserId, message: &Message, owed: &[UserId]) -> bool {
    if !message.seq.is_multiple_of(8) {
        return false;
    }
    let is_last = || owed.iter().rfind(|owed| owed.as_str() != message.from) == Some(user);
    planted::active(Fault::RecipientDropped) && user.as_str() == message.to
        || planted::active(Fault::GroupMemberSkipped) && UserId::new(&message.to).is_err() && is_last()
}
