//! Uploads: the parts of a file over a few short links at once, and what has become of it fetched again.
//!
//! Nothing of an upload is kept on this side. It is named by its user, its digest, its size and its type, so after any interruption to begin again is to go on with what is missing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::Digest as _;
use tern_proto::v1::{self, Code};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

use crate::backoff::{ATTEMPTS, Backoff};
use crate::link::{LinkError, ShortLink};

/// Parts under way at the same time.
const LANES: usize = 4;
/// How long a small request is said to take where that cannot be measured.
const FAR: Duration = Duration::from_secs(1);
/// Bytes that are fetched at once, at most.
const FETCH_BYTES: u64 = 512 * 1024;
/// The same where the link is slow.
const FEW_BYTES: u64 = 8 * 1024;

/// Asks until there is an answer, at most [`ATTEMPTS`] times, and each time but the first over a new link, with the token of then. Not a function: futures of
/// closures that borrow cannot be told to be `Send`.
macro_rules! retried {
    ($uploads:ident, $link:ident, $ask:expr) => {{
        let mut retries = Retries::new();
        loop {
            match $ask {
                Ok(answer) => break answer,
                Err(error) => retries.after(error).await?,
            }
            $link = $uploads.link();
        }
    }};
}

/// Why an upload or a fetch has ended.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The server has refused it, and would again.
    #[error("the server has refused it: {message} ({code})", code = .code.as_str_name())]
    Refused {
        /// Why.
        code: Code,
        /// For people.
        message: String,
    },
    /// It has not succeeded after 12 attempts; to begin again is to go on.
    #[error("given up after {ATTEMPTS} attempts: {0}")]
    GivenUp(LinkError),
    /// What was fetched could not be handed on.
    #[error("what was fetched cannot be written: {0}")]
    NotTaken(#[source] std::io::Error),
    /// An answer that makes no sense.
    #[error("the server has answered something else: {0}")]
    Odd(&'static str),
}

/// Whose uploads go where. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploads {
    address: String,
    token: crate::Token,
    device: String,
}

impl Uploads {
    /// Those of a device, by the short link that the options name. A [`crate::Client`] has its own.
    pub fn of(options: &crate::ClientOptions, device: &str) -> Uploads {
        let (address, token) = (options.http.clone(), options.token.clone());
        Uploads { address, token, device: device.to_owned() }
    }

    fn link(&self) -> ShortLink {
        ShortLink::new(&self.address, &self.token.get(), &self.device)
    }

    /// Uploads these bytes of a type such as `image/jpeg`, and tells `progress` how many parts are on disk, and how many there are. What the server has already of them is not
    /// sent again.
    ///
    /// # Errors
    /// [`UploadError`].
    pub async fn upload(
        &self,
        media_type: &str,
        bytes: Bytes,
        progress: impl Fn(u32, u32) + Send + Sync,
    ) -> Result<v1::MediaUpload, UploadError> {
        let mut link = self.link();
        let part_bytes = part_bytes(self.round_trip(&mut link).await);
        let request =
            v1::MediaBegin { bytes: bytes.len() as u64, sha256: digest(&bytes), r#type: media_type.into(), part_bytes };
        let upload = retried!(self, link, link.media_begin(&request).await);
        let there = AtomicU32::new(upload.parts - upload.left.min(upload.parts));
        progress(there.load(Ordering::Relaxed), upload.parts);
        let brought = || progress(there.fetch_add(1, Ordering::Relaxed) + 1, upload.parts);
        let mut stands = upload.clone();
        while stands.media.is_none() {
            let missing: VecDeque<u32> = stands.missing.iter().flat_map(|run| run.first..=run.last).collect();
            if missing.is_empty() {
                return Ok(retried!(self, link, link.media_complete(&upload.id).await));
            }
            let (missing, at_once) = (Mutex::new(missing), Turns::new());
            let at_once = &at_once;
            let lane = || Lane {
                uploads: self,
                link: self.link(),
                upload: &upload,
                bytes: &bytes,
                missing: &missing,
                at_once,
            };
            let lanes = [lane(), lane(), lane(), lane()].map(|lane| lane.run(&brought));
            let [first, second, third, fourth] = lanes;
            let (first, second, third, fourth) = tokio::try_join!(first, second, third, fourth)?;
            let last = [first, second, third, fourth].into_iter().flatten().find(|told| told.media.is_some());
            stands = match last {
                Some(last) => last,
                // More were missing than one answer lists.
                None => retried!(self, link, link.media_upload(&upload.id).await),
            };
        }
        Ok(stands)
    }

    /// Fetches media, or with `thumbnail` its thumbnail, and hands the bytes to `take` as they come.
    ///
    /// # Errors
    /// [`UploadError`]; what was taken stays taken.
    pub async fn fetch(
        &self,
        id: &str,
        thumbnail: bool,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), UploadError> {
        let mut link = self.link();
        let path = if thumbnail { format!("/v1/media/{id}/thumbnail") } else { format!("/v1/media/{id}") };
        let (mut at, mut step) = (0, FETCH_BYTES);
        loop {
            let (bytes, length) = retried!(self, link, {
                let answer = link.media_range(&path, at, step).await;
                if matches!(answer, Err(LinkError::Timeout)) {
                    step = (step / 4).max(FEW_BYTES);
                }
                answer
            });
            take(&bytes).map_err(UploadError::NotTaken)?;
            at += bytes.len() as u64;
            step = (step * 2).min(FETCH_BYTES);
            if at >= length {
                return Ok(());
            }
            if bytes.is_empty() {
                return Err(UploadError::Odd("a range without bytes"));
            }
        }
    }

    /// How long a small request takes; long, if it fails.
    async fn round_trip(&self, link: &mut ShortLink) -> Duration {
        // Connects.
        if link.healthy().await.is_err() {
            return FAR;
        }
        let asked = Instant::now();
        match link.healthy().await {
            Ok(()) => asked.elapsed(),
            Err(_) => FAR,
        }
    }
}

/// SHA-256, as begin has it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The farther away the server, the more is lost when a part is, and the more of them are under way anyway.
fn part_bytes(round_trip: Duration) -> u32 {
    match round_trip.as_millis() {
        0..10 => 64 * 1024,
        10..60 => 16 * 1024,
        60..250 => 4 * 1024,
        _ => 1536,
    }
}

/// How many parts may be under way: one less after each that got no answer in time, for on a slow link they take the time from each other, and at least one.
struct Turns {
    free: Semaphore,
    all: AtomicU32,
}

impl Turns {
    fn new() -> Turns {
        Turns { free: Semaphore::new(LANES), all: AtomicU32::new(LANES as u32) }
    }

    async fn take(&self) -> Result<SemaphorePermit<'_>, UploadError> {
        self.free.acquire().await.map_err(|_| UploadError::Odd("the upload has ended"))
    }

    /// Gives a turn up for good, unless it is the last one.
    fn lose(&self, turn: SemaphorePermit<'_>) {
        let left = |all: u32| (all > 1).then(|| all - 1);
        if self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
            turn.forget();
        }
    }
}

/// Brings parts, one after the other.
struct Lane<'a> {
    uploads: &'a Uploads,
    link: ShortLink,
    upload: &'a v1::MediaUpload,
    bytes: &'a Bytes,
    missing: &'a Mutex<VecDeque<u32>>,
    at_once: &'a Turns,
}

impl Lane<'_> {
    /// The answer to the last one that was brought; `None` if none was.
    async fn run(mut self, brought: &(impl Fn() + Sync)) -> Result<Option<v1::MediaUpload>, UploadError> {
        let mut last = None;
        while let Some(index) = self.next() {
            let start = (index as usize).saturating_mul(self.upload.part_bytes as usize).min(self.bytes.len());
            let end = start.saturating_add(self.upload.part_bytes as usize).min(self.bytes.len());
            let part = self.bytes.slice(start..end);
            let mut retries = Retries::new();
            let told = loop {
                let error = {
                    let turn = self.at_once.take().await?;
                    match self.link.media_part(&self.upload.id, index, part.clone()).await {
                        Ok(told) => break told,
                        Err(error) => {
                            // Also by the clock of the server, which has not got all of it.
                            let is_slow =
                                matches!(error, LinkError::Timeout | LinkError::Refused { code: Code::BadBody, .. });
                            if is_slow {
                                self.at_once.lose(turn);
                            }
                            if is_slow { LinkError::Timeout } else { error }
                        }
                    }
                };
                retries.after(error).await?;
                self.link = self.uploads.link();
            };
            last = Some(told);
            brought();
        }
        Ok(last)
    }

    fn next(&self) -> Option<u32> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// The failures of one request.
struct Retries {
    backoff: Backoff,
    left: u32,
    /// There may be a newer token.
    new_token: bool,
}

impl Retries {
    fn new() -> Retries {
        Retries { backoff: Backoff::new(fastrand::Rng::new()), left: ATTEMPTS, new_token: true }
    }

    /// Waits before the next attempt, if there is to be one.
    async fn after(&mut self, error: LinkError) -> Result<(), UploadError> {
        let told = match error {
            LinkError::Refused { code: Code::TokenExpired, .. } if self.new_token => {
                self.new_token = false;
                Duration::ZERO
            }
            LinkError::Refused { code, message, .. } if !may_succeed(code) => {
                return Err(UploadError::Refused { code, message });
            }
            LinkError::Refused { retry_after, .. } => retry_after,
            _ => Duration::ZERO,
        };
        self.left -= 1;
        if self.left == 0 {
            return Err(UploadError::GivenUp(error));
        }
        sleep(self.backoff.wait(told)).await;
        Ok(())
    }
}

/// Whether the same request may succeed later. What is wrong with a part has happened on the way.
fn may_succeed(code: Code) -> bool {
    code.is_retryable() || matches!(code, Code::TooManyRequests | Code::BadPart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_turn_is_not_lost() {
        let turns = Turns::new();
        for _ in 0..9 {
            turns.lose(turns.take().await.unwrap());
        }
        assert_eq!(turns.free.available_permits(), 1);
    }

    #[test]
    fn parts_are_small_where_the_server_is_far() {
        for (millis, bytes) in [(0, 65_536), (9, 65_536), (30, 16_384), (200, 4_096), (250, 1_536), (5_000, 1_536)] {
            assert_eq!(part_bytes(Duration::from_millis(millis)), bytes, "{millis} ms");
        }
    }
}
