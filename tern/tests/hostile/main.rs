//! The server as a process, against what clients and disks do to it.

#![allow(clippy::unwrap_used, reason = "these are tests, their support included")]

mod damage;
mod device;
mod keys;
mod owed;
mod place;
#[path = "../process/mod.rs"]
mod process;
mod slow;
