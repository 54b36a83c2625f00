//! `tern bench image`: what parts cost, how long images take, and what uploads do to texts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::chat::{count, rate, seconds};
use crate::crowd::Crowd;
use crate::link::Hub;
use crate::load::Load;
use crate::measure::Plan;
use crate::report::{Images, Report};
use crate::samples::Samples;
use crate::server::Server;
use crate::upload::{Connection, Parts, Uploader, image};

/// Bytes of a part, as a client has them that does not say.
const PART_BYTES: u32 = 1536;
/// Whole images whose times are told.
const WHOLE: usize = 9;
/// Times that a photo is looked at.
const PHOTOS: usize = 8;
/// By how much the thread of uploads makes way.
const NICE: i32 = 10;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// Connections that bring the parts of one image
    #[arg(long, default_value_t = 8, value_parser = count())]
    connections: usize,
    /// Bytes of an image
    #[arg(long, default_value_t = 3_000_000, value_parser = clap::value_parser!(u32).range(100_000..=32_000_000))]
    bytes: u32,
    /// How long parts are measured
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// Uploads that are under way at the same time, for their memory and what they do to texts
    #[arg(long, default_value_t = 100, value_parser = count())]
    uploads: usize,
    /// Pairs of users that send texts beside them
    #[arg(long, default_value_t = 50, value_parser = count())]
    pairs: usize,
    /// Texts a second of all of them
    #[arg(long, value_name = "RATE", default_value = "200", value_parser = rate)]
    pairs_rate: f64,
    /// A JPEG, for the processor time from its last part to its thumbnail
    #[arg(long, value_name = "FILE")]
    photo: Option<PathBuf>,
}

/// Runs it.
pub(crate) async fn run(args: &ImageArgs, server: &Server, report: &mut Report) -> Result<()> {
    let (bytes, connections) = (args.bytes as usize, args.connections);
    let mut images = Images { part_bytes: PART_BYTES, bytes, connections, ..Images::default() };
    parts(args, server, &mut images).await?;
    whole(args, server, &mut images).await?;
    if let Some(photo) = &args.photo {
        looked_at(photo, args, server, &mut images).await?;
    }
    memory(args, server, &mut images).await?;
    beside_texts(args, server, report, &mut images).await?;
    report.images = Some(images);
    Ok(())
}

/// Parts by several connections, image after image; what comes behind the last part of each is left out.
async fn parts(args: &ImageArgs, server: &Server, images: &mut Images) -> Result<()> {
    eprintln!("parts:");
    let uploader = Uploader::new(server.http(), &server.secret, "image-parts");
    let mut connections = connect(&uploader, args.connections).await?;
    let (mut brought, mut cpu, mut took, mut times) = (0, Duration::ZERO, Duration::ZERO, Samples::default());
    while took < args.seconds {
        let whole = image(args.bytes as usize);
        let upload = uploader.begin("image/gif", &whole, PART_BYTES).await?;
        // The first one makes the file.
        connections[0].part(&upload.id, 0, &whole[..PART_BYTES as usize]).await?;
        let parts = Parts::of(upload, whole, 1);
        let (before, began) = (server.process.cpu()?, Instant::now());
        connections = parts.bring(connections).await?;
        took += began.elapsed();
        cpu += server.process.cpu()? - before;
        brought += u64::from(parts.count());
        times.append(parts.take_times());
        last_part(&mut connections[0], &parts).await?;
    }
    images.parts = brought;
    images.parts_per_s = brought as f64 / took.as_secs_f64();
    images.server_cpu_s_per_million_parts = cpu.as_secs_f64() / brought as f64 * 1e6;
    images.part_ms = times.spread();
    Ok(())
}

/// From the begin to the answer with the thumbnail.
async fn whole(args: &ImageArgs, server: &Server, images: &mut Images) -> Result<()> {
    eprintln!("whole images:");
    let uploader = Uploader::new(server.http(), &server.secret, "image-whole");
    let mut times = Samples::default();
    for _ in 0..WHOLE {
        let whole = image(args.bytes as usize);
        let began = Instant::now();
        let upload = uploader.begin("image/gif", &whole, PART_BYTES).await?;
        let parts = Parts::of(upload, whole, 0);
        parts.bring(connect(&uploader, args.connections).await?).await?;
        times.record(began.elapsed().as_nanos() as u64);
        ensure!(parts.take_answer().is_some(), "the last part was not answered with the image");
    }
    images.image_ms = times.spread();
    Ok(())
}

/// What the last part of a photo costs, and with it the merge, the digest, the thumbnail and what is stored.
async fn looked_at(photo: &PathBuf, args: &ImageArgs, server: &Server, images: &mut Images) -> Result<()> {
    eprintln!("a photo:");
    let photo = std::fs::read(photo).with_context(|| format!("reading {}", photo.display()))?;
    let uploader = Uploader::new(server.http(), &server.secret, "image-photo");
    let mut connections = connect(&uploader, args.connections).await?;
    let mut cpu = Duration::ZERO;
    for number in 0..PHOTOS {
        // Behind the end of the image, so that it is another one each time.
        let whole = bytes::Bytes::from([&photo[..], &number.to_be_bytes()].concat());
        let upload = uploader.begin("image/jpeg", &whole, 64 * 1024).await?;
        let parts = Parts::of(upload, whole, 1);
        connections = parts.bring(connections).await?;
        let before = server.process.cpu()?;
        last_part(&mut connections[0], &parts).await?;
        cpu += server.process.cpu()? - before;
    }
    images.server_cpu_ms_per_photo = Some(cpu.as_secs_f64() * 1e3 / PHOTOS as f64);
    Ok(())
}

/// How much the server has grown by uploads that lack one part each.
async fn memory(args: &ImageArgs, server: &Server, images: &mut Images) -> Result<()> {
    eprintln!("uploads under way:");
    let before = server.process.resident()?;
    for number in 0..args.uploads {
        let uploader = Uploader::new(server.http(), &server.secret, &format!("image-memory-{number}"));
        let whole = image(args.bytes as usize);
        let upload = uploader.begin("image/gif", &whole, 64 * 1024).await?;
        Parts::of(upload, whole, 1).bring(connect(&uploader, 1).await?).await?;
    }
    let grown = server.process.resident()?.saturating_sub(before);
    images.uploads = args.uploads;
    images.rss_bytes_per_upload = grown as f64 / args.uploads as f64;
    Ok(())
}

/// The times of texts alone, and beside uploads.
async fn beside_texts(args: &ImageArgs, server: &Server, report: &mut Report, images: &mut Images) -> Result<()> {
    let plan = Plan { load: Load::Rate(args.pairs_rate), warm: Duration::from_secs(1), time: args.seconds };
    let mut pairs = Crowd::pairs(&Hub::new(), &server.secret, args.pairs, 100);
    pairs.connect_all(server.long_links()).await?;
    eprintln!("texts alone:");
    plan.run(server, &mut pairs).await?;
    let quiet = pairs.senders.tally_mut().ack.spread();
    eprintln!("texts beside uploads:");
    let (stop, stopped) = oneshot::channel();
    let (http, secret, uploads, bytes) = (server.http(), server.secret.clone(), args.uploads, args.bytes as usize);
    let uploading = std::thread::spawn(move || upload_until(stopped, (http, &secret), uploads, bytes));
    plan.run(server, &mut pairs).await?;
    drop(stop);
    uploading.join().map_err(|_| anyhow!("the uploads broke off"))??;
    let loaded = pairs.senders.tally_mut().ack.spread();
    report.judge(pairs.faults());
    images.beside_to_quiet_p99 = loaded.zip(quiet).map(|(loaded, quiet)| loaded.p99 / quiet.p99);
    (images.quiet_ack_ms, images.beside_ack_ms) = (quiet, loaded);
    pairs.disconnect().await
}

/// Uploads in a thread of its own, which makes way: to make images up takes milliseconds, in which no acknowledgement of a text would be read.
fn upload_until(
    stopped: oneshot::Receiver<()>,
    (http, secret): (SocketAddr, &[u8]),
    uploads: usize,
    bytes: usize,
) -> Result<()> {
    // Without it the times of texts are told as longer than they are.
    let _ = rustix::process::nice(NICE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut all = JoinSet::new();
        for number in 0..uploads {
            let uploader = Uploader::new(http, secret, &format!("image-beside-{number}"));
            all.spawn_local(upload_for_ever(uploader, bytes));
        }
        tokio::select! {
            // It is dropped.
            _ = stopped => Ok(()),
            Some(broken) = all.join_next() => broken?,
        }
    })
}

async fn upload_for_ever(uploader: Uploader, bytes: usize) -> Result<()> {
    loop {
        let whole = image(bytes);
        let upload = uploader.begin("image/gif", &whole, 16 * 1024).await?;
        Parts::of(upload, whole, 0).bring(connect(&uploader, 1).await?).await?;
    }
}

async fn connect(uploader: &Uploader, connections: usize) -> Result<Vec<Connection>> {
    let mut all = Vec::new();
    for _ in 0..connections {
        all.push(uploader.connect().await?);
    }
    Ok(all)
}

/// Brings the part that was left out.
async fn last_part(connection: &mut Connection, parts: &Parts) -> Result<()> {
    let (index, upload) = (parts.count(), &parts.upload);
    let bytes = parts.whole.slice(index as usize * upload.part_bytes as usize..);
    let answer = connection.part(&upload.id, index, &bytes).await?;
    ensure!(answer.media.is_some(), "the last part was not answered with the image");
    Ok(())
}
