//! Media: assembles parts into images and audio, makes thumbnails, owns the object store. Not built yet; this page is its seam.
//!
//! - The seam to the gateway will be a trait `MediaApi`, as `tern_sync::SyncApi` is the one of the sync service: `begin` (size, SHA-256, type),
//!   `part` (index, checksum, bytes; the same again is a no-op, other bytes a conflict), `missing`, `complete` (may be repeated) and `fetch`.
//! - Parts arrive over the short link in any order and on concurrent requests; chunks of audio over the long link. Neither passes through the
//!   sync service: a message only refers to a media id.
//! - A send that refers to media renews the media's lease durably before it commits, so that no message can refer to media that cannot be
//!   fetched. That is the only call between the sync service and this one.
//! - Storage is its own: a staging file per upload and an object store that gets merged objects only. The timelines know nothing of it.
