//! Recognises the input of an interrupted run, so that its lines are not sent twice.
//!
//! Each batch that enters the outbox leaves a note: how many lines it has and their checksum. The next run compares the
//! beginning of its input with the notes, batch by batch, and drops what is the same.

use std::collections::VecDeque;

use tern_client::Recipient;

/// Lines in a batch, and so the most that are held to be compared.
pub(super) const BATCH: usize = 256;

/// See the [module](self).
pub(super) struct Resume {
    to: Recipient,
    /// What an interrupted run noted and the input has not reached yet.
    known: VecDeque<Batch>,
    /// Lines that may be those of the next known batch; fewer than it has.
    held: Vec<String>,
    skipped: usize,
    /// Where the next note goes: behind those that the input agreed with.
    place: usize,
    /// The batch that the last note is about.
    last: Option<Batch>,
}

#[derive(Clone, Copy)]
struct Batch {
    lines: usize,
    checksum: u64,
}

impl Resume {
    pub(super) fn new(to: &Recipient, notes: Vec<String>) -> Resume {
        let known = notes.iter().map_while(|note| Batch::parse(note)).collect();
        Resume { to: to.clone(), known, held: Vec::new(), skipped: 0, place: 0, last: None }
    }

    /// The note for lines that enter the outbox, and its place. While they are few they join the batch before, so that there
    /// is about one note for [`BATCH`] lines however they come.
    pub(super) fn note(&mut self, lines: &[String]) -> (usize, String) {
        let batch = match self.last {
            Some(last) if last.lines + lines.len() <= BATCH => last.and(lines),
            Some(_) => {
                self.place += 1;
                Batch::of(&self.to, lines)
            }
            None => Batch::of(&self.to, lines),
        };
        self.last = Some(batch);
        (self.place, format!("{} {:016x}", batch.lines, batch.checksum))
    }

    /// Takes the next lines of the input; gives those that are known to be new.
    pub(super) fn skip_known(&mut self, lines: Vec<String>) -> Vec<String> {
        if self.known.is_empty() {
            return lines;
        }
        self.held.extend(lines);
        while let Some(known) = self.known.front().copied() {
            if self.held.len() < known.lines {
                return Vec::new();
            }
            if Batch::of(&self.to, &self.held[..known.lines]).checksum != known.checksum {
                return self.end();
            }
            self.held.drain(..known.lines);
            self.known.pop_front();
            self.place += 1;
            self.skipped += known.lines;
        }
        self.tell();
        std::mem::take(&mut self.held)
    }

    /// Nothing more can agree; gives the lines that were held.
    pub(super) fn end(&mut self) -> Vec<String> {
        if !self.known.is_empty() {
            self.known.clear();
            self.tell();
        }
        std::mem::take(&mut self.held)
    }

    /// Lines that an earlier run has put into the outbox.
    pub(super) fn skipped(&self) -> usize {
        self.skipped
    }

    fn tell(&self) {
        if self.skipped > 0 {
            let what = "lines are those of an interrupted run and already in its outbox; they are not sent twice";
            eprintln!("tern send: the first {} {what}", self.skipped);
        }
    }
}

impl Batch {
    fn of(to: &Recipient, lines: &[String]) -> Batch {
        Batch { lines: 0, checksum: fnv(0xcbf2_9ce4_8422_2325, to.as_str()) }.and(lines)
    }

    fn and(self, lines: &[String]) -> Batch {
        let checksum = lines.iter().fold(self.checksum, |checksum, line| fnv(checksum, line));
        Batch { lines: self.lines + lines.len(), checksum }
    }

    fn parse(note: &str) -> Option<Batch> {
        let (lines, checksum) = note.split_once(' ')?;
        let lines = lines.parse().ok().filter(|lines| (1..=BATCH).contains(lines))?;
        Some(Batch { lines, checksum: u64::from_str_radix(checksum, 16).ok()? })
    }
}

/// FNV-1a over a line and its end.
fn fnv(checksum: u64, line: &str) -> u64 {
    let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    line.bytes().chain([b'\n']).fold(checksum, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bob() -> Recipient {
        "bob".parse().unwrap()
    }

    fn resume(batches: &[&[&str]]) -> Resume {
        let note = |batch: &&[&str]| Resume::new(&bob(), Vec::new()).note(&lines(batch)).1;
        Resume::new(&bob(), batches.iter().map(note).collect())
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
        assert_eq!(resume.note(&lines(&["d"])).0, 2, "behind the notes that stay true");
    }

    #[test]
    fn other_input_is_sent_whole() {
        let mut resume = resume(&[&["a", "b"], &["c"]]);
        assert_eq!(resume.skip_known(lines(&["a", "x", "c"])), ["a", "x", "c"]);
        assert_eq!(resume.note(&lines(&["a"])).0, 0, "in the place of the notes that no longer hold");
    }

    #[test]
    fn shorter_input_is_sent_whole() {
        let mut resume = resume(&[&["a", "b"]]);
        assert!(resume.skip_known(lines(&["a"])).is_empty());
        assert_eq!(resume.end(), ["a"]);
    }

    #[test]
    fn another_recipient_is_other_input() {
        let note = resume(&[]).note(&lines(&["a"])).1;
        let mut resume = Resume::new(&"carol".parse().unwrap(), vec![note]);
        assert_eq!(resume.skip_known(lines(&["a"])), ["a"]);
    }

    #[test]
    fn single_lines_share_a_note() {
        let mut resume = resume(&[]);
        let input: Vec<String> = (0..BATCH + 2).map(|line| line.to_string()).collect();
        let notes: Vec<_> = input.iter().map(|line| resume.note(std::slice::from_ref(line))).collect();
        assert_eq!((notes[BATCH - 1].0, notes[BATCH].0), (0, 1));
        let mut again = Resume::new(&bob(), vec![notes[BATCH - 1].1.clone(), notes[BATCH].1.clone()]);
        assert_eq!(again.skip_known(input.clone()), input[BATCH + 1..]);
    }
}
