//! Images and clips through `tern send-image`, `tern send-audio` and `tern fetch`, while the server is killed between their parts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::process::Process;
use crate::server::Server;
use crate::step::Tally;

/// Images of one run, and clips.
const FILES: usize = 12;
/// Bytes of an image, about.
const IMAGE_BYTES: usize = 2_000_000;
/// Frames of a clip of AMR at 12.2 kbit/s: five minutes, and 480,000 bytes.
const FRAMES: usize = 15_000;
/// At least so many times the server is killed while they go up.
const KILLS: u32 = 3;
/// Far more than it takes.
const LIMIT: Duration = Duration::from_secs(180);

/// A folder of each in one command, with kill -9 again and again; the command is then interrupted and given once more.
pub(crate) fn run() -> Result<Tally> {
    send("send-image", image)?;
    send("send-audio", clip)?;
    Ok(Tally::passed(6))
}

fn send(command: &str, file: fn(u32) -> Vec<u8>) -> Result<()> {
    let mut server = Server::start(&build::tern()?)?;
    let folder = folder(server.home(), file)?;
    let args = [command, "--as", "alice", "--to", "bob", "--json"];
    let mut kills = 0_u32;
    let told = server.home().join("told");
    let mut sender = Process::spawn(server.client(&args).arg(&folder).stdout(File::create(&told)?))?;
    while sender.child.try_wait()?.is_none() {
        // After some of them longer and longer: an attempt meets a server that is away by chance, and a client has twelve.
        let more = kills.saturating_sub(10);
        std::thread::sleep(Duration::from_millis(120) + Duration::from_millis(10) * more);
        if sender.child.try_wait()?.is_some() {
            break;
        }
        server.outage(Duration::from_millis(50))?;
        kills += 1;
        if kills == KILLS {
            // Also the client, in the middle of a file: the same command goes on.
            let _ = sender.child.kill();
            sender.child.wait()?;
            sender = Process::spawn(server.client(&args).arg(&folder).stdout(File::create(&told)?))?;
        }
        ensure!(kills < 500, "{command} comes to no end");
    }
    sender.succeed(LIMIT).with_context(|| format!("{command} must end with 0: everything acknowledged"))?;
    ensure!(kills >= KILLS, "it was over before anything was killed");

    let seen = server.home().join("seen");
    let mut watch = server.client(&["watch", "--as", "bob", "--json", "--idle", "2"]);
    Process::spawn(watch.stdout(File::create(&seen)?))?.succeed(LIMIT)?;
    let ids = media_ids(&fs::read_to_string(&seen)?);
    ensure!(ids.len() == FILES, "{FILES} files were sent, and bob has {} messages about media", ids.len());
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    ensure!(distinct.len() == FILES, "one has come twice: {ids:?}");
    let mut printed = media_ids(&fs::read_to_string(&told)?);
    printed.sort_unstable();
    ensure!(printed == distinct, "the run that came to its end has printed {printed:?}, and {distinct:?} were sent");
    let mut sent: Vec<Vec<u8>> = (0..FILES as u32).map(file).collect();
    for id in &ids {
        let bytes = fetch(&server, "bob", id)?;
        let place = sent.iter().position(|file| *file == bytes);
        sent.remove(place.with_context(|| format!("{id} has come out as something else"))?);
    }
    ensure!(fetch(&server, "eve", &ids[0]).is_err(), "eve may fetch what is none of hers");
    println!("{command}: {FILES} files around {kills} kills: each once, and the same");
    server.stop()
}

fn folder(home: &Path, file: fn(u32) -> Vec<u8>) -> Result<PathBuf> {
    let folder = home.join("files");
    fs::create_dir(&folder)?;
    for number in 0..FILES as u32 {
        fs::write(folder.join(format!("{number}.bin")), file(number))?;
    }
    fs::write(folder.join("notes.txt"), "neither an image nor audio")?;
    Ok(folder)
}

/// One pixel with much behind its end: whatever differs from part to part and from image to image.
fn image(number: u32) -> Vec<u8> {
    let mut bytes = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;".to_vec();
    bytes.extend((0..IMAGE_BYTES as u32 / 4).flat_map(|at| (at.wrapping_mul(2_654_435_761) ^ number).to_le_bytes()));
    bytes
}

fn clip(number: u32) -> Vec<u8> {
    let mut bytes = b"#!AMR\n".to_vec();
    for frame in 0..FRAMES as u32 {
        bytes.push(0x3c);
        bytes.extend((0..31u32).map(|at| (frame.wrapping_mul(2_654_435_761) >> (at % 24) ^ number) as u8));
    }
    bytes
}

/// The ids of what messages are about, in lines of JSON.
fn media_ids(lines: &str) -> Vec<String> {
    let about = lines.lines().filter_map(|line| line.split_once("\"media\":{\"id\":\"")?.1.split('"').next());
    about.map(str::to_owned).collect()
}

fn fetch(server: &Server, user: &str, id: &str) -> Result<Vec<u8>> {
    let path = server.home().join(format!("fetched-{user}-{id}"));
    let mut command = server.client(&["fetch", "--as", user, id]);
    Process::spawn(command.stdout(File::create(&path)?).stderr(Stdio::null()))?.succeed(LIMIT)?;
    fs::read(path).context("what fetch wrote")
}
