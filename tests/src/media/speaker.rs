//! A client of the scene: speaks one clip after the other over a long link that breaks, and goes on from what it was told.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use bytes::BytesMut;
use prost::Message as _;
use sha2::Digest as _;
use tern_proto::v1::{self, Code, OutMessage};
use tern_proto::{Command, Packet};
use tokio::time::{Instant, sleep};

use super::Judge;
use super::painter::Sent;
use super::wire::{AGAIN, PATIENCE, Wire};
use crate::long_link::{LongLink, Lost};

const CHUNK_BYTES: usize = 1536;
/// Bytes of a frame of AMR at 12.2 kbit/s, 20 ms of sound.
const FRAME_BYTES: usize = 32;
const DEVICE: &str = "d1";

pub(super) struct Speaker {
    own: Wire,
    /// Who gets the messages.
    friend: Wire,
    to: String,
    judge: Judge,
    random: fastrand::Rng,
    /// For so long the server keeps what nobody refers to.
    lifetime: Duration,
    link: Option<LongLink>,
    sequence: u32,
}

/// A clip and what is known of it.
struct Clip {
    number: u64,
    whole: Vec<u8>,
    begin: v1::MediaBegin,
    lying: bool,
    began: Instant,
    /// Chunks below this one are stored, as was told.
    told: u32,
    /// Chunks that have gone out, ever.
    out: BTreeSet<u32>,
}

impl Clip {
    fn chunks(&self) -> u32 {
        self.whole.chunks(CHUNK_BYTES).len() as u32
    }

    fn chunk(&self, index: u32) -> v1::Chunk {
        let bytes = self.whole.chunks(CHUNK_BYTES).nth(index as usize).unwrap_or_default().to_vec();
        v1::Chunk { clip: Some(self.begin.clone()), index, bytes }
    }

    fn message(&self, to: &str) -> OutMessage {
        let chunk = Some(self.chunk(self.chunks() - 1));
        OutMessage { client_msg_id: self.number, to: to.to_owned(), chunk, ..Default::default() }
    }
}

impl Speaker {
    pub(super) fn new(
        (own, friend): (Wire, Wire),
        to: String,
        judge: Judge,
        random: fastrand::Rng,
        lifetime: Duration,
    ) -> Speaker {
        Speaker { own, friend, to, judge, random, lifetime, link: None, sequence: 1 }
    }

    /// The server may have begun to forget it.
    fn is_late(&self, clip: &Clip) -> bool {
        clip.began.elapsed() > self.lifetime / 2
    }

    /// Speaks until the deadline, and gives what has been taken.
    pub(super) async fn speak_until(mut self, deadline: Instant) -> Result<Vec<Sent>> {
        let (mut all, mut number) = (Vec::new(), 0);
        while Instant::now() < deadline {
            number += 1;
            let clip = self.clip(number);
            all.extend(self.say(clip).await);
        }
        Ok(all)
    }

    fn clip(&mut self, number: u64) -> Clip {
        let frames = if self.random.bool() { self.random.usize(1..100) } else { self.random.usize(100..2_000) };
        let mut whole = b"#!AMR\n".to_vec();
        for _ in 0..frames {
            whole.push(0x3c);
            whole.extend(std::iter::repeat_with(|| self.random.u8(..)).take(FRAME_BYTES - 1));
        }
        let lying = self.random.u32(..8) == 0;
        let mut digest: Vec<u8> = sha2::Sha256::digest(&whole).to_vec();
        digest[0] ^= u8::from(lying);
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let begin =
            v1::MediaBegin { bytes: whole.len() as u64, sha256, r#type: "audio/amr".into(), ..Default::default() };
        Clip { number, whole, begin, lying, began: Instant::now(), told: 0, out: BTreeSet::new() }
    }

    /// Says it until there is a final answer; `None` if that is a refusal, or it took too long.
    async fn say(&mut self, mut clip: Clip) -> Option<Sent> {
        loop {
            if self.is_late(&clip) {
                return None;
            }
            let left_out = (self.random.u32(..4) == 0 && clip.told + 1 < clip.chunks())
                .then(|| self.random.u32(clip.told..clip.chunks() - 1));
            let Ok(result) = self.transmit(&mut clip, left_out).await else {
                self.link = None;
                sleep(AGAIN).await;
                continue;
            };
            match result.code() {
                code if code.is_retryable() => sleep(AGAIN).await,
                Code::UploadIncomplete => {
                    self.is_missing_what_was_not_told(&clip).await;
                    self.is_not_seen(&clip).await;
                    if clip.lying {
                        // It may have been refused, of which the answer was lost; its parts are dropped then.
                        clip.told = 0;
                    }
                }
                Code::BadDigest if clip.lying => return None,
                Code::Ok => {
                    let whole = left_out.is_none_or(|index| clip.out.contains(&index));
                    self.judge.holds("14h", whole, || format!("clip {} was taken without a chunk", clip.number));
                    self.judge.holds("14e", !clip.lying, || format!("clip {} has another digest", clip.number));
                    return self.is_heard(clip, &result).await;
                }
                code => {
                    self.judge.holds("14h", false, || format!("clip {} was refused with {code:?}", clip.number));
                    return None;
                }
            }
        }
    }

    /// Sends the chunks that were not told to be stored, but for one, and the message; or breaks off.
    async fn transmit(&mut self, clip: &mut Clip, left_out: Option<u32>) -> Result<v1::SendResult, Lost> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.own.open(DEVICE).await?,
        };
        let mut order: Vec<u32> = (clip.told..clip.chunks() - 1).collect();
        if self.random.bool() {
            self.random.shuffle(&mut order);
        }
        if let Some(again) = self.random.choice(&order).copied() {
            order.push(again);
        }
        order.retain(|index| Some(*index) != left_out);
        let breaks = self.random.u32(..4) == 0;
        if breaks {
            order.truncate(self.random.usize(..=order.len()));
        }
        let mut out = BytesMut::new();
        for index in order {
            clip.out.insert(index);
            Packet::new(Command::Chunk.number(), 0, &clip.chunk(index)).encode(&mut out);
        }
        self.sequence += 1;
        if !breaks {
            let messages = vec![clip.message(&self.to)];
            let request = v1::SendRequest { messages, ..Default::default() };
            Packet::new(Command::Send.number(), self.sequence, &request).encode(&mut out);
        }
        let cut = self.random.usize(..=out.len());
        link.write(out.freeze(), cut, PATIENCE).await?;
        // Who breaks off waits a little for what is told.
        let patience = if breaks { AGAIN } else { PATIENCE };
        let deadline = Instant::now() + patience;
        while let Some(packet) = link.read(deadline).await? {
            if packet.command == Command::ChunksStored.number() {
                let told = v1::ChunksStored::decode(packet.body).map_err(|_| Lost)?;
                if told.sha256 == clip.begin.sha256 {
                    clip.told = clip.told.max(told.chunks.min(clip.chunks() - 1));
                }
            } else if packet.sequence == self.sequence {
                let reply = v1::SendReply::decode(packet.body).map_err(|_| Lost)?;
                self.link = Some(link);
                return reply.results.into_iter().next().ok_or(Lost);
            }
        }
        Err(Lost)
    }

    fn conversation(&self) -> String {
        // "painter-" sorts before "speaker-".
        format!("{}:{}", self.to, self.own_name())
    }

    fn own_name(&self) -> String {
        self.to.replacen("painter", "speaker", 1)
    }

    /// Of the chunks that were not told to be stored any may be missing, and of the others none; but for a clip that may have been refused for ever.
    async fn is_missing_what_was_not_told(&mut self, clip: &Clip) {
        let Ok(stands) = self.own.begin(&clip.begin).await else { return };
        let first = stands.missing.first().map_or(stands.parts, |run| run.first);
        let holds = stands.media.is_some() || first >= clip.told || clip.lying || self.is_late(clip);
        let told = clip.told;
        self.judge
            .holds("14a", holds, || format!("{told} chunks were told to be stored, and chunk {first} is missing"));
    }

    /// A message that is not whole is in nobody's timeline.
    async fn is_not_seen(&mut self, clip: &Clip) {
        let newest = self.friend.newest(&self.conversation(), 0).await;
        let seen = newest.is_some_and(|message| message.client_msg_id == clip.number);
        self.judge.holds("14h", !seen, || format!("clip {} is seen, and was told to be incomplete", clip.number));
    }

    /// What was taken is there once, and whole.
    async fn is_heard(&mut self, clip: Clip, result: &v1::SendResult) -> Option<Sent> {
        let again = self.own.result(clip.message(&self.to)).await;
        let same = again.as_ref().is_ok_and(|again| again == result);
        self.judge.holds("14h", same, || format!("clip {} sent again is something else: {again:?}", clip.number));
        let message = self.friend.newest(&self.conversation(), result.seq + 1).await;
        let media = message.and_then(|message| message.media);
        let Some(media) = media else {
            self.judge.holds("14h", false, || format!("the message about clip {} tells nothing of it", clip.number));
            return None;
        };
        let millis = (clip.whole.len() / FRAME_BYTES * 20) as u32;
        let fetched = self.friend.fetch(&media.id).await;
        let same = media.duration_ms == millis && fetched.as_ref().is_ok_and(|bytes| *bytes == clip.whole);
        self.judge.holds("14b", same, || format!("clip {} comes out as something else", clip.number));
        Some(Sent { id: media.id, whole: clip.whole, referred: true, reader: self.friend.clone() })
    }
}
