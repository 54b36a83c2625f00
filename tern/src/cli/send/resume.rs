//! Recognises the input of an interrupted run, so that its lines are not sent twice.
//!
//! Each batch that enters the outbox leaves a note: how many lines it has and their checksum. The next run compares the
//! beginning of its input with the notes, batch by batch, and drops what is the same.

use std::collections::VecDeque;

use tern_proto::UserId;

/// Lines in a batch, and so the most that are held to be compared.
pub(super) const BATCH: usize = 256;

/// See the [module](self).
pub(super) struct Resume {
    to: UserId,
    /// What an interrupted run noted and the input has not reached yet.
    known: VecDeque<(usize, u64)>,
    /// How many notes the input agreed with.
    agreed: usize,
    /// Lines of a batch that is not complete yet.
    held: Vec<String>,
    skipped: usize,
    /// The input left the notes; those after the ones that agreed are to be forgotten.
    diverged: bool,
}

impl Resume {
    pub(super) fn new(to: &UserId, notes: Vec<String>) -> Resume {
        let known: VecDeque<_> = notes.iter().map_while(|note| parse(note)).collect();
        Resume { to: to.clone(), known, agreed: 0, held: Vec::new(), skipped: 0, diverged: false }
    }

    /// The note for a batch.
    pub(super) fn note(&self, batch: &[String]) -> String {
        format!("{} {:016x}", batch.len(), self.checksum(batch))
    }

    /// Takes the next lines of the input; gives those that are known to be new.
    pub(super) fn skip_known(&mut self, lines: Vec<String>) -> Vec<String> {
        if self.known.is_empty() {
            return lines;
        }
        self.held.extend(lines);
        while let Some((count, checksum)) = self.known.front().copied() {
            if self.held.len() < count {
                return Vec::new();
            }
            if self.checksum(&self.held[..count]) != checksum {
                return self.end();
            }
            self.held.drain(..count);
            self.known.pop_front();
            self.agreed += 1;
            self.skipped += count;
        }
        self.tell();
        std::mem::take(&mut self.held)
    }

    /// Nothing more can agree; gives the lines that were held.
    pub(super) fn end(&mut self) -> Vec<String> {
        if !self.known.is_empty() {
            self.known.clear();
            self.diverged = true;
            self.tell();
        }
        std::mem::take(&mut self.held)
    }

    /// Once, when the input has left the notes: how many of them stay true.
    pub(super) fn diverged(&mut self) -> Option<usize> {
        std::mem::take(&mut self.diverged).then_some(self.agreed)
    }

    fn tell(&self) {
        if self.skipped > 0 {
            let what = "lines are those of an interrupted run and already in its outbox; they are not sent twice";
            eprintln!("tern send: the first {} {what}", self.skipped);
        }
    }

    /// FNV-1a over the recipient and the lines, each with an end.
    fn checksum(&self, lines: &[String]) -> u64 {
        let ended = |text: &str| text.bytes().chain([b'\n']).collect::<Vec<_>>();
        let bytes = ended(self.to.as_str()).into_iter().chain(lines.iter().flat_map(|line| ended(line)));
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

fn parse(note: &str) -> Option<(usize, u64)> {
    let (count, checksum) = note.split_once(' ')?;
    Some((count.parse().ok().filter(|count| (1..=BATCH).contains(count))?, u64::from_str_radix(checksum, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resume(batches: &[&[&str]]) -> Resume {
        let bob = UserId::new("bob").unwrap();
        let blank = Resume::new(&bob, Vec::new());
        let notes = batches.iter().map(|batch| blank.note(&lines(batch))).collect();
        Resume::new(&bob, notes)
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| line.to_string()).collect()
    }

    #[test]
    fn the_same_input_goes_on_where_the_outbox_ended() {
        let mut resume = resume(&[&["a", "b"], &["c"]]);
        assert!(resume.skip_known(lines(&["a"])).is_empty());
        assert!(resume.skip_known(lines(&["b"])).is_empty());
        assert_eq!(resume.skip_known(lines(&["c", "d"])), ["d"]);
        assert_eq!(resume.skip_known(lines(&["a"])), ["a"]);
        assert_eq!(resume.diverged(), None);
    }

    #[test]
    fn other_input_is_sent_whole() {
        let mut resume = resume(&[&["a", "b"], &["c"]]);
        assert_eq!(resume.skip_known(lines(&["a", "x", "c"])), ["a", "x", "c"]);
        assert_eq!(resume.diverged(), Some(0));
        assert_eq!(resume.diverged(), None);
    }

    #[test]
    fn shorter_input_is_sent_whole() {
        let mut resume = resume(&[&["a", "b"]]);
        assert!(resume.skip_known(lines(&["a"])).is_empty());
        assert_eq!(resume.end(), ["a"]);
        assert_eq!(resume.diverged(), Some(0));
    }

    #[test]
    fn another_recipient_is_other_input() {
        let note = resume(&[]).note(&lines(&["a"]));
        let mut resume = Resume::new(&UserId::new("carol").unwrap(), vec![note]);
        assert_eq!(resume.skip_known(lines(&["a"])), ["a"]);
    }
}
