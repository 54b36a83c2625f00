//! A clip on its way: which of its chunks are under way, and which are stored. Without I/O.

use bytes::Bytes;
use tern_proto::{limits, v1};

/// Chunks that may be under way and are not told to be stored.
const WINDOW: u32 = 32;

/// What goes into one send request; behind the chunks of a clip, if its message is about one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Batch {
    pub(crate) messages: Vec<v1::OutMessage>,
    /// What the only message is about.
    pub(crate) clip: Option<Clip>,
}

/// A clip as the outbox has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Clip {
    pub(crate) begin: v1::MediaBegin,
    pub(crate) bytes: Bytes,
    /// So many chunks are stored, as the server has told.
    pub(crate) stored: u32,
}

impl Clip {
    /// How many chunks it has.
    pub(crate) fn chunks(&self) -> u32 {
        u32::try_from(self.bytes.chunks(limits::CHUNK_BYTES as usize).len()).unwrap_or(u32::MAX)
    }

    fn chunk(&self, index: u32) -> v1::Chunk {
        let bytes = self.bytes.chunks(limits::CHUNK_BYTES as usize).nth(index as usize).unwrap_or_default();
        v1::Chunk { clip: Some(self.begin.clone()), index, bytes: bytes.to_vec() }
    }
}

/// A batch whose clip has begun to go out.
#[derive(Debug)]
pub(crate) struct Speaking {
    messages: Vec<v1::OutMessage>,
    clip: Clip,
    /// The next chunk to go out.
    next: u32,
    /// So many chunks were told to be stored before this link.
    before: u32,
}

impl Speaking {
    pub(crate) fn new(messages: Vec<v1::OutMessage>, clip: Clip) -> Speaking {
        let next = clip.stored.min(clip.chunks().saturating_sub(1));
        let before = clip.stored;
        Speaking { messages, clip, next, before }
    }

    /// The messages that wait for it.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.messages.iter().map(|message| message.client_msg_id).collect()
    }

    /// How many chunks it has.
    pub(crate) fn chunks(&self) -> u32 {
        self.clip.chunks()
    }

    /// A chunk that may go out now, but for the last one.
    pub(crate) fn next_chunk(&mut self) -> Option<v1::Chunk> {
        let may_go = self.next < self.last() && self.next - self.clip.stored.min(self.next) < WINDOW;
        may_go.then(|| {
            self.next += 1;
            self.clip.chunk(self.next - 1)
        })
    }

    /// Whether all but the last chunk have gone out.
    pub(crate) fn is_last(&self) -> bool {
        self.next == self.last()
    }

    /// The messages, with the last chunk in the only one.
    pub(crate) fn into_messages(self) -> Vec<v1::OutMessage> {
        let chunk = self.clip.chunk(self.last());
        self.messages.into_iter().map(|message| v1::OutMessage { chunk: Some(chunk.clone()), ..message }).collect()
    }

    /// What the server has told; whether that is news.
    pub(crate) fn on_stored(&mut self, told: &v1::ChunksStored) -> bool {
        let stored = told.chunks.min(self.chunks());
        let has_forgotten = stored < self.before;
        if told.sha256 != self.clip.begin.sha256 || stored <= self.clip.stored && !has_forgotten {
            return false;
        }
        self.clip.stored = stored;
        // It keeps an upload for a day: all from there on again.
        self.next = if has_forgotten { stored } else { self.next.max(stored) }.min(self.last());
        self.before = 0;
        true
    }

    fn last(&self) -> u32 {
        self.chunks().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(chunks: usize, stored: u32) -> Clip {
        let begin = v1::MediaBegin { sha256: "ab".into(), ..Default::default() };
        Clip { begin, bytes: vec![7; chunks * 1_536 - 1].into(), stored }
    }

    fn speaking(clip: Clip) -> Speaking {
        Speaking::new(vec![v1::OutMessage { client_msg_id: 9, ..Default::default() }], clip)
    }

    fn go(speaking: &mut Speaking) -> Vec<u32> {
        std::iter::from_fn(|| speaking.next_chunk()).map(|chunk| chunk.index).collect()
    }

    #[test]
    fn the_last_chunk_goes_with_the_message() {
        let mut two = speaking(clip(2, 0));
        assert_eq!((go(&mut two), two.is_last()), (vec![0], true));
        let messages = two.into_messages();
        let last = messages[0].chunk.as_ref().unwrap();
        assert_eq!((messages[0].client_msg_id, last.index, last.bytes.len()), (9, 1, 1_535));
        let mut one = speaking(clip(1, 0));
        assert_eq!((go(&mut one), one.is_last()), (vec![], true));
    }

    #[test]
    fn a_longer_clip_waits_to_be_told_and_goes_on_from_there() {
        let mut long = speaking(clip(100, 0));
        assert_eq!(go(&mut long), (0..32).collect::<Vec<_>>());
        assert!(!long.is_last());
        let told = |chunks, sha256: &str| v1::ChunksStored { sha256: sha256.into(), chunks };
        assert!(!long.on_stored(&told(8, "cd")), "of another clip");
        assert!(long.on_stored(&told(8, "ab")) && !long.on_stored(&told(8, "ab")) && !long.on_stored(&told(7, "ab")));
        assert_eq!(go(&mut long), (32..40).collect::<Vec<_>>());
        assert!(long.on_stored(&told(90, "ab")));
        assert_eq!((go(&mut long), long.is_last()), ((90..99).collect(), true), "what is there is left out");
        let mut again = speaking(clip(100, 90));
        assert_eq!(go(&mut again), (90..99).collect::<Vec<_>>());
        let mut forgotten = speaking(clip(100, 90));
        go(&mut forgotten);
        assert!(forgotten.on_stored(&told(2, "ab")), "a server that has forgotten it");
        assert_eq!(go(&mut forgotten), (2..34).collect::<Vec<_>>());
        assert!(!forgotten.on_stored(&told(1, "ab")), "once is enough");
        let mut all = speaking(clip(100, 100));
        assert_eq!((go(&mut all), all.is_last()), (vec![], true));
        assert!(!all.on_stored(&told(1_000, "ab")), "a server that tells too much");
    }
}
