//! What a text of the bench says: who sent it, its number, and when.
//!
//! ```text
//!  0        8            20               36
//!  +--------+------------+----------------+--------
//!  | sender | number     | nanoseconds    | xxx...
//!  +--------+------------+----------------+--------
//! ```
//!
//! All three in hexadecimal digits, so that a text is a text.

use std::ops::Range;

const SENDER: Range<usize> = 0..8;
const NUMBER: Range<usize> = 8..20;
const SENT_AT: Range<usize> = 20..36;
/// Bytes of the shortest text.
pub(crate) const BYTES: usize = SENT_AT.end;

/// The beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which of the run's senders.
    pub(crate) sender: u32,
    /// 1 for a sender's first message, and one more for each; below 2⁴⁸.
    pub(crate) number: u64,
    /// By the clock of the run.
    pub(crate) sent_at: u64,
}

impl Stamp {
    /// Makes `text` a text of `bytes` bytes (at least [`BYTES`]) with this stamp. Reuses its memory.
    pub(crate) fn write(&self, text: &mut String, bytes: usize) {
        text.clear();
        push_hex(text, self.sender.into(), SENDER.len());
        push_hex(text, self.number, NUMBER.len());
        push_hex(text, self.sent_at, SENT_AT.len());
        text.extend(std::iter::repeat_n('x', bytes.saturating_sub(BYTES)));
    }

    /// The stamp of a text, if it has one.
    pub(crate) fn read(text: &[u8]) -> Option<Stamp> {
        let sender = u32::try_from(hex(text.get(SENDER)?)?).ok()?;
        Some(Stamp { sender, number: hex(text.get(NUMBER)?)?, sent_at: hex(text.get(SENT_AT)?)? })
    }
}

fn push_hex(text: &mut String, number: u64, digits: usize) {
    for place in (0..digits).rev() {
        let digit = (number >> (4 * place)) & 15;
        text.push(char::from(b"0123456789abcdef"[digit as usize]));
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| Some(number << 4 | u64::from(char::from(*digit).to_digit(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let stamp = Stamp { sender: 0xfedc_ba98, number: (1 << 48) - 1, sent_at: u64::MAX };
        let mut text = "before".to_owned();
        for bytes in [BYTES, 100, 16_384] {
            stamp.write(&mut text, bytes);
            assert_eq!((text.len(), Stamp::read(text.as_bytes())), (bytes, Some(stamp)));
        }
        assert_eq!(Stamp::read(&text.as_bytes()[..BYTES - 1]), None);
        assert_eq!(Stamp::read(&[b'y'; 100]), None);
    }
}
