//! `tern bench audio`: what clips cost over the long link, and how long they take.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use prost::Message as _;
use sha2::Digest as _;
use tern_proto::packet::{Packet, decode};
use tern_proto::{Command, limits, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::chat::{count, seconds};
use crate::report::{Clips, Report};
use crate::samples::Samples;
use crate::server::Server;
use crate::token;

/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a frame of AMR at 12.2 kbit/s, 20 ms of sound.
const FRAME_BYTES: usize = 32;
/// Long clips whose times are told.
const LONG: usize = 5;
/// Chunks that are under way and not told to be stored.
const WINDOW: u32 = 32;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AudioArgs {
    /// Users that speak at the same time, each one clip after the other
    #[arg(long, default_value_t = 50, value_parser = count())]
    speakers: usize,
    /// How long a clip lasts, of AMR at 12.2 kbit/s: up to 1.9 s are two chunks
    #[arg(long, value_name = "SECONDS", default_value = "1.9", value_parser = seconds)]
    clip: Duration,
    /// How long it is measured
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// How long a long clip lasts, of which one is spoken at a time
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    long_clip: Duration,
}

/// Runs it.
pub(crate) async fn run(args: &AudioArgs, server: &Server, report: &mut Report) -> Result<()> {
    let frames = |time: Duration| (time.as_millis() / 20).max(1) as usize;
    let mut speakers = Vec::new();
    let to = *server.long_links().first().context("there is no long link")?;
    for number in 0..args.speakers {
        speakers.push(Speaker::connect(to, &server.secret, &format!("speaker-{number}")).await?);
    }
    eprintln!("clips:");
    let warm = Duration::from_secs(1);
    let (_, mut speakers) = speak(speakers, frames(args.clip), warm).await?;
    let (before, began) = (server.process.cpu()?, Instant::now());
    let (mut times, back) = speak(speakers, frames(args.clip), args.seconds).await?;
    let (took, cpu) = (began.elapsed(), server.process.cpu()? - before);
    speakers = back;
    eprintln!("long clips:");
    let mut long = Samples::default();
    let speaker = speakers.first_mut().context("nobody speaks")?;
    for _ in 0..LONG {
        long.record(speaker.say(&clip(frames(args.long_clip))).await?);
    }
    let (clips, bytes) = (times.len() as f64, clip(frames(args.clip)).len());
    let chunks = bytes.div_ceil(limits::CHUNK_BYTES as usize);
    report.clips = Some(Clips {
        speakers: args.speakers,
        clip_bytes: bytes,
        clip_chunks: chunks,
        clips: times.len() as u64,
        clips_per_s: clips / took.as_secs_f64(),
        clip_ms: times.spread(),
        server_cpu_s_per_million_clips: cpu.as_secs_f64() / clips * 1e6,
        server_cpu_s_per_million_parts: cpu.as_secs_f64() / (clips * chunks as f64) * 1e6,
        long_clip_bytes: clip(frames(args.long_clip)).len(),
        long_clip_ms: long.spread(),
    });
    Ok(())
}

/// Lets all of them speak for so long.
async fn speak(speakers: Vec<Speaker>, frames: usize, time: Duration) -> Result<(Samples, Vec<Speaker>)> {
    let (mut all, mut back, end) = (Samples::default(), Vec::new(), Instant::now() + time);
    let mut speaking = JoinSet::new();
    for mut speaker in speakers {
        speaking.spawn_local(async move {
            let mut times = Samples::default();
            while Instant::now() < end {
                times.record(speaker.say(&clip(frames)).await?);
            }
            anyhow::Ok((times, speaker))
        });
    }
    while let Some(spoken) = speaking.join_next().await {
        let (times, speaker) = spoken??;
        all.append(times);
        back.push(speaker);
    }
    Ok((all, back))
}

/// So many frames that nobody has spoken.
fn clip(frames: usize) -> Vec<u8> {
    let mut whole = b"#!AMR\n".to_vec();
    for _ in 0..frames {
        whole.push(0x3c);
        whole.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(FRAME_BYTES - 1));
    }
    whole
}

/// A user with a long link.
struct Speaker {
    stream: TcpStream,
    input: BytesMut,
    /// Of the last message, and of its request.
    number: u32,
}

impl Speaker {
    async fn connect(to: SocketAddr, secret: &[u8], user: &str) -> Result<Speaker> {
        let stream = TcpStream::connect(to).await.context("connecting to the long link")?;
        stream.set_nodelay(true)?;
        let mut speaker = Speaker { stream, input: BytesMut::new(), number: 1 };
        let hello = v1::HelloRequest {
            protocol: 1,
            token: token::mint(secret, user),
            device_id: format!("bench-{:016x}", fastrand::u64(..)),
            start: v1::Start::Heads.into(),
            ..Default::default()
        };
        speaker.write(&[Packet::new(Command::Hello.number(), 1, &hello)]).await?;
        let answer = speaker.read().await?;
        ensure!(answer.command == Command::Hello.reply(), "hello was answered with command {}", answer.command);
        Ok(speaker)
    }

    /// Speaks a clip; nanoseconds until its message is acknowledged.
    async fn say(&mut self, whole: &[u8]) -> Result<u64> {
        let sha256: String = sha2::Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect();
        let bytes = whole.len() as u64;
        let clip = v1::MediaBegin { bytes, sha256, r#type: "audio/amr".into(), ..Default::default() };
        let chunks: Vec<&[u8]> = whole.chunks(limits::CHUNK_BYTES as usize).collect();
        let chunk = |index: u32| v1::Chunk { clip: Some(clip.clone()), index, bytes: chunks[index as usize].to_vec() };
        let last = chunks.len() as u32 - 1;
        self.number += 1;
        let (client_msg_id, sequence, began) = (self.number.into(), self.number, Instant::now());
        let (mut next, mut stored) = (0, 0);
        loop {
            let end = last.min(stored + WINDOW).max(next);
            let mut out: Vec<_> = (next..end).map(|at| Packet::new(Command::Chunk.number(), 0, &chunk(at))).collect();
            next = end;
            if next == last {
                let message =
                    v1::OutMessage { client_msg_id, to: "bob".into(), chunk: Some(chunk(last)), ..Default::default() };
                let request = v1::SendRequest { messages: vec![message], ..Default::default() };
                out.push(Packet::new(Command::Send.number(), sequence, &request));
                next += 1;
            }
            self.write(&out).await?;
            let packet = self.read().await?;
            if packet.command == Command::ChunksStored.number() {
                stored = stored.max(v1::ChunksStored::decode(packet.body)?.chunks);
            } else if packet.sequence == sequence {
                let code = v1::SendReply::decode(packet.body)?.results.first().map(v1::SendResult::code);
                ensure!(code == Some(v1::Code::Ok), "a clip was answered with {code:?}");
                return Ok(began.elapsed().as_nanos() as u64);
            }
        }
    }

    async fn write(&mut self, packets: &[Packet]) -> Result<()> {
        let mut out = BytesMut::new();
        packets.iter().for_each(|packet| packet.encode(&mut out));
        Ok(self.stream.write_all(&out).await?)
    }

    async fn read(&mut self) -> Result<Packet> {
        let read = async {
            loop {
                if let Some(packet) = decode(&mut self.input)? {
                    return anyhow::Ok(packet);
                }
                if self.stream.read_buf(&mut self.input).await? == 0 {
                    bail!("the server closed the link");
                }
            }
        };
        timeout(PATIENCE, read).await.map_err(anyhow::Error::from).flatten()
    }
}
