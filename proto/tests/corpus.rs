//! Every input in `proto/fuzz/corpus` is held against the rules of its fuzz target, by the stable toolchain and without a fuzzer.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

#[allow(unreachable_pub, reason = "the fuzz targets use it as a crate")]
#[path = "../fuzz/src/lib.rs"]
mod rules;

/// Bytes of the largest input that is worth keeping.
const INPUT_BYTES: usize = 16 * 1024;
/// Inputs that one target needs at most.
const INPUTS: usize = 300;

fn replay(target: &str, holds: fn(&[u8])) {
    let inputs = inputs(target);
    assert!((10..=INPUTS).contains(&inputs.len()), "{} inputs for {target}", inputs.len());
    for path in inputs {
        let input = fs::read(&path).unwrap();
        assert!(input.len() <= INPUT_BYTES, "{} has {} bytes", path.display(), input.len());
        // Captured unless a rule is broken: it names the input.
        println!("{}", path.display());
        holds(&input);
    }
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    files.map(|file| file.unwrap().path()).collect()
}

#[test]
fn packets() {
    replay("packet", rules::packet::holds);
}

#[test]
fn bodies() {
    replay("bodies", rules::bodies::holds);
}

#[test]
fn sync_keys() {
    replay("sync_key", rules::sync_key::holds);
}

#[test]
fn the_rules_for_bodies_cover_every_message() {
    let code = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen/tern.v1.rs")).unwrap();
    let mut generated: Vec<_> = code.lines().filter_map(|line| line.strip_prefix("pub struct ")).collect();
    generated.iter_mut().for_each(|name| *name = name.split([' ', '{']).next().unwrap_or(name));
    let mut covered: Vec<_> = rules::bodies::MESSAGES.iter().map(|(name, _)| *name).collect();
    generated.sort_unstable();
    covered.sort_unstable();
    assert_eq!(covered, generated, "the list is in proto/fuzz/src/bodies.rs");
}

// A corpus without inputs that get past the decoder would hold nothing.
#[test]
fn every_message_and_both_outcomes_are_in_the_corpus() {
    use prost::Message;
    use tern_proto::{packet, v1};

    let inputs_of = |target| inputs(target).into_iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
    let decoded: Vec<_> = inputs_of("packet").iter().map(|bytes| packet::decode(&mut bytes[..].into())).collect();
    assert!(
        decoded.iter().any(|seen| matches!(seen, Ok(Some(_)))) && decoded.iter().any(|seen| matches!(seen, Ok(None)))
    );
    for wanted in ["header length", "packet version", "is below 16", "is over 65536"] {
        let is_wanted =
            |seen: &Result<_, packet::PacketError>| seen.as_ref().is_err_and(|e| e.to_string().contains(wanted));
        assert!(decoded.iter().any(is_wanted), "no packet with: {wanted}");
    }
    let bodies = inputs_of("bodies");
    let has_text = |body: &Vec<u8>| {
        v1::SendRequest::decode(&body[..]).is_ok_and(|send| send.messages.iter().any(|m| !m.text.is_empty()))
    };
    assert!(bodies.iter().any(has_text));
    assert!(
        bodies.iter().any(|body| serde_json::from_slice::<v1::SyncRequest>(body).is_ok_and(|sync| sync.key.is_some()))
    );
    let changes = |send: v1::SendRequest| send.messages.iter().any(|message| message.change.is_some());
    assert!(bodies.iter().any(|body| v1::SendRequest::decode(&body[..]).is_ok_and(changes)));
    let is_hole = |entry: &v1::Entry| matches!(entry.body, Some(v1::entry::Body::Hole(_)));
    let has_hole = |page: v1::SyncReply| page.entries.iter().any(is_hole);
    assert!(bodies.iter().any(|body| v1::SyncReply::decode(&body[..]).is_ok_and(has_hole)));
    let lists_group = |list: v1::ConversationsReply| list.conversations.iter().any(|listed| listed.members > 2);
    assert!(bodies.iter().any(|body| v1::ConversationsReply::decode(&body[..]).is_ok_and(lists_group)));
    let has_change = |page: v1::HistoryReply| page.messages.iter().any(|message| message.change.is_some());
    assert!(bodies.iter().any(|body| v1::HistoryReply::decode(&body[..]).is_ok_and(has_change)));
    let has_member = |about: v1::MembersReply| about.members.iter().any(|member| member.joined_seq > 0);
    assert!(bodies.iter().any(|body| v1::MembersReply::decode(&body[..]).is_ok_and(has_member)));
    let two_keys = |body: &Vec<u8>| {
        v1::Delta::decode(&body[..]).is_ok_and(|delta| delta.before != delta.after && delta.after.is_some())
    };
    assert!(inputs_of("sync_key").iter().filter(|body| two_keys(body)).count() > 5);
}
