//! An image in parts, a message about it, and who may fetch it.

use anyhow::Result;
use bytes::Bytes;
use sha2::Digest as _;
use tern_client::link::LinkError;
use tern_proto::v1::{self, Code};
use tern_proto::{Command, Packet, limits};

use super::People;
use super::person::{Person, Via, message, messages};
use super::report::Report;

/// The id of alice's message here.
const ID: u64 = 50;
const PART_BYTES: u32 = 1024;

/// A GIF of one red pixel, and bytes of this run behind its end, so that it has several parts.
fn image() -> Vec<u8> {
    let pixel = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    let mut bytes = pixel.to_vec();
    bytes.resize_with(3_500, || fastrand::u8(..));
    bytes
}

pub(super) async fn run(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("An image, and a message about it");
    let People { alice, bob, .. } = people;
    let whole = image();
    let sha256 = sha2::Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
    let length = whole.len() as u64;
    let request = v1::MediaBegin { bytes: length, sha256, r#type: "image/gif".into(), part_bytes: PART_BYTES };
    let begun = match alice.short.media_begin(&request).await {
        Err(LinkError::Refused { code: Code::Unavailable, .. }) => {
            report.about("(media is not served here: left out)");
            return Ok(());
        }
        begun => begun?,
    };
    report.same("an upload begins, with all parts missing", &(begun.parts, begun.left), &(4, 4));
    let part = |index: u32| -> Bytes {
        let parts = whole.chunks(PART_BYTES as usize);
        parts.skip(index as usize).take(1).flatten().copied().collect()
    };
    for (index, left) in [(3, 3), (0, 2), (0, 2), (1, 1)] {
        let told = alice.short.media_part(&begun.id, index, part(index)).await?;
        report.same(&format!("part {index} is taken, in whatever order and again"), &told.left, &left);
    }
    let conflict = code(alice.short.media_part(&begun.id, 1, part(0)).await);
    report.same("other bytes under its index are a conflict", &conflict, &Some(Code::PartConflict));
    let early = code(alice.short.media_complete(&begun.id).await);
    report.same("it cannot be completed before the last part", &early, &Some(Code::UploadIncomplete));
    let found = alice.short.media_begin(&request).await?;
    let missing: Vec<_> = found.missing.iter().map(|run| (run.first, run.last)).collect();
    report.same("to begin again is to find what is missing", &(found.id, missing), &(begun.id.clone(), vec![(2, 2)]));
    let done = alice.short.media_part(&begun.id, 2, part(2)).await?;
    let media = done.media.clone().unwrap_or_default();
    let shown = (&media.id, media.width, media.height, media.bytes, done.thumbnail.starts_with(&[0xff, 0xd8]));
    report.same("the last part is answered with the image and a thumbnail", &shown, &(&begun.id, 1, 1, length, true));
    let again = alice.short.media_complete(&begun.id).await?;
    report.same("and so is each request to complete it", &again.media, &done.media);

    let foreign = bob.send(Via::Long, about(1 << 20, &alice.name, &begun.id)).await?.code();
    report.same("nobody else may send it", &foreign, &Code::NoSuchMedia);
    report.same("or fetch it", &fetch(bob, &begun.id).await.err().flatten(), &Some(Code::NoSuchMedia));
    let sent = alice.send(Via::Long, about(ID, &bob.name, &begun.id)).await?;
    report.same("a message about it is taken", &sent.code(), &Code::Ok);
    let again = alice.send(Via::Short, about(ID, &bob.name, &begun.id)).await?;
    report.same("and a resend of it recognised", &again, &sent);
    let (entries, _) = bob.peek_all(None, 0).await?;
    let told: Vec<_> = messages(&entries).into_iter().filter_map(|message| message.media.clone()).collect();
    report.same("the recipient is told what it is about", &told, &vec![media]);
    for (who, person) in [("the recipient", bob), ("the sender", alice)] {
        let bytes = fetch(person, &begun.id).await.ok();
        report.check(&format!("{who} fetches the same bytes"), bytes.as_ref() == Some(&whole), &bytes.map(|b| b.len()));
    }
    audio(people, report).await
}

/// So many frames of AMR at 12.2 kbit/s that nobody has spoken: 20 ms each.
fn clip(frames: usize) -> Vec<u8> {
    let mut bytes = b"#!AMR\n".to_vec();
    for _ in 0..frames {
        bytes.push(0x3c);
        bytes.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(31));
    }
    bytes
}

/// A clip of two chunks, and one that lacks its first.
async fn audio(people: &mut People, report: &mut Report) -> Result<()> {
    report.about("Audio over the long link");
    let People { alice, bob, .. } = people;
    let whole = clip(90);
    let sha256 = sha2::Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
    let begin = v1::MediaBegin { bytes: whole.len() as u64, sha256, r#type: "audio/amr".into(), ..Default::default() };
    let chunk = |index: usize| {
        let bytes = whole.chunks(limits::CHUNK_BYTES as usize).nth(index).unwrap_or_default().to_vec();
        v1::Chunk { clip: Some(begin.clone()), index: index as u32, bytes }
    };
    let spoken = |id| v1::OutMessage { chunk: Some(chunk(1)), ..message(id, &bob.name, "") };
    let early = alice.send(Via::Long, spoken(ID + 1)).await?;
    report.same("a message whose clip lacks a chunk is not taken", &early.code(), &Code::UploadIncomplete);
    alice.long.send(&Packet::new(Command::Chunk.number(), 0, &chunk(0))).await?;
    let sent = alice.send(Via::Long, spoken(ID + 1)).await?;
    report.same("with all chunks it is, under the same id", &sent.code(), &Code::Ok);
    let again = alice.send(Via::Short, spoken(ID + 1)).await?;
    report.same("and a resend by the short link is recognised", &again, &sent);
    let (entries, _) = bob.peek_all(None, 0).await?;
    let heard = messages(&entries).into_iter().filter(|message| message.seq == sent.seq);
    let media = heard.filter_map(|message| message.media.clone()).next().unwrap_or_default();
    report.same("the recipient is told how long it lasts", &media.duration_ms, &1_800);
    let bytes = fetch(bob, &media.id).await.ok();
    report.check("and fetches the same bytes", bytes.as_ref() == Some(&whole), &bytes.map(|b| b.len()));
    Ok(())
}

fn about(client_msg_id: u64, to: &str, media: &str) -> v1::OutMessage {
    v1::OutMessage { media: media.to_owned(), ..message(client_msg_id, to, "") }
}

fn code<T>(answer: Result<T, LinkError>) -> Option<Code> {
    match answer {
        Err(LinkError::Refused { code, .. }) => Some(code),
        _ => None,
    }
}

/// The bytes, in ranges; or how that was refused.
async fn fetch(person: &mut Person, id: &str) -> Result<Vec<u8>, Option<Code>> {
    let (path, mut bytes) = (format!("/v1/media/{id}"), Vec::new());
    loop {
        let fetched = person.short.media_range(&path, bytes.len() as u64, 2_000).await;
        let (range, length) = fetched.map_err(|error| code::<()>(Err(error)))?;
        bytes.extend_from_slice(&range);
        if range.is_empty() || bytes.len() as u64 >= length {
            return Ok(bytes);
        }
    }
}
