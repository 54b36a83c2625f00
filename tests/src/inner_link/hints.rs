//! What a NATS server sends to a service, with mischief done to the messages in it. The rest of the protocol goes through as it is.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{State, opened};

/// How long messages are held back, to come in another order.
const HELD: Duration = Duration::from_millis(700);

/// A part of what is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// A message, header or payload and all.
    Message(Bytes),
    /// A line of the protocol.
    Line(Bytes),
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    Dropped,
    Doubled,
    Held,
}

/// From the server, until either end closes.
pub(super) async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let (mut input, mut held) = (BytesMut::new(), Vec::new());
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            read = from.read_buf(&mut input) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
            }
            () = async { match due { Some(due) => sleep_until(due).await, None => std::future::pending().await } } => {}
        }
        if !opened(&mut state).await {
            return;
        }
        let is_mangled = *state.borrow() == State::Mangled;
        let fate = || if is_mangled { draw() } else { Fate::Passes };
        let mut out = pass(&mut input, &mut held, fate);
        due = match due {
            _ if held.is_empty() => None,
            None => Some(Instant::now() + HELD),
            Some(due) if due > Instant::now() && is_mangled => Some(due),
            Some(_) => {
                fastrand::shuffle(&mut held);
                out.append(&mut held);
                None
            }
        };
        if to.write_all(&out.concat()).await.is_err() {
            return;
        }
    }
}

fn draw() -> Fate {
    match fastrand::u32(0..10) {
        0..3 => Fate::Dropped,
        3..5 => Fate::Doubled,
        5..8 => Fate::Held,
        _ => Fate::Passes,
    }
}

/// What of the input goes on now. What is held is put aside.
fn pass(input: &mut BytesMut, held: &mut Vec<Bytes>, fate: impl Fn() -> Fate) -> Vec<Bytes> {
    let mut out = Vec::new();
    while let Some(part) = next(input) {
        match part {
            Part::Line(line) => out.push(line),
            Part::Message(message) => match fate() {
                Fate::Passes => out.push(message),
                Fate::Dropped => {}
                Fate::Doubled => out.extend([message.clone(), message]),
                Fate::Held => held.push(message),
            },
        }
    }
    out
}

/// The next whole part: `MSG subject sid [reply] bytes` and `HMSG subject sid [reply] header-bytes bytes` are lines that bytes follow,
/// and everything else is a line.
fn next(input: &mut BytesMut) -> Option<Part> {
    let line = input.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let text = std::str::from_utf8(&input[..line]).unwrap_or_default();
    if !text.starts_with("MSG ") && !text.starts_with("HMSG ") {
        return Some(Part::Line(input.split_to(line).freeze()));
    }
    let bytes: usize = text.split_ascii_whitespace().next_back()?.parse().ok()?;
    let whole = line + bytes + 2;
    (input.remaining() >= whole).then(|| Part::Message(input.split_to(whole).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "INFO {}\r\nMSG a 1 5\r\none\r\n\r\nPING\r\nHMSG a 1 3 6\r\nh\r\ntwo\r\nMSG a 1 3\r\nthr";

    fn passed(fate: Fate) -> (String, usize, usize) {
        let (mut input, mut held) = (BytesMut::from(SENT), Vec::new());
        let out = pass(&mut input, &mut held, || fate).concat();
        (String::from_utf8(out).unwrap(), held.len(), input.len())
    }

    #[test]
    fn only_messages_are_mangled_and_a_part_of_one_waits() {
        let whole = SENT.strip_suffix("MSG a 1 3\r\nthr").unwrap();
        assert_eq!(passed(Fate::Passes), (whole.to_owned(), 0, 14));
        assert_eq!(passed(Fate::Dropped), ("INFO {}\r\nPING\r\n".to_owned(), 0, 14));
        assert_eq!(passed(Fate::Held), ("INFO {}\r\nPING\r\n".to_owned(), 2, 14));
        assert_eq!(passed(Fate::Doubled).0.matches("MSG a 1 5\r\none\r\n\r\n").count(), 2);
    }
}
