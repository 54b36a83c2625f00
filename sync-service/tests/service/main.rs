//! The sync service over the reference of storage, with a recording end of the hints. Time is paused: no test waits.

mod conversations;
mod groups;
mod keys;
mod media;
mod receipts;
mod sends;
mod shortcuts;
mod stage;
