//! The lines of an input, read on a thread of their own in bounded memory.

use std::io::{BufRead, BufReader, Read};

use anyhow::Result;
use tern_proto::limits::TEXT_BYTES;
use tokio::sync::mpsc;

use super::resume::BATCH;

/// Batches that wait to be taken.
const AHEAD: usize = 2;

/// The first line that cannot be a message, or the end of reading.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum BadLine {
    /// Lines are counted from 1.
    #[error("line {0} is longer than {TEXT_BYTES} bytes")]
    TooLong(u64),
    #[error("line {0} is not UTF-8")]
    NotUtf8(u64),
    #[error("reading line {0}: {1}")]
    Io(u64, std::io::Error),
}

/// Batches of lines as they come: what is there is handed on, up to [`BATCH`] lines, and never waits for more.
pub(super) struct Lines(mpsc::Receiver<Result<Vec<String>, BadLine>>);

impl Lines {
    pub(super) fn of_stdin() -> Result<Lines> {
        let (sender, batches) = mpsc::channel(AHEAD);
        // Ends with the input, or with the process: nothing else can interrupt a read.
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            read_all(std::io::stdin().lock(), |batch| sender.blocking_send(batch).is_ok());
        })?;
        Ok(Lines(batches))
    }

    /// The next lines; `None` at the end of the input.
    pub(super) async fn next(&mut self) -> Option<Result<Vec<String>, BadLine>> {
        self.0.recv().await
    }
}

/// Hands batches to `take` until it returns `false`, a line is bad, or the input ends.
pub(in crate::cli) fn read_all(input: impl Read, mut take: impl FnMut(Result<Vec<String>, BadLine>) -> bool) {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let mut number = 0;
    let mut batch = Vec::new();
    loop {
        number += 1;
        let line = read_line(&mut input, number);
        let more = matches!(&line, Ok(Some(_))) && input.buffer().contains(&b'\n');
        let end = match line {
            Ok(Some(line)) => {
                batch.push(line);
                None
            }
            Ok(None) => Some(None),
            Err(bad) => Some(Some(bad)),
        };
        if !batch.is_empty() && (!more || batch.len() == BATCH) && !take(Ok(std::mem::take(&mut batch))) {
            return;
        }
        if let Some(end) = end {
            if let Some(bad) = end {
                take(Err(bad));
            }
            return;
        }
    }
}

/// One line without its line feed; `None` at the end. A last line needs none.
fn read_line(input: &mut impl BufRead, number: u64) -> Result<Option<String>, BadLine> {
    let mut line = Vec::new();
    let limit = TEXT_BYTES as u64 + 1;
    let read = input.by_ref().take(limit).read_until(b'\n', &mut line).map_err(|error| BadLine::Io(number, error))?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > TEXT_BYTES {
        return Err(BadLine::TooLong(number));
    }
    String::from_utf8(line).map(Some).map_err(|_| BadLine::NotUtf8(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> (Vec<String>, Option<BadLine>) {
        let (mut lines, mut bad) = (Vec::new(), None);
        read_all(input, |batch| {
            match batch {
                Ok(batch) => lines.extend(batch),
                Err(error) => bad = Some(error),
            }
            true
        });
        (lines, bad)
    }

    #[test]
    fn every_line_comes_as_it_is() {
        let (lines, bad) = read("one\n\ntwo\r\n\n ä\0\nlast".as_bytes());
        assert_eq!(lines, ["one", "", "two\r", "", " ä\0", "last"]);
        assert!(bad.is_none());
        assert_eq!(read(b"").0.len(), 0);
        assert_eq!(read(b"\n").0, [""]);
    }

    #[test]
    fn the_first_bad_line_is_named_and_the_lines_before_it_come() {
        let mut input = b"a\n".repeat(700);
        input.extend(vec![b'x'; TEXT_BYTES]);
        input.push(b'\n');
        let (lines, bad) = read(&input);
        assert_eq!((lines.len(), bad.is_none()), (701, true), "the longest line is a message");

        input.extend(vec![b'x'; TEXT_BYTES + 1]);
        input.extend(b"\nb\n");
        let (lines, bad) = read(&input);
        assert_eq!(lines.len(), 701);
        assert!(matches!(bad, Some(BadLine::TooLong(702))), "{bad:?}");

        let (lines, bad) = read(b"a\n\xff\nb\n");
        assert_eq!(lines, ["a"]);
        assert!(matches!(bad, Some(BadLine::NotUtf8(2))), "{bad:?}");
    }
}
