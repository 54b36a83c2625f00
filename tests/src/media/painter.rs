//! A client of the scene: uploads one image after the other, in every way there is.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use sha2::Digest as _;
use tern_proto::v1::{self, Code, OutMessage};
use tokio::time::Instant;

use super::Judge;
use super::wire::Wire;

/// A GIF of one pixel; whatever stands behind its end is part of the image, and costs nothing to look at.
const PIXEL: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
const PART_BYTES: [u32; 3] = [1024, 1536, 4096];

pub(super) struct Painter {
    pub(super) own: Wire,
    /// Who gets the messages.
    pub(super) friend: Wire,
    /// Who gets none.
    pub(super) stranger: Wire,
    pub(super) to: String,
    pub(super) judge: Judge,
    /// For so long the server keeps what nobody refers to.
    pub(super) lifetime: Duration,
    /// When the upload under way was begun, at the earliest.
    pub(super) began: Instant,
    /// When it became complete, at the earliest.
    pub(super) completed: Instant,
    pub(super) random: fastrand::Rng,
}

/// An image that is complete.
pub(super) struct Sent {
    pub(super) id: String,
    pub(super) whole: Vec<u8>,
    /// A message is about it.
    pub(super) referred: bool,
    /// Who may fetch it.
    pub(super) reader: Wire,
}

/// Why an upload has come to no end.
enum Ended {
    /// It took longer than it is kept.
    Expired,
    /// What a rule has judged already.
    Judged,
}

impl Painter {
    /// Uploads until the deadline, and gives what has become complete.
    pub(super) async fn paint_until(mut self, deadline: Instant) -> Result<Vec<Sent>> {
        let (mut all, mut number) = (Vec::new(), 0);
        while Instant::now() < deadline {
            number += 1;
            let whole = self.image();
            let lying = self.random.u32(..8) == 0;
            match self.bring(&whole, lying).await {
                Ok(Some(id)) => all.push(self.show(number, id, whole).await),
                Ok(None) | Err(Ended::Expired | Ended::Judged) => {}
            }
        }
        Ok(all)
    }

    fn image(&mut self) -> Vec<u8> {
        let mut whole = PIXEL.to_vec();
        let length = self.random.usize(PIXEL.len()..60_000);
        whole.resize_with(length, || self.random.u8(..));
        whole
    }

    /// Brings all parts; the id, unless the digest was a lie.
    async fn bring(&mut self, whole: &[u8], lying: bool) -> Result<Option<String>, Ended> {
        let mut digest: Vec<u8> = sha2::Sha256::digest(whole).to_vec();
        if lying {
            digest[0] ^= 1;
        }
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let part_bytes = PART_BYTES[self.random.usize(..PART_BYTES.len())];
        let bytes = whole.len() as u64;
        let request = v1::MediaBegin { bytes, sha256, r#type: "image/gif".into(), part_bytes };
        self.began = Instant::now();
        let upload = self.own.begin(&request).await.map_err(|code| self.ended("14a", code, "begin"))?;
        let parts: Vec<&[u8]> = whole.chunks(part_bytes as usize).collect();
        let mut order: Vec<u32> = (0..upload.parts).collect();
        self.random.shuffle(&mut order);
        let mut there = BTreeSet::new();
        let mut completed = None;
        while let Some(index) = order.pop() {
            let bytes = parts[index as usize];
            if completed.is_none() {
                self.completed = Instant::now();
            }
            // Now and then two at the same time.
            let told = if self.random.u32(..5) == 0 {
                let mut other = self.own.clone();
                let (one, two) =
                    tokio::join!(self.own.part(&upload.id, index, bytes), other.part(&upload.id, index, bytes));
                one.and(two)
            } else {
                self.own.part(&upload.id, index, bytes).await
            };
            match told {
                Ok(told) => completed = told.media.is_some().then_some(told),
                Err(Code::BadDigest) if lying => {
                    there.insert(index);
                    let all = there.len() == parts.len();
                    self.judge.holds("14e", all, || "refused before all parts were there".into());
                    return Ok(None);
                }
                Err(code) => return Err(self.ended("14a", code, &format!("part {index} of {}", upload.id))),
            }
            there.insert(index);
            self.look_around(&upload.id, &parts, &there, completed.is_some()).await?;
            if self.random.u32(..6) == 0 {
                // Once more, some time later.
                order.insert(self.random.usize(..=order.len()), index);
            }
        }
        self.judge.holds("14e", !lying, || format!("{} has another digest than was said, and is taken", upload.id));
        self.complete(&upload.id, completed).await.map(Some)
    }

    /// What was acknowledged is there, and stays as it is.
    async fn look_around(
        &mut self,
        id: &str,
        parts: &[&[u8]],
        there: &BTreeSet<u32>,
        is_complete: bool,
    ) -> Result<(), Ended> {
        if is_complete {
            return Ok(());
        }
        if self.random.u32(..10) == 0 {
            let stands = self.own.stands(id).await.map_err(|code| self.ended("14a", code, id))?;
            let missing = stands.missing.iter().flat_map(|run| run.first..=run.last);
            let lost: Vec<_> = missing.filter(|index| there.contains(index)).collect();
            self.judge
                .holds("14a", lost.is_empty(), || format!("parts {lost:?} of {id} were acknowledged, and are missing"));
        }
        if self.random.u32(..10) == 0 {
            let index = there.iter().copied().nth(self.random.usize(..there.len())).unwrap_or_default();
            let other: Vec<u8> = parts[index as usize].iter().map(|byte| byte ^ 0x55).collect();
            let told = self.own.part(id, index, &other).await;
            if told == Err(Code::MediaExpired) {
                return Err(self.ended("14a", Code::MediaExpired, &format!("part {index} of {id}")));
            }
            self.judge.holds("14c", told == Err(Code::PartConflict), || {
                format!("other bytes for part {index} of {id}: {told:?}")
            });
            let foreign = self.stranger.part(id, index, parts[index as usize]).await;
            let over = self.may_be_over() && foreign == Err(Code::MediaExpired);
            self.judge.holds("9", over || foreign == Err(Code::NoSuchMedia), || {
                format!("a stranger's part of {id}: {foreign:?}")
            });
        }
        Ok(())
    }

    /// All who complete get the same.
    async fn complete(&mut self, id: &str, last: Option<v1::MediaUpload>) -> Result<String, Ended> {
        let mut other = self.own.clone();
        let (one, two) = tokio::join!(self.own.complete(id), other.complete(id));
        let (one, two) =
            (one.map_err(|code| self.ended("14d", code, id))?, two.map_err(|code| self.ended("14d", code, id))?);
        let same = one.media.is_some() && one == two && last.is_none_or(|last| last.media == one.media);
        self.judge.holds("14d", same, || format!("{id} was completed as different things"));
        Ok(id.to_owned())
    }

    /// Sends a message about it, or leaves it alone.
    async fn show(&mut self, number: u64, id: String, whole: Vec<u8>) -> Sent {
        let referred = self.random.u32(..4) > 0;
        let mut reader = self.own.clone();
        let stranger = self.stranger.fetch(&id).await;
        self.judge.holds("9", stranger.is_err(), || format!("a stranger has fetched {id}"));
        if referred {
            let message =
                OutMessage { client_msg_id: number, to: self.to.clone(), media: id.clone(), ..Default::default() };
            let code = self.own.send(message).await;
            // A message that comes so late may find it gone.
            if code == Code::NoSuchMedia && self.is_late() {
                return Sent { id, whole, referred: false, reader };
            }
            self.judge.holds("14f", code == Code::Ok, || format!("a message about {id} is refused: {code:?}"));
            reader = self.friend.clone();
        }
        let fetched = reader.fetch(&id).await;
        let late = !referred && self.is_late();
        let same = fetched.as_ref().is_ok_and(|bytes| *bytes == whole);
        self.judge
            .holds("14b", same || late, || format!("{id} comes out as something else: {:?}", fetched.map(|b| b.len())));
        Sent { id, whole, referred, reader }
    }

    /// Nearly all of its time has gone by here: the server's clock is another one.
    fn may_be_over(&self) -> bool {
        self.began.elapsed() >= self.lifetime * 3 / 4
    }

    /// The server may have begun to forget what is complete.
    fn is_late(&self) -> bool {
        self.completed.elapsed() > self.lifetime / 2
    }

    /// `what` was asked for.
    fn ended(&self, rule: &'static str, code: Code, what: &str) -> Ended {
        let age = self.began.elapsed();
        if code == Code::MediaExpired && self.may_be_over() {
            return Ended::Expired;
        }
        self.judge.holds(rule, false, || format!("{what} was refused with {code:?} after {age:?}"));
        Ended::Judged
    }
}
