//! Media: assembles the parts of images and audio, makes thumbnails, owns the object store.
//!
//! ```text
//!  gateway ─▶ MediaApi ─▶ uploads   (what is durable of an upload: what was declared, its parts, what it has become)
//!                │            │ all parts are there
//!                │            ▼
//!                │       image, audio   (looked at once: size, thumbnail, placeholder; duration)
//!                │            │
//!                └────────▶ objects (merged bytes, by media id; they never change)
//! ```
//!
//! [`MediaApi`] is the seam to the gateway; [`MediaService`] stands behind it. An upload is named by its owner and the digest of its bytes, so that to begin
//! again is to go on, and it is merged once: whoever sees the last part in makes the media, and the first result counts.
//! [`collect`] removes what has outlived its time.

mod apart;
mod api;
pub mod audio;
mod clips;
mod collect;
pub mod contract;
pub mod declared;
mod directory;
pub mod image;
mod jpeg;
pub mod objects;
pub mod parts;
pub mod remote;
mod service;
pub mod setup;
pub mod strip;
pub mod uploads;

pub use api::{MediaApi, Opened};
pub use collect::{References, collect, step};
pub use service::MediaService;
