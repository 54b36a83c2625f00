//! The checker: clients that record, a nemesis that acts, a model that holds the history to the invariants.
//!
//! `docs/checker.md` describes events, rules, clients and nemeses. From the outside in:
//!
//! - [`run`]: what `tern check` does: one run, or one for each planted fault
//! - `stage`, `settle`, `script`: a run from its start to the quiet end
//! - `model`: the rules, over a `history` of `event`s
//! - `actor`, `client`, `device`: the clients; `wire`, `long_link`, `short_link`: how they speak
//! - `media`: the scene of images, with clients and rules of its own
//! - `scene`: how a run is set up; `proxy`, `server`, `cluster`, `inner_link`, `disk`: what breaks

mod actor;
mod client;
mod cluster;
mod device;
mod disk;
mod event;
mod history;
mod inner_link;
mod long_link;
mod media;
mod model;
mod planted;
mod proxy;
mod report;
mod run;
mod scene;
mod script;
mod server;
mod settle;
mod short_link;
mod stage;
mod wire;

pub use client::{ClientArgs, client_main};
pub use report::Verdict;
pub use run::{CheckArgs, run};
