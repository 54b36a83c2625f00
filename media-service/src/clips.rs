//! Chunks that have come together: a clip that is here as a whole is stored as one, which is far cheaper than chunk by chunk.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tern_proto::{limits, v1};

/// Chunks of a clip that is looked at like this.
const CHUNKS: usize = limits::CHUNKS_TOLD as usize;

/// A clip that is here as a whole.
#[derive(Debug, PartialEq)]
pub(crate) struct Whole {
    pub(crate) clip: v1::MediaBegin,
    pub(crate) bytes: Bytes,
}

/// Takes the clips out of the chunks that are here as a whole.
pub(crate) fn take_wholes(chunks: &mut Vec<v1::Chunk>) -> Vec<Whole> {
    let mut by_clip: HashMap<&v1::MediaBegin, Vec<&v1::Chunk>> = HashMap::new();
    for chunk in chunks.iter() {
        by_clip.entry(chunk.clip.as_ref().unwrap_or(&NONE)).or_default().push(chunk);
    }
    let wholes: Vec<Whole> = by_clip.into_iter().filter_map(|(clip, chunks)| whole(clip, &chunks)).collect();
    let taken: HashSet<&v1::MediaBegin> = wholes.iter().map(|whole| &whole.clip).collect();
    chunks.retain(|chunk| chunk.clip.as_ref().is_none_or(|clip| !taken.contains(clip)));
    wholes
}

/// What a chunk is of that does not say.
static NONE: v1::MediaBegin = v1::MediaBegin { bytes: 0, sha256: String::new(), r#type: String::new(), part_bytes: 0 };

/// The clip, if these are all of its chunks.
fn whole(clip: &v1::MediaBegin, chunks: &[&v1::Chunk]) -> Option<Whole> {
    let bytes = usize::try_from(clip.bytes).ok()?;
    let count = bytes.div_ceil(limits::CHUNK_BYTES as usize);
    if !(1..=CHUNKS).contains(&count) {
        return None;
    }
    let mut found: [&[u8]; CHUNKS] = [&[]; CHUNKS];
    for chunk in chunks {
        let place = found.get_mut(chunk.index as usize)?;
        // Two that differ are not for this place to judge.
        if !place.is_empty() && **place != chunk.bytes[..] {
            return None;
        }
        *place = &chunk.bytes;
    }
    let (last, full) = found[..count].split_last()?;
    let are_full = full.iter().all(|chunk| chunk.len() == limits::CHUNK_BYTES as usize);
    let is_whole = are_full && !last.is_empty() && full.len() * limits::CHUNK_BYTES as usize + last.len() == bytes;
    is_whole.then(|| Whole { clip: clip.clone(), bytes: found[..count].concat().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &str, bytes: usize, index: u32) -> v1::Chunk {
        let clip = v1::MediaBegin { bytes: bytes as u64, sha256: name.into(), ..Default::default() };
        let whole = vec![name.as_bytes()[0]; bytes];
        let bytes = whole.chunks(1_536).nth(index as usize).unwrap_or_default().to_vec();
        v1::Chunk { clip: Some(clip), index, bytes }
    }

    #[test]
    fn what_is_whole_is_taken_and_the_rest_left() {
        let mut chunks = vec![
            chunk("a", 3_000, 1),
            chunk("b", 20_000, 0),
            chunk("a", 3_000, 0),
            chunk("c", 3_072, 0),
            chunk("d", 10, 0),
            chunk("a", 3_000, 1),
        ];
        let mut wholes = take_wholes(&mut chunks);
        wholes.sort_by(|one, other| one.clip.sha256.cmp(&other.clip.sha256));
        let names: Vec<_> = wholes.iter().map(|whole| (whole.clip.sha256.as_str(), whole.bytes.len())).collect();
        assert_eq!(names, [("a", 3_000), ("d", 10)]);
        let left: Vec<_> = chunks.iter().map(|chunk| chunk.clip.as_ref().unwrap().sha256.as_str()).collect();
        assert_eq!(left, ["b", "c"]);
    }

    #[test]
    fn what_does_not_fit_together_is_no_whole() {
        let other = |mut chunk: v1::Chunk| {
            chunk.bytes[0] ^= 1;
            chunk
        };
        for mut chunks in [
            vec![chunk("a", 3_000, 0), chunk("a", 3_001, 1)],
            vec![chunk("a", 3_000, 0), v1::Chunk { bytes: vec![1; 1_500], ..chunk("a", 3_000, 1) }],
            vec![v1::Chunk { bytes: vec![1; 1_000], ..chunk("a", 3_000, 0) }, chunk("a", 3_000, 1)],
            vec![chunk("a", 3_000, 0), chunk("a", 3_000, 1), other(chunk("a", 3_000, 1))],
            vec![chunk("a", 3_000, 0), chunk("a", 3_000, 1), v1::Chunk { index: 8, ..chunk("a", 3_000, 1) }],
            vec![chunk("a", 0, 0)],
            vec![v1::Chunk::default(), v1::Chunk { index: u32::MAX, ..Default::default() }],
        ] {
            let before = chunks.clone();
            assert_eq!((take_wholes(&mut chunks), &chunks), (vec![], &before));
        }
    }
}
